"""The one progress style and the one table style.

On a terminal: rich bars with rate, time left and whatever the caller reports (the loss, say). Elsewhere (logs, pipes):
a plain line every few seconds, so that a log stays readable.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_INTERVAL_SECONDS = 10.0

# Everything meant for a person goes to standard error; standard output carries results that a pipe may want.
console = Console(stderr=True, highlight=False)


class Reporter(Protocol):
    """What a long job is given to tell how far it is."""

    def __call__(self, done: float, note: str = "") -> None:
        """Say that `done` units of the total are finished; `note` is shown beside the bar."""


def say(message: str) -> None:
    """One line for the person at the terminal. The text is printed as it is: no markup is interpreted."""
    console.print(message, markup=False, soft_wrap=True)


def human_count(value: float) -> str:
    """1234567 -> '1.23M', with decimal prefixes."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}[suffix]
            return f"{value / scale:.3g}{suffix}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def human_seconds(seconds: float) -> str:
    """75 -> '1m 15s'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}h {rest // 60:02d}m" if hours else f"{rest // 60}m {rest % 60:02d}s"


class _RateColumn(ProgressColumn):
    """Units per second since the start, as '1.2M tokens/s'."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{human_count(speed)} {task.fields['unit']}/s")


@contextmanager
def progress(description: str, total: float, unit: str, done: float = 0) -> Iterator[Reporter]:
    """A progress bar over `total` units, of which `done` were finished by an earlier run."""
    if console.is_terminal:
        with _bar(description, total, unit, done) as report:
            yield report
    else:
        yield _PlainProgress(description, total, unit, done)


@contextmanager
def _bar(description: str, total: float, unit: str, done: float) -> Iterator[Reporter]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, speed_estimate_period=30) as bars:
        task = bars.add_task(description, total=total, unit=unit, note="")
        bars.update(task, completed=done)
        yield lambda done, note="": bars.update(task, completed=done, note=note)


class _PlainProgress:
    """The same facts as the bar, as a line every few seconds."""

    def __init__(self, description: str, total: float, unit: str, done: float) -> None:
        self.description, self.total, self.unit, self.first = description, total, unit, done
        self.started = self.last = time.monotonic()

    def __call__(self, done: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < PLAIN_INTERVAL_SECONDS:
            return
        self.last = now
        rate = (done - self.first) / (now - self.started)
        left = human_seconds((self.total - done) / rate) if rate > 0 else "?"
        share = 100 * done / self.total if self.total else 100
        say(f"{self.description}: {share:3.0f}%, {human_count(rate)} {self.unit}/s, {left} left {note}".rstrip())


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], align: str = "") -> None:
    """A small table; columns of numbers are right-aligned, and those that `align` has an r for.

    Where the terminal is too narrow, cells are broken at blanks, and words only when that is not enough.
    """
    looks: Any = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "collapse_padding": True}
    grid = Table(title=title, title_justify="left", title_style="bold", header_style="bold", **looks)
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = _widths(cells, console.width - 2 * (len(header) - 1))
    lines = [list(map(_broken, row, widths)) for row in cells]
    for column, (name, width) in enumerate(zip(lines[0], widths, strict=True)):
        numeric = all(isinstance(row[column], int | float) for row in rows) and bool(rows)
        right = numeric or align[column : column + 1] == "r"
        grid.add_column(Text(name), justify="right" if right else "left", overflow="fold", width=width)
    for row in lines[1:]:
        grid.add_row(*map(Text, row))
    console.print(grid)


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """The widths of columns. Without room the widest is narrowed: to its longest word, then further."""
    columns = list(zip(*cells, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    words = [max(cell_len(word) for cell in column for word in cell.split(" ")) for column in columns]
    for least in (words, [1] * len(words)):
        while sum(widths) > room and (wide := [i for i, width in enumerate(widths) if width > least[i]]):
            widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _broken(cell: str, width: int) -> str:
    """A cell in lines; a no-break space keeps a number and its unit together."""
    lines = textwrap.wrap(cell, max(1, width), break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\u00a0", " ")


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def printable(text: str) -> str:
    """Text from outside made safe for a terminal: control characters (escape codes among them) become visible."""
    return "".join(c if c in "\n\t\u00a0" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def write_stream(text: str) -> None:
    """Write a piece of a streamed answer to standard output at once."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


@contextmanager
def streamed_markdown() -> Iterator[Callable[[str], None]]:
    """What writes a streamed answer to standard output: on a terminal as Markdown looks, elsewhere as it is.

    Blocks are printed once they are whole; the end of the one in the making is drawn anew until then.
    """
    if not sys.stdout.isatty():
        yield write_stream
        write_stream("\n")
        return
    from rich.live import Live  # not above: they take long to import
    from rich.markdown import Markdown

    text, out = "", Console(highlight=False)

    def write(piece: str) -> None:
        nonlocal text
        text += printable(piece)
        end, fence = whole_blocks(text)
        if end:
            out.print(Markdown(text[:end], hyperlinks=False), end="\n\n")
            text = text[end:]
        lines = text.splitlines()
        seen = lines if len(lines) < out.height else [fence, *lines[4 - out.height :]]
        live.update(Markdown("\n".join(seen), hyperlinks=False))

    with Live(console=out, transient=True, refresh_per_second=10) as live:
        try:
            yield write
        finally:
            live.update("")
            out.print(Markdown(text, hyperlinks=False))


def whole_blocks(markdown: str) -> tuple[int, str]:
    """How many characters hold blocks that nothing can be added to (up to the last blank line outside of code), and
    what the code in which the text ends was begun with, if it does."""
    end, place, fence = 0, 0, ""
    for line in markdown.splitlines(keepends=True):
        place += len(line)
        if (mark := line.lstrip()[:3]) in ("```", "~~~") and fence in ("", mark):
            fence = "" if fence else mark
        elif not fence and line.isspace() and line.endswith("\n"):
            end = place
    return end, fence
