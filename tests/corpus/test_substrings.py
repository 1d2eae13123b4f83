"""Repeated passages: what is repeated against a plain search of all windows, and what is left of the texts."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.substrings import drop_repeated_passages, repeated_bytes
from fromzero.errors import UserError


def plain_marks(documents: list[bytes], length: int) -> list[int]:
    """`repeated_bytes` as its definition says."""
    windows = [
        (start + i, data[i : i + length])
        for start, data in zip(np.cumsum([0, *map(len, documents)]).tolist(), documents, strict=False)
        for i in range(len(data) - length + 1)
    ]
    marks, seen = [0] * sum(map(len, documents)), set()
    for place, window in windows:
        if window in seen:
            marks[place : place + length] = [1] * length
        seen.add(window)
    first = {window: place for place, window in reversed(windows)}
    for place, window in windows:
        if first[window] == place and sum(other == window for _, other in windows) > 1:
            marks[place : place + length] = [0] * length
    return marks


PIECES = st.lists(st.sampled_from(["a", "ba", "abcdefghij", "klmnopqrst", "jihgfedcbaklmno"]), max_size=8).map("".join)


@given(st.lists(PIECES.map(str.encode), max_size=5), st.integers(9, 40))
@settings(max_examples=200, deadline=None)
def test_repeated_bytes_are_those_of_a_plain_search(documents: list[bytes], length: int) -> None:
    data, ends = np.frombuffer(b"".join(documents), np.uint8), np.cumsum([0, *map(len, documents)])[1:]
    assert repeated_bytes(data, ends, length).tolist() == plain_marks(documents, length)


@given(
    st.lists(
        st.lists(st.sampled_from(["从零开始的语言模型", "the river rises", "é", "x\n", "𠀀"])).map("".join), max_size=6
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_texts_stay_texts_and_nothing_is_lost(texts: list[str], random_: random.Random) -> None:
    documents = [(f"{i:02d}", text) for i, text in enumerate(texts)]
    results = drop_repeated_passages(documents, 12)
    for text, (kept, cut) in zip(texts, results, strict=True):
        assert len(kept.encode()) + cut == len(text.encode())
        assert cut == 0 or cut >= 12 - 6  # at borders of characters
    left = "\0".join(kept for kept, _ in results).encode()
    windows = [text.encode()[i : i + 12] for text in texts for i in range(len(text.encode()) - 11)]
    assert all(window in left for window in set(windows) if windows.count(window) > 1)
    order = random_.sample(range(len(documents)), len(documents))
    assert drop_repeated_passages([documents[i] for i in order], 12) == [results[i] for i in order]


def test_a_passage_stays_in_the_document_of_the_smallest_id(english: str, chinese: str) -> None:
    for passage in (english, chinese * 2):
        documents = [("b", f"One begins, {passage} and ends."), ("a", f"Another: {passage}"), ("c", passage[:60])]
        (text, cut), first, short = drop_repeated_passages(documents)
        assert first == (f"Another: {passage}", 0)
        assert short == (passage[:60], 0)  # fewer than 200 bytes
        # the blank before it stood in the other document too
        assert (text, cut) == ("One begins, and ends."[:11] + " and ends.", len(f" {passage}".encode()))


@pytest.mark.parametrize(("shared", "cut"), [(199, 0), (200, 200)])
def test_the_least_length(shared: int, cut: int) -> None:
    letters = "".join(random.Random(0).choices("abcdefghij", k=shared))
    assert drop_repeated_passages([("a", f"({letters})"), ("b", f"[{letters}]")])[1][1] == cut


def test_one_text_that_repeats_itself() -> None:
    assert drop_repeated_passages([("a", "a" * 1000)]) == [("a" * 200, 800)]
    # six different windows of 60 bytes, one behind the other, stay: 65 bytes, and the character that the last begins
    assert drop_repeated_passages([("a", "从零" * 400)], 60) == [("从零" * 11, 2334)]


def test_small_and_empty() -> None:
    assert drop_repeated_passages([]) == []
    assert drop_repeated_passages([("a", ""), ("b", "x"), ("c", "\ud800")]) == [("", 0), ("x", 0), ("\ud800", 0)]
    with pytest.raises(UserError, match="16 or more"):
        drop_repeated_passages([], 8)
