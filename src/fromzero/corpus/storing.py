"""Documents <-> Parquet shards, written and read as streams. The same documents give the same bytes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

from fromzero.corpus.document import Document
from fromzero.errors import UserError, missing_extra

SHARD_BYTES = 256_000_000
"""Text in one shard."""
GROUP_BYTES = 4_000_000
"""Text in one row group, the unit that is held in memory when writing and reading."""
GROUP_ROWS = 10_000


Columns = Mapping[str, Literal["string", "map"]]


class ShardWriter:
    """Writes rows into NAME-00000.parquet, NAME-00001.parquet, ... of a folder."""

    def __init__(self, folder: Path, name: str, columns: Columns) -> None:
        pa = _pyarrow()
        kinds = {"string": pa.string(), "map": pa.map_(pa.string(), pa.string())}
        self.schema = pa.schema([(column, kinds[kind]) for column, kind in columns.items()])
        self.folder, self.name = folder, name
        self.rows: list[dict[str, Any]] = []
        self.shard = 0
        self.group_bytes = self.shard_bytes = 0
        self.file: Any = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._close()

    def finish(self) -> None:
        """Write what is left; the shards can be read from now on."""
        self._flush()
        self._close()

    def write(self, row: dict[str, Any], size: int) -> None:
        """Add a row of about `size` bytes."""
        self.rows.append(row)
        self.group_bytes += size
        if self.group_bytes >= GROUP_BYTES or len(self.rows) >= GROUP_ROWS:
            self._flush()
        if self.shard_bytes >= SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file, self.shard, self.shard_bytes = None, self.shard + 1, 0

    def _flush(self) -> None:
        if not self.rows:
            return
        pa = _pyarrow()
        if self.file is None:
            path = self.folder / f"{self.name}-{self.shard:05d}.parquet"
            self.file = pa.parquet.ParquetWriter(path, self.schema, compression="zstd")
        self.file.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.shard_bytes += self.group_bytes
        self.rows, self.group_bytes = [], 0


class DocumentWriter:
    """Writes documents into shards and counts them."""

    COLUMNS: ClassVar[Columns] = {
        "id": "string",
        "text": "string",
        "source": "string",
        "url": "string",
        "language": "string",
        "meta": "map",
    }

    def __init__(self, folder: Path, name: str) -> None:
        self.shards = ShardWriter(folder, name, self.COLUMNS)
        self.documents = self.bytes = self.characters = 0

    def __enter__(self) -> "DocumentWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shards.__exit__(kind, error, trace)

    def write(self, document: Document) -> None:
        """Add a document."""
        size = len(document.text.encode())
        row = vars(document) | {"meta": sorted(document.meta.items())}
        self.shards.write(row, size)
        self.documents += 1
        self.bytes += size
        self.characters += len(document.text)


def read_rows(folder: Path, name: str, first: int = 0) -> Iterator[dict[str, Any]]:
    """The rows from `first` on of all shards NAME-*.parquet of a folder, in order, a row group in memory at a time."""
    pa = _pyarrow()
    for path in sorted(Path(folder).glob(f"{name}-*.parquet")):
        with pa.parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if (rows := file.metadata.row_group(group).num_rows) > first:
                    yield from file.read_row_group(group, use_threads=False).slice(first).to_pylist()
                first = max(0, first - rows)


def read_corpus(path: Path, split: Literal["train", "validation"], first: int = 0) -> Iterator[Document]:
    """The documents of one side of a corpus, streamed in reading order, from number `first` on.

    path: the folder of a finished corpus; that it is one and undamaged is checked by `artifact.open_artifact`.
    Raises UserError when the folder holds no such documents.
    """
    if not next(Path(path).glob(f"{split}-*.parquet"), None):
        raise UserError(f"{path} holds no {split} documents; make it with: fromzero corpus build --output {path}")
    return (Document(**row | {"meta": dict(row["meta"])}) for row in read_rows(path, split, first))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    return pyarrow
