"""Training each kind: its ids, its summary, its errors, and that other libraries open it."""

import contextlib
import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from fromzero.artifact import Artifact
from fromzero.corpus import read_corpus
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, train_tokenizer
from fromzero.tokenizer.settings import KINDS
from fromzero.tokenizer.stream import StreamDecoder
from tests.tokenizer.conftest import CHINESE, ENGLISH, MakeCorpus
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed

SIZES = {"bpe": 600, "byte": 300, "char": 200, "word": 400, "wordpiece": 400, "unigram": 450}


@pytest.fixture(scope="module", params=SIZES)
def made(request: pytest.FixtureRequest, corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = tmp_path_factory.mktemp("made") / request.param
    return train_tokenizer(TokenizerConfig(corpus.path, output, SIZES[request.param], kind=request.param))


@pytest.fixture(scope="module")
def learned(made: Artifact) -> Tokenizer:
    return load_tokenizer(made.path)


def test_it_opens_in_other_libraries(learned: Tokenizer, tmp_path: Path) -> None:
    texts = [*(text for text in CURIOUS if "<|" not in text), *fuzzed(200, old=True), ENGLISH, CHINESE]
    assert_opens_alike(learned, tmp_path, texts)


def test_the_summary_counts_what_encoding_gives(made: Artifact, learned: Tokenizer, corpus: Artifact) -> None:
    texts = [document.text for document in read_corpus(corpus.path, "train")]
    assert learned.kind == made.summary["kind"]
    assert made.summary["tokens"] == sum(map(len, learned.encode_batch(texts)))
    assert made.summary["bytes"] == sum(len(text.encode()) for text in texts)
    assert made.summary["vocab_size"] == learned.vocab_size <= SIZES[learned.kind]
    if learned.kind in ("bpe", "wordpiece", "unigram"):
        assert learned.vocab_size == SIZES[learned.kind]


def test_what_was_learned_from_comes_back(learned: Tokenizer, corpus: Artifact) -> None:
    unknown = learned.special_tokens.get(learned.roles.get("unk_token", ""))
    for document in read_corpus(corpus.path, "train"):
        ids = learned.encode(document.text)
        if learned.kind != "wordpiece":  # which does not keep blanks, case and rare characters
            assert unknown not in ids
            assert learned.decode(ids) == document.text


def test_a_stream_is_what_decoding_gives(learned: Tokenizer) -> None:
    ids = learned.encode(ENGLISH + CHINESE)
    stream = StreamDecoder(learned)
    assert "".join(stream.feed([i]) for i in ids) + stream.flush() == learned.decode(ids)


def test_a_damaged_file_ends_in_a_user_error_if_at_all(made: Artifact, tmp_path: Path) -> None:
    choose = random.Random(0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(made.path / name, tmp_path)
    intact = (tmp_path / "tokenizer.json").read_text()
    for _ in range(150):
        saved = json.loads(intact)
        part: Any = saved
        while True:  # down to any place, and something else there
            key = choose.choice(list(part) if isinstance(part, dict) else range(len(part)))
            if not (part[key] and isinstance(part[key], dict | list)) or choose.random() < 0.2:
                break
            part = part[key]
        part[key] = choose.choice(
            [None, -1, 10**9, 1.5, "x", "", [], {}, True, ["a"], {"a": 1}, float("nan"), "\ud800"]
        )
        (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
        with contextlib.suppress(UserError):
            load_tokenizer(tmp_path).encode("a b[x] the 你好\n", special="allow", add_special_tokens=True)


def test_special_tokens_have_their_roles(learned: Tokenizer) -> None:
    assert set(KINDS[learned.kind].special_tokens) <= learned.special_tokens.keys()
    assert learned.end_of_text == learned.special_tokens["<|endoftext|>"]
    assert (learned.chat_template is None) == (learned.kind == "wordpiece")
    text = "<|endoftext|>"
    assert learned.encode(text, special="allow") == [learned.end_of_text]
    assert learned.end_of_text not in learned.encode(text)


def test_a_word_spelled_like_a_special_token_is_unknown(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", [("en", "<|endoftext|> ab ab")], [("en", "x")])
    config = TokenizerConfig(corpus.path, tmp_path / "t", kind="word", pattern=r"\S+|\s", reserved_tokens=0)
    tokenizer = load_tokenizer(train_tokenizer(config).path)
    unknown = tokenizer.special_tokens["<|unk|>"]
    assert tokenizer.encode("<|endoftext|> ab") == [unknown, 0, 1]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_corpus_that_is_too_small_says_what_it_supports(kind: Any, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", [("en", "abab abc abab abc")], [("en", "x")])
    with pytest.raises(UserError, match=r"set vocab_size to (\d+) or less") as caught:
        train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t", 1000, kind=kind))
    largest = int(str(caught.value).split("set vocab_size to ")[1].split()[0])
    config = TokenizerConfig(corpus.path, tmp_path / "t", largest, kind=kind)
    assert train_tokenizer(config).summary["vocab_size"] == largest


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "char"])
def test_a_vocabulary_that_is_too_small_says_what_is_needed(kind: Any, corpus: Artifact, tmp_path: Path) -> None:
    specials = ("<|endoftext|>",) if kind == "char" else None
    too_small = {"wordpiece": 40, "unigram": 280, "char": 20}[kind]
    config = TokenizerConfig(corpus.path, tmp_path, too_small, special_tokens=specials, kind=kind)
    with pytest.raises(UserError, match=rf"vocab_size {too_small} .*set vocab_size to \d+ or more") as caught:
        train_tokenizer(config)
    least = int(str(caught.value).split("set vocab_size to ")[1].split()[0])
    with pytest.raises(UserError, match=f"to {least} or more"):
        train_tokenizer(dataclasses.replace(config, vocab_size=least - 1))
    assert train_tokenizer(dataclasses.replace(config, vocab_size=least)).summary["vocab_size"] == least


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 160), ("unigram", 390), ("word", 100)])
def test_memory_is_bounded_by_dropping_what_is_rare(
    kind: Any,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
    corpus: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = TokenizerConfig(corpus.path, tmp_path / "all", size, kind=kind)
    everything = train_tokenizer(config).summary
    monkeypatch.setattr("fromzero.tokenizer.kinds.MAX_BYTES", 300)
    found = train_tokenizer(dataclasses.replace(config, output=tmp_path / "some")).summary
    assert "rare units were dropped" in capsys.readouterr().err
    assert found["pretokens"] < everything["pretokens"]
    assert 0.4 * everything["tokens"] < found["tokens"] < 2.5 * everything["tokens"]


@pytest.mark.parametrize("kind", SIZES)
def test_an_empty_corpus_is_told(kind: Any, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", [("en", "")], [("en", "x")])
    with pytest.raises(UserError, match="no training text"):
        train_tokenizer(TokenizerConfig(corpus.path, tmp_path / "t", kind=kind))


def test_characters_without_room_need_an_unknown_token(corpus: Artifact, tmp_path: Path) -> None:
    config = TokenizerConfig(corpus.path, tmp_path, 20, special_tokens=("<|endoftext|>",), kind="char")
    with pytest.raises(UserError, match=r"no room for all \d+ different units"):
        train_tokenizer(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "unigram", "pattern": "gpt2"}, "pattern does not apply to a tokenizer of the kind unigram"),
        ({"kind": "char", "tie_break": "first"}, "tie_break does not apply"),
        ({"kind": "bpe", "lowercase": False}, "lowercase does not apply"),
        ({"kind": "word", "byte_fallback": True}, "byte_fallback does not apply"),
        ({"kind": "word", "pattern": "["}, "not a regular expression"),
        ({"kind": "wordpiece", "special_tokens": ("<|endoftext|>",)}, r"lacks \[UNK\], which the kind needs"),
        ({"kind": "unigram", "special_tokens": ("<|endoftext|>",)}, r"lacks <\|unk\|>, which the kind needs"),
        ({"kind": "char", "special_tokens": ("<|unk|>",)}, r"lacks <\|endoftext\|>, which begins every document"),
        ({"kind": "char", "special_tokens": ("<|endoftext|>", "")}, "empty text"),
        ({"kind": "byte", "vocab_size": 256}, "256 bytes and 8 special tokens take 264; set it to 264 or more"),
        ({"kind": "unigram", "vocab_size": 256}, "take 265; set it to 266 or more"),
        ({"kind": "char", "vocab_size": 3}, "0 bytes and 9 special tokens take 9; set it to 10 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenizerConfig(Path("corpus"), Path("out"), **settings)
