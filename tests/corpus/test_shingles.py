"""Words and shingles: what counts as a word, and the compiled hashes against plain Python."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.shingles import shingles_of, words_of

TEXTS = st.lists(st.one_of(st.text(), st.text("ab 从零，ก\n", max_size=30), st.just("\ud800"))).map("".join)
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER", "BOPOMOFO", "IDEOGRAPHIC")


def cut(text: str) -> list[str]:
    data = text.encode("utf-8", "surrogatepass")
    return [data[start:stop].decode("utf-8", "surrogatepass") for start, stop in words_of(data)[1].tolist()]


def is_of_a_word(character: str) -> bool:
    if character >= "\U00020000":  # ideographs, also those that this Python does not know yet
        return character < "\U000323b0"
    return character.isalnum() or unicodedata.category(character)[0] == "M"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  --…。!\n", []),
        ("one", ["one"]),
        ("It's 3.14 – naïve", ["It", "s", "3", "14", "naïve"]),
        ("从零 LLM训练2次。", ["从", "零", "LLM", "训", "练", "2", "次"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("한국어 말", ["한국어", "말"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("𠀀𝐀b", ["𠀀", "𝐀b"]),
    ],
)
def test_what_a_word_is(text: str, words: list[str]) -> None:
    assert cut(text) == words


@pytest.mark.parametrize(
    ("one", "other"), [("A tree, fallen!", "a TREE fallen"), ("ＬＬＭ訓練", "llm 訓練"), ("ｶﾀ", "カタ")]
)
def test_case_width_and_punctuation_make_no_difference(one: str, other: str) -> None:
    assert words_of(one.encode())[0].tolist() == words_of(other.encode())[0].tolist()


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_words_of_any_text(text: str) -> None:
    """What stands in no word is no letter; words of letters only end where something else stands, or alone."""
    words = cut(text)
    assert "".join(words) == "".join(filter(is_of_a_word, text))
    for word in words:
        assert len(word) == 1 or not any(unicodedata.name(c, "").startswith(UNSPACED) for c in word)


@given(st.lists(st.text("abc", min_size=1, max_size=2), max_size=12), st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_shingles_are_equal_where_their_words_are(words: list[str], size: int) -> None:
    hashes = shingles_of(words_of(" ".join(words).encode())[0], size).tolist()
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] or ([tuple(words)] if words else [])
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs))
    assert dict(zip(runs, hashes, strict=True)) == dict(reversed(list(zip(runs, hashes, strict=True))))


def test_hashes_are_spread() -> None:
    hashes = words_of(" ".join(map(str, range(50_000))).encode())[0]
    assert len(np.unique(hashes & np.uint64(0xFFFFFFFF))) > 49_995
    assert abs(np.bincount((hashes >> np.uint64(60)).astype(np.int64)) - 3125).max() < 300
