"""The stage: its vocabulary, its summary, its errors."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fromzero.artifact import UNFINISHED, Artifact
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, train_tokenizer
from fromzero.tokenizer.learn import learn_merges
from fromzero.tokenizer.patterns import compile_pattern, resolve_pattern, split


def test_ids_are_bytes_then_merges_then_special_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]
    for i, (left, right) in enumerate(tokenizer.merges):
        assert tokenizer.token_bytes(256 + i) == tokenizer.token_bytes(left) + tokenizer.token_bytes(right)
    assert list(tokenizer.special_tokens.items())[:4] == [
        ("<|endoftext|>", 504),
        ("<|im_start|>", 505),
        ("<|im_end|>", 506),
        ("<|reserved_0|>", 507),
    ]
    assert tokenizer.vocab_size == 512
    assert tokenizer.end_of_text == 504


def test_the_summary_counts_what_encoding_gives(trained: Artifact, tokenizer: Tokenizer, corpus: Artifact) -> None:
    from fromzero.corpus import read_corpus

    texts = [document.text for document in read_corpus(corpus.path, "train")]
    summary = trained.summary
    assert summary["tokens"] == sum(map(len, tokenizer.encode_batch(texts)))
    assert summary["bytes"] == sum(len(text.encode()) for text in texts)
    assert summary["train"]["languages"].keys() == {"ar", "en", "th", "zh"}
    for found in (summary["train"], summary["validation"]):
        for count in ("documents", "bytes", "tokens"):
            assert found[count] == sum(language[count] for language in found["languages"].values())
    assert summary["validation"]["bytes_per_token"] > 1


def test_only_training_documents_are_read(make_corpus: Any, tmp_path: Path) -> None:
    train = [("en", "abab abab cdcd")]
    one = make_corpus(tmp_path / "1", train, [("en", "x")])
    two = make_corpus(tmp_path / "2", train, [("en", "cdcd " * 1000)])
    config = {"vocab_size": 266}
    tokenizers = [
        train_tokenizer(TokenizerConfig(c.path, tmp_path / f"t{i}", **config)) for i, c in enumerate((one, two))
    ]
    assert tokenizers[0].digest == tokenizers[1].digest


def test_the_result_is_the_same_again_and_skipped(corpus: Artifact, trained: Artifact, tmp_path: Path) -> None:
    again = train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t", vocab_size=512))
    assert again.digest == trained.digest
    written = (tmp_path / "t" / "tokenizer.json").stat().st_mtime_ns
    train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t", vocab_size=512))
    assert (tmp_path / "t" / "tokenizer.json").stat().st_mtime_ns == written


def test_a_cut_off_training_is_no_tokenizer_and_is_made_again(
    corpus: Artifact, trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    config = TokenizerConfig(corpus.path, tmp_path / "t", vocab_size=512)
    with monkeypatch.context() as patch:
        patch.setattr("fromzero.tokenizer.train._measure", die)  # after the files are written
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config)
    assert (tmp_path / "t" / UNFINISHED).exists()
    assert train_tokenizer(config).digest == trained.digest


def test_without_room_for_merges_tokens_are_bytes(corpus: Artifact, tmp_path: Path) -> None:
    config = TokenizerConfig(corpus.path, tmp_path / "t", 257, special_tokens=("<|endoftext|>",), reserved_tokens=0)
    train_tokenizer(config)
    tokenizer = load_tokenizer(tmp_path / "t")
    assert tokenizer.encode("abc") == [97, 98, 99]
    assert (tokenizer.end_of_text, tokenizer.vocab_size, tokenizer.chat_template) == (256, 257, None)


def test_a_corpus_that_is_too_small_says_what_it_supports(make_corpus: Any, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", [("en", "abc abc")], [("en", "x")])
    with pytest.raises(UserError, match=r"set vocab_size to (\d+) or less") as caught:
        train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t", 1000))
    largest = int(str(caught.value).split("set vocab_size to ")[1].split()[0])
    assert train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t", largest)).summary["vocab_size"] == largest


def test_an_empty_corpus_is_told(make_corpus: Any, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", [("en", "")], [("en", "x")])
    with pytest.raises(UserError, match="no training text"):
        train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 263}, "set it to 264"),
        ({"special_tokens": ("<a>",)}, "lacks <|endoftext|>"),
        ({"special_tokens": ("<|endoftext|>", "<a>", "<a>")}, "<a> twice"),
        ({"special_tokens": ("<|endoftext|>", "<|reserved_0|>")}, "twice"),
        ({"reserved_tokens": -1}, "0 or more"),
        ({"pattern": "[a"}, "not a regular expression"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        TokenizerConfig(Path("corpus"), Path("out"), **settings)


def test_default_pattern_cuts_as_documented() -> None:
    compiled = compile_pattern(resolve_pattern("fromzero"))
    assert split(compiled, "I'll pay 12345 €, ok?\n\n  Now  ") == [
        "I", "'ll", " pay", " ", "12", "34", "5", " €,", " ok", "?\n\n", " ", " Now", "  ",
    ]  # fmt: skip
    assert split(compiled, "เป็นภาษา हिन्दी ❤️") == ["เป็นภาษา", " हिन्दी", " ❤️"]
    assert split(compiled, "从零开始，训练！") == ["从零开始", "，训练", "！"]


def test_default_merges_do_not_change_by_accident() -> None:
    """The same corpus gives the same tokenizer in each version, or VERSION in train.py is raised."""
    words = ["the", "then", "there", "these", "从零", "从零开始", "aaaa"]
    counts = {word.encode(): n for n, word in enumerate(words, 1)}
    digest = hashlib.sha256(repr(learn_merges(counts, 12).merges).encode()).hexdigest()
    assert digest[:16] == "92e79928a2ddbb13"
