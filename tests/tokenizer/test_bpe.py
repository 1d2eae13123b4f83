"""Any text comes back as it was, special tokens are special only when asked, and bad input is told."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.tokenizer import bpe, load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary

BYTES = {bytes([i]): i for i in range(256)}
anything = st.text(st.characters(exclude_categories=["Cs"]))


@given(anything)
def test_decodes_what_it_encodes(tokenizer: BPETokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@given(st.lists(st.one_of(anything, st.sampled_from(["<|im_end|>", "<|endoftext|>", "<|im_", "end|>"]))).map("".join))
def test_special_tokens_come_out_of_text_only_when_allowed(tokenizer: BPETokenizer, text: str) -> None:
    special = set(tokenizer.special_tokens.values())
    assert not special & set(tokenizer.encode(text))
    allowed = tokenizer.encode(text, special="allow")
    assert tokenizer.decode(allowed) == text
    assert sum(i in special for i in allowed) == sum(text.count(token) for token in tokenizer.special_tokens)


def test_policies_for_special_tokens(tokenizer: BPETokenizer) -> None:
    end = tokenizer.special_tokens["<|im_end|>"]
    assert tokenizer.encode("a<|im_end|>", special="allow") == [*tokenizer.encode("a"), end]
    with pytest.raises(UserError, match=r"<\|im_end\|> at character 1"):
        tokenizer.encode("a<|im_end|>", special="refuse")
    assert tokenizer.encode("plain", special="refuse") == tokenizer.encode_ordinary("plain")
    with pytest.raises(UserError, match="did you mean 'allow'"):
        tokenizer.encode("a", special="alow")  # type: ignore[arg-type]


def test_the_longest_of_nested_special_tokens_wins() -> None:
    tokenizer = BPETokenizer(BYTES, [], special_tokens={"<a>": 256, "<a><b>": 257})
    assert tokenizer.encode("<a><b><a>", special="allow") == [257, 256]


def test_decoding_can_leave_special_tokens_out(tokenizer: BPETokenizer) -> None:
    ids = [tokenizer.end_of_text, *tokenizer.encode("hi")]
    assert tokenizer.decode(ids) == "<|endoftext|>hi"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi"


def test_half_a_character_becomes_a_replacement_mark(tokenizer: BPETokenizer) -> None:
    assert tokenizer.decode([0xE4, 0xBD]) == "\ufffd"
    assert tokenizer.decode_bytes([0xE4, 0xBD]) == b"\xe4\xbd"


@pytest.mark.parametrize("token", [-1, 512, 10**9])
def test_ids_out_of_range_are_refused(tokenizer: BPETokenizer, token: int) -> None:
    with pytest.raises(UserError, match=f"{token} is out of range"):
        tokenizer.decode([token])


def test_a_lone_surrogate_is_refused_with_its_position(tokenizer: BPETokenizer) -> None:
    for policy in ("text", "allow"):
        with pytest.raises(UserError, match=r"U\+D800 at character 2"):
            tokenizer.encode("ab\ud800", special=policy)


@given(st.lists(anything | st.sampled_from(["The quick brown fox", "从零开始训练", "  \n\n", "x" * 40]), max_size=6))
def test_all_ways_to_encode_give_the_plain_ids(tokenizer: BPETokenizer, texts: list[str]) -> None:
    plain = [tokenizer.encode_plainly(text) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == plain
    assert [ids.tolist() for ids in tokenizer.encode_arrays(texts)] == plain
    assert tokenizer.encode_batch(texts, threads=3) == plain
    assert list(tokenizer.encode_iterable(texts)) == tokenizer.encode_plainly("".join(texts))


def test_threads_and_streams_give_the_same_ids_on_long_texts(
    tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ("The quick brown fox doesn't jump. 从零开始，训练模型！ 12345\n\n  \tx " + "a" * 100 + " ") * 3000
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert list(tokenizer.encode_iterable(text[i : i + 997] for i in range(0, len(text), 997))) == ids
    monkeypatch.setattr("fromzero.tokenizer.bpe.GROUP_BYTES", 5000)
    parts = [text[i : i + 1001] for i in range(0, len(text), 1001)]
    assert tokenizer.encode_batch(parts, threads=4) == [tokenizer.encode(part) for part in parts]


def test_a_stream_is_encoded_before_it_ends(tokenizer: BPETokenizer) -> None:
    read = 0

    def chunks() -> Iterator[str]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield "The quick brown fox. " * 1000

    ids = tokenizer.encode_iterable(chunks())
    next(ids)
    assert read < 10


def test_what_a_pattern_leaves_out_is_not_lost() -> None:
    letters_only = BPETokenizer(BYTES, [], pattern=r"\p{L}+")
    assert letters_only.decode(letters_only.encode("a, b! 你好 3")) == "a, b! 你好 3"


def test_it_can_be_sent_to_another_process(tokenizer: BPETokenizer) -> None:
    copy = pickle.loads(pickle.dumps(BPETokenizer(tokenizer.vocabulary, tokenizer.merges)))
    assert copy.encode("The quick 从零") == tokenizer.encode("The quick 从零")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary": {b"a": 0}}, "lacks the byte 0x00"),
        ({"special_tokens": {"<a>": 300}}, "has id 300"),
        ({"special_tokens": {"<a>": 7}}, "same id 7"),
        ({"special_tokens": {"": 256}}, "empty text"),
        ({"merges": [(1, 2)]}, "not in the vocabulary"),
        ({"merges": [(1, 2000)]}, "not in the vocabulary"),
        ({"roles": {"eos_token": "<e>"}}, "not among the special tokens"),
        ({"pattern": "(a"}, "not a regular expression"),
        ({"pattern": "(a)"}, "capturing group"),
        ({"pattern": "a*"}, "empty text"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BPETokenizer(**({"vocabulary": BYTES, "merges": []} | arguments))


def test_a_merge_can_not_come_twice() -> None:
    with pytest.raises(UserError, match="was there before"):
        BPETokenizer(byte_vocabulary([(97, 98)]), [(97, 98), (97, 98)])


@pytest.mark.parametrize(
    ("text", "started"),
    [("The quick 从零 ", False), ("The quick 从零 " * 700, False), ("The quick 从零 " * 900, True), ("a" * 150, True)],
)
def test_short_texts_are_encoded_before_numba_is_loaded(
    tokenizer: BPETokenizer, tmp_path: Path, text: str, started: bool
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "text").write_text(text)
    code = (
        "import sys; from pathlib import Path; from fromzero.tokenizer import load_tokenizer; "
        "ids = load_tokenizer(sys.argv[1]).encode(Path(sys.argv[1], 'text').read_text()); "
        "print('numba' in sys.modules, *ids)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(started), *map(str, tokenizer.encode(text))]


def test_texts_that_are_short_but_many_start_the_kernels(
    tokenizer: BPETokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe, "SHORT", 100)
    monkeypatch.setattr(bpe, "FEW", 300)
    tokenizer.save(tmp_path)
    fresh = load_tokenizer(tmp_path)
    kept = []
    for _ in range(5):
        assert fresh.encode("The quick 从零 " * 7) == tokenizer.encode("The quick 从零 " * 7)
        kept.append("_table" in vars(fresh))
    assert kept == [False, False, False, False, True]
