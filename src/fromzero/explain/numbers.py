"""How numbers look in a report: one helper for each kind of quantity, so that a figure reads the same everywhere."""

import math

from fromzero.console import human_count, human_seconds

NONE = "–"
NO_BREAK = "\u00a0"  # between a number and its unit


def count(value: float | None) -> str:
    """Things that can be counted: 1234567 -> '1,234,567'."""
    return NONE if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Large numbers of which only the size matters: 1234567 -> '1.23M'."""
    return NONE if value is None or not math.isfinite(value) else human_count(value)


def size(value: float | None) -> str:
    """Bytes, with decimal prefixes: 1234567 -> '1.23 MB'."""
    if value is None:
        return NONE
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        # 999,999 bytes would round to '1e+03 kB', so a prefix begins where three digits of the one below it end.
        if value >= limit * 0.9995:
            return f"{_three(value / limit)}{NO_BREAK}{unit}"
    return f"{value:,.0f}{NO_BREAK}B"


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.{max(0, 2 - int(math.log10(max(value, 1)) + 1e-3))}f}"


def figure(value: float | None, digits: int = 3) -> str:
    """A measured value with a fixed number of decimals; what was not measured, or is infinite, is a dash."""
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def with_error(value: float | None, error: float | None, digits: int = 3) -> str:
    """A value and its standard error: '1.423 ± 0.012'; a dash for what was not measured."""
    known = error is not None and math.isfinite(error)
    return NO_BREAK.join((figure(value, digits), "±", figure(error, digits))) if known else figure(value, digits)


def share(part: float, whole: float) -> str:
    """A part of a whole in per cent: '12.3 %'; a part too small to show is not rounded to nothing."""
    if not whole:
        return NONE
    percent = 100 * part / whole
    return (f"<{NO_BREAK}0.1" if 0 < percent < 0.05 else f"{percent:.1f}") + f"{NO_BREAK}%"


def duration(seconds: float | None, language: str = "en") -> str:
    """75 -> '1m 15s', '1分15秒' in Chinese."""
    if seconds is None:
        return NONE
    text = human_seconds(seconds)
    if language == "zh":
        for unit, name in ((" ", ""), ("h", "小时"), ("m", "分"), ("s", "秒")):
            text = text.replace(unit, name)
    return text


def tick(value: float, step: float) -> str:
    """The label of an axis: as many decimals as the distance between the ticks needs."""
    if value == 0:
        return "0"
    if step < 1e-3:
        number, exponent = f"{value:.2e}".split("e")
        return f"{number.rstrip('0').rstrip('.')}e{int(exponent)}"
    if step >= 1:
        return human_count(value)
    decimals = next(d for d in range(1, 7) if abs(round(step, d) - step) < 1e-9)
    return f"{value:.{decimals}f}"
