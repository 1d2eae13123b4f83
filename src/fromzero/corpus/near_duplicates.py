"""Near duplicates: texts that share most of their shingles, found by MinHash and locality-sensitive hashing.

texts -> signatures, a file for each partition -> one band after the other: texts equal in it are pairs -> clusters

Two texts of Jaccard similarity s agree in a band of r hashes with probability s**r, and in one of b bands at least with
1 - (1 - s**r)**b (Broder 1997; Indyk and Motwani 1998). What is kept depends neither on the order of the texts nor on
who signs which. A band is read, sorted and let go before the next: 100 bytes for each text.
"""

import dataclasses
import itertools
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fromzero.corpus.shingles import word_table
from fromzero.errors import UserError

_BATCH, _BLOCK = 2_000, 1 << 12  # texts and words at a time
_EMPTY = np.uint32(0xFFFFFFFF)  # everywhere in the signature of a text without words, which is like no other
_MIX = np.uint64(0x9E3779B97F4A7C15)
_DAMAGED = (OSError, ValueError, TypeError, LookupError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class MinHash:
    """What is compared, and how alike texts have to be."""

    bands: int = 16
    """More find more pairs."""
    rows: int = 8
    """Hashes in a band; more find fewer. 16 bands of 8 find 24 % of the pairs whose similarity is .6, 61 % at .7, 95 %
    at .8 and all but one in 8,000 at .9."""
    words: int = 5
    """Words in a shingle (`shingles` says what a word is)."""
    least_similarity: float | None = None
    """Pairs whose similarity, as estimated from all hashes, is below this share are let go. null: none are."""
    seed: int = 1
    """Which hashes are drawn."""

    def __post_init__(self) -> None:
        for name in ("bands", "rows", "words"):
            if not 1 <= getattr(self, name) <= 1000:
                raise UserError(f"minhash.{name} is {getattr(self, name)}; it takes a number from 1 to 1000")
        if self.least_similarity is not None and not 0 <= self.least_similarity <= 1:
            raise UserError(f"minhash.least_similarity is {self.least_similarity}; it takes a share, or null for any")


def sign(texts: Sequence[str], settings: MinHash) -> NDArray[np.uint32]:
    """The signatures of texts, (texts, bands, rows)."""
    from fromzero.kernels.compiling import first_use
    from fromzero.kernels.minhash import sign as compiled_sign

    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    stops = np.cumsum([len(data) for data in encoded], dtype=np.int64)
    drawn = np.random.PCG64(settings.seed).random_raw(settings.bands * settings.rows)  # the same in every NumPy
    factors = drawn.astype(np.uint32) | np.uint32(1)
    signatures = np.empty((len(texts), len(factors)), np.uint32)
    data, room = np.frombuffer(b"".join(encoded), np.uint8), np.empty((2, _BLOCK + settings.words), np.uint64)
    nothing = np.empty((0, 2), np.int64)
    with first_use("near duplicates"):
        compiled_sign(data, stops, settings.words, word_table(), factors, signatures, room, nothing)
    return signatures.reshape(-1, settings.bands, settings.rows)


def write_signatures(texts: Iterable[str], path: Path, settings: MinHash) -> int:
    """Sign the texts of a partition into an .npz file, 4 bytes for each hash; how many texts there were.

    The file has an array for each band, uncompressed, and a checksum of each. It gets its name when all is there.
    """
    texts, parts = iter(texts), [sign([], settings)]
    while batch := list(itertools.islice(texts, _BATCH)):
        parts.append(sign(batch, settings))
    signatures, draft = np.concatenate(parts), path.with_name(f"{path.name}.draft")
    arrays: dict[str, Any] = {_name(band, settings): signatures[:, band] for band in range(settings.bands)}
    with draft.open("wb") as file:
        np.savez(file, **arrays)
    draft.replace(path)
    return len(signatures)


def _name(band: int, settings: MinHash) -> str:
    return f"band-{band}-of-{settings.bands}x{settings.rows}-words-{settings.words}-seed-{settings.seed}"


def _read_band(paths: Sequence[Path], band: int, settings: MinHash, order: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The hashes of all texts in a band, (texts, rows), in the order given. Raises UserError for a damaged file."""
    parts = [np.empty((0, settings.rows), np.uint32)]
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as file:
                info = file.zip.getinfo(f"{_name(band, settings)}.npy")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
                    raise ValueError("compressed")
                parts.append(file[_name(band, settings)])
            if parts[-1].dtype != np.uint32 or parts[-1].shape[1:] != (settings.rows,):
                raise ValueError("of other numbers")
        except _DAMAGED as error:
            message = f"{path}: signatures that are damaged, or of other settings of minhash ({error}); make them again"
            raise UserError(message) from error
    hashes = np.concatenate(parts)
    if len(hashes) != len(order):
        raise UserError(f"{len(order)} texts have {len(hashes)} signatures; make the signatures again")
    return hashes[order]


def preference(ids: Sequence[str] | NDArray[np.bytes_], scores: ArrayLike) -> NDArray[np.int64]:
    """The rank of each text, 0 for the one to keep before all others: the greatest score, then the smallest id.

    scores: say, lengths (of near duplicates the longest has lost least), or what a classifier says of their quality.
    """
    if not isinstance(ids, np.ndarray):
        ids = np.array([name.encode("utf-8", "surrogatepass") for name in ids], np.bytes_)
    ranks = np.empty(len(ids), np.int64)
    ranks[np.lexsort((ids, -np.asarray(scores, float)))] = np.arange(len(ids))
    return ranks


def find_near_duplicates(paths: Sequence[Path], settings: MinHash, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each text the number of the one that is kept of its cluster, which is its own if it is kept itself.

    paths: of `write_signatures`; texts are numbered through all of them. ranks: of `preference`; the least of a cluster
    is kept. Clusters are what pairs connect; in each band, the best of the texts that are equal is a pair with each of
    the others. Raises UserError for files that are damaged or made with other settings.
    """
    from fromzero.kernels.minhash import unite

    parents, order = np.arange(len(ranks)), np.argsort(ranks)  # from here on, texts go by their ranks
    found = np.empty(0, np.int64)  # a pair as one number
    for band in range(settings.bands):
        pairs = _pairs(_read_band(paths, band, settings, order))
        if settings.least_similarity is None:
            unite(pairs, parents)
        else:
            found = np.unique(np.concatenate((found, pairs[:, 0] * len(ranks) + pairs[:, 1])))
    if settings.least_similarity is not None:
        pairs = np.stack(np.divmod(found, max(1, len(ranks))), axis=1)
        equal = np.zeros(len(pairs), np.int64)
        for band in range(settings.bands):
            hashes = _read_band(paths, band, settings, order)
            equal += (hashes[pairs[:, 0]] == hashes[pairs[:, 1]]).sum(axis=1)
        unite(pairs[equal >= settings.least_similarity * settings.bands * settings.rows], parents)
    result: NDArray[np.int64] = order[parents[ranks]]
    return result


def _pairs(hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Pairs of texts that are equal in a band: (pairs, 2), the least number of those that are equal and another."""
    keys = np.zeros(len(hashes), np.uint64)
    for row in hashes.T:
        keys = (keys ^ keys >> np.uint64(29)) * _MIX + row
    texts = np.flatnonzero((hashes != _EMPTY).any(axis=1))
    texts = texts[np.argsort(keys[texts])]
    starts = np.flatnonzero(np.diff(keys[texts], prepend=~keys[texts[:1]]))
    least = np.repeat(np.minimum.reduceat(texts, starts), np.diff(starts, append=len(texts))) if len(texts) else texts
    return np.stack((least, texts), axis=1)[least != texts]
