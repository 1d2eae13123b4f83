"""Exact duplicates: documents, paragraphs and lines that another document has too, but for blanks and ASCII case."""

import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fromzero.corpus.near_duplicates import preference

UNITS = {"document": (0, 1), "paragraph": (2, 50), "line": (1, 50)}
"""How many newlines stand between two units, and how many bytes that are not blank one needs not to be passed over: a
shorter line is a heading or a closing bracket, which many documents have with good reason."""


def drop_duplicates(
    documents: Iterable[tuple[str, str]], unit: Literal["document", "paragraph", "line"]
) -> Iterator[tuple[str, str, int]]:
    """Each document (id, text), in the order given, as (id, text without what others have, number of units left out).

    A unit stays in the document of the smallest id that has it, as often as that one has it. documents: gone through
    twice, so a list or something else that begins anew. Memory: 50 bytes for each unit, and the ids. Units are told
    apart by 64 bits: among a thousand million different ones, two are taken for equal with a probability of 3 %.
    """
    keys, owners, ids = array("Q"), array("q"), []
    for number, (name, text) in enumerate(documents):
        ids.append(name)
        found = _hashes(text, unit)
        found = found[found > 0]
        keys.frombytes(found.tobytes())
        owners.extend([number] * len(found))
    ranks = preference(ids, np.zeros(len(ids)))
    shared, first = _shared(np.frombuffer(keys, np.uint64), ranks[np.frombuffer(owners, np.int64)])
    for (name, text), rank in zip(documents, ranks, strict=True):
        hashes = _hashes(text, unit)
        places = np.minimum(np.searchsorted(shared, hashes), len(shared) - 1)
        drop = (hashes > 0) & (shared[places] == hashes) & (first[places] != rank)
        yield name, _without(text, drop, unit) if drop.any() else text, int(drop.sum())


def _hashes(text: str, unit: str) -> NDArray[np.uint64]:
    """A number for each unit of a text: 0 for one that is passed over."""
    from fromzero.kernels.shingles import hash_parts

    (newlines, least), data = UNITS[unit], text.encode("utf-8", "surrogatepass")
    hashes = np.empty(data.count(b"\n") + 1, np.uint64)
    return hashes[: hash_parts(np.frombuffer(data, np.uint8), newlines, least, hashes)]


def _shared(keys: NDArray[np.uint64], ranks: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The keys that several documents have, ascending, and the least rank for each; 0 before them."""
    order = np.lexsort((ranks, keys))
    keys, ranks = keys[order], ranks[order]
    starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
    stops = np.append(starts[1:], len(keys))
    several = starts[ranks[starts] != ranks[stops - 1]] if len(keys) else starts
    return np.append(np.zeros(1, np.uint64), keys[several]), np.append(-1, ranks[several])


def _without(text: str, drop: NDArray[np.bool_], unit: str) -> str:
    gap = "\n" * UNITS[unit][0]
    kept = [part for part, gone in zip(text.split(gap) if gap else [text], drop, strict=True) if not gone]
    return re.sub("\n{3,}", "\n\n", gap.join(kept)).strip("\n")
