"""What unknown tokens stand for is counted to the byte; text that can't be got back is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.dataset.recovery import bytes_to_spell
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.normalize import lowercase, prepend
from fromzero.tokenizer.unigram import SPACE, Metaspace, UnigramTokenizer
from fromzero.tokenizer.word import UNKNOWN, CharacterTokenizer, WordTokenizer

ROLES = {"unk_token": UNKNOWN}


def characters(known: str) -> CharacterTokenizer:
    vocabulary = {c: i for i, c in enumerate(known)}
    return CharacterTokenizer(vocabulary, special_tokens={UNKNOWN: len(known)}, roles=ROLES)


def unigram() -> UnigramTokenizer:
    pieces = [(SPACE, -3.0), (f"{SPACE}the", -1.0), ("a", -2.0), ("b", -2.0)]
    common = {"normalizer": prepend(SPACE), "metaspace": Metaspace("never")}
    return UnigramTokenizer(pieces, UNKNOWN, {UNKNOWN: 4}, roles=ROLES, **common)  # type: ignore[arg-type]


def spell(tokenizer: Tokenizer, text: str) -> int | None:
    return bytes_to_spell(tokenizer, tokenizer.encode_ordinary(text), text)


@given(st.text("abcé从\n", max_size=30))
def test_each_unknown_character_costs_its_bytes_and_an_end(text: str) -> None:
    missing = [c for c in text if c in "cé从"]
    assert spell(characters("ab\n"), text) == sum(len(c.encode()) + 1 for c in missing)


def test_unknown_words_cost_theirs() -> None:
    tokenizer = WordTokenizer({"the": 0, " ": 1}, special_tokens={UNKNOWN: 2}, roles=ROLES)
    assert spell(tokenizer, "the cat the 从零") == (3 + 1) + (3 + 1) * 2
    assert spell(tokenizer, "") == 0


def test_the_blank_before_the_first_word_is_no_loss() -> None:
    assert spell(unigram(), "the a b") == 0
    assert spell(unigram(), "从零 the a") == 6 + 1  # a run of unknown characters is one token
    assert spell(unigram(), f"the{SPACE}a") is None  # decodes to a blank


@pytest.mark.parametrize(("text", "expected"), [("ab", 0), ("aB", None)])
def test_what_a_normalizer_changes_can_not_be_got_back(text: str, expected: int | None) -> None:
    assert spell(BPETokenizer(byte_vocabulary([]), [], normalizer=lowercase()), text) == expected
    roles = {"special_tokens": {UNKNOWN: 2}, "roles": ROLES}
    lower = CharacterTokenizer({"a": 0, "b": 1}, **roles, normalizer=lowercase())
    assert spell(lower, text) == expected
    assert spell(lower, text + "c") == (None if expected is None else 2)


@given(st.text(max_size=20))
def test_bytes_lose_nothing(text: str) -> None:
    assert spell(BPETokenizer(byte_vocabulary([(97, 98)]), [(97, 98)]), text) == 0
