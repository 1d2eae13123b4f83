"""Merging: from the bytes of a pre-token to its token ids, always the pair that was learned first.

Two ways to the same ids: `merge_short` keeps the ranks of all neighbours in a list and scans it, the fastest for
words; its time grows with the square of the length, so `merge_long` keeps them in a heap over a linked list, and a
line of a hundred thousand letters takes O(n log n).
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

LONG = 256  # symbols from which the heap wins, measured
_NEVER = 1 << 60  # rank of a pair that is no merge

Ranks = Mapping[tuple[int, int], int]


def merge(symbols: list[int], ranks: Ranks, results: Sequence[int]) -> list[int]:
    """Merge a list of byte tokens into the tokens of the vocabulary.

    symbols: the ids of the pre-token's bytes. ranks: pair of ids -> its place in the order of merges.
    results: by that place, the id that replaces the pair.
    """
    return merge_long(symbols, ranks, results) if len(symbols) >= LONG else merge_short(symbols, ranks, results)


def merge_short(symbols: list[int], ranks: Ranks, results: Sequence[int]) -> list[int]:
    """Replace the leftmost pair of the lowest rank until none is left (Sennrich et al. 2016, algorithm 1)."""
    symbols = list(symbols)
    around = [ranks.get(pair, _NEVER) for pair in pairwise(symbols)]  # around[i]: rank of symbols i and i+1
    while around and (best := min(around)) != _NEVER:
        i = around.index(best)
        symbols[i : i + 2] = [results[best]]
        del around[i]
        if i < len(around):
            around[i] = ranks.get((symbols[i], symbols[i + 1]), _NEVER)
        if i > 0:
            around[i - 1] = ranks.get((symbols[i - 1], symbols[i]), _NEVER)
    return symbols


def merge_long(symbols: list[int], ranks: Ranks, results: Sequence[int]) -> list[int]:
    """The same with a heap of (rank, place) and a doubly linked list of what is left of the symbols."""
    symbols, n = list(symbols), len(symbols)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    # An entry is rank * n + place in one integer. It is stale when the pair at that place has another rank by now.
    heap = [ranks.get(pair, _NEVER) * n + i for i, pair in enumerate(pairwise(symbols))]
    heapq.heapify(heap)
    while heap:
        rank, i = divmod(heapq.heappop(heap), n)
        if rank >= _NEVER:
            break
        j = after[i]
        if symbols[i] < 0 or j >= n or ranks.get((symbols[i], symbols[j]), _NEVER) != rank:
            continue
        symbols[i], symbols[j] = results[rank], -1
        after[i] = k = after[j]
        if k < n:
            before[k] = i
            _push(heap, ranks, symbols, i, k, n)
        if (h := before[i]) >= 0:
            _push(heap, ranks, symbols, h, i, n)
    return [symbol for symbol in symbols if symbol >= 0]


def _push(heap: list[int], ranks: Ranks, symbols: list[int], i: int, j: int, n: int) -> None:
    rank = ranks.get((symbols[i], symbols[j]), _NEVER)
    if rank != _NEVER:
        heapq.heappush(heap, rank * n + i)
