"""The pairs of neighbouring tokens that `learn` has listed: found by a hash table, and taken from a heap."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.spelling import compare, prefix

_MIX = np.uint64(0x9E3779B97F4A7C15)


class Pairs(NamedTuple):
    """The pairs that are listed, and the heap of what to merge next."""

    halves: NDArray[np.int32]
    """(n, 2)"""
    counts: NDArray[np.int64]
    """How often each occurs; 0 when it was merged or passed over."""
    spans: NDArray[np.int64]
    """(n, 2): where its places start and how many they are."""
    places: NDArray[np.int32]
    """Slots at which a pair was seen, ascending for each."""
    table: NDArray[np.int32]
    """A hash table: number of a pair + 1, or 0."""
    heap: NDArray[np.int64]
    """(n, 3): count, rank among ties (the least first: the first place, or how the bytes begin), number of the pair."""
    used: NDArray[np.int64]
    """How many pairs, places, and entries of the heap there are."""


@lean
def add(pairs: Any, left: Any, right: Any, weight: Any, number: Any) -> Any:
    """List a pair; where its places go."""
    pair, start = pairs.used[0], pairs.used[1]
    pairs.halves[pair, 0], pairs.halves[pair, 1], pairs.counts[pair] = left, right, weight
    pairs.spans[pair, 0], pairs.spans[pair, 1] = start, number
    pairs.used[0], pairs.used[1] = pair + 1, start + number
    insert(pairs.table, pairs.halves, pair)
    return start


@lean
def insert(table: Any, halves: Any, pair: Any) -> None:
    """Enter a pair into the hash table."""
    slot = _slot(halves[pair, 0], halves[pair, 1], len(table))
    while table[slot]:
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    table[slot] = pair + 1


@inlined
def _slot(left: Any, right: Any, size: Any) -> Any:
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    key = (key ^ key >> np.uint64(29)) * _MIX
    return (key ^ key >> np.uint64(32)) & np.uint64(size - 1)


@lean
def find(table: Any, halves: Any, left: Any, right: Any) -> Any:
    """The number of a pair, or -1."""
    slot = _slot(left, right, len(table))
    while table[slot]:
        pair = np.int64(table[slot]) - 1
        if halves[pair, 0] == left and halves[pair, 1] == right:
            return pair
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    return np.int64(-1)


@lean
def push(pairs: Any, pair: Any, ties_first: Any, spelling: Any) -> None:
    """Put a pair into the heap."""
    heap, at = pairs.heap, pairs.used[2]
    heap[at, 0], heap[at, 2] = pairs.counts[pair], pair
    heap[at, 1] = pairs.places[pairs.spans[pair, 0]] if ties_first else -prefix(spelling, pairs.halves[pair, 0])
    pairs.used[2] += 1
    while at > 0 and _comes_first(pairs, at, (at - 1) // 2, spelling):
        swap(heap, at, (at - 1) // 2)
        at = (at - 1) // 2


@lean
def sift_down(pairs: Any, spelling: Any) -> None:
    """Move the top of the heap to where it belongs."""
    at, used = 0, pairs.used[2]
    while 2 * at + 1 < used:
        child = 2 * at + 1
        if child + 1 < used and _comes_first(pairs, child + 1, child, spelling):
            child += 1
        if not _comes_first(pairs, child, at, spelling):
            break
        swap(pairs.heap, at, child)
        at = child


@inlined
def swap(heap: Any, i: Any, j: Any) -> None:
    """Exchange two entries."""
    for column in range(3):
        heap[i, column], heap[j, column] = heap[j, column], heap[i, column]


@inlined
def _comes_first(pairs: Any, i: Any, j: Any, spelling: Any) -> Any:
    """Whether one entry of the heap is to be merged before another."""
    heap = pairs.heap
    if heap[i, 0] != heap[j, 0]:
        return heap[i, 0] > heap[j, 0]
    if heap[i, 1] != heap[j, 1]:
        return heap[i, 1] < heap[j, 1]
    one, other = heap[i, 2], heap[j, 2]
    order = compare(spelling, pairs.halves[one, 0], pairs.halves[other, 0])
    return (order if order else compare(spelling, pairs.halves[one, 1], pairs.halves[other, 1])) > 0
