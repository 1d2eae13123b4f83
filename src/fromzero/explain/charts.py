"""Line charts, bar charts, histograms and confusion matrices: plain data in, one SVG element out, as text.

Colours are not in here: each mark has a class, and `report.css` gives it a colour for light, dark and paper. Charts are
drawn 440 units wide, so that their letters stay readable when a phone shows them at 360 pixels.
"""

import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fromzero.explain.numbers import tick

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 34, 46
ROW = 40
MOST_POINTS = 300  # more than the pixels can show; beyond it, neighbours are averaged

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points of one curve, in the order of x. The look: a plain stroke, or one with a mark at each point."""

    name: str
    points: tuple[Point, ...]
    look: Literal["plain", "marked"] = "plain"


@dataclass(frozen=True)
class LineChart:
    """Curves over a common x. references: name and height of horizontal lines to compare with."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    references: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Bar:
    """One bar: its length, the text of its value; what a step took away, or a standard error, may end it."""

    label: str
    value: float
    text: str
    dropped: float = 0.0
    error: float | None = None
    main: bool = True


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from zero, each under its label. legend: what the two colours mean, when there are two."""

    title: str
    bars: tuple[Bar, ...]
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """How values are spread: shares between the edges, of up to two series side by side. marks: limits, with labels.

    logarithmic: edges and marks are exponents of ten.
    """

    title: str
    edges: tuple[float, ...]
    series: tuple[tuple[str, tuple[float, ...]], ...]
    marks: tuple[tuple[str, float], ...] = ()
    logarithmic: bool = False


@dataclass(frozen=True)
class Matrix:
    """Counts by what is true (a row each) and by what was said (a column each), of as many labels."""

    title: str
    true: str
    said: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


Chart = LineChart | BarChart | Histogram | Matrix


@dataclass(frozen=True)
class Scale:
    """Values from low to high, mapped linearly to pixels from start to end."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...] = ()
    """Where it is labelled, the ends among them."""

    @classmethod
    def of(cls, ticks: Sequence[float], start: float, end: float) -> "Scale":
        """From the first of the ticks to the last."""
        return cls(ticks[0], ticks[-1], start, end, tuple(ticks))

    def __call__(self, value: float) -> float:
        """The pixel of a value, to a hundredth."""
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)


def draw(chart: Chart) -> str:
    """A chart as an SVG element."""
    if isinstance(chart, Matrix):
        return draw_matrix(chart)
    if isinstance(chart, Histogram):
        return draw_histogram(chart)
    return draw_lines(chart) if isinstance(chart, LineChart) else draw_bars(chart)


def draw_lines(chart: LineChart) -> str:
    """A line chart as an SVG element with axes, ticks, labels and a legend."""
    lines = [thin(line.points) for line in chart.lines]
    x, y = line_scales(chart)
    body = [
        _grid(x, y),
        _axis_labels(chart),
        _legend([(line.name, _line_class(i)) for i, line in enumerate(chart.lines)]),
    ]
    body += [_reference(name, height, y) for name, height in chart.references]
    body += [
        _curve(points, line, _line_class(i), x, y)
        for i, (points, line) in enumerate(zip(lines, chart.lines, strict=True))
    ]
    return _svg(chart, HEIGHT, body)


def line_scales(chart: LineChart) -> tuple[Scale, Scale]:
    """The scales of a line chart: x from zero to the last point, y between the ticks that enclose all values."""
    points = [point for line in chart.lines for point in thin(line.points)]
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + [height for _, height in chart.references]
    x = Scale(min(0.0, *xs), max(xs), LEFT, WIDTH - RIGHT)
    return x, Scale.of(nice_ticks(min(ys), max(ys)), HEIGHT - BOTTOM, TOP)


def draw_bars(chart: BarChart) -> str:
    """A bar chart as an SVG element. A bar can end in what was dropped, or carry a standard error."""
    x = bar_scale(chart)
    top = 24 if chart.legend else 0
    body = [_legend([(name, ("bar kept", "bar dropped")[i]) for i, name in enumerate(chart.legend)])]
    body += [_bar(bar, x, top + ROW * row) for row, bar in enumerate(chart.bars)]
    return _svg(chart, top + ROW * len(chart.bars), body)


def draw_histogram(chart: Histogram) -> str:
    """A histogram as an SVG element: in each class a bar for each series, in per cent; limits as dashed lines."""
    x = Scale(chart.edges[0], chart.edges[-1], LEFT, WIDTH - RIGHT)
    highest = max(share for _, shares in chart.series for share in shares)
    y = Scale.of(nice_ticks(0.0, 100 * highest), HEIGHT - BOTTOM, TOP)
    looks = ("bar kept", "bar dropped")
    legend = _legend([(name, look) for (name, _), look in zip(chart.series, looks, strict=False)])
    body = [_grid(x, y, chart.logarithmic), legend]
    for i, (_, shares) in enumerate(chart.series):
        for left, right, share in zip(chart.edges, chart.edges[1:], shares, strict=False):
            step = (x(right) - x(left)) / len(chart.series)
            body.append(_column(x(left) + i * step, step, y(100 * share), y.start, looks[i]) if share else "")
    for row, (label, value) in enumerate(chart.marks):
        body.append(tag("line", x1=x(value), x2=x(value), y1=TOP, y2=y.start, class_="reference"))
        right = x(value) > WIDTH * 0.7
        at = x(value) + (-5 if right else 5)
        body.append(text(at, TOP + 12 + 15 * row, label, "label halo", text_anchor="end" if right else "start"))
    return _svg(chart, HEIGHT, body)


def draw_matrix(chart: Matrix) -> str:
    """A confusion matrix as an SVG element: a cell is the darker, the larger its share of its row. Where labels are
    wider than cells, columns have the numbers of the rows."""
    size = len(chart.labels)
    left = 30 + min(150.0, max(text_width(_numbered(chart, row)) for row in range(size)))
    cell = round(min(64.0, (WIDTH - left) / size), 2)
    narrow = any(text_width(label) > cell - 4 for label in chart.labels)
    middle = TOP + cell * size / 2
    body = [
        text(left + cell * size / 2, 13, chart.said, text_anchor="middle"),
        text(12, middle, chart.true, text_anchor="middle", transform=f"rotate(-90 12 {middle})"),
    ]
    for row, counts in enumerate(chart.counts):
        top, name = TOP + row * cell, _numbered(chart, row) if narrow else chart.labels[row]
        while text_width(name) > left - 30:
            name = name.rstrip("…")[:-1] + "…"
        body.append(text(left - 6, top + cell / 2 + 4, name, text_anchor="end"))
        column = str(row + 1) if narrow else name
        body.append(text(left + (row + 0.5) * cell, TOP - 6, column, text_anchor="middle"))
        body += [_cell(left + i * cell, top, cell, n, n / (sum(counts) or 1)) for i, n in enumerate(counts)]
    return _svg(chart, TOP + cell * size + 2, body)


def _numbered(chart: Matrix, row: int) -> str:
    return f"{row + 1} {chart.labels[row]}"


def _cell(left: float, top: float, size: float, count: int, share: float) -> str:
    x, y = round(left, 2), round(top, 2)
    hint = tag("title", f"{count:,} ({share:.1%})")
    box = tag("rect", hint, x=x, y=y, width=size - 1, height=size - 1, class_="cell", fill_opacity=round(share, 3))
    frame = tag("rect", x=x, y=y, width=size - 1, height=size - 1, class_="frame")
    if size < text_width(str(count)) + 2:
        return frame + box
    look = "label on" if share > 0.5 else "label strong"
    return frame + box + text(x + size / 2, y + size / 2 + 4, str(count), look, text_anchor="middle")


def _column(left: float, width: float, top: float, bottom: float, class_: str) -> str:
    top = min(top, bottom - 1.5)  # what is there is seen, however little it is
    return tag(
        "rect", x=round(left + 0.5, 2), y=top, width=round(width - 0.5, 2), height=round(bottom - top, 2), class_=class_
    )


def bar_scale(chart: BarChart) -> Scale:
    """The scale of a bar chart: from zero to the longest bar with what belongs to it."""
    longest = max((bar.value + bar.dropped + (_error(bar) or 0.0) for bar in chart.bars), default=1.0)
    return Scale(0.0, longest or 1.0, 1, WIDTH - 1)


def describe(chart: Chart) -> str:
    """A chart in words, for readers who don't see it: where each curve begins and ends, or each bar's value."""
    if isinstance(chart, BarChart):
        return "; ".join(f"{bar.label}: {bar.text}" for bar in chart.bars)
    if isinstance(chart, Histogram):
        return "; ".join(f"{name}  {sparkline(shares)}" for name, shares in chart.series)
    if isinstance(chart, Matrix):
        return "; ".join(f"{label}: {row}" for label, row in zip(chart.labels, chart.counts, strict=True))
    curves = [f"{line.name}: {line.points[0][1]:.4g} → {line.points[-1][1]:.4g}" for line in chart.lines]
    return "; ".join(curves + [f"{name}: {height:.4g}" for name, height in chart.references])


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values as a line of block characters, lowest to highest, for text: ▇▅▃▂▁."""
    heights = [y for _, y in thin([(float(i), v) for i, v in enumerate(values)], width)]
    scale = Scale(min(heights), max(heights), 0, 7)
    return "".join("▁▂▃▄▅▆▇█"[round(scale(height))] for height in heights)


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points: means of equally long runs of neighbours, the first and the last kept as they are."""
    if len(points) <= most:
        return list(points)
    run = math.ceil((len(points) - 2) / (most - 2))
    groups = [points[i : min(i + run, len(points) - 1)] for i in range(1, len(points) - 1, run)]
    means = [(math.fsum(x for x, _ in g) / len(g), math.fsum(y for _, y in g) / len(g)) for g in groups]
    return [points[0], *means, points[-1]]


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers at equal distances (1, 2, 2.5 or 5 times a power of ten) that enclose low and high."""
    if high <= low:
        low, high = (low * 0.9, low * 1.1) if low > 0 else (low - (low < 0), low + 1.0)
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tag(name: str, content: str | Iterable[str] = "", /, **attributes: object) -> str:
    """An XML element. Attributes are escaped, `class_` becomes class, `stroke_width` stroke-width; content is not."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{html.escape(str(v))}"' for k, v in attributes.items())
    inside = content if isinstance(content, str) else "".join(content)
    return f"<{name}{given}>{inside}</{name}>"


def text(x: float, y: float, content: str, class_: str = "label", **attributes: object) -> str:
    """An escaped text element."""
    return tag("text", html.escape(content), x=x, y=y, class_=class_, **attributes)


def _svg(chart: Chart, height: float, body: Iterable[str]) -> str:
    label = f"{chart.title}. {describe(chart)}"
    return tag("svg", body, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label, class_="chart")


def _line_class(index: int) -> str:
    return f"line line-{index % 3 + 1}"


def _grid(x: Scale, y: Scale, logarithmic: bool = False) -> str:
    parts = []
    for value in y.ticks:
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(LEFT - 7, y(value) + 4, tick(value, y.ticks[1] - y.ticks[0]), text_anchor="end"))
    x_ticks = nice_ticks(x.low, x.high, 5)
    for value in (v for v in x_ticks if x.low <= v <= x.high and not (logarithmic and v % 1)):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 5, class_="axis"))
        anchor = "end" if x(value) > WIDTH - RIGHT - 12 else "middle"
        label = tick(10**value, 1) if logarithmic else tick(value, x_ticks[1] - x_ticks[0])
        parts.append(text(x(value), HEIGHT - BOTTOM + 19, label, text_anchor=anchor))
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis"))
    return "".join(parts)


def _axis_labels(chart: LineChart) -> str:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    across = text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, chart.x_label, text_anchor="middle")
    up = text(12, middle, chart.y_label, text_anchor="middle", transform=f"rotate(-90 12 {middle})")
    return across + up


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    """A swatch and a name for each entry, in a row; a chart with one curve needs none."""
    if len(entries) < 2:
        return ""
    parts, x = [], float(1 if entries[0][1].startswith("bar") else LEFT)
    for name, class_ in entries:
        bar = class_.startswith("bar")
        swatch = tag("rect", x=x, y=5, width=18, height=9, class_=class_) if bar else _stroke(x, class_)
        parts.append(swatch + text(x + 24, 14, name))
        x += 24 + text_width(name) + 20
    return "".join(parts)


def _stroke(x: float, class_: str) -> str:
    return tag("line", x1=x, x2=x + 18, y1=10, y2=10, class_=class_)


def text_width(content: str, letter: float = 6.6) -> float:
    """Roughly how wide a label is: ideographs are twice as wide as letters."""
    return sum(2 * letter if unicodedata.east_asian_width(c) in "WF" else letter for c in content)


def _curve(points: Sequence[Point], line: Line, class_: str, x: Scale, y: Scale) -> str:
    path = tag("polyline", points=" ".join(f"{x(a)},{y(b)}" for a, b in points), class_=class_)
    return path + (_marks(points, line.name, class_, x, y) if line.look == "marked" else "")


def _marks(points: Sequence[Point], name: str, class_: str, x: Scale, y: Scale) -> str:
    def mark(a: float, b: float) -> str:
        hint = tag(
            "title", html.escape(f"{name}, {a:{',.0f' if a % 1 == 0 else '.2f'}}: {b:.4g}")
        )  # browsers show it under the pointer
        return tag("circle", hint, cx=x(a), cy=y(b), r=3.2, class_=class_.replace("line", "mark"))

    return "".join(mark(a, b) for a, b in points)


def _reference(name: str, height: float, y: Scale) -> str:
    rule = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(height), y2=y(height), class_="reference")
    return rule + text(WIDTH - RIGHT, y(height) - 5, name, "label halo", text_anchor="end")


def _bar(bar: Bar, x: Scale, top: float) -> str:
    parts = [text(1, top + 14, bar.label, "label strong"), text(WIDTH - 1, top + 14, bar.text, text_anchor="end")]
    parts.append(_segment(x(0.0), x(bar.value), top + 20, "bar kept" if bar.main else "bar other"))
    if bar.dropped:
        parts.append(_segment(x(bar.value), x(bar.value + bar.dropped), top + 20, "bar dropped"))
    if (error := _error(bar)) is not None:
        parts.append(_whisker(x(bar.value - error), x(bar.value + error), top + 26))
    return "".join(parts)


def _segment(start: float, end: float, top: float, class_: str) -> str:
    width = round(max(1.5, end - start), 2)  # what is there is seen, however little it is
    return tag("rect", x=start, y=top, width=width, height=12, class_=class_)


def _error(bar: Bar) -> float | None:
    return bar.error if bar.error is not None and math.isfinite(bar.error) else None


def _whisker(start: float, end: float, y: float) -> str:
    across = tag("line", x1=start, x2=end, y1=y, y2=y, class_="error")
    return across + "".join(tag("line", x1=x, x2=x, y1=y - 6, y2=y + 6, class_="error") for x in (start, end))
