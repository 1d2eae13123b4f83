import math

import pytest

from fromzero.explain import numbers


def plain(text: str) -> str:
    return text.replace(numbers.NO_BREAK, " ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_999, "1.00 MB"),
        (2e9, "2.00 GB"),
        (None, "–"),
    ],
)
def test_size(value, expected):
    assert plain(numbers.size(value)) == expected


def test_figures_that_were_not_measured_are_a_dash():
    assert numbers.figure(None) == numbers.figure(math.inf) == numbers.figure(math.nan) == "–"
    assert plain(numbers.with_error(1.5, math.inf)) == "1.500"
    assert plain(numbers.with_error(1.5, 0.02)) == "1.500 ± 0.020"


def test_a_small_share_is_not_rounded_to_nothing():
    assert [plain(numbers.share(n, 1000)) for n in (0, 0.1, 1, 1000)] == ["0.0 %", "< 0.1 %", "0.1 %", "100.0 %"]
    assert numbers.share(0, 0) == "–"


def test_duration_in_both_languages():
    assert numbers.duration(3700) == "1h 01m"
    assert numbers.duration(75, "zh") == "1分15秒"


@pytest.mark.parametrize(
    ("value", "step", "expected"),
    [
        (0, 1, "0"),
        (0.25, 0.25, "0.25"),
        (1.5, 0.5, "1.5"),
        (2.5, 2.5, "2.5"),
        (1.25e-3, 2.5e-4, "1.25e-3"),
        (2e-3, 5e-4, "2e-3"),
        (1.5e-3, 5e-4, "1.5e-3"),
        (5e5, 1e5, "500k"),
    ],
)
def test_tick_labels(value, step, expected):
    assert numbers.tick(value, step) == expected
