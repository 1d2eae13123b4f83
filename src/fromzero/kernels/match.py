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

from fromzero.kernels.compiling import compiled, inlined, lean
from fromzero.kernels.merge_pairs import NEVER, merge_few, rank_of
from fromzero.kernels.tree import MAX_LETTERS, Tree, longest, tree

BYTE, UNMADE = -1, -2  # instead of the rank that makes a token: it is a byte; no merges make it
MAX_TOKEN = 512  # bytes; with longer ones nothing is derived
PAIR_BITS = 15

_MIX = np.uint64(0x9E3779B97F4A7C15)
_ONE, _HALF, _LOW = np.uint64(1), np.uint64(32), np.uint64(2**32 - 1)


class Making(NamedTuple):
    """How tokens are made, by id."""

    times: NDArray[np.int32]
    """The rank of the merge that makes it, or BYTE, or UNMADE."""
    halves: NDArray[np.int32]
    """(ids, 2): what that merge joins."""
    sizes: NDArray[np.int32]
    """Bytes."""
    shorter: NDArray[np.int32]
    """The longest token that it begins with, or -1."""
    ends: NDArray[np.uint64]
    """Of 32 classes of characters: the class of its last one; from bit 32 on, those of characters that some merge of it
    or of a part at its end goes on with."""
    beginnings: NDArray[np.uint64]
    """The classes of characters before it that some merge of it or of a part at its beginning has; from bit 32 on, the
    class of its first one."""


@compiled
def derive(letters: Any, starts: Any, byte_ids: Any, pairs: Any, results: Any, lefts: Any, rights: Any) -> Any:
    """`Making` and `Tree` of tokens: by id, letters[starts[id]:starts[id + 1]], none of them longer than MAX_TOKEN.

    pairs, results, byte_ids: as in `Merges`. lefts, rights: the halves of all merges by rank. The tree is without
    `first` where there is nothing to match with.
    """
    count = len(starts) - 1
    times, halves = np.full(count, UNMADE, np.int32), np.full((count, 2), -1, np.int32)
    sizes = (starts[1:] - starts[:-1]).astype(np.int32)
    symbols, ranks = np.empty(MAX_TOKEN, np.int32), np.empty(MAX_TOKEN, np.int64)
    for token in range(count):
        for i in range(sizes[token]):
            symbols[i] = byte_ids[letters[starts[token] + i]]
            if i:
                ranks[i - 1] = rank_of(pairs, symbols[i - 1], symbols[i])
        left, last = merge_few(sizes[token], ranks, symbols, pairs, results)
        if left == 1 and symbols[0] == token:
            times[token] = last if sizes[token] > 1 else BYTE
        if times[token] >= 0:
            halves[token, 0], halves[token, 1] = lefts[last], rights[last]
    in_order = count > 0 and len(letters) < MAX_LETTERS
    for rank in range(len(lefts) if in_order else 0):
        in_order = in_order and times[lefts[rank]] < rank and times[rights[rank]] < rank
    nothing, no_steps = np.empty(0, np.int32), np.empty(0, np.uint64)
    found, shorter = Tree(nothing, nothing, no_steps, no_steps, nothing), nothing
    ends, beginnings = no_steps, no_steps
    if in_order:
        found, shorter = tree(letters, starts, times != UNMADE)
        ends, beginnings = _borders(letters, starts, times, results, lefts, rights)
    return Making(times, halves, sizes, shorter, ends, beginnings), found


@compiled
def _borders(letters: Any, starts: Any, times: Any, results: Any, lefts: Any, rights: Any) -> Any:
    """`ends` and `beginnings` of all tokens."""
    count = len(times)
    first, last = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    for token in range(count):
        if times[token] != UNMADE:
            first[token] = _class_of(letters, starts[token], starts[token + 1], False)
            last[token] = _class_of(letters, starts[token], starts[token + 1], True)
    after, before = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    for rank in range(len(lefts)):
        after[lefts[rank]] |= first[rights[rank]]
        before[rights[rank]] |= last[lefts[rank]]
    for rank in range(len(lefts)):  # parts come to be before what they are parts of
        token = results[rank]
        if times[token] == rank:
            after[token] |= after[rights[rank]]
            before[token] |= before[lefts[rank]]
    return last | after << _HALF, before | first << _HALF


@lean
def _class_of(letters: Any, start: Any, stop: Any, last: Any) -> Any:
    """One bit of 32 for the first (or the last) character, or all where the bytes begin or end within it."""
    at = stop - 1 if last else start
    while at > start and at > stop - 4 and letters[at] & 0xC0 == 0x80:
        at -= 1
    byte = letters[at]
    size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
    if 0x80 <= byte < 0xC0 or at + size > stop or (last and at + size < stop):
        return _LOW
    unit = np.uint64(0)
    for place in range(at, at + size):
        unit = unit << np.uint64(8) | np.uint64(letters[place])
    return _ONE << (unit * _MIX >> np.uint64(59))


@inlined
def match(
    data: Any, start: Any, stop: Any, byte_ids: Any, pairs: Any, times: Any, halves: Any, sizes: Any, shorter: Any,
    ends: Any, beginnings: Any, first: Any, characters: Any, steps: Any, leaps: Any, rests: Any, known: Any,
    failed: Any, out: Any, written: Any,
) -> Any:  # fmt: skip
    """The ids of data[start:stop] into out[written:]; the new `written`.

    known: uint64, a cache of pairs that may or may not be neighbours. failed: bool, more than the bytes, all False, as
    they are again in the end.
    """
    place, bottom, went_back, before = start, written, False, np.int64(-1)
    token, end = longest(data, place, stop, byte_ids, sizes, first, characters, steps, leaps, rests)
    while place < stop:
        fits = not failed[end - start]
        if fits and before >= 0:
            fits = _neighbours(before, token, pairs, times, halves, ends, beginnings, known)
        if fits:
            out[written], written, place, before = token, written + 1, end, token
            if place < stop:
                token, end = longest(data, place, stop, byte_ids, sizes, first, characters, steps, leaps, rests)
        elif shorter[token] >= 0:
            token = np.int64(shorter[token])
            end = place + sizes[token]
        else:
            failed[place - start] = went_back = True
            written -= 1
            token, end, place = before, place, place - sizes[before]
            before = np.int64(out[written - 1]) if written > bottom else np.int64(-1)
    if went_back:
        failed[: stop - start] = False
    return written


@inlined
def _neighbours(
    left: Any, right: Any, pairs: Any, times: Any, halves: Any, ends: Any, beginnings: Any, known: Any
) -> Any:
    """Whether two tokens stay two tokens when their bytes are merged together."""
    stays = _closed(ends[left], beginnings[right])
    if not stays:
        key = np.uint64(left) << np.uint64(20) | np.uint64(right)
        slot = (key * _MIX) >> np.uint64(64 - PAIR_BITS)
        if known[slot] >> _ONE == key:
            stays = (known[slot] & _ONE) == _ONE
        else:
            stays = _stay_apart(np.int64(left), np.int64(right), pairs, times, halves, ends, beginnings)
            known[slot] = key << _ONE | np.uint64(stays)
    return stays


@inlined
def _closed(end: Any, beginning: Any) -> Any:
    """Whether no merge can cross the border between two tokens, as far as the classes of characters tell."""
    meeting = end & beginning
    return (meeting & _LOW) == 0 or (meeting >> _HALF) == 0


@lean
def _stay_apart(left: Any, right: Any, pairs: Any, times: Any, halves: Any, ends: Any, beginnings: Any) -> Any:
    """Go back in time, merge by merge: no merge over the border may come before the next one on either side of it."""
    before = NEVER
    while not _closed(ends[left], beginnings[right]):
        if rank_of(pairs, left, right) < before:
            return False
        if times[left] > times[right]:
            before, left = np.int64(times[left]), np.int64(halves[left, 1])
        elif times[right] != BYTE:  # of equal ranks the left comes first
            before, right = np.int64(times[right]) + 1, np.int64(halves[right, 0])
        else:
            break
    return True
