"""Repeated passages: spans of many bytes that stand elsewhere too, whatever lines they are in (Lee et al. 2022).

Exact, by the suffix array of all texts, which lie in memory: 25 bytes for each byte of text, at some 3 MB a second.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError

LEAST_BYTES = 200
"""About 50 tokens of English, as Lee et al. have it; 67 ideographs."""
_MOST = 2**31 - 1


def drop_repeated_passages(documents: Sequence[tuple[str, str]], least: int = LEAST_BYTES) -> list[tuple[str, int]]:
    """The text of each document (id, text) without what earlier ones have, and how many bytes of UTF-8 were left out.

    What is repeated over `least` bytes or more stays where it stands first, by order of ids and then of places, and is
    cut out elsewhere, at borders of characters. Every window of so many bytes that was there more than once still is
    in one place. Raises UserError for 2 GB or more at a time, or for fewer than 8 bytes.
    """
    if least < 8:
        raise UserError(f"repeated passages of {least} bytes are everywhere; take 8 or more")
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


def repeated_bytes(data: NDArray[np.uint8], ends: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    """1 for the bytes that are repeated, 0 for the others. ends: where each document ends; windows end with them."""
    from fromzero.kernels.suffixes import FIRST, first_keys, mark, next_keys, number

    places, keys = np.empty(len(data), np.int32), np.empty(len(data), np.uint64)
    numbers, count, reach = np.empty(len(data), np.int32), first_keys(data, ends, places, keys), FIRST
    while True:
        number(places[:count], keys[:count], np.argsort(keys[:count]), numbers)
        if reach == length:
            break
        step = min(reach, length - reach)
        reach += step
        count = next_keys(numbers, step, reach, ends, places[:count], keys[:count])
    marks = np.zeros(len(data), np.uint8)
    mark(places[:count], numbers, length, np.zeros(count, np.int32), marks)
    return marks


def _without(data: bytes, marks: NDArray[np.uint8], least: int) -> bytes:
    """The bytes without the marked spans; what is shorter stays, and so do characters that are not marked whole."""
    edges = np.flatnonzero(np.diff(marks, prepend=0, append=0).astype(bool)).tolist()
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
