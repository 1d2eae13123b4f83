"""Decontamination: which documents hold items of evaluation sets, by the runs of words that they share (GPT-3, app. C).

Runs are told apart by 64-bit hashes: over 10**10 words of text and 10**6 runs, a false one is found with 0.1 %. Of real
ones, a run that many items have is a turn of their phrasing and is ignored, and a quotation that an item and a document
both make is a small share of the item.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.corpus.shingles import shingles_of, words_of
from fromzero.errors import UserError

COMMON = 10
"""A run of words that more items have is ignored."""


@dataclasses.dataclass(frozen=True)
class Decontamination:
    """Which documents hold items of evaluation sets."""

    sets: Mapping[str, Path]
    """Name -> file of items: .jsonl (all strings of a line are the item) or .txt (a line is one); both also as .gz."""
    words: int = 13
    """Words in a run (characters in scripts without blanks) that a document and an item have to share."""
    least_words: int = 8
    """Items with fewer words than a run are looked for whole if they have so many; others can't be checked."""
    share: float = 0.2
    """Documents that have at least this share of an item's runs are dropped; those with less are listed only."""


@dataclasses.dataclass(frozen=True)
class Match:
    """A document that shares words with an item."""

    set: str
    item: int
    """Which of the set, from 0."""
    document: str
    share: float
    """The share of the item's runs of words that the document has."""
    span: str
    """The longest passage of the document that is in the item."""
    contaminated: bool
    """Whether the share is great enough; those that are not are told so that the limit can be judged."""


class EvaluationIndex:
    """The runs of words of evaluation items."""

    def __init__(
        self, sets: Mapping[str, Sequence[str]], words: int = 13, least_words: int = 8, share: float = 0.2
    ) -> None:
        """An index of the items of each set, given as texts (question and answer, say).

        words: in a run (characters in scripts without blanks; see `shingles`). An item of fewer words is one run, if it
        has `least_words`; shorter ones can't be checked. share: of an item's runs, with which a document counts as
        contaminated. Raises UserError for values that make no sense.
        """
        if not 1 <= least_words <= words or not 0 < share <= 1:
            raise UserError(f"decontaminate: {least_words} to {words} words and a share of {share} can't be looked for")
        self.items = [(name, number) for name, texts in sets.items() for number in range(len(texts))]
        self.share = share
        runs: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        sizes = {words}
        for text in (text for texts in sets.values() for text in texts):
            found, _ = words_of(text.encode("utf-8", "surrogatepass"))
            runs.append(np.unique(shingles_of(found, words)) if len(found) >= least_words else runs[0])
            sizes.add(min(words, max(least_words, len(found))))
        self.sizes = sorted(sizes)
        hashes, items = np.concatenate(runs), np.repeat(np.arange(len(runs)) - 1, [len(part) for part in runs])
        _, which, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        order = np.argsort(hashes, kind="stable")
        order = order[counts[which[order]] <= COMMON]
        self._hashes, self._items = hashes[order], items[order]
        self.totals = np.bincount(self._items, minlength=len(self.items))
        """Runs of each item; 0 for one that can't be checked."""
        bits = min(28, max(10, (32 * len(self._hashes)).bit_length()))
        self._shift, self._present = np.uint64(64 - bits), np.zeros(1 << bits, bool)  # spares most of the searching
        self._present[self._hashes >> self._shift] = True

    def matches(self, document: str, text: str) -> list[Match]:
        """What a document, named `document`, shares with items, in their order."""
        data = text.encode("utf-8", "surrogatepass")
        words, ends = words_of(data)
        found: dict[int, list[tuple[int, int, int]]] = {}  # item -> runs: number in the index, first word, last word
        for size in self.sizes:
            hashes = shingles_of(words, size) if len(words) >= size else words[:0]
            places = np.flatnonzero(self._present[hashes >> self._shift])
            starts, stops = (np.searchsorted(self._hashes, hashes[places], side) for side in ("left", "right"))
            for place, start, stop in zip(places.tolist(), starts.tolist(), stops.tolist(), strict=True):
                for entry in range(start, stop):
                    found.setdefault(int(self._items[entry]), []).append((entry, place, place + size - 1))
        return [self._match(item, found[item], document, data, ends) for item in sorted(found)]

    def _match(self, item: int, runs: list[tuple[int, int, int]], document: str, data: bytes, ends: Any) -> Match:
        share = len({entry for entry, _, _ in runs}) / int(self.totals[item])
        best = start = last = runs[0][1]
        longest = 0
        for _, first, stop in runs:
            if first > last + 1:
                start = first
            last = first
            if stop - start > longest:
                best, longest = start, stop - start
        span = data[ends[best, 0] : ends[best + longest, 1]].decode("utf-8", "surrogatepass")
        return Match(*self.items[item], document, share, span, share >= self.share)

    def summary(self, matches: Iterable[Match]) -> dict[str, dict[str, int]]:
        """By set: its items, those that can't be checked, those with a contaminated document, and such documents."""
        hits = [match for match in matches if match.contaminated]
        result = {}
        for name in dict.fromkeys(name for name, _ in self.items):
            mine = [total for (owner, _), total in zip(self.items, self.totals.tolist(), strict=True) if owner == name]
            result[name] = {
                "items": len(mine),
                "unchecked": mine.count(0),
                "contaminated": len({match.item for match in hits if match.set == name}),
                "documents": len({match.document for match in hits if match.set == name}),
            }
        return result
