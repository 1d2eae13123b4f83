"""Exact duplicates: which copy stays, what counts as equal, and that the order of documents does not matter."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.duplicates import drop_duplicates

LONG = "All rights of the authors of this page are reserved, whatever they are."
VERSE = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"


def test_the_document_of_the_smallest_id_stays() -> None:
    documents = [
        ("c", "A  text.\n"),
        ("a", "a text."),
        ("b", "A text!"),
        ("e", "床前 明月"),
        ("d", "床前\n明月"),
        ("f", ""),
    ]
    assert list(drop_duplicates(documents, "document")) == [
        ("c", "", 1),
        ("a", "a text.", 0),
        ("b", "A text!", 0),
        ("e", "", 1),
        ("d", "床前\n明月", 0),
        ("f", "", 0),
    ]


def test_lines_and_what_remains() -> None:
    documents = [
        ("2", f"Top\n\n{LONG.upper()}\n\n}}\n{VERSE}"),
        ("1", f"{LONG}\n}}\n{VERSE}\n{VERSE}"),
        ("3", f"{LONG}\nown line"),
    ]
    assert list(drop_duplicates(documents, "line")) == [
        ("2", "Top\n\n}", 2),
        ("1", documents[1][1], 0),
        ("3", "own line", 1),
    ]


def test_paragraphs() -> None:
    documents = [("1", f"One.\n\n{LONG}\n{VERSE}"), ("2", f"{LONG}\n\nTwo.\n\n{LONG} {VERSE}\n\nThree.")]
    assert [row[1:] for row in drop_duplicates(documents, "paragraph")] == [
        (documents[0][1], 0),
        (f"{LONG}\n\nTwo.\n\nThree.", 1),
    ]


@pytest.mark.parametrize(("bytes_", "left"), [(49, 0), (50, 1)])
def test_short_lines_are_passed_over(bytes_: int, left: int) -> None:
    assert [n for _, _, n in drop_duplicates([("1", "x" * bytes_), ("2", "x" * bytes_)], "line")] == [0, left]


@given(st.lists(st.lists(st.integers(0, 6), max_size=6), max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_each_line_stays_with_the_smallest_id_that_has_it(lines: list[list[int]], random_: random.Random) -> None:
    documents = [(f"{i}", "\n".join(f"{'line of text ' * 5}{n}" for n in numbers)) for i, numbers in enumerate(lines)]
    random_.shuffle(documents)
    owner = {line: min(name for name, text in documents if line in text.split("\n")) for _, text in documents
             for line in text.split("\n")}  # fmt: skip
    for (name, text), (same, kept, left) in zip(documents, drop_duplicates(documents, "line"), strict=True):
        expected = [line for line in text.split("\n") if owner[line] == name or not line]
        assert (same, kept) == (name, "\n".join(expected))
        assert Counter(kept.split("\n")).total() + left >= Counter(text.split("\n")).total()


@pytest.mark.parametrize("documents", [[], [("1", "")], [("1", "\ud800" * 20), ("2", "\n\n")]])
def test_nothing_to_compare(documents: list[tuple[str, str]]) -> None:
    for unit in ("document", "paragraph", "line"):
        assert list(drop_duplicates(documents, unit)) == [(*row, 0) for row in documents]
