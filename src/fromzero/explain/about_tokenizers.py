"""A comparison of tokenizers as a report: what each needs and loses, where each cuts, what its vocabulary holds."""

import unicodedata

from fromzero import __version__
from fromzero.explain.blocks import Block, Charts, Cuts, Report, Section, Table, Text
from fromzero.explain.charts import Bar, BarChart
from fromzero.explain.numbers import count, figure, share, size
from fromzero.explain.words import Words
from fromzero.tokenizer.compare import LENGTHS, Comparison, Counts, Measured, Passage, shown, visible
from fromzero.tokenizer.compare_text import GROUP_BYTES


def compose_comparison(found: Comparison, words: Words) -> Report:
    """The figures and the cut passages; names of tokenizers are taken as they are."""
    names = ", ".join(measured.name for measured in found.tokenizers)
    return Report(
        title=words("compare_title", names=names),
        language=words.language,
        lead=(Text(words("compare_lead", limit=size(GROUP_BYTES))), _overview(found, words)),
        sections=(_rates_section(found, words), _cuts_section(found, words), _vocabularies_section(found, words)),
        footer=words("footer", version=__version__, path=names),
    )


def _overview(found: Comparison, words: Words) -> Table:
    keys = ("name", "kind", "vocabulary", "used", "of_token", "encoding_speed", "lossy")
    rows = tuple(_summary(measured, words) for measured in found.tokenizers)
    return Table(tuple(words(key) for key in keys), rows, "llrrrrr")


def _summary(measured: Measured, words: Words) -> tuple[str, ...]:
    total = measured.total
    return (
        measured.name,
        measured.kind,
        count(measured.vocab_size),
        f"{count(measured.used)} ({share(measured.used, measured.vocab_size)})",
        figure(total.per_token("bytes"), 2),
        size(None if measured.speed is None else measured.speed * 1e6),
        _lossy(total, words),
    )


def _lossy(counts: Counts, words: Words) -> str:
    return words("lossy_of", lossy=count(counts.lossy), texts=count(counts.texts))


def _rates_section(found: Comparison, words: Words) -> Section:
    """A chart and rows for each group, tokenizers one below another."""
    charts, rows = [], []
    for group in found.tokenizers[0].groups:
        title = words.name("language", group)
        read = max(measured.groups[group].bytes for measured in found.tokenizers)
        charts.append(_chart(found, group, f"{title}: {words('of_token')}"))
        labels = [f"{title}, {size(read)}"] + [""] * (len(found.tokenizers) - 1)  # once for each group
        rows += [_rates(*pair, group, words) for pair in zip(labels, found.tokenizers, strict=True)]
    keys = ("group", "name", "of_token", "characters_of_token", "tokens_of_word", "single_bytes", "unknown")
    header = tuple(words(key) for key in (*keys, "lossy"))
    blocks: tuple[Block, ...] = (Text(words("rates_lead")), Table(header, tuple(rows), "llrrrrrr"))
    return Section("rates", words("rates"), (*blocks, Charts(tuple(charts))))


def _chart(found: Comparison, group: str, title: str) -> BarChart:
    rates = [(measured.name, measured.groups[group].per_token("bytes")) for measured in found.tokenizers]
    return BarChart(title, tuple(Bar(name, rate or 0.0, figure(rate, 2)) for name, rate in rates))


def _rates(label: str, measured: Measured, group: str, words: Words) -> tuple[str, ...]:
    counts = measured.groups[group]
    rates = (counts.per_token("bytes"), counts.per_token("characters"), counts.tokens_per_word)
    shares = (share(part, counts.tokens) for part in (counts.single_bytes, counts.unknown))
    return (label, measured.name, *(figure(rate, 2) for rate in rates), *shares, _lossy(counts, words))


def _cuts_section(found: Comparison, words: Words) -> Section:
    cuts = (_cuts(passage, words) for passage in found.passages)
    return Section("cuts", words("cuts"), (Text(words("cuts_lead")), *cuts))


def _cuts(passage: Passage, words: Words) -> Cuts:
    rows = []
    for name, tokens in passage.tokens.items():
        label = words("refused" if tokens is None else "cut_by", name=name, tokens=count(len(tokens or ())))
        drawn = ((f"{i}: {piece.hex(' ').upper()}", tuple(visible(piece))) for i, piece in tokens or ())
        rows.append((label, tuple(drawn)))
    return Cuts(words.name("language", passage.group), tuple(rows), _direction(passage.text))


def _direction(text: str) -> str:
    """Where a text begins, by its first letter that has a direction; tokens alone may hold half of that letter."""
    strong = next((d for c in text if (d := unicodedata.bidirectional(c)) in ("L", "R", "AL")), "L")
    return "ltr" if strong == "L" else "rtl"


def _vocabularies_section(found: Comparison, words: Words) -> Section:
    return Section(
        "vocabularies",
        words("vocabularies"),
        (_lengths(found, words), _longest(found, words), Text(words("overlap_lead")), _overlap(found, words)),
    )


def _lengths(found: Comparison, words: Words) -> Table:
    """How much of each vocabulary has tokens of 1, 2, ... 5-6, ... bytes."""
    starts = [1, *(last + 1 for last in LENGTHS)]
    classes = [str(last) if first == last else f"{first}–{last}" for first, last in zip(starts, LENGTHS, strict=False)]
    rows = [(m.name, *(share(n, sum(m.lengths)) for n in m.lengths)) for m in found.tokenizers]
    return Table((words("lengths"), *classes, f">{LENGTHS[-1]}"), tuple(rows), "l" + "r" * len(starts))


def _longest(found: Comparison, words: Words) -> Table:
    rows = [(measured.name, "  ".join(map(shown, measured.longest))) for measured in found.tokenizers]
    return Table((words("name"), words("longest")), tuple(rows), "ll")


def _overlap(found: Comparison, words: Words) -> Table:
    names = tuple(measured.name for measured in found.tokenizers)
    rows = [(name, *(share(x, 1) for x in row)) for name, row in zip(names, found.overlap, strict=True)]
    return Table((words("overlap"), *names), tuple(rows), "l" + "r" * len(names))
