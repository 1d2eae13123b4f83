"""The tokens as a tree of bytes, in which the longest token at a place of a text is found.

A step goes on by a byte, or by a whole character of three bytes (Chinese, Japanese, Korean).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.kernels.compiling import compiled, inlined, lean

MAX_LETTERS = 1 << 22  # bytes of all tokens, so that a node has a number of 22 bits

_MIX = np.uint64(0x9E3779B97F4A7C15)
_EMPTY = np.uint64(2**64 - 1)
_HALF, _STATE_BITS, _UNIT_BITS = np.uint64(32), np.uint64(25), np.uint64(16)
_STATE = np.uint64((1 << 25) - 1)
_TOKEN, _OPEN, _INNER, _FLAGS = 1, 2, 4, 3


class Tree(NamedTuple):
    """A node that is a token has its id; the others have the numbers that follow.

    A state is 2**_FLAGS times a node, plus _TOKEN if it is one, _INNER if a token goes on from there, _OPEN if one does
    otherwise than by a character of three bytes. So what comes next is told by branches, which a processor foresees,
    and not by loads that it waits for.
    """

    first: NDArray[np.int32]
    """(65536,): the state after two bytes, or -1."""
    characters: NDArray[np.int32]
    """(65536,): the state after a character of three bytes, or -1."""
    steps: NDArray[np.uint64]
    """A hash table: node * 2**41 + unit * 2**25 + the state that follows. A unit is a byte."""
    leaps: NDArray[np.uint64]
    """The same with characters of three bytes for units."""
    rests: NDArray[np.int32]
    """Node -> the longest token that its bytes begin with."""


@inlined
def longest(
    data: Any, start: Any, stop: Any, byte_ids: Any, sizes: Any, first: Any, characters: Any, steps: Any, leaps: Any,
    rests: Any,
) -> Any:  # fmt: skip
    """The longest token of data[start:stop] that stands at its beginning, and its end. sizes: by id, in bytes."""
    token, state, place = np.int64(-1), np.int64(-1), start
    if data[place] & 0xF0 == 0xE0:
        state = np.int64(characters[_character(data, place)])
        place += 3
        while state >= 0 and place < stop and data[place] & 0xF0 == 0xE0:
            leap = leaps[_slot(leaps, state >> _FLAGS, _character(data, place))]
            if leap == _EMPTY:
                break
            state = np.int64(leap & _STATE)
            place += 3
    if state < 0 or state & (_TOKEN | _OPEN) != _TOKEN:
        if state < 0 and start + 1 < stop:
            state = np.int64(first[np.int64(data[start]) << 8 | np.int64(data[start + 1])])
            place = start + 2
        if state < 0:
            token, place = np.int64(byte_ids[data[start]]), start + 1
        else:
            while state & _INNER and place < stop:
                step = steps[_slot(steps, state >> _FLAGS, np.int64(data[place]))]
                if step == _EMPTY:
                    break
                state = np.int64(step & _STATE)
                place += 1
            if state & _TOKEN:
                token = state >> _FLAGS
            else:
                token = np.int64(rests[state >> _FLAGS])
                place = start + sizes[token]
    else:
        token = state >> _FLAGS
    return token, place


@inlined
def _character(data: Any, place: Any) -> Any:
    """The code point of a character of three bytes."""
    return (
        (np.int64(data[place]) & 15) << 12
        | (np.int64(data[place + 1]) & 63) << 6
        | (np.int64(data[place + 2]) & 63)
    )  # fmt: skip


@inlined
def _slot(table: Any, node: Any, unit: Any) -> Any:
    """Where a step is in its table, or the empty slot where it belongs."""
    key = np.uint64(node) << _UNIT_BITS | np.uint64(unit)
    slot = (key * _MIX >> _HALF) & np.uint64(len(table) - 1)
    while table[slot] != _EMPTY and table[slot] >> _STATE_BITS != key:
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    return slot


@lean
def _enter(table: Any, node: Any, unit: Any, state: Any) -> None:
    key = np.uint64(node) << _UNIT_BITS | np.uint64(unit)
    table[_slot(table, node, unit)] = key << _STATE_BITS | np.uint64(state)


@compiled
def _table(entries: Any) -> Any:
    """An empty table with room for some steps, as small as can be, to stay in a fast cache."""
    size = 16
    while size < 2 * entries:
        size *= 2
    return np.full(size, _EMPTY, np.uint64)


@compiled
def tree(letters: Any, starts: Any, wanted: Any) -> Any:
    """The `Tree` of those tokens letters[starts[id]:starts[id + 1]] that are `wanted` (bool by id), and by id the
    longest token (int32) that a token begins with, or -1."""
    total = np.int64(0)
    for token in range(len(wanted)):
        total += starts[token + 1] - starts[token] if wanted[token] else 0
    draft, ids, used = _draft(letters, starts, wanted, _table(total), np.full(256 + total, -1, np.int32))
    states, nodes = np.empty(used, np.int64), len(wanted)
    for node in range(used):
        states[node] = np.int64(ids[node]) << _FLAGS | _TOKEN if ids[node] >= 0 else nodes << _FLAGS
        nodes += ids[node] < 0
    rests, shorter = np.full(nodes, -1, np.int32), np.full(len(wanted), -1, np.int32)
    leaping = _mark(letters, starts, wanted, draft, states, rests, shorter)
    first, characters, steps, leaps = _final(letters, starts, wanted, draft, states, _table(leaping))
    return Tree(first, characters, steps, leaps, rests), shorter


@compiled
def _draft(letters: Any, starts: Any, wanted: Any, steps: Any, ids: Any) -> Any:
    """The steps from node to node, numbered as they are met from those of single bytes on; and each node's token."""
    used = np.int64(256)
    for token in range(len(wanted)):
        if wanted[token]:
            node = np.int64(letters[starts[token]])
            for place in range(starts[token] + 1, starts[token + 1]):
                slot = _slot(steps, node, letters[place])
                if steps[slot] == _EMPTY:
                    _enter(steps, node, letters[place], used)
                    used += 1
                node = np.int64(steps[slot] & _STATE)
            ids[node] = token
    return steps, ids, used


@lean
def _mark(letters: Any, starts: Any, wanted: Any, draft: Any, states: Any, rests: Any, shorter: Any) -> Any:
    """Add _INNER and _OPEN to states, fill `rests` and `shorter`; returns how many leaps there are at the most."""
    leaping = 0
    for token in range(len(wanted)):
        start, stop = starts[token], starts[token + 1]
        node, best = np.int64(letters[start]), np.int64(-1)
        for place in range(start, stop if wanted[token] else start):
            if place > start:
                leap = _is_character(letters, place, stop)
                states[node] |= _INNER | (0 if leap else _OPEN)
                leaping += leap
                node = np.int64(draft[_slot(draft, node, letters[place])] & _STATE)
            shorter[token] = best
            best = states[node] >> _FLAGS if states[node] & _TOKEN else best
            rests[states[node] >> _FLAGS] = best
    return leaping


@compiled
def _final(letters: Any, starts: Any, wanted: Any, draft: Any, states: Any, leaps: Any) -> Any:
    """`first`, `characters`, `steps` and `leaps` of the tree."""
    first, characters, steps = np.full(65536, -1, np.int32), np.full(65536, -1, np.int32), _table(len(states))
    for step in draft:
        if step != _EMPTY:
            node, state = np.int64(step >> np.uint64(41)), states[np.int64(step & _STATE)]
            byte = np.int64(step >> _STATE_BITS & np.uint64(255))
            _enter(steps, states[node] >> _FLAGS, byte, state)
            if node < 256:
                first[node << 8 | byte] = state
    for token in range(len(wanted)):
        start, stop = starts[token], starts[token + 1]
        node = np.int64(letters[start])
        for place in range(start, stop if wanted[token] else start):
            before = node
            if place > start:
                node = np.int64(draft[_slot(draft, node, letters[place])] & _STATE)
            if _is_character(letters, place, stop):
                second = np.int64(draft[_slot(draft, node, letters[place + 1])] & _STATE)
                third = np.int64(draft[_slot(draft, second, letters[place + 2])] & _STATE)
                if place > start:
                    _enter(leaps, states[before] >> _FLAGS, _character(letters, place), states[third])
                else:
                    characters[_character(letters, place)] = states[third]
    return first, characters, steps, leaps


@inlined
def _is_character(letters: Any, at: Any, stop: Any) -> Any:
    """Whether a character of three bytes is there."""
    if letters[at] & 0xF0 != 0xE0 or at + 3 > stop:
        return False
    return letters[at + 1] & 0xC0 == 0x80 and letters[at + 2] & 0xC0 == 0x80
