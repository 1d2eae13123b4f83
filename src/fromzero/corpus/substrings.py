"""Repeated passages: spans of many bytes that stand elsewhere too, whatever lines they are in (Lee et al. 2022).

Exact, over the suffix array of all texts, sorted as far as the length that is asked for by prefix doubling (Manber and
Myers 1993): places are sorted by their first 8 bytes and numbered, equal ones alike; the numbers at a place and 8 bytes
on tell the order by 16 bytes, and so on. A place whose bytes are found nowhere else leaves at once. All texts lie in
memory, with 50 bytes for each byte of text.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError

_FIRST, _UNIQUE = 8, -1
_MOST = 2**31 - 1


def drop_repeated_passages(documents: Sequence[tuple[str, str]], least: int = 200) -> list[tuple[str, int]]:
    """The text of each document (id, text) without what earlier ones have, and how many bytes of UTF-8 were left out.

    What is repeated over `least` bytes or more (200 are about 50 tokens) stays where it stands first, by order of ids
    and then of places, and is cut out elsewhere, at borders of characters. Every window of so many bytes that was there
    more than once still is in one place. Raises UserError for 2 GB or more at a time, or for fewer than 16 bytes.
    """
    if least <= _FIRST:
        raise UserError(f"passages of {least} bytes are repeated everywhere; take {2 * _FIRST} or more")
    order = sorted(range(len(documents)), key=lambda i: documents[i][0])
    encoded = [documents[i][1].encode("utf-8", "surrogatepass") for i in order]
    ends = np.cumsum([len(data) for data in encoded], dtype=np.int64)
    if len(ends) and ends[-1] > _MOST:
        raise UserError(f"{ends[-1]:,} bytes at a time are too many to look for repeated passages; divide them")
    marks = repeated_bytes(np.frombuffer(b"".join(encoded), np.uint8), ends, least)
    results: list[tuple[str, int]] = [("", 0)] * len(documents)
    for i, data, end in zip(order, encoded, ends, strict=True):
        kept = _without(data, marks[end - len(data) : end], least)
        results[i] = kept.decode("utf-8", "surrogatepass"), len(data) - len(kept)
    return results


def repeated_bytes(data: NDArray[np.uint8], ends: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Which bytes are in a window of `length` bytes that stood before, and in none that stands first of several.

    ends: where each document ends; windows end with them.
    """
    rest = np.repeat(ends, np.diff(ends, prepend=0)).astype(np.int32) - np.arange(len(data), dtype=np.int32)
    places, numbers = np.arange(len(data), dtype=np.int32), np.empty(len(data), np.int32)
    keys, reach = np.zeros(len(data), np.uint64), _FIRST
    for i in range(min(_FIRST, len(data))):
        keys[: len(data) - i] |= data[i:].astype(np.uint64) << np.uint64(56 - 8 * i)
    while reach < length:
        _number(places, keys, numbers)
        step = min(reach, length - reach)
        reach += step
        places = places[(numbers[places] != _UNIQUE) & (rest[places] >= reach)]
        places = places[numbers[places + step] != _UNIQUE]
        keys = numbers[places].astype(np.uint64) << np.uint64(32) | numbers[places + step].astype(np.uint64)
    _number(places, keys, numbers)
    places = places[numbers[places] != _UNIQUE]
    first = np.zeros(len(places), bool)
    first[np.unique(numbers[places], return_index=True)[1]] = True
    return _covered(places[~first], length, len(data)) & ~_covered(places[first], length, len(data))


def _number(places: NDArray[np.int32], keys: NDArray[np.uint64], numbers: NDArray[np.int32]) -> None:
    """Number the places by the order of their keys; _UNIQUE for one whose key no other has, and for all others."""
    order = np.argsort(keys)
    starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]])).astype(np.int32)
    sizes = np.diff(starts, append=np.int32(len(keys)))
    numbers.fill(_UNIQUE)
    numbers[places[order]] = np.repeat(np.where(sizes > 1, starts, _UNIQUE), sizes)


def _covered(starts: NDArray[np.int32], length: int, size: int) -> NDArray[np.bool_]:
    """Which of `size` bytes are in a window that begins at one of `starts`."""
    change = np.zeros(size + 1, np.int8)
    change[starts] += 1
    change[starts + length] -= 1
    covered: NDArray[np.bool_] = np.cumsum(change[:-1], dtype=np.int32) > 0
    return covered


def _without(data: bytes, marks: NDArray[np.bool_], least: int) -> bytes:
    """The bytes without the marked spans; what is shorter stays, and so do characters that are not marked whole."""
    edges = np.flatnonzero(np.diff(marks, prepend=False, append=False)).tolist()
    parts, at = [], 0
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start < least:
            continue
        while start < stop and data[start] & 0xC0 == 0x80:
            start += 1
        while start < stop < len(data) and data[stop] & 0xC0 == 0x80:
            stop -= 1
        parts.append(data[at:start])
        at = stop
    return b"".join([*parts, data[at:]])
