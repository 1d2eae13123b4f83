"""Hashes of the parts of a text: its words, each run of so many words (shingles), its lines and paragraphs.

What a word is stands in a table: by code point (uint32), 0 for what stands between words, else the character's folded
form, with ALONE added where a character is a word by itself. `corpus.shingles` makes it.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean

ALONE = 1 << 31

_SEED, _MIX = np.uint64(0xCBF29CE484222325), np.uint64(0x9E3779B97F4A7C15)
_MIX2, _HALF = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(32)


@inlined
def _code(data: Any, at: Any, byte: Any) -> Any:
    """The character at a place beyond ASCII, and its bytes."""
    second = np.int64(data[at + 1]) & 0x3F
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | second, 2
    third = np.int64(data[at + 2]) & 0x3F
    if byte < 0xF0:
        return (byte & 0x0F) << 12 | second << 6 | third, 3
    return (byte & 0x07) << 18 | second << 12 | third << 6 | np.int64(data[at + 3]) & 0x3F, 4


@inlined
def _mixed(value: Any) -> Any:
    value = (value ^ value >> _HALF) * _MIX2
    return value ^ value >> _HALF


@lean
def cut_words(data: Any, at: Any, stop: Any, table: Any, hashes: Any, ends: Any, count: Any) -> Any:
    """Write the hashes of the words of data[at:stop] (uint8, valid UTF-8) behind the `count` hashes (uint64) there are.

    ends: int32 or int64 (n, 2), where each word starts and ends; or (0, 2) when nobody asks.
    Returns the new count, and where to go on when there is more room (at least two).
    """
    room, begin, value = len(hashes) - 2, np.int64(-1), _SEED
    while at < stop and (begin >= 0 or count <= room):
        code, size = np.int64(data[at]), 1
        if code >= 0x80:
            code, size = _code(data, at, code)
        folded = table[code]
        if folded != 0 and folded < ALONE:
            if begin < 0:
                begin, value = at, _SEED
            value = (value ^ np.uint64(folded)) * _MIX
        else:
            if begin >= 0:
                count = _put(value, begin, at, hashes, ends, count)
                begin = np.int64(-1)
            if folded != 0:
                count = _put((_SEED ^ np.uint64(folded)) * _MIX, at, at + size, hashes, ends, count)
        at += size
    if begin >= 0:
        count = _put(value, begin, stop, hashes, ends, count)
    return count, at


@inlined
def _put(value: Any, begin: Any, end: Any, hashes: Any, ends: Any, count: Any) -> Any:
    hashes[count] = _mixed(value)
    if count < len(ends):
        ends[count, 0], ends[count, 1] = begin, end
    return count + 1


@lean
def roll(words: Any, count: Any, size: Any, shingles: Any) -> Any:
    """Write the hash of each run of `size` words, of words[:count], or of all of them when they are fewer.

    Returns how many there are.
    """
    power, value = np.uint64(1), np.uint64(0)
    for _ in range(size):
        power *= _MIX
    for i in range(count):
        value = value * _MIX + words[i]
        if i >= size:
            value -= words[i - size] * power
        if i >= size - 1:
            shingles[i - size + 1] = _mixed(value)
    if 0 < count < size:
        shingles[0] = _mixed(value)
    return max(count - size + 1, min(count, 1))


@lean
def hash_parts(data: Any, newlines: Any, least: Any, hashes: Any) -> Any:
    """Write the hash of each part (uint64) without blanks and ASCII case, 0 for one of fewer bytes than `least`.

    newlines: how many stand between two parts; 0 for one part. Returns how many there are.
    """
    count, size, value, at = 0, 0, _SEED, np.int64(0)
    while at < len(data):
        byte = np.uint64(data[at])
        at += 1
        if byte == 10 and (newlines == 1 or (newlines == 2 and at < len(data) and data[at] == 10)):
            hashes[count] = value if size >= least else np.uint64(0)
            count, size, value, at = count + 1, 0, _SEED, at + newlines - 1
        elif byte > 32:
            byte += np.uint64(32) if 65 <= byte <= 90 else np.uint64(0)
            value = (value ^ byte) * _MIX
            value ^= value >> _HALF
            size += 1
    hashes[count] = value if size >= least else np.uint64(0)
    return count + 1
