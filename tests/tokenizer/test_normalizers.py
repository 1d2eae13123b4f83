"""Normalizers: the same texts as in `tokenizers` and SentencePiece, and their own form back."""

import contextlib
import io
from typing import Any

import pytest
import sentencepiece
import tokenizers.normalizers as theirs
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex

from fromzero.errors import UserError
from fromzero.tokenizer.normalize import (
    Normalizer,
    bert,
    lowercase,
    plain,
    precompiled,
    prepend,
    read_normalizer,
    replace,
    sequence,
    strip,
)
from tests.tokenizer.fuzz import CURIOUS, fuzzed

TEXTS = [*CURIOUS, *fuzzed(old=True), "a\u0301\u0327 ﬁ\u0301 Å ㍿ ①", "  x\t", "Σ ΑΣ"]


@pytest.fixture(scope="module")
def model() -> sentencepiece.SentencePieceProcessor:
    """A model that normalises by SentencePiece's variant of NFKC, and neither strips nor adds blanks."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab abc bc"] * 9),
        model_writer=file,
        vocab_size=8,
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())


@pytest.fixture(scope="module")
def charsmap(model: sentencepiece.SentencePieceProcessor) -> bytes:
    """The compiled table, found in the model by its length, which is written before it."""
    saved = model.serialized_model_proto()
    start = saved.index(b"\x0a\x08nmt_nfkc\x12") + 11
    length, shift = 0, 0
    while True:
        length |= (saved[start] & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if saved[start - 1] < 0x80:
            return saved[start : start + length]


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        (bert(), theirs.BertNormalizer()),
        (bert(lowercase=False), theirs.BertNormalizer(lowercase=False)),
        (bert(strip_accents=False), theirs.BertNormalizer(strip_accents=False)),
        (bert(False, False, True, False), theirs.BertNormalizer(False, False, True, False)),
        *((plain(form), getattr(theirs, form)()) for form in ("NFC", "NFD", "NFKC", "NFKD")),
        (lowercase(), theirs.Lowercase()),
        (strip(), theirs.Strip()),
        (strip(left=False), theirs.Strip(left=False)),
        (prepend("▁"), theirs.Prepend("▁")),
        (replace(" ", "▁"), theirs.Replace(" ", "▁")),
        (replace(" {2,}", r"\1", expression=True), theirs.Replace(Regex(" {2,}"), r"\1")),
        (
            sequence(plain("NFKD"), plain("StripAccents"), lowercase()),
            theirs.Sequence([theirs.NFKD(), theirs.StripAccents(), theirs.Lowercase()]),
        ),
    ],
    ids=lambda value: repr(value.to_json())[:60] if isinstance(value, Normalizer) else "",
)
def test_other_libraries_agree(ours: Normalizer, other: Any) -> None:
    again = read_normalizer(ours.to_json())
    assert again is not None
    assert again.to_json() == ours.to_json()
    for text in TEXTS:
        assert ours(text) == again(text) == other.normalize_str(text), repr(text)


def test_a_compiled_table_is_read_as_in_tokenizers(charsmap: bytes) -> None:
    ours, other = precompiled(charsmap), theirs.Precompiled(charsmap)
    again = read_normalizer(ours.to_json())
    assert again is not None
    for text in TEXTS:
        assert ours(text) == again(text) == other.normalize_str(text), repr(text)


def test_a_compiled_table_is_read_as_in_sentencepiece(
    charsmap: bytes, model: sentencepiece.SentencePieceProcessor
) -> None:
    ours = precompiled(charsmap, graphemes=False)
    for text in TEXTS:
        assert ours(text).replace(" ", "▁") == model.normalize(text), repr(text)


@given(st.binary(max_size=200), st.text(max_size=20))
def test_a_damaged_table_is_told_or_harmless(damaged: bytes, text: str) -> None:
    size = len(damaged) // 4 * 4
    for charsmap in (damaged, size.to_bytes(4, "little") + damaged + b"a\0"):
        with contextlib.suppress(UserError):
            for graphemes in (True, False):
                assert isinstance(precompiled(charsmap, graphemes)(text), str)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "Nmt"}, "Nmt normalizer"),
        ({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}, "not a regular expression"),
        ({"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 2000}, "2000 characters at once"),
        ({"type": "Prepend", "prepend": ["a"]}, "is not a text"),
        ({"type": "Prepend", "prepend": "\ud800"}, "lone surrogate"),
        ({"type": "Prepend", "prepend": "a" * 2000}, "2000 characters at once"),
        ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "cut off or damaged"),
    ],
)
def test_what_is_not_known_is_refused(form: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_normalizer(form)


def test_sequences_of_sequences_end_somewhere() -> None:
    form: dict[str, Any] = {"type": "NFC"}
    for _ in range(50):
        form = {"type": "Sequence", "normalizers": [form]}
    with pytest.raises(UserError, match="Sequence normalizer"):
        read_normalizer(form)


def test_a_text_does_not_grow_without_end() -> None:
    tenfold = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    normalizer = read_normalizer({"type": "Sequence", "normalizers": [tenfold] * 9})
    assert normalizer is not None
    with pytest.raises(UserError, match="more than 1640 characters"):
        normalizer("a" * 10)
