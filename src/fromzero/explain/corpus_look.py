"""A look at a corpus: what each rule dropped and nearly dropped, and what was measured of a sample of documents.

All stored reasons are read, so that the dropped documents nearest to a limit are the nearest of all. What rules find in
a text is asked of the sample only, and the kept ones nearest to a limit are its nearest.
"""

import bisect
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fromzero.console import progress
from fromzero.corpus.document import NEAR_DUPLICATE
from fromzero.corpus.filters import limits_of
from fromzero.corpus.language import identify
from fromzero.corpus.rules import LINES, RULES, STOP_WORDS
from fromzero.corpus.settings import Filters
from fromzero.corpus.statistics import measure
from fromzero.explain.corpus_sample import Place, draw_sample, fetch, read_columns

EXAMPLES = 3
_FIGURE = r"(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)"
_BROKEN = re.compile(rf"(\w+) {_FIGURE}, found {_FIGURE}")
_COPY = re.compile("of ([0-9a-f]{32})")


class Example(NamedTuple):
    """A document near a limit."""

    distance: float
    """From the limit, as a share of it; 0 where nothing was measured."""
    id: str
    detail: str = ""
    """What was found, or else what the stored reason says."""
    place: Place | None = None
    source: str = ""
    text: str | None = None


@dataclass
class Taken:
    """What a rule dropped, or a reason that no rule gave: how many, and those nearest to the limit, on either side."""

    documents: int = 0
    outside: list[Example] = field(default_factory=list)
    inside: list[Example] = field(default_factory=list)


class Measured(NamedTuple):
    """A document of the sample. found: statistic -> value, of the rules that its language has."""

    row: Mapping[str, Any]
    language: str
    found: Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """All that the page is made of, besides the counts."""

    kept: Sequence[Measured]
    rejected: Sequence[Measured]
    taken: Mapping[str, Taken]
    """By the name of the rule, or else by the reason."""
    pairs: Sequence[tuple[Example, Example]]
    """Near duplicates: kept and dropped."""


def look_into(folder: Path, counts: Mapping[str, Any], filters: Filters) -> Look:
    """Read and measure. counts: the corpus's own. Raises UserError for a shard that is damaged."""
    kept = [path for side in ("train", "validation") for path in sorted(folder.glob(f"{side}-*.parquet"))]
    rejected = sorted((folder / "rejected").glob("*.parquet"))
    taken = _read_reasons(rejected, counts["documents"]["rejected"])
    inside, outside = ([_measured(row, filters) for row in draw_sample(paths)] for paths in (kept, rejected))
    for document in inside:
        _compare(document, taken, filters)
    return Look(inside, outside, taken, _pairs(taken[NEAR_DUPLICATE].outside, kept))


def _read_reasons(paths: Sequence[Path], documents: int) -> defaultdict[str, Taken]:
    """What was dropped, by rule or reason."""
    taken: defaultdict[str, Taken] = defaultdict(Taken)
    with progress("reading reasons", documents, "documents") as report:
        for number, (place, row) in enumerate(read_columns(paths, ("id", "reason"))):
            report(number)
            key, distance, detail = _told(row["reason"])
            taken[key].documents += 1
            _insert(taken[key].outside, Example(distance, row["id"], detail, place))
    rows = fetch(one.place for each in taken.values() for one in each.outside if one.place)
    for each in taken.values():
        each.outside = [one._replace(**_shown(rows[one.place])) for one in each.outside if one.place]
    return taken


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": row["source"], "text": row["text"]}


def _told(reason: str) -> tuple[str, float, str]:
    """Of a stored reason: the rule or else the reason, how far from the limit, what was found or else the detail."""
    name, _, detail = reason.partition(": ")
    broken = _BROKEN.fullmatch(detail)
    if not broken or broken[1] not in RULES or RULES[broken[1]].reason != name:
        return name, 0.0, detail
    return broken[1], _distance(float(broken[3]), float(broken[2])), broken[3]


def _original(detail: str) -> str:
    """The id of the document that was kept instead, when the detail of a reason names it."""
    copy = _COPY.fullmatch(detail)
    return copy[1] if copy else ""


def _distance(value: float, limit: float) -> float:
    return abs(value - limit) / (abs(limit) or 1.0)


def _insert(nearest: list[Example], example: Example) -> None:
    """Keep the nearest, each text once; of two that are as near, that with the smaller id comes first."""
    if (len(nearest) < EXAMPLES or example < nearest[-1]) and all(example.id != other.id for other in nearest):
        bisect.insort(nearest, example)
        del nearest[EXAMPLES:]


def limits_in(filters: Filters, language: str) -> dict[str, float]:
    """Rule -> limit, of the rules that drop whole texts in a language."""
    silent = {rule.name for rule in LINES} | ({"min_stop_words"} if language not in STOP_WORDS else set())
    return {name: limit for name, limit in limits_of(filters, language).items() if name not in silent}


def _measured(row: Mapping[str, Any], filters: Filters) -> Measured:
    text = row["text"] or ""
    language = row["language"] if "language" in row else identify(text)
    asked = {"length", *(RULES[name].statistic for name in limits_in(filters, language))}
    return Measured(row, language, measure(text, asked, STOP_WORDS.get(language, ())) if text.strip() else {})


def _compare(document: Measured, taken: defaultdict[str, Taken], filters: Filters) -> None:
    """Put a kept document beside the limits that it is near to. With nothing of what is limited it is near to none."""
    row, language, found = document
    for name, limit in limits_in(filters, language).items():
        value = found.get(RULES[name].statistic, math.nan)
        if value and math.isfinite(value) and not RULES[name].broken(value, limit):
            example = Example(_distance(value, limit), row["id"], f"{value:.4g}", **_shown(row))
            _insert(taken[name].inside, example)


def _pairs(dropped: Sequence[Example], kept: Sequence[Path]) -> list[tuple[Example, Example]]:
    """Each with the document that was kept instead, where the reason names it."""
    wanted = {_original(example.detail) for example in dropped} - {""}
    places = {row["id"]: place for place, row in read_columns(kept, ("id",)) if row["id"] in wanted} if wanted else {}
    rows = fetch(places.values())
    both = ((places.get(_original(one.detail)), one) for one in dropped)
    return [(Example(0.0, rows[place]["id"], **_shown(rows[place])), one) for place, one in both if place]
