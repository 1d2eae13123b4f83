"""Exact duplicates: documents, paragraphs and lines that another document has too, but for case and blanks."""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

UNITS: dict[str, tuple[str, int]] = {"document": ("", 0), "paragraph": ("\n\n", 50), "line": ("\n", 50)}
"""What stands between two units, and how many bytes of UTF-8 one needs not to be passed over: a line that is shorter is
a heading or a closing bracket, which many documents have with good reason."""


def drop_duplicates(
    documents: Iterable[tuple[str, str]], unit: Literal["document", "paragraph", "line"]
) -> Iterator[tuple[str, str, int]]:
    """Each document (id, text), in the order given, as (id, text without what others have, number of units left out).

    A unit stays in the document of the smallest id that has it, as often as that one has it. documents: gone through
    twice, so a list or something else that begins anew. Memory: 16 bytes for each unit, and the ids. Units are told
    apart by 64 bits of BLAKE2: among a thousand million different ones, two are taken for equal with 3 %.
    """
    keys, owners, ids = array("Q"), array("q"), []
    for number, (name, text) in enumerate(documents):
        ids.append(name)
        found = [key for key in _keys(text, unit) if key]
        keys.extend(found)
        owners.extend([number] * len(found))
    ranks = np.empty(len(ids), np.int64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    shared, first = _shared(np.frombuffer(keys, np.uint64), ranks[np.frombuffer(owners, np.int64)])
    for (name, text), rank in zip(documents, ranks, strict=True):
        hashes = np.array(_keys(text, unit), np.uint64)
        places = np.minimum(np.searchsorted(shared, hashes), len(shared) - 1)
        drop = (hashes > 0) & (shared[places] == hashes) & (first[places] != rank)
        yield name, _without(text, drop, unit), int(drop.sum())


def _parts(text: str, unit: str) -> list[str]:
    gap, _ = UNITS[unit]
    return text.split(gap) if gap else [text]


def _keys(text: str, unit: str) -> list[int]:
    """A number for each unit of a text: 0 for one that is passed over."""
    keys, least = [], UNITS[unit][1]
    for part in _parts(text, unit):
        data = " ".join(part.casefold().split()).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(data, digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little") if len(data) >= max(least, 1) else 0)
    return keys


def _shared(keys: NDArray[np.uint64], ranks: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The keys that several documents have, ascending, and the least rank for each; 0 before them."""
    order = np.lexsort((ranks, keys))
    keys, ranks = keys[order], ranks[order]
    starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    stops = np.append(starts[1:], len(keys))
    several = ranks[starts] != ranks[stops - 1] if len(keys) else np.zeros(0, bool)
    zero = np.zeros(1, np.uint64)
    return np.append(zero, keys[starts[several]]), np.append(-1, ranks[starts[several]])


def _without(text: str, drop: NDArray[np.bool_], unit: str) -> str:
    if not drop.any():
        return text
    kept = UNITS[unit][0].join(part for part, gone in zip(_parts(text, unit), drop, strict=True) if not gone)
    return re.sub("\n{3,}", "\n\n", kept).strip("\n")
