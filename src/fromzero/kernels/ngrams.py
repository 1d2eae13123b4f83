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
