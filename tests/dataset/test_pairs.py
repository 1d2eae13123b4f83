"""Padding, batches for an encoder-decoder, pairs of sentences: what carries loss, how often what is drawn."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.dataset import pairs
from fromzero.dataset.chats import NO_LOSS
from fromzero.dataset.objectives import Ids
from fromzero.errors import UserError

# An id says where it is from: document x 10000 + sentence x 100 + place.
DOCUMENTS = [[np.arange(3 + (d + s) % 7) + 10_000 * d + 100 * s for s in range(50 + d % 5)] for d in range(99)]


def drawn(task: str, length: int = 30, seed: int = 0) -> Iterator[tuple[Ids, Ids, bool]]:
    return pairs.sentence_pairs(DOCUMENTS, length, np.random.default_rng(seed), task)  # type: ignore[arg-type]


def test_padding_is_at_the_side_that_is_asked_for() -> None:
    rows = [np.array([1, 2, 3]), np.array([4])]
    ids, keep = pairs.pad(rows, 9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert keep.tolist() == [[True] * 3, [True, False, False]]
    ids, keep = pairs.pad(rows, 9, side="left")
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert keep.tolist() == [[True] * 3, [False, False, True]]


@given(st.lists(st.tuples(st.lists(st.integers(2, 99)), st.lists(st.integers(2, 99))), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_targets_of_a_pair_are_its_ids_and_the_end(rows: list[tuple[list[int], list[int]]]) -> None:
    given = [(np.array(a, int), np.array(b, int)) for a, b in rows]
    sources, keep, inputs, all_targets = pairs.pair_batch(given, 0, 1, 0)
    assert (all_targets != NO_LOSS).sum() == sum(len(target) + 1 for _, target in rows)
    for row, (source, target) in enumerate(rows):
        assert sources[row][keep[row]].tolist() == [*source, 1]
        counted = all_targets[row] != NO_LOSS
        assert all_targets[row][counted].tolist() == [*target, 1]
        assert inputs[row][counted].tolist() == [0, *target]


def test_a_pair_is_joined_as_bert_reads_it() -> None:
    ids, types = pairs.join(np.array([5, 6]), np.array([7]), 1, 2)
    assert ids.tolist() == [1, 5, 6, 2, 7, 2]
    assert types.tolist() == [0, 0, 0, 0, 1, 1]


def test_half_of_the_next_sentences_are_from_another_document() -> None:
    found = list(drawn("next"))
    assert len(found) > 1000
    assert abs(np.mean([changed for *_, changed in found]) - 0.5) < 0.06
    for first, second, label in found:
        assert 2 <= len(first) + len(second) <= 30
        assert len(set(first // 10_000)) == len(set(second // 10_000)) == 1
        assert (first[0] // 10_000 != second[0] // 10_000) == label
        assert label or first[-1] < second[0]


def test_nothing_of_a_document_is_lost_between_pairs() -> None:
    """What was put aside for a false next sentence comes again: without cutting, every id is there."""
    there = {int(i) for first, second, label in drawn("next", 10_000) for i in (*first, *(() if label else second))}
    assert there == {int(i) for document in DOCUMENTS for sentence in document for i in sentence}


def test_half_of_the_orders_are_wrong() -> None:
    found = list(drawn("order"))
    assert abs(np.mean([changed for *_, changed in found]) - 0.5) < 0.04
    for first, second, label in found:
        assert first[0] // 10_000 == second[0] // 10_000
        assert (first[0] > second[0]) == label
        assert len(first) + len(second) <= 30


def test_one_in_ten_is_short_and_the_seed_decides_all() -> None:
    lengths = [len(first) + len(second) for first, second, _ in drawn("order")]
    assert 0.03 < np.mean(np.array(lengths) < 20) < 0.2
    again = [len(first) + len(second) for first, second, _ in drawn("order")]
    assert lengths == again
    assert lengths != [len(first) + len(second) for first, second, _ in drawn("order", seed=1)]


def test_lone_documents_and_sentences() -> None:
    with pytest.raises(UserError, match="at least 2 documents"):
        list(pairs.sentence_pairs([*DOCUMENTS[:1], []], 20, np.random.default_rng(0), "next"))
    assert not list(pairs.sentence_pairs([[np.arange(5)]], 20, np.random.default_rng(0), "order"))
