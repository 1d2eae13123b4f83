"""The bytes of tokens as they are made: to compare two of them, and to know whether some bytes are a token already."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.kernels.compiling import compiled, lean
from fromzero.kernels.words import PADDING, hash_of, same


class Spelling(NamedTuple):
    """The bytes of the tokens made so far."""

    letters: NDArray[np.uint8]
    starts: NDArray[np.int64]
    """(tokens + 1,)"""
    table: NDArray[np.int32]
    """A hash table of byte strings: token + 1, or 0."""


@lean
def prefix(spelling: Any, token: Any) -> Any:
    """The first seven bytes as a number that is greater for greater bytes."""
    number, start, end = np.int64(0), spelling.starts[token], spelling.starts[token + 1]
    for i in range(7):
        number = number << 8 | (spelling.letters[start + i] if start + i < end else 0)
    return number


@lean
def compare(spelling: Any, one: Any, other: Any) -> Any:
    """1, 0 or -1, as the bytes of one token are greater than those of another."""
    if one == other:
        return 0
    letters, i, j = spelling.letters, spelling.starts[one], spelling.starts[other]
    sizes = spelling.starts[one + 1] - i, spelling.starts[other + 1] - j
    for k in range(min(sizes)):
        if letters[i + k] != letters[j + k]:
            return 1 if letters[i + k] > letters[j + k] else -1
    return 1 if sizes[0] > sizes[1] else -1


@compiled
def spell_bytes(tokens: Any) -> Any:
    """The `Spelling` of the 256 bytes, with room for so many tokens."""
    letters, starts, size = np.empty(1 << 16, np.uint8), np.zeros(tokens + 1, np.int64), 1024
    while size < 2 * tokens:
        size *= 2
    table = np.zeros(size, np.int32)
    for byte in range(256):
        letters[byte], starts[byte + 1] = byte, byte + 1
        table[_vacancy(letters, starts, table, byte)[0]] = byte + 1
    return Spelling(letters, starts, table)


@compiled
def join(spelling: Any, a: Any, b: Any, new: Any) -> Any:
    """The spelling with a new token, and whether its bytes were none before; if they were, all is as it was."""
    letters, starts, table = spelling
    while starts[new] + starts[a + 1] - starts[a] + starts[b + 1] - starts[b] + PADDING > len(letters):
        letters = np.concatenate((letters, letters))
    at = starts[new]
    for token in (a, b):
        for place in range(starts[token], starts[token + 1]):
            letters[at] = letters[place]
            at += 1
    starts[new + 1] = at
    slot, vacant = _vacancy(letters, starts, table, new)
    if vacant:
        table[slot] = new + 1
    return Spelling(letters, starts, table), vacant


@lean
def _vacancy(letters: Any, starts: Any, table: Any, token: Any) -> Any:
    """Where a token's bytes are in the table or would be, and whether they are not there yet."""
    start, size = starts[token], starts[token + 1] - starts[token]
    slot = hash_of(letters, start, size) & (len(table) - 1)
    while table[slot]:
        other = np.int64(table[slot]) - 1
        if starts[other + 1] - starts[other] == size and same(letters, start, letters, starts[other], size):
            return slot, False
        slot = (slot + 1) & (len(table) - 1)
    return slot, True
