"""Text that knows of each character whether the template wrote it, whatever the template does with it.

A plain `str` is someone's content, and so is what comes out of an operation that is not listed here. So a template that
does something unusual can lose a special token of its own, but nobody can smuggle one in.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

# Bits: the template's own words, words of the assistant's messages, and all that stands where the assistant speaks.
TEMPLATE, ASSISTANT, GENERATED = 1, 2, 4
MAX_PIECES = 10_000  # with more, splitting takes all for content: a traced piece has ten times the size of a short text
_GENERATE = bytes(origin | GENERATED for origin in range(256))
_RUNS = re.compile(rb"(.)\1*", re.DOTALL)


class Traced(str):
    """A text, and for each character a byte of `origins`: the bits above, or 0 for what someone else says."""

    origins: bytes

    def __new__(cls, text: str, origins: bytes) -> "Traced":
        self = super().__new__(cls, text)
        self.origins = origins
        return self

    def __str__(self) -> str:
        return self  # so that Jinja's str(...) around all that it writes keeps the origins

    def __add__(self, other: Any) -> str:
        return concat((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> str:
        return concat((other, self)) if isinstance(other, str) else NotImplemented

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        found = self.origins[key]
        return Traced(super().__getitem__(key), bytes([found]) if isinstance(found, int) else found)

    def strip(self, chars: str | None = None, /) -> str:
        return self._part(super().strip(chars))

    def lstrip(self, chars: str | None = None, /) -> str:
        return self._part(super().lstrip(chars))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._part(super().rstrip(chars))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        pieces = super().split(sep, maxsplit)
        if len(pieces) > MAX_PIECES:
            return pieces
        parts: list[str] = []
        start = 0
        for piece in pieces:
            parts.append(self._part(piece, start))
            start = self.find(piece, start) + len(piece) + len(sep or "")
        return parts

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        return self._whole(super().replace(old, new, count), new)

    def upper(self) -> str:
        return self._whole(super().upper())

    def lower(self) -> str:
        return self._whole(super().lower())

    def capitalize(self) -> str:
        return self._whole(super().capitalize())

    def _part(self, part: str, start: int = 0) -> "Traced":
        """A part that begins where its text is first found from `start` on: true of all that stripping can leave."""
        start = self.find(part, start)
        return Traced(part, self.origins[start : start + len(part)])

    def _whole(self, text: str, inserted: str = "") -> str:
        """A changed text, which keeps an origin that all characters have."""
        origins = self.origins + _origins(inserted)
        return Traced(text, origins[:1] * len(text)) if len(set(origins)) == 1 else text


def traced(text: str, origin: int) -> Traced:
    """The text with one origin."""
    return Traced(text, bytes([origin]) * len(text))


def generated(text: str) -> Traced:
    """The text as what the assistant says, whoever wrote it."""
    return Traced(text, _origins(text).translate(_GENERATE))


def concat(parts: Iterable[str]) -> str:
    """The parts joined; plain if all are."""
    parts = list(parts)
    text = "".join(parts)
    if any(isinstance(part, Traced) for part in parts):
        return Traced(text, b"".join(map(_origins, parts)))
    return text


def join(between: str, parts: Iterable[str]) -> str:
    """The parts with a text between each two."""
    return concat(itertools.islice(itertools.chain.from_iterable((between, part) for part in parts), 1, None))


def runs(text: str, bits: int) -> Iterator[tuple[Traced, int]]:
    """The text in pieces, as long as can be, in which the bits are the same; and those bits."""
    origins = _origins(text)
    for run in _RUNS.finditer(origins.translate(_only(bits))):
        start, stop = run.span()
        yield Traced(text[start:stop], origins[start:stop]), origins[start] & bits


def all_from(text: str, bits: int) -> bool:
    """Whether each character has one of the bits."""
    return 0 not in _origins(text).translate(_only(bits))


@functools.cache
def _only(bits: int) -> bytes:
    return bytes(origin & bits for origin in range(256))


def _origins(text: str) -> bytes:
    return text.origins if isinstance(text, Traced) else bytes(len(text))
