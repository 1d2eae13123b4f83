"""What a report is made of, before it is HTML or Markdown: sections of texts, tables, charts and samples.

Every fact is said once, as a block; `page.py` and `markdown.py` only decide how a block looks.
"""

from dataclasses import dataclass
from typing import ClassVar

from fromzero.explain.charts import Chart


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Cards:
    """The few numbers that matter most: (value, what it is, a remark)."""

    kind: ClassVar[str] = "cards"
    cards: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under a header. align: one letter a column, l or r. strong: rows that sum up the others."""

    kind: ClassVar[str] = "table"
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    strong: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) == len(self.align) for row in self.rows), self


@dataclass(frozen=True)
class Charts:
    """Charts beside each other where there is room."""

    kind: ClassVar[str] = "charts"
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Samples:
    """What a model made of one prompt, side by side: (label, text)."""

    kind: ClassVar[str] = "samples"
    prompt: str
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cuts:
    """One text cut into tokens in several ways: (label, tokens), a token: (hint, parts), a part: (text, is a sign)."""

    kind: ClassVar[str] = "cuts"
    title: str
    rows: tuple[tuple[str, tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]], ...]
    direction: str = "ltr"


@dataclass(frozen=True)
class Code:
    """Text to copy, as it is."""

    kind: ClassVar[str] = "code"
    text: str
    language: str = "sh"


@dataclass(frozen=True)
class Details:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: "tuple[Block, ...]"


Block = Text | Cards | Table | Charts | Samples | Cuts | Code | Details


@dataclass(frozen=True)
class Section:
    """A heading and what is under it. name: its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole of it; `lead` stands under the title, before the first section."""

    title: str
    language: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
    footer: str
