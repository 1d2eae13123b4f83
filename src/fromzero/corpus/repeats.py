"""Paragraphs, lines and passages that stand elsewhere too are cut out of what is kept, one kind after the other."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from fromzero.corpus.document import DUPLICATE, REPEATS, text_digest
from fromzero.corpus.drafts import drafted
from fromzero.corpus.duplicates import drop_duplicates
from fromzero.corpus.filters import judge
from fromzero.corpus.settings import Filters
from fromzero.corpus.substrings import drop_repeated_passages

Unit = Literal["paragraph", "line", "passage"]
Row = dict[str, Any]
GROUP_BYTES = 20_000_000
"""Passages are compared within so much text, in the order of the documents; comparing takes 50 times as much memory."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """(id, text) of rows that can be read again and again."""

    rows: Callable[[], Iterable[Row]]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((row["id"], row["text"]) for row in self.rows())


def cut_repeats(rows: Callable[[], Iterable[Row]], unit: Unit, least: int, filters: Filters, folder: Path) -> None:
    """Write `rows`, which have different ids, into a finished folder as `drafts` describes, without their repeats.

    What is cut out is counted as REPEATS of no document; a text that breaks a rule or is empty thereafter is rejected.
    least: bytes of a passage.
    """
    texts = _passages(rows, least) if unit == "passage" else (text for _, text, _ in drop_duplicates(Texts(rows), unit))
    seen: set[str] = set()
    with drafted(folder) as draft:
        for row, text in zip(rows(), texts, strict=True):
            reason = None
            if text != row["text"]:
                gone = len(row["text"].encode()) - len(text.encode())
                draft.counts.rejected[REPEATS].bytes += gone
                row |= {"id": text_digest(text), "text": text}
                reason = judge(text, filters, row["language"])
            reason = reason or (DUPLICATE if row["id"] in seen else None)
            seen.add(row["id"])
            if reason:
                draft.reject(reason, row["source"], row["id"], text)
            else:
                draft.keep(row)


def _passages(rows: Callable[[], Iterable[Row]], least: int) -> Iterator[str]:
    group: list[tuple[str, str]] = []
    size = 0
    for pair in Texts(rows):
        if group and size + len(pair[1].encode()) > GROUP_BYTES:
            yield from (text for text, _ in drop_repeated_passages(group, least))
            group, size = [], 0
        group.append(pair)
        size += len(pair[1].encode())
    yield from (text for text, _ in drop_repeated_passages(group, least))
