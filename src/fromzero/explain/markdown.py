"""A report as Markdown: the same blocks, with charts as sparklines and samples in fences."""

import re
from collections.abc import Callable, Iterable, Sequence

from fromzero.explain.blocks import Block, Cards, Charts, Code, Cuts, Details, Report, Samples, Table, Text
from fromzero.explain.charts import Bar, Chart, Histogram, LineChart, Matrix, describe, sparkline

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")
BAR = 30  # characters of the longest bar


def to_markdown(report: Report) -> str:
    """The report as Markdown (CommonMark with tables)."""
    parts = [f"# {escape(report.title)}", _blocks(report.lead)]
    for section in report.sections:
        parts += [f"## {escape(section.title)}", _blocks(section.blocks)]
    return "\n\n".join([*parts, f"---\n\n{escape(report.footer)}"]) + "\n"


def escape(text: str) -> str:
    """Text as one line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str, language: str = "text") -> str:
    """Text as it is, between fences longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _blocks(blocks: Iterable[Block]) -> str:
    return "\n\n".join(_show(block) for block in blocks)


def _show(block: Block) -> str:
    shown: Callable[..., str] = _SHOW[type(block)]
    return shown(block)


def _cards(block: Cards) -> str:
    return "\n".join(
        f"- **{escape(value)}** {escape(name)}" + (f" ({escape(remark)})" if remark else "")
        for value, name, remark in block.cards
    )


def _table(block: Table) -> str:
    rule = ["---:" if letter == "r" else "---" for letter in block.align]
    rows = [[escape(cell) for cell in row] for row in block.rows]
    for index in block.strong:
        rows[index] = [f"**{cell}**" if cell else "" for cell in rows[index]]
    return "\n".join(_row(cells) for cells in ([escape(cell) for cell in block.header], rule, *rows))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _charts(block: Charts) -> str:
    return "\n\n".join(f"**{escape(chart.title)}**\n\n{fenced(_drawn(chart))}" for chart in block.charts)


def _drawn(chart: Chart) -> str:
    if isinstance(chart, LineChart):
        curves = [f"{line.name}  {sparkline([y for _, y in line.points])}" for line in chart.lines]
        return "\n".join([*curves, describe(chart)])
    if isinstance(chart, Histogram):
        return describe(chart)
    if isinstance(chart, Matrix):
        width = max(len(f"{n:,}") for row in chart.counts for n in row)
        rows = zip(chart.labels, chart.counts, strict=True)
        return "\n".join("  ".join(f"{n:>{width},}" for n in row) + f"  {label}" for label, row in rows)
    longest = max(bar.value + bar.dropped for bar in chart.bars) or 1.0
    return "\n".join(f"{_bar(bar, longest)}  {bar.label}  {bar.text}" for bar in chart.bars)


def _bar(bar: Bar, longest: float) -> str:
    left = round(BAR * bar.value / longest)
    return ("█" * left + "░" * (round(BAR * (bar.value + bar.dropped) / longest) - left)).ljust(BAR)


def _samples(block: Samples) -> str:
    texts = [f"*{escape(label)}*\n\n{fenced(text)}" for label, text in block.texts]
    return "\n\n".join([f"### {escape(block.prompt)}", *texts])


def _cuts(block: Cuts) -> str:
    def line(tokens: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> str:
        return "|".join("".join(text for text, _ in parts) for _, parts in tokens)

    rows = [f"*{escape(label)}*\n\n{fenced(line(tokens))}" for label, tokens in block.rows]
    return "\n\n".join([f"### {escape(block.title)}", *rows])


def _details(block: Details) -> str:
    return f"### {escape(block.summary)}\n\n{_blocks(block.blocks)}"


_SHOW: dict[type, Callable[..., str]] = {
    Text: lambda block: escape(block.text),
    Cards: _cards,
    Table: _table,
    Charts: _charts,
    Samples: _samples,
    Cuts: _cuts,
    Code: lambda block: fenced(block.text, block.language),
    Details: _details,
}
