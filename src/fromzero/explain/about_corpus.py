"""A look at a corpus as a report: what each rule dropped, how documents are spread, and examples at each limit."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fromzero import __version__
from fromzero.artifact import Artifact
from fromzero.corpus.document import NEAR_DUPLICATE, REASONS
from fromzero.corpus.rules import RULES
from fromzero.corpus.settings import Filters
from fromzero.explain.about_data import MOST_LANGUAGES, dropped_section, input_section
from fromzero.explain.blocks import Block, Charts, Details, Report, Samples, Section, Table, Text
from fromzero.explain.charts import Bar, BarChart, Chart, Histogram
from fromzero.explain.corpus_look import Example, Look, Taken, limits_in
from fromzero.explain.gather import Run
from fromzero.explain.numbers import NO_BREAK, NONE, count, share
from fromzero.explain.words import Words

EXCERPT, LINES, BEFORE = 300, 8, 60  # characters, lines, and characters before a difference
BINS, WIDE = 24, 200  # what goes further has a logarithmic axis
MOST_CHARTS = 6  # in sight
# What shows as nothing, or changes the direction of what follows.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)

Limits = Mapping[str, Sequence[tuple[str, float]]]
"""Rule -> its limits, each with a label: '≥ 50', or 'zh: ≥ 90' for those of some languages."""


def compose_corpus(corpus: Artifact, look: Look, filters: Filters, words: Words) -> Report:
    """Everything on the page."""
    run = Run(corpus.path, (corpus,), corpus=corpus)
    limits = _limits(filters, {*corpus.summary["languages"], *(document.language for document in look.rejected)})
    lead = words("corpus_lead", kept=count(len(look.kept)), rejected=count(len(look.rejected)))
    spread = _spread(corpus, look, limits, words)
    sections = (
        input_section(run, words),
        dropped_section(run, words),
        Section("spread", words("spread"), (Text(words("spread_lead")), *spread)),
        Section("rules", words("rules"), (Text(words("rules_lead")), *_rules(corpus, look, limits, words))),
        _others(look, words),
        _pairs(look, words),
    )
    return Report(
        title=words("corpus_title", name=visible(corpus.path.name)),
        language=words.language,
        lead=(Text(lead),),
        sections=tuple(filter(None, sections)),
        footer=words("footer", version=__version__, path=visible(corpus.path.name)),
    )


def _limits(filters: Filters, languages: Iterable[str]) -> Limits:
    languages = sorted(languages)
    found: dict[str, dict[float, list[str]]] = {name: {} for name in RULES}
    for language in languages:
        for name, limit in limits_in(filters, language).items():
            found[name].setdefault(limit, []).append(language)

    def label(name: str, limit: float, of: Sequence[str]) -> str:
        whose = "" if 2 * len(of) > len(languages) else f"{', '.join(of)}:{NO_BREAK}"
        return f"{whose}{'≥' if name.startswith('min') else '≤'}{NO_BREAK}{limit:,.6g}"

    return {n: [(label(n, limit, of), limit) for limit, of in limits.items()] for n, limits in found.items() if limits}


def visible(text: str) -> str:
    """Text from outside with signs for what can't be seen or turns the direction: '⟨U+202E⟩'."""
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def excerpt(text: str | None, start: int = 0) -> str:
    """A few lines of a text, or a dash where there is none."""
    rest = (text or "")[start:].strip()
    piece = "\n".join(rest[:EXCERPT].split("\n")[:LINES])
    return ("… " * bool(start) + visible(piece) + " …" * (len(rest) > len(piece))) or NONE


def _samples(prompt: str, examples: Iterable[Example]) -> Samples:
    texts = ((" · ".join(filter(None, (one.detail, one.source))), excerpt(one.text)) for one in examples)
    return Samples(prompt, tuple((visible(label), text) for label, text in texts))


def _spread(corpus: Artifact, look: Look, limits: Limits, words: Words) -> list[Block]:
    """Charts, first of what most documents were dropped by."""
    ranks = Counter({"length": 1 << 62})
    for name in limits:
        ranks[RULES[name].statistic] += look.taken.get(name, Taken()).documents
    spread = (_histogram(name, look, limits, words) for name, _ in ranks.most_common())
    charts: list[Chart] = [_languages(corpus, look, words), *filter(None, spread)]
    more = Details(words("more_charts"), (Charts(tuple(charts[MOST_CHARTS:])),))
    return [Charts(tuple(charts[:MOST_CHARTS])), *([more] if charts[MOST_CHARTS:] else [])]


def _languages(corpus: Artifact, look: Look, words: Words) -> BarChart:
    each = corpus.summary["documents"]["rejected"] / max(1, len(look.rejected))
    sides = {name: [tally["documents"], 0.0] for name, tally in corpus.summary["languages"].items()}
    for document in look.rejected:
        sides.setdefault(document.language, [0, 0.0])[1] += each
    most = sorted(sides.items(), key=lambda item: (-sum(item[1]), item[0]))[:MOST_LANGUAGES]
    bars = (
        Bar(words.name("language", name), kept, f"{count(kept)}, −{NO_BREAK}{count(dropped)}", dropped)
        for name, (kept, dropped) in most
    )
    return BarChart(words("spread_languages"), tuple(bars), (words("kept"), words("dropped_documents")))


def _histogram(statistic: str, look: Look, limits: Limits, words: Words) -> Histogram | None:
    """How a statistic is spread among the kept and the dropped; None where all have the same."""
    sides = {words("kept"): look.kept, words("dropped_documents"): look.rejected}
    values = {name: _finite(document.found.get(statistic) for document in side) for name, side in sides.items()}
    every = np.concatenate([*values.values()])
    if not every.size or every.min() == every.max():
        return None
    marks = [mark for name in limits if RULES[name].statistic == statistic for mark in limits[name]]
    # The outermost per cent must not flatten the rest.
    low, *_, high = sorted((*np.quantile(every, (0.01, 0.99)), *(limit for _, limit in marks)))
    wide = bool(high > WIDE)
    scaled = (lambda found: np.log10(np.maximum(found, 1))) if wide else np.asarray
    edges = np.linspace(scaled(low), scaled(max(high, low + 1e-6)), BINS + 1)
    bars = [
        (n, np.histogram(np.clip(scaled(v), edges[0], edges[-1]), edges)[0] / v.size)
        for n, v in values.items()
        if v.size
    ]
    return Histogram(
        title=statistic,
        edges=tuple(edges.tolist()),
        series=tuple((name, tuple(shares.tolist())) for name, shares in bars),
        marks=tuple((label, float(scaled(limit))) for label, limit in marks),
        logarithmic=wide,
    )


def _finite(values: Iterable[float | None]) -> NDArray[np.float64]:
    found = np.array([math.nan if value is None else value for value in values], float)
    return found[np.isfinite(found)]


def _rules(corpus: Artifact, look: Look, limits: Limits, words: Words) -> list[Block]:
    """A table of the rules that are on (a language of which none is in the sample may have more), and examples."""
    rows, details = [], []
    for name in (name for name in RULES if name in limits or name in look.taken):
        taken, labels = look.taken.get(name, Taken()), ", ".join(label for label, _ in limits.get(name, ()))
        numbers = count(taken.documents), share(taken.documents, corpus.summary["documents"]["read"])
        nearest = (near[0].detail if near else NONE for near in (taken.outside, taken.inside))
        rows.append((name, words.name("reason", RULES[name].reason), labels, *numbers, *nearest))
        details.append(_details(f"{name} {labels}", taken, words))
    header = (words(key) for key in ("rule", "reason", "limit", "dropped_documents", "share", "outside", "inside"))
    return [Table(tuple(header), tuple(rows), "lllrrrr"), *filter(None, details)]


def _details(name: str, taken: Taken, words: Words, outside: str = "outside") -> Details | None:
    title = words("dropped_by", name=name, count=count(taken.documents))
    sides = ((outside, taken.outside), ("inside", taken.inside))
    shown = tuple(_samples(words(key), examples) for key, examples in sides if examples)
    return Details(title, shown) if shown else None


def _others(look: Look, words: Words) -> Section | None:
    """Examples of what no rule dropped: damaged files, duplicates ... Near ones are among the pairs."""
    pairs = {NEAR_DUPLICATE} if look.pairs else set()
    names = sorted(look.taken.keys() - RULES.keys() - pairs, key=[*REASONS, *sorted(look.taken)].index)
    details = [_details(words.name("reason", name), look.taken[name], words, "examples") for name in names]
    return Section("others", words("others"), tuple(filter(None, details))) if any(details) else None


def _pairs(look: Look, words: Words) -> Section | None:
    """Kept and dropped side by side."""
    blocks = []
    for kept, dropped in look.pairs:
        a, b = kept.text or "", dropped.text or ""
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
        start = max(0, same - BEFORE)
        sides = ((words("kept"), kept), (words("dropped_documents"), dropped))
        texts = ((visible(f"{side} · {one.source}"), excerpt(one.text, start)) for side, one in sides)
        blocks.append(Samples("", tuple(texts)))
    return Section("pairs", words("pairs"), (Text(words("pairs_lead")), *blocks)) if blocks else None
