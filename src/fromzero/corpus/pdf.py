"""PDF -> text: lines with their places on the page, put into reading order and joined into paragraphs.

PDFium gives the characters in the order in which the page draws them, with line ends, and U+FFFE for a hyphen at one.
From the places of the lines comes the rest: running heads and page numbers repeat at the same place on many pages;
columns are full of lines that leave the same gutter free; a line goes on if the next word would not have fitted.
"""

import bisect
import collections
import dataclasses
import itertools
import re
import statistics
from collections.abc import Iterator
from typing import Any

from fromzero.corpus.document import DAMAGED, ENCRYPTED
from fromzero.corpus.reading import Opened, Raw, ReadError, ReadSettings, bounded, optional, whole

HYPHEN = "\ufffe"
REPEATED_PAGES = 3
"""A line at the edge of a page that stands at the same place on so many pages, but for numbers, is no text."""
EDGE_ROWS = 3
COLUMN_LINES = 4
"""Least number of lines on each side of a gutter."""
COLUMN_WIDTH = 0.15
"""Least width of a column, as a share of all: the numbers before the items of a list are none."""
_LINE = re.compile(rf"[^\r\n{HYPHEN}]+{HYPHEN}?")
_PARTS = re.compile(r"\S+")
_NUMBER = re.compile(r"\d+|^[ivxlcdm]+$", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_HYPHENATED = re.compile(rf"\w+{HYPHEN}\s*\w+")
_LEADERS = re.compile(r"(?:[.·…] ?){4,}\s*\w*$")
_ITEM = re.compile(r"(?:[•‣◦▪–*-]|\(?\w{1,3}[.)、])\s")
_WIDE = re.compile("[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\u3000-\u303f]")
_SENTENCE_END = tuple('.!?:。！？：”"')


@dataclasses.dataclass(frozen=True)
class Line:
    """A piece of text without a wide gap, and its place in points, from the lower left corner of the page."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    gaps: bool = False
    """Whether it was put together from pieces with wide gaps between them, as the cells of a table have."""

    @property
    def height(self) -> float:
        """About the size of its font."""
        return max(self.top - self.bottom, 1.0)


def parse_pdf(file: Opened, settings: ReadSettings) -> Raw:
    """A PDF: the text of its pages in reading order."""
    pypdfium2 = optional("pypdfium2")
    data = whole(file.stream, settings.limits.file_bytes)
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        message = " ".join(str(error).split())
        raise ReadError(ENCRYPTED if "password" in message.lower() else f"{DAMAGED}: {message}") from error
    title = pdf.get_metadata_dict(skip_empty=True).get("Title")
    return Raw(bounded(_text(pdf), settings.limits.document_bytes), meta={"title": title} if title else {})


def _text(pdf: Any) -> Iterator[str]:
    words: set[str] = set()
    pages = [_lines(pdf[number], words) for number in range(len(pdf))]
    running = _running(pages)
    columns = [c for page in pages for c in _columns([p for p in page if _place(p) not in running]) if c]
    yield from paragraphs(map(_joined_rows, columns), words)


def _lines(page: Any, words: set[str]) -> list[Line]:
    """The pieces of lines of a page as they are drawn; its words, but those cut by a hyphen, are added to `words`."""
    text_page = page.get_textpage()
    text = text_page.get_text_range()
    words.update(_WORD.findall(_HYPHENATED.sub(" ", text).lower()))
    lines: list[Line] = []
    for match in _LINE.finditer(text):
        piece: list[Any] = []
        for part in _PARTS.finditer(match[0]):
            start = match.start() + part.start()
            left, bottom, _, top = _box(text_page, start)
            right = _box(text_page, start + len(part[0].rstrip(HYPHEN) or "-") - 1)[2]
            if piece and 0 <= left - piece[3] <= top - bottom:
                piece = [f"{piece[0]} {part[0]}", piece[1], min(piece[2], bottom), right, max(piece[4], top)]
            else:
                lines += [Line(*piece)] if piece else []
                piece = [part[0], left, bottom, right, top]
        lines += [Line(*piece)] if piece else []
    text_page.close()
    page.close()
    return lines


def _box(text_page: Any, place: int) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a character by its place in the text, which leaves out what has no Unicode."""
    index = optional("pypdfium2.raw").FPDFText_GetCharIndexFromTextIndex(text_page, place)
    left, bottom, right, top = text_page.get_charbox(max(index, 0), loose=True)
    return left, bottom, right, top


def _place(line: Line) -> tuple[str, int, int]:
    """What a running head has the same on all pages: its text without numbers, its height on the page, a font size."""
    return _NUMBER.sub("#", line.text), round(line.bottom / 3), round(line.height)


def _running(pages: list[list[Line]]) -> set[tuple[str, int, int]]:
    """The places of lines at the edges of pages that repeat."""
    counts: collections.Counter[tuple[str, int, int]] = collections.Counter()
    for page in pages:
        rows = sorted({round(line.bottom) for line in page})
        edges = {*rows[:EDGE_ROWS], *rows[-EDGE_ROWS:]}
        counts.update({_place(line) for line in page if round(line.bottom) in edges})
    return {place for place, count in counts.items() if count >= REPEATED_PAGES}


def _columns(lines: list[Line]) -> list[list[Line]]:
    """The lines of a page in reading order, in groups that stand one below the other."""
    gutter = _gutter(lines)
    if gutter is None:
        return [lines]
    groups: list[list[Line]] = []
    sides: tuple[list[Line], list[Line]] = ([], [])
    for line in sorted(lines, key=lambda line: (-line.top, line.left)):
        if line.left < gutter < line.right:  # a heading or a figure across the page: what is above it is read before
            groups += [*_columns(sides[0]), *_columns(sides[1]), [line]]
            sides = ([], [])
        else:
            sides[line.left >= gutter].append(line)
    return [group for group in (*groups, *_columns(sides[0]), *_columns(sides[1])) if group]


def _gutter(lines: list[Line]) -> float | None:
    """Where a page divides into columns of running text; None for one column, and for tables: their cells are short."""
    lefts, rights = sorted(p.left for p in lines), sorted(p.right for p in lines)
    left, right = (lefts[0], rights[-1]) if lines else (0, 0)
    best, fewest, margin = None, len(lines) // 4 + 1, COLUMN_WIDTH * (right - left)
    for x in sorted({round(p.right) + 1.0 for p in lines if left + margin < p.right < right - margin}):
        crossing = bisect.bisect_left(lefts, x) - bisect.bisect_right(rights, x)
        if (
            crossing < fewest
            and _filled([p for p in lines if p.right <= x], left, x)
            and _filled([p for p in lines if p.left >= x], x, right)
        ):
            best, fewest = x, crossing
    return best


def _filled(lines: list[Line], left: float, right: float) -> bool:
    """Whether lines of text fill a column."""
    rows = {round(line.bottom) for line in lines}
    return len(rows) >= COLUMN_LINES and statistics.median(p.right - p.left for p in lines) > 0.6 * (right - left)


def _joined_rows(lines: list[Line]) -> list[Line]:
    """Pieces on the same line, between which there is no gutter, as one."""
    whole_lines: list[Line] = []
    for line in lines:
        last = whole_lines[-1] if whole_lines else None
        if last and last.right <= line.left and abs(last.bottom - line.bottom) < 0.3 * line.height:
            whole_lines.pop()
            bottom, top = min(last.bottom, line.bottom), max(last.top, line.top)
            line = Line(f"{last.text} {line.text}", last.left, bottom, line.right, top, True)
        whole_lines.append(line)
    return whole_lines


def paragraphs(columns: Iterator[list[Line]], words: set[str]) -> Iterator[str]:
    """The text of columns in reading order; `words` decide which hyphens at line ends belong to a word."""
    last: Line | None = None
    last_right, first = 0.0, ""
    for lines in columns:
        left, ends = min(line.left for line in lines), sorted((line.right for line in lines), reverse=True)
        right = next((a for a, b in itertools.pairwise(ends) if a - b < 2), ends[0])  # one line may stick out
        steps = [a.bottom - b.bottom for a, b in itertools.pairwise(lines) if a.bottom > b.bottom]
        step = statistics.median_low(steps) if steps else 0.0
        for number, line in enumerate(lines):
            if last is not None:
                goes_on = _fills(last, line, last_right if number == 0 else right)
                if number == 0:
                    joint = " " if goes_on and not last.text.endswith(_SENTENCE_END) else "\n\n"
                else:
                    joint = _joint(last, line, left, step, goes_on, first)
                yield _end(last.text, line.text, joint, words)
                first = line.text if joint == "\n\n" else first
            first, last, last_right = first or line.text, line, right
    if last is not None:
        yield last.text.replace(HYPHEN, "-")


def _fills(last: Line, line: Line, right: float) -> bool:
    """Whether a line is full, so that the first word of the next would not have fitted on it."""
    width = (line.right - line.left) / len(line.text)
    word = 1 if _WIDE.match(line.text) else len(line.text.split(" ", 1)[0]) + 1
    same_size = 0.8 < last.height / line.height < 1.25
    broken = last.gaps or line.gaps or _LEADERS.search(last.text) is not None
    return same_size and not broken and last.right + width * word > right


def _joint(last: Line, line: Line, left: float, step: float, goes_on: bool, first: str) -> str:
    """What stands between two lines of a column: a blank within a paragraph, else one line end or two."""
    indented = line.left - max(last.left, left) > 0.5 * line.height
    hanging = indented and _ITEM.match(first) is not None
    if last.bottom - line.bottom > 1.4 * step + 1 or (indented and not hanging and goes_on):
        return "\n\n"
    return " " if goes_on and _ITEM.match(line.text) is None else "\n"


def _end(text: str, following: str, joint: str, words: set[str]) -> str:
    """A line and what joins it to the next one."""
    if joint != " ":
        return text.replace(HYPHEN, "-") + joint
    if not text.endswith((HYPHEN, "-")):
        return text + ("" if _WIDE.match(text[-1]) and _WIDE.match(following) else joint)
    head, tail = _WORD.findall(text[:-1])[-1:], _WORD.match(following)
    if not head or tail is None or not text[:-1].endswith(head[0]) or not tail[0].islower():
        return f"{text[:-1]}-"
    parts = head[0].lower(), tail[0]
    plausible = "".join(parts) in words or ("-".join(parts) not in words and not words.issuperset(parts))
    return text[:-1] + ("" if plausible else "-")
