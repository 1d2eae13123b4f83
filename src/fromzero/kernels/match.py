"""Encoding by matching: the ids that merging would give, found from left to right without merging.

A sequence of tokens is what merging makes of their bytes if and only if that holds for each two neighbours: as long as
no merge crosses a border, every token grows as it would alone, and the first merge that crosses one would cross it for
those two alone as well. So the longest token that fits is taken, a shorter one where it can't stand beside the one
before, and a step is taken back where none can (the idea of the `bpe` crate of GitHub, 2024).

This needs merges whose halves are made before them, in which tokens then come to be in the order of ranks; `derive`
tells. For others, `kernels.merge` merges.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.kernels.compiling import compiled, inlined
from fromzero.kernels.merge_pairs import NEVER, rank_of

BYTE, UNMADE = -1, -2  # instead of the rank that makes a token: it is a byte; no merges make it
MAX_TOKEN = 512  # bytes; with longer ones nothing is derived
PAIR_BITS = 15

_MIX = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = np.uint64(2**64 - 1)
_ONE, _HALF, _EIGHT = np.uint64(1), np.uint64(32), np.uint64(8)
_NODE_BITS = np.uint64(28)


class Matcher(NamedTuple):
    """How tokens are made and found; made by `derive`. Without `first` there is nothing to match with."""

    times: NDArray[np.int32]
    """Id -> rank of the merge that makes it, or BYTE, or UNMADE."""
    halves: NDArray[np.int32]
    """(ids, 2): what that merge joins."""
    sizes: NDArray[np.int32]
    """Id -> bytes."""
    borders: NDArray[np.uint32]
    """Id -> what `_borders` says of the token's two ends."""
    shorter: NDArray[np.int32]
    """Id -> the longest token that it begins with, or -1."""
    first: NDArray[np.int32]
    """(65536,): the node of the tree of tokens after two bytes, or -1. A node that is a token has its id."""
    edges: NDArray[np.uint64]
    """A hash table: node * 2**36 + byte * 2**28 + the node that follows."""


@compiled
def derive(letters: Any, starts: Any, byte_ids: Any, pairs: Any, results: Any, lefts: Any, rights: Any) -> Any:
    """The `Matcher` of tokens: by id, letters[starts[id]:starts[id + 1]], none of them longer than MAX_TOKEN.

    pairs, results, byte_ids: as in `Merges`. lefts, rights: the halves of all merges by rank.
    """
    count = len(starts) - 1
    times, halves = np.full(count, UNMADE, np.int32), np.full((count, 2), -1, np.int32)
    sizes = (starts[1:] - starts[:-1]).astype(np.int32)
    symbols = np.empty(MAX_TOKEN, np.int32)
    for token in range(count):
        if sizes[token] == 1 and byte_ids[letters[starts[token]]] == token:
            times[token] = BYTE
        elif sizes[token] > 1:
            _derive_one(token, letters, starts[token], sizes[token], byte_ids, pairs, results, symbols, times, halves)
    nothing = np.empty(0, np.int32)
    for rank in range(len(lefts) if count else 0):
        if times[lefts[rank]] >= rank or times[rights[rank]] >= rank:
            return Matcher(times, halves, sizes, np.empty(0, np.uint32), nothing, nothing, np.empty(0, np.uint64))
    if count == 0:
        return Matcher(times, halves, sizes, np.empty(0, np.uint32), nothing, nothing, np.empty(0, np.uint64))
    borders = _borders(letters, starts, times, halves, results, lefts, rights)
    shorter, first, edges = _tree(letters, starts, sizes, times)
    return Matcher(times, halves, sizes, borders, shorter, first, edges)


@compiled
def _derive_one(
    token: Any, letters: Any, start: Any, size: Any, byte_ids: Any, pairs: Any, results: Any, symbols: Any, times: Any,
    halves: Any,
) -> None:  # fmt: skip
    """Merge the bytes of a token in the plain way, and keep the last merge if it makes the token."""
    for i in range(size):
        symbols[i] = byte_ids[letters[start + i]]
    while size > 1:
        least, place = NEVER, 0
        for i in range(size - 1):
            rank = rank_of(pairs, symbols[i], symbols[i + 1])
            if rank < least:
                least, place = rank, i
        if least == NEVER:
            return
        if size == 2 and results[least] == token:
            times[token], halves[token, 0], halves[token, 1] = least, symbols[0], symbols[1]
        symbols[place] = results[least]
        size -= 1
        for i in range(place + 1, size):
            symbols[i] = symbols[i + 1]


@compiled
def _borders(letters: Any, starts: Any, times: Any, halves: Any, results: Any, lefts: Any, rights: Any) -> Any:
    """Four bytes for each token: the classes of its last and first byte (one bit of eight), and the classes of first
    bytes that some merge of a part at its right end goes on with, and of last bytes before a part at its left end.

    Where the classes of two neighbours are not among each other's, no merge of parts crosses their border.
    """
    count = len(times)
    last, first = np.zeros(count, np.uint32), np.zeros(count, np.uint32)
    for token in range(count):
        if times[token] != UNMADE:
            last[token] = np.uint32(1) << np.uint32(letters[starts[token + 1] - 1] >> 5)
            first[token] = np.uint32(1) << np.uint32(letters[starts[token]] >> 5)
    after, before = np.zeros(count, np.uint32), np.zeros(count, np.uint32)  # of merges of the token itself
    for rank in range(len(lefts)):
        after[lefts[rank]] |= first[rights[rank]]
        before[rights[rank]] |= last[lefts[rank]]
    inner_after, inner_before = np.zeros(count, np.uint32), np.zeros(count, np.uint32)  # of merges of its parts
    for rank in range(len(lefts)):
        token = results[rank]
        if times[token] == rank:
            left, right = halves[token, 0], halves[token, 1]
            inner_after[token] = after[right] | inner_after[right]
            inner_before[token] = before[left] | inner_before[left]
    return last << np.uint32(24) | first << np.uint32(16) | inner_after << np.uint32(8) | inner_before


@compiled
def _tree(letters: Any, starts: Any, sizes: Any, times: Any) -> Any:
    """`shorter`, `first` and `edges` of a `Matcher`."""
    count, total = len(sizes), np.int64(0)
    for token in range(count):
        total += sizes[token] if times[token] != UNMADE else 0
    bits = 4
    while 1 << bits < 2 * total:
        bits += 1
    edges, ids = np.full(1 << bits, _EMPTY, np.uint64), np.full(count + total, -1, np.int32)
    used = np.int64(256)  # nodes of single bytes first; they become ids at the end
    for token in range(count):
        if times[token] == UNMADE:
            continue
        node = np.int64(letters[starts[token]])
        for i in range(1, sizes[token]):
            slot = _edge(edges, node, letters[starts[token] + i])
            if edges[slot] == _EMPTY:
                byte = np.uint64(letters[starts[token] + i])
                edges[slot] = (np.uint64(node) << _EIGHT | byte) << _NODE_BITS | np.uint64(used)
                used += 1
            node = np.int64(edges[slot] & ((_ONE << _NODE_BITS) - _ONE))
        ids[node] = token
    return _renumbered(letters, starts, sizes, times, edges, ids, used)


@compiled
def _renumbered(letters: Any, starts: Any, sizes: Any, times: Any, edges: Any, ids: Any, used: Any) -> Any:
    """The same tree with ids for the nodes that are tokens, and numbers from `count` on for the others."""
    count = len(sizes)
    shorter, first = np.full(count, -1, np.int32), np.full(65536, -1, np.int32)
    numbers, others = np.empty(used, np.int64), np.int64(count)
    for node in range(used):
        numbers[node] = ids[node] if ids[node] >= 0 else others
        others += ids[node] < 0
    for token in range(count):
        if times[token] == UNMADE:
            continue
        node, best = np.int64(letters[starts[token]]), np.int64(-1)
        for i in range(1, sizes[token]):
            best = ids[node] if ids[node] >= 0 else best
            slot = _edge(edges, node, letters[starts[token] + i])
            node = np.int64(edges[slot] & ((_ONE << _NODE_BITS) - _ONE))
        shorter[token] = best
    size = 16
    while size < 2 * used:
        size *= 2
    final = np.full(size, _EMPTY, np.uint64)  # as small as can be, to stay in a fast cache
    for edge in edges:
        if edge != _EMPTY:
            node, byte = np.int64(edge >> (_NODE_BITS + _EIGHT)), np.int64(edge >> _NODE_BITS & np.uint64(255))
            child = numbers[np.int64(edge & ((_ONE << _NODE_BITS) - _ONE))]
            if node < 256:
                first[node << 8 | byte] = child
            slot = _edge(final, numbers[node], byte)
            final[slot] = (np.uint64(numbers[node]) << _EIGHT | np.uint64(byte)) << _NODE_BITS | np.uint64(child)
    return shorter, first, final


@inlined
def _edge(edges: Any, node: Any, byte: Any) -> Any:
    """The slot of an edge, or the empty one where it belongs."""
    key = np.uint64(node) << _EIGHT | np.uint64(byte)
    slot = (key * _MIX >> _HALF) & np.uint64(len(edges) - 1)
    while edges[slot] != _EMPTY and edges[slot] >> _NODE_BITS != key:
        slot = (slot + _ONE) & np.uint64(len(edges) - 1)
    return slot


@compiled
def match(
    data: Any, start: Any, stop: Any, byte_ids: Any, pairs: Any, times: Any, halves: Any, sizes: Any, borders: Any,
    shorter: Any, first: Any, edges: Any, known: Any, failed: Any, out: Any, written: Any,
) -> Any:  # fmt: skip
    """The ids of data[start:stop] into out[written:]; the new `written`.

    known: uint64, a cache of pairs that may or may not be neighbours. failed: bool, more than the bytes.
    """
    for i in range(stop - start + 1):
        failed[i] = False
    place, bottom = start, written
    token = _longest(data, place, stop, byte_ids, len(sizes), first, edges)
    while place < stop:
        end = place + sizes[token]
        fits = not failed[end - start]
        if fits and written > bottom:
            fits = _neighbours(out[written - 1], token, pairs, times, halves, borders, known)
        if fits:
            out[written], written, place = token, written + 1, end
            if place < stop:
                token = _longest(data, place, stop, byte_ids, len(sizes), first, edges)
        elif shorter[token] >= 0:
            token = np.int64(shorter[token])
        else:
            failed[place - start] = True
            written -= 1
            token = np.int64(out[written])
            place -= sizes[token]
    return written


@inlined
def _longest(data: Any, place: Any, stop: Any, byte_ids: Any, count: Any, first: Any, edges: Any) -> Any:
    """The longest token that stands at a place."""
    found = np.int64(byte_ids[data[place]])
    if place + 1 >= stop:
        return found
    node = np.int64(first[np.int64(data[place]) << 8 | np.int64(data[place + 1])])
    place += 2
    while node >= 0:
        if node < count:
            found = node
        if place >= stop:
            break
        edge = edges[_edge(edges, node, data[place])]
        node = np.int64(edge & ((_ONE << _NODE_BITS) - _ONE)) if edge != _EMPTY else np.int64(-1)
        place += 1
    return found


@inlined
def _neighbours(left: Any, right: Any, pairs: Any, times: Any, halves: Any, borders: Any, known: Any) -> Any:
    """Whether two tokens stay two tokens when their bytes are merged together."""
    if _closed(borders[left], borders[right]):
        return rank_of(pairs, left, right) == NEVER
    key = np.uint64(left) << np.uint64(20) | np.uint64(right)
    slot = (key * _MIX) >> np.uint64(64 - PAIR_BITS)
    if (known[slot] >> _ONE) == key:
        return (known[slot] & _ONE) == _ONE
    stays = _stay_apart(np.int64(left), np.int64(right), pairs, times, halves, borders)
    known[slot] = key << _ONE | np.uint64(stays)
    return stays


@inlined
def _closed(one: Any, other: Any) -> Any:
    """Whether no merge of parts of one token and the other (of at least one a part) can cross their border."""
    meeting = (one >> np.uint32(8) & other >> np.uint32(16)) | (one >> np.uint32(24) & other)
    return (meeting & np.uint32(255)) == 0


@compiled
def _stay_apart(left: Any, right: Any, pairs: Any, times: Any, halves: Any, borders: Any) -> Any:
    """Go back in time, merge by merge: no merge over the border may come before the next one on either side of it."""
    before = NEVER
    while rank_of(pairs, left, right) >= before:
        if _closed(borders[left], borders[right]):
            return True
        if times[left] > times[right]:
            before, left = np.int64(times[left]), np.int64(halves[left, 1])
        elif times[right] != BYTE:
            before, right = (
                np.int64(times[right]) + 1,
                np.int64(halves[right, 0]),
            )  # of equal ranks the left comes first
        else:
            return True
    return False
