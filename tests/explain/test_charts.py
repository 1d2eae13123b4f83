import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.explain import charts
from fromzero.explain.charts import (
    Bar,
    BarChart,
    Histogram,
    Line,
    LineChart,
    describe,
    draw,
    nice_ticks,
    sparkline,
    thin,
)

CURVES = LineChart(
    "Loss <1>",
    "step",
    "nats & more",
    (
        Line("train", ((0.0, 8.0), (50.0, 4.0), (100.0, 2.0))),
        Line("held <out>", ((0.0, 7.5), (100.0, 3.0)), "marked"),
    ),
    (("xz", 5.0),),
)
BARS = BarChart(
    "Left", (Bar("read", 100, "100"), Bar("too <short>", 75, "− 25", dropped=25), Bar("model", 40, "40 ± 5", error=5.0))
)


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def of_class(root: ET.Element, tag: str, class_: str) -> list[ET.Element]:
    return [e for e in root.iter(tag) if class_ in e.get("class", "").split()]


def test_line_points_are_mapped_to_the_right_pixels():
    root = parsed(draw(CURVES))
    first = of_class(root, "polyline", "line-1")[0].get("points", "").split()
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
    # Ticks enclose 2 to 8, so 8 is at the top and 2 at the bottom.
    middle = round(bottom + (4 - 2) / (8 - 2) * (top - bottom), 2)
    expected = [(left, top), ((left + right) / 2, middle), (right, bottom)]
    for pair, (x, y) in zip(first, expected, strict=True):
        assert tuple(map(float, pair.split(","))) == pytest.approx((x, y), abs=0.01)


def test_ticks_stand_at_the_values_that_they_name():
    root = parsed(draw(CURVES))
    _, y = charts.line_scales(CURVES)
    labels = [e for e in of_class(root, "text", "label") if e.get("text-anchor") == "end" and e.text != "xz"]
    numbers = {e.text: float(e.get("y", "nan")) for e in labels if float(e.get("x", "0")) < charts.LEFT}
    assert set(numbers) >= {"2", "4", "6", "8"}
    for text, pixel in numbers.items():
        assert pixel == pytest.approx(y(float(text)) + 4)


def test_marks_references_and_legend():
    root = parsed(draw(CURVES))
    _, y = charts.line_scales(CURVES)
    marks = list(root.iter("circle"))
    assert [float(m.get("cy", "nan")) for m in marks] == [y(7.5), y(3.0)]
    assert marks[0].find("title").text == "held <out>, 0: 7.5"
    assert float(of_class(root, "line", "reference")[0].get("y1", "nan")) == y(5.0)
    texts = [e.text for e in root.iter("text")]
    assert {"train", "held <out>", "step", "nats & more", "xz"} <= set(texts)


def test_bars_are_as_long_as_their_values():
    root = parsed(draw(BARS))
    inside = charts.WIDTH - 2
    kept = of_class(root, "rect", "kept")
    assert [float(r.get("width", "nan")) for r in kept] == pytest.approx(
        [inside, 0.75 * inside, 0.4 * inside], abs=0.02
    )
    (dropped,) = of_class(root, "rect", "dropped")
    assert float(dropped.get("x", "nan")) == pytest.approx(1 + 0.75 * inside, abs=0.02)
    assert float(dropped.get("width", "nan")) == pytest.approx(0.25 * inside, abs=0.02)
    whisker = of_class(root, "line", "error")[0]
    ends = [float(whisker.get(k, "nan")) for k in ("x1", "x2")]
    assert ends == pytest.approx([1 + 0.35 * inside, 1 + 0.45 * inside], abs=0.02)


def test_a_histogram_has_a_bar_for_each_share_and_a_line_at_each_limit():
    sides = (("kept", (0.5, 0.5, 0.0)), ("dropped <b>", (0.0, 0.25, 0.75)))
    root = parsed(draw(Histogram("length", (1.0, 2.0, 3.0, 4.0), sides, (("≥ <50>", 2.0),), logarithmic=True)))
    left, width = charts.LEFT, charts.WIDTH - charts.RIGHT - charts.LEFT
    bars = of_class(root, "rect", "kept")[1:], of_class(root, "rect", "dropped")[1:]  # the first is in the legend
    places = [[(float(r.get("x", "nan")) - left) / width * 6 for r in side] for side in bars]
    assert places == [pytest.approx([0, 2], abs=0.02), pytest.approx([3, 5], abs=0.02)]
    kept, dropped = ([float(r.get("height", "nan")) for r in side] for side in bars)
    assert kept[0] == kept[1] == pytest.approx(2 * dropped[0], abs=0.02) == pytest.approx(dropped[1] / 1.5, abs=0.02)
    (mark,) = of_class(root, "line", "reference")
    assert float(mark.get("x1", "nan")) == pytest.approx(left + width / 3, abs=0.01)
    texts = [e.text for e in root.iter("text")]
    assert {"10", "100", "1,000", "10k", "≥ <50>", "dropped <b>"} <= set(texts)


def test_an_unknown_standard_error_draws_no_whisker():
    root = parsed(draw(BarChart("b", (Bar("one document", 2.0, "2", error=math.inf),))))
    assert not of_class(root, "line", "error")


def test_charts_speak_to_those_who_do_not_see_them():
    for chart in (CURVES, BARS):
        root = parsed(draw(chart))
        assert root.get("role") == "img"
        assert root.get("aria-label") == f"{chart.title}. {describe(chart)}"
    assert describe(CURVES) == "train: 8 → 2; held <out>: 7.5 → 3; xz: 5"


numbers = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(numbers, numbers)
def test_ticks_enclose_the_values_and_are_few(a, b):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-6)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=900), st.text())
def test_any_line_chart_is_well_formed_and_stays_inside(points, name):
    name = re.sub("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]", "", name)
    root = parsed(draw(LineChart(name, name, name, (Line(name, tuple(points)),))))
    (curve,) = root.iter("polyline")
    for line in of_class(root, "line", "grid"):
        assert charts.TOP <= float(line.get("y1", "nan")) <= charts.HEIGHT - charts.BOTTOM
    for pair in curve.get("points", "").split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= charts.WIDTH
        assert 0 <= y <= charts.HEIGHT


def test_thinning_keeps_the_ends_and_the_mean():
    points = [(float(i), float(i % 7)) for i in range(10_000)]
    few = thin(points, 100)
    assert len(few) <= 100
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert sum(y for _, y in few) / len(few) == pytest.approx(3, abs=0.1)
    assert thin(points[:50], 100) == points[:50]


def test_sparkline_goes_from_high_to_low():
    assert sparkline([8, 4, 1]) == "█▄▁"
    assert sparkline([1.0]) == "▁"
    assert len(sparkline(list(range(1000)))) <= 40
