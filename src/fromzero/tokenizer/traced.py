"""Text that knows of each character whether the template wrote it, whatever the template does with it.

A plain `str` is someone's content, and so is what comes out of an operation that is not listed here. So a template that
does something unusual can lose a special token of its own, but nobody can smuggle one in.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

TEMPLATE, GENERATED = 1, 2  # bits: the template's own words, and what the assistant says
_GENERATE = bytes(origin | GENERATED for origin in range(256))
_RUNS = re.compile(rb"(.)\1*", re.DOTALL)


class Traced(str):
    """A text, and for each character a byte of `origins`: TEMPLATE, GENERATED, both, or neither."""

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
        parts: list[str] = []
        start = 0
        for piece in super().split(sep, maxsplit):
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


def by_template(text: str) -> Traced:
    """The text as the template's own words."""
    return Traced(text, bytes([TEMPLATE]) * len(text))


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


def runs(text: str) -> Iterator[tuple[str, int]]:
    """The text in pieces of one origin each, plain, with that origin."""
    text, origins = str.__str__(text), _origins(text)
    for run in _RUNS.finditer(origins):
        yield text[run.start() : run.end()], origins[run.start()]


def _origins(text: str) -> bytes:
    return text.origins if isinstance(text, Traced) else bytes(len(text))
