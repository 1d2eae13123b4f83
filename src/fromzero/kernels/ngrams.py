"""Words of a list in a text; and n-grams, for the classifier and the language model of n-grams.

The plain references are in the tests.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.tree import longest

_MIX, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_HALF = np.uint64(32)


@lean
def covered(
    data: Any, alone: Any, starts: Any, single: Any, shorter: Any, first: Any, characters: Any, steps: Any, leaps: Any,
    rests: Any,
) -> Any:  # fmt: skip
    """How many characters of data (UTF-8) are in words, from left to right, the longest at each place.

    starts: where the words begin in their letters. single: byte -> the word that is this byte, or -1. shorter: word ->
    the longest word that it begins with, or -1. The rest is their `Tree`. alone: as in `_stands_alone`.
    """
    place, total, end = np.int64(0), np.int64(0), np.int64(len(data))
    while place < end:
        word, _ = longest(data, place, end, single, starts, first, characters, steps, leaps, rests)
        while word >= 0 and alone and not _stands_alone(data, place, place + starts[word + 1] - starts[word]):
            word = shorter[word]
        stop = place + (starts[word + 1] - starts[word] if word >= 0 else 1)
        for at in range(place, stop if word >= 0 else place):
            total += data[at] & 0xC0 != 0x80
        place = stop
        while place < end and data[place] & 0xC0 == 0x80:
            place += 1
    return total


@inlined
def _stands_alone(data: Any, start: Any, stop: Any) -> Any:
    """Whether no word of letters goes on across either end of data[start:stop]."""
    before = _letter_ends(data, start) and _letter_begins(data[start])
    after = stop < len(data) and _letter_ends(data, stop) and _letter_begins(data[stop])
    return not before and not after


@inlined
def _letter_begins(byte: Any) -> Any:
    """Whether a byte begins a letter or digit of one or two bytes: those of scripts with blanks between words."""
    return 97 <= byte | 0x20 <= 122 or 48 <= byte <= 57 or byte == 95 or 0xC3 <= byte <= 0xDF


@inlined
def _letter_ends(data: Any, stop: Any) -> Any:
    """Whether such a letter or digit ends before `stop`."""
    if stop == 0:
        return False
    return _letter_begins(data[stop - 1 if data[stop - 1] < 0x80 or stop == 1 else stop - 2])


@inlined
def _longer(key: Any, token: Any, bits: Any) -> Any:
    """The key of an n-gram that goes on with a token, and its place among 2**bits weights."""
    key = (key ^ token ^ token >> _HALF) * _MIX2
    return key, (key ^ key >> _HALF) * _MIX >> np.uint64(64 - bits)


@lean
def total_weight(tokens: Any, count: Any, order: Any, bits: Any, weights: Any) -> Any:
    """The sum of the weights of all n-grams of up to `order` tokens."""
    total = 0.0
    for start in range(count):
        key = np.uint64(0)
        for at in range(start, min(start + order, count)):
            key, place = _longer(key, tokens[at], bits)
            total += weights[place]
    return total


@lean
def descend(tokens: Any, count: Any, order: Any, bits: Any, weights: Any, squares: Any, slope: Any, rate: Any) -> None:
    """A step of AdaGrad on the weights of all n-grams; squares: sums of squared slopes."""
    for start in range(count):
        key = np.uint64(0)
        for at in range(start, min(start + order, count)):
            key, place = _longer(key, tokens[at], bits)
            squares[place] += slope * slope
            weights[place] -= rate * slope / np.sqrt(squares[place])


@inlined
def slot_of_key(keys: Any, key: Any) -> Any:
    """Where a key (not 0) is in a table of a power of two places, or the empty one where it belongs."""
    slot = (key * _MIX >> _HALF) & np.uint64(len(keys) - 1)
    while keys[slot] and keys[slot] != key:
        slot = (slot + np.uint64(1)) & np.uint64(len(keys) - 1)
    return slot


@lean
def enter(keys: Any, values: Any, more: Any, worth: Any) -> None:
    """Put keys with their values into a table that has room."""
    for i in range(len(more)):
        slot = slot_of_key(keys, more[i])
        keys[slot], values[slot] = more[i], worth[i]


@lean
def log_probability(symbols: Any, order: Any, keys: Any, values: Any, unseen: Any, windows: Any) -> Any:
    """The log probability of all symbols after the first, in nats, under the table of an `NgramModel`.

    symbols: uint64, scrambled; a window of them is the sum of symbol * _MIX2**(places to its end). unseen: that of any
    symbol when nothing is known. windows: uint64 (2, order + 1), zeros.
    """
    total = 0.0
    for at in range(len(symbols)):
        now, before, factor = at & 1, 1 - (at & 1), np.uint64(1)
        longest_window = min(order, at + 1)
        for size in range(1, longest_window + 1):  # windows of each size that end here
            windows[now, size] = windows[now, size - 1] + symbols[at - size + 1] * factor
            factor *= _MIX2
        size = longest_window if at else 0
        while size > 0:
            slot = slot_of_key(keys, _key(windows[now, size], 2 * size))
            if keys[slot]:
                total += values[slot]
                break
            slot = slot_of_key(keys, _key(windows[before, size - 1], 2 * size + 1))
            total += values[slot] if keys[slot] else 0.0
            size -= 1
        total += unseen if at and size == 0 else 0.0
    return total


@inlined
def _key(window: Any, salt: Any) -> Any:
    """A key, not 0. salt: 2 * n for n-grams, 1 more for the contexts of n-grams."""
    key = (window ^ np.uint64(salt)) * _MIX
    return key ^ key >> _HALF | np.uint64(1)
