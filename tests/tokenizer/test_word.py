"""Words and characters: known ones come back, unknown ones are said, and other libraries agree."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.patterns import compile_pattern, split
from fromzero.tokenizer.word import UNKNOWN, WORDS, CharacterTokenizer, WordTokenizer, most_frequent
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed

TEXT = "The quick brown fox -- the lazy dog!\n\n    Don't stop: 从零开始，训练3.14个模型。 "
SPECIALS = ["<|unk|>", "<|endoftext|>"]


def words(text: str = TEXT, **settings: Any) -> WordTokenizer:
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(split(compile_pattern(WORDS), text)))}
    return WordTokenizer(
        vocabulary, special_tokens={t: len(vocabulary) + i for i, t in enumerate(SPECIALS)}, **settings
    )


def characters(text: str = TEXT) -> CharacterTokenizer:
    vocabulary = {character: i for i, character in enumerate(sorted(set(text)))}
    return CharacterTokenizer(vocabulary, special_tokens={t: len(vocabulary) + i for i, t in enumerate(SPECIALS)})


def test_default_pattern_cuts_as_documented() -> None:
    assert split(compile_pattern(WORDS), "Don't 从零,  x_1\r\n\n\tend") == [
        "Don", "'", "t", " ", "从", "零", ",", "  ", "x_1", "\r\n\n", "\t", "end",
    ]  # fmt: skip


@given(st.text(min_size=1))
def test_known_words_come_back(text: str) -> None:
    for tokenizer in (words(text), characters(text)):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.special_tokens[UNKNOWN] not in ids


@given(st.text())
def test_each_piece_is_a_token_and_unknown_ones_are_unknown(text: str) -> None:
    for tokenizer, pieces in ((words(), split(compile_pattern(WORDS), text)), (characters(), text)):
        unknown = tokenizer.special_tokens[UNKNOWN]
        assert tokenizer.encode(text) == [tokenizer.vocabulary.get(piece, unknown) for piece in pieces]


def test_without_an_unknown_token_the_missing_word_is_named() -> None:
    with pytest.raises(UserError, match="lacks 'fix'"):
        WordTokenizer({"fox": 0}, unknown=None).encode("fix")
    with pytest.raises(UserError, match="lacks 'b'"):
        CharacterTokenizer({"a": 0}, unknown=None).encode("aba")


@pytest.mark.parametrize("make", [words, characters])
def test_other_libraries_agree(make: Any, tmp_path: Path) -> None:
    assert_opens_alike(make(), tmp_path, CURIOUS + fuzzed() + [TEXT])


def test_most_frequent_words_come_first_and_ties_are_in_order() -> None:
    assert most_frequent(Counter("bbaaacdd"), 3) == ["a", "b", "d"]


def test_bad_parts_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'<|unk|>' is not among".replace("|", r"\|")):
        WordTokenizer({"a": 0})
    with pytest.raises(UserError, match="'ab', which is not one character"):
        CharacterTokenizer({"ab": 0}, unknown=None)
    with pytest.raises(UserError, match="same id 0"):
        WordTokenizer({"a": 0, "b": 0}, unknown=None)
    with pytest.raises(UserError, match="is a word of the vocabulary as well"):
        WordTokenizer({"a": 0}, unknown=None, special_tokens={"a": 1}).save(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "isolating regular expression"),
        ({"pre_tokenizer": None}, "isolating regular expression"),
        ({"decoder": None}, "not Fuse"),
        ({"model": {"type": "WordLevel"}}, "not a tokenizer in Hugging Face's format"),
    ],
)
def test_what_cannot_be_represented_is_refused(edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    words().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
