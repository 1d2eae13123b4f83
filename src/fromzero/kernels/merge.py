"""Encoding: pre-tokens to ids, always merging the pair of the lowest rank, the leftmost of several.

The plain reference is `tokenizer.merge`. A pre-token of up to 15 bytes is looked up in a cache first: two words of 64
bits are its key, so a hit is certain and costs one comparison. Else `kernels.match` finds the ids without merging where
it can. Where it can't, the ranks of all neighbours lie in one array, whose minimum is found with vector instructions,
or from LONG symbols on in a heap, so that time stays near linear.
"""

import heapq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.kernels.compiling import compiled, lean
from fromzero.kernels.count import NUMBER, slot_of_piece
from fromzero.kernels.match import PAIR_BITS, match
from fromzero.kernels.merge_pairs import NEVER, merge_few, pair_table, rank_of
from fromzero.kernels.scan import BLOCK, scan
from fromzero.kernels.words import KEY_BYTES, hash_of, key_of, slot_of

SHORT, LONG = 20, 384  # symbols up to which scanning all ranks wins, and from which the heap wins, measured
CACHED_IDS = 6  # most ids of a pre-token in the cache
CACHE_BITS = 14

_LAST = np.int64(2**63 - 1)
_ID, _TWENTY, _FORTY, _COUNT = np.uint64(2**20 - 1), np.uint64(20), np.uint64(40), np.uint64(60)


class Merges(NamedTuple):
    """The merges of a tokenizer, made by `merge_table`."""

    byte_ids: NDArray[np.int32]
    """Byte -> id."""
    byte_pairs: NDArray[np.int32]
    """(65536,): the ranks of the pairs of two bytes; the first steps look nowhere else."""
    pairs: NDArray[np.uint64]
    """A hash table of pairs: 20 bits of the left id, 20 of the right one, 24 of the rank."""
    results: NDArray[np.int32]
    """Rank -> the id that replaces the pair."""


class Whole(NamedTuple):
    """Pre-tokens that become one token though no merges lead to it; `kernels.count` tells what entries are."""

    letters: NDArray[np.uint8]
    entries: NDArray[np.int64]
    """With the id in place of a count."""
    slots: NDArray[np.int64]


class Cache(NamedTuple):
    """What one thread remembers of pre-tokens."""

    entries: NDArray[np.uint64]
    """(slots, 8): two pre-tokens, the newer one first, each of four words: up to 15 bytes and their number, then up to
    six ids and, in the highest bits of the third word, their number."""
    known: NDArray[np.uint64]
    """Pairs that `kernels.match` has looked at."""


def new_cache() -> Cache:
    """An empty cache of 2.5 MB."""
    return Cache(np.zeros((1 << CACHE_BITS, 8), np.uint64), np.full(1 << PAIR_BITS, 2**64 - 1, np.uint64))


@compiled
def merge_table(byte_ids: Any, lefts: Any, rights: Any, results: Any) -> Any:
    """`Merges` from arrays: int32 ids of the 256 bytes; of each merge, by rank, its halves and its result (int32)."""
    pairs, byte_pairs = pair_table(lefts, rights), np.empty(65536, np.int32)
    for pair in range(65536):
        byte_pairs[pair] = rank_of(pairs, byte_ids[pair >> 8], byte_ids[pair & 255])
    return Merges(byte_ids, byte_pairs, pairs, results)


@compiled
def encode_documents(
    data: Any, ends: Any, classes: Any, table: Any, width: Any, merges: Any, matcher: Any, whole: Any, cache: Any,
    out: Any, counts: Any,
) -> Any:  # fmt: skip
    """Ids of the documents that lie one after the other in `data`; their number, or -1 if the pattern gets nowhere.

    data: uint8, padded by PADDING. ends: int64, where each document ends. out: int32 with a place for each byte,
    filled. counts: int64, filled with the ids of each document.
    """
    cuts = np.empty(BLOCK, np.int64)
    start, written = np.int64(0), np.int64(0)
    for i in range(len(ends)):
        before = written
        while start < ends[i]:
            found, resume = scan(data, start, ends[i], True, classes, table, width, cuts)
            if resume < 0:
                return np.int64(-1)
            written = encode_pieces(data, start, cuts[:found], merges, matcher, whole, cache, out, written)
            start = resume
        counts[i] = written - before
    return written


@compiled
def encode_pieces(
    data: Any, start: Any, cuts: Any, merges: Any, matcher: Any, whole: Any, cache: Any, out: Any, written: Any
) -> Any:
    """Ids of the pre-tokens data[start:cuts[0]], data[cuts[0]:cuts[1]], ... into out[written:]; the new `written`."""
    byte_ids, byte_pairs, pairs, results = merges
    letters, entries, slots = whole
    (times, halves, sizes, shorter, ends, beginnings), (first, characters, steps, leaps, rests) = matcher
    remembered, known = cache
    failed = np.zeros(LONG, np.bool_)
    ranks, symbols = np.empty(LONG, np.int64), np.empty(LONG, np.int32)
    i = np.int64(0)
    while True:
        i, start, written = _recall(data, start, cuts, i, byte_ids, remembered, out, written)
        if i == len(cuts):
            return written
        end, after, number = cuts[i], written + 1, np.int64(0)
        size = end - start
        if len(entries):
            mixed = hash_of(data, start, size)
            number = slots[slot_of_piece(data, start, size, mixed, letters, entries, slots)] & NUMBER
        if number:
            out[written] = entries[number - 1, 3]
        elif len(first) and (size > SHORT or data[end - 1] >= 0x80):
            after = match(
                data, start, end, byte_ids, pairs, times, halves, sizes, shorter, ends, beginnings, first, characters,
                steps, leaps, rests, known, failed if size < LONG else np.zeros(size + 1, np.bool_), out, written,
            )  # fmt: skip
        else:
            if size > len(symbols):
                ranks, symbols = np.empty(size, np.int64), np.empty(size, np.int32)
            for place in range(size):
                symbols[place] = byte_ids[data[start + place]]
            for place in range(size - 1):
                ranks[place] = byte_pairs[np.int64(data[start + place]) << 8 | np.int64(data[start + place + 1])]
            if size <= SHORT:
                after += merge_few(size, ranks, symbols, pairs, results)[0] - 1
            else:
                after += _merge_linked(size, ranks, symbols, pairs, results) - 1
            for place in range(after - written):
                out[written + place] = symbols[place]
        if size <= KEY_BYTES and after - written <= CACHED_IDS:
            _remember(data, start, size, remembered, out, written, after)
        i, start, written = i + 1, end, after


@lean
def _recall(data: Any, start: Any, cuts: Any, i: Any, byte_ids: Any, remembered: Any, out: Any, written: Any) -> Any:
    """Go on as long as pre-tokens are single bytes or in the cache; `i`, `start` and `written` after that."""
    while i < len(cuts):
        size = cuts[i] - start
        count = np.int64(1)
        if size == 1:
            out[written] = byte_ids[data[start]]
        else:
            if size > KEY_BYTES:
                break
            low, high = key_of(data, start, size)
            row = slot_of(low, high, CACHE_BITS)
            way = 0 if remembered[row, 0] == low and remembered[row, 1] == high else 4
            if way and (remembered[row, 4] != low or remembered[row, 5] != high):
                break
            packed = remembered[row, way + 2]
            count = np.int64(packed >> _COUNT)
            out[written] = packed & _ID
            if count > 1:
                out[written + 1], out[written + 2] = packed >> _TWENTY & _ID, packed >> _FORTY & _ID
                packed = remembered[row, way + 3]
                if count > 3:
                    out[written + 3], out[written + 4] = packed & _ID, packed >> _TWENTY & _ID
                    out[written + 5] = packed >> _FORTY & _ID
        start, written, i = cuts[i], written + count, i + 1
    return i, start, written


@lean
def _remember(data: Any, start: Any, size: Any, remembered: Any, out: Any, written: Any, after: Any) -> None:
    """Put the ids out[written:after] of a pre-token into the cache."""
    low, high = key_of(data, start, size)
    row = slot_of(low, high, CACHE_BITS)
    for i in range(4):
        remembered[row, 4 + i] = remembered[row, i]
    remembered[row, 0], remembered[row, 1] = low, high
    remembered[row, 2], remembered[row, 3] = np.uint64(after - written) << _COUNT, np.uint64(0)
    for i in range(after - written):
        remembered[row, 2 + i // 3] |= np.uint64(out[written + i]) << np.uint64(20 * (i % 3))


@compiled
def _merge_linked(size: Any, ranks: Any, symbols: Any, pairs: Any, results: Any) -> Any:
    """`merge_few` without moving what is behind: `after` and `before` link what is left of the symbols; their number.

    An order is rank * 2**32 + place: the least one is the leftmost of the lowest rank.
    """
    orders, after, before = ranks, np.empty(size, np.int32), np.empty(size, np.int32)
    heap = [_LAST]
    for i in range(size):
        after[i], before[i] = i + 1, i - 1
        orders[i] = ranks[i] << 32 | i if i < size - 1 and ranks[i] != NEVER else _LAST
        if size >= LONG and orders[i] != _LAST:
            heapq.heappush(heap, orders[i])
    while True:
        least = _LAST
        if size >= LONG:
            while heap[0] != _LAST and least == _LAST:  # an order that is not in its place any more is stale
                least = heapq.heappop(heap)
                least = least if orders[least & 0xFFFFFFFF] == least else _LAST
        else:
            for i in range(size):  # vector instructions
                least = min(least, orders[i])
        if least == _LAST:
            break
        i = least & 0xFFFFFFFF
        j, h = np.int64(after[i]), np.int64(before[i])
        k = np.int64(after[j])
        symbols[i], after[i], orders[i], orders[j] = results[least >> 32], k, _LAST, _LAST
        if k < size:
            before[k] = i
            rank = rank_of(pairs, symbols[i], symbols[k])
            orders[i] = rank << 32 | i if rank != NEVER else _LAST
        if h >= 0:
            rank = rank_of(pairs, symbols[h], symbols[i])
            orders[h] = rank << 32 | h if rank != NEVER else _LAST
        if size >= LONG:
            heapq.heappush(heap, orders[i])
            if h >= 0:
                heapq.heappush(heap, orders[h])
    count, i = 0, np.int64(0)
    while i < size:
        symbols[count] = symbols[i]
        count, i = count + 1, np.int64(after[i])
    return count
