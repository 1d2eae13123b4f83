"""Which documents are held out for validation."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from fromzero.corpus.document import Document, text_digest


def hold_out(
    ids: NDArray[np.bytes_], sizes: NDArray[np.int64], share: float, most: int, seed: int
) -> NDArray[np.bool_]:
    """Which documents to hold out: those whose hash with the seed comes first, up to a share of all bytes.

    ids and sizes in bytes of each document. most: the largest part to hold out, in bytes. The choice does not depend on
    the order of the documents. At least one is held out and at least one is not. Raises ValueError for fewer than two.
    """
    if len(ids) < 2:
        raise ValueError("a held-out part needs two documents")
    wanted = min(share * int(sizes.sum()), most)
    hashes = [hashlib.sha256(b"%d:%b" % (seed, name)).digest()[:8] for name in ids]
    order = np.argsort(np.frombuffer(b"".join(hashes), ">u8"))[:-1]
    # It ends where more would be farther from what is wanted.
    enough = np.flatnonzero(np.cumsum(sizes[order]) - sizes[order] / 2 > wanted)
    held = np.zeros(len(ids), bool)
    held[order[: max(1, enough[0]) if len(enough) else len(order)]] = True
    return held


def split_at(documents: Iterable[Document], position: int) -> Iterator[tuple[str, Document]]:
    """('train', document) for the first `position` characters and ('validation', document) for the others.

    The document that the position falls in is cut there, and its halves get `half` in their meta.
    """
    start = 0
    for document in documents:
        end = start + len(document.text)
        if end <= position:
            yield "train", document
        elif start >= position:
            yield "validation", document
        else:
            yield "train", _half(document, document.text[: position - start], "first")
            yield "validation", _half(document, document.text[position - start :], "second")
        start = end


def tail_position(characters: int, share: float) -> int:
    """Where the held-out tail of a text of so many characters begins, as nanoGPT has it: int(n * 0.9) for 0.1."""
    return min(characters - 1, max(1, math.floor(characters * (1 - share))))


def _half(document: Document, text: str, half: str) -> Document:
    return dataclasses.replace(document, id=text_digest(text), text=text, meta=document.meta | {"half": half})
