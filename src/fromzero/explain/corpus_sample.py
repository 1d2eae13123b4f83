"""Rows of a corpus that may be too large to read: a few columns of all, or all columns of a few.

A row group, about 4 MB of text, is in memory at a time. Which ones are drawn is told by hashes, not by chance: the same
corpus gives the same sample.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fromzero.corpus.reading import optional
from fromzero.errors import UserError

GROUPS, DOCUMENTS, TEXT = 64, 2_000, 32_000_000
"""Most row groups that a sample is drawn from, and most documents and characters in it."""

T = TypeVar("T")
Row = dict[str, Any]
Place = tuple[Path, int, int]
"""Shard, row group, and row in it."""


def read_columns(paths: Sequence[Path], columns: Collection[str]) -> Iterator[tuple[Place, Row]]:
    """All rows of some shards, with these columns. Raises UserError for a shard that is damaged."""
    for path, group in _groups(paths):
        for number, row in enumerate(_read(path, group, columns)):
            yield (path, group, number), row


def fetch(places: Iterable[Place]) -> dict[Place, Row]:
    """Whole rows; each row group is read once."""
    found: dict[Place, Row] = {}
    for (path, group), same in itertools.groupby(sorted(set(places)), key=lambda place: place[:2]):
        rows = _read(path, group)
        found |= {place: rows[place[2]] for place in same}
    return found


def draw_sample(paths: Sequence[Path]) -> list[Row]:
    """So many whole rows as GROUPS, DOCUMENTS and TEXT allow, in the order of hashes: each is as likely as another."""
    rows: list[Row] = []
    for path, group in sorted(_groups(paths), key=lambda pair: _hash(f"{pair[0].name} {pair[1]}"))[:GROUPS]:
        rows = sorted(rows + _read(path, group), key=lambda row: (_hash(row["id"]), row["source"]))[:DOCUMENTS]
        sizes = itertools.accumulate(len(row["text"] or "") for row in rows)
        rows = rows[: max(1, sum(size <= TEXT for size in sizes))]
    return rows


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _groups(paths: Sequence[Path]) -> list[tuple[Path, int]]:
    return [(path, group) for path in paths for group in range(_parquet(path, lambda file: int(file.num_row_groups)))]


def _read(path: Path, group: int, columns: Collection[str] = ()) -> list[Row]:
    def ask(file: Any) -> list[Row]:
        table = file.read_row_group(group, [*columns] or None, use_threads=False)
        table.select([*columns] or ["id", "source", "text"])  # raises KeyError when one is missing
        rows: list[Row] = table.to_pylist()
        return rows

    return _parquet(path, ask)


def _parquet(path: Path, ask: Callable[[Any], T]) -> T:
    parquet = optional("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            return ask(file)
    except (OSError, ValueError, KeyError, optional("pyarrow").ArrowException) as error:
        raise UserError(f"{path} is damaged ({error}); build the corpus again") from error
