"""Which documents are held out for validation."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

from fromzero.corpus.document import Document, text_digest


def hold_out(sizes: Sequence[tuple[str, int]], share: float, most: int, seed: int) -> set[str]:
    """The ids of the documents to hold out: those whose hash with the seed comes first, up to a share of all bytes.

    sizes: id and bytes of each document. most: the largest part to hold out, in bytes. The choice does not depend on
    the order of the documents. At least one is held out and at least one is not. Raises ValueError for fewer than two.
    """
    if len(sizes) < 2:
        raise ValueError("a held-out part needs two documents")
    wanted = min(share * sum(size for _, size in sizes), most)
    ranked = sorted(sizes, key=lambda item: hashlib.sha256(f"{seed}:{item[0]}".encode()).digest())
    chosen: set[str] = set()
    total = 0
    for name, size in ranked[:-1]:
        if chosen and total + size / 2 > wanted:  # stop where more would be farther from what is wanted
            break
        chosen.add(name)
        total += size
    return chosen


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
