"""Where records come from: JSON lines, JSON, tables, Parquet, folders of texts, and data sets of Hugging Face."""

import csv
import itertools
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from fromzero.artifact import MANIFEST, here
from fromzero.console import say
from fromzero.corpus.encoding import NotTextError, decode
from fromzero.corpus.reading import optional
from fromzero.dataset import formats
from fromzero.dataset.formats import Conversation, Judged, Labelled, Preference
from fromzero.errors import UserError, missing_extra
from fromzero.files import digest_of
from fromzero.locations import cached, url_of

MAX_LINE_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 30  # of a list in JSON, which is read as a whole

Split = Literal["train", "validation"]
_SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "valid", "val", "dev")}
_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

R = TypeVar("R")


class Tally:
    """What is counted while records are read."""

    def __init__(self) -> None:
        self.bytes = 0
        """Bytes of the files that were read so far."""
        self.dropped: Counter[str] = Counter()
        """Records that were dropped, by reason."""
        self.first: dict[str, str] = {}
        """Place of the first one that was dropped for each reason."""
        self.repeated = self.leaked = 0
        """Records that ask what another one of their split does; held-out ones that ask what a learned one does."""

    def tell(self) -> None:
        """Say what was dropped or came twice."""
        for reason, count in self.dropped.items():
            say(f"dropped {count:,} records: {reason} (the first is {self.first[reason]})")
        if self.repeated or self.leaked:
            say(f"{self.repeated:,} records ask what another does; {self.leaked:,} held-out ones are learned as well")


def read_conversations(path: Path, tally: Tally | None = None) -> Iterator[tuple[Conversation, str]]:
    """The conversations of a file, in any form that `as_conversation` knows, each with its place, as a stream.

    Malformed records raise UserError that names file, line and key; unusable ones are dropped and counted by `tally`.
    """
    return _read(path, formats.as_conversation, tally)


def read_preferences(path: Path, tally: Tally | None = None) -> Iterator[tuple[Preference, str]]:
    """The same of pairs, in any form that `as_preference` knows."""
    return _read(path, formats.as_preference, tally)


def read_judged(path: Path, tally: Tally | None = None) -> Iterator[tuple[Judged, str]]:
    """The same of answers that are good or not."""
    return _read(path, formats.as_judged, tally)


def read_labelled(
    path: Path, tally: Tally | None = None, text: str = "text", label: str = "label", columns: tuple[str, ...] = ()
) -> Iterator[tuple[Labelled, str]]:
    """The same of labelled texts under these keys, or of a folder with a folder for each class and in it a text a file.

    columns: names of the columns of a table without header.
    """
    keys = ("text", "label") if path.is_dir() else (text, label)
    return _read(path, lambda record: formats.as_labelled(record, *keys), tally, columns)


def find_splits(path: Path) -> dict[Split, list[Path]]:
    """Split -> files of records or folders of classes. Raises UserError when there is nothing to learn from.

    path: a file, for training. A folder with train.* or train-*, and maybe validation (valid, val, dev); other splits
    are not read. A folder of files with other names, or of folders of texts: all for training.
    """
    if path.is_file():
        return {"train": [path]}
    inside = sorted(p for p in path.iterdir() if p.name[0] != "." and p.name != MANIFEST) if path.is_dir() else []
    usable = [p for p in inside if p.is_dir() or p.suffix in _SUFFIXES]
    found = {split: [p for p in usable if re.split(r"[-_.]", p.name)[0] in names] for split, names in _SPLITS.items()}
    if not any(found.values()):
        found["train"] = [p for p in usable if p.is_file()] or [path][: len(usable)]
    if not found["train"]:
        kinds = ", ".join(_SUFFIXES)
        raise UserError(f"{path} is neither a file of records nor a folder with train.jsonl (or {kinds}); name one")
    return {split: files for split, files in found.items() if files}


def bring(path: Path) -> Path:
    """The path, or what a URL names, brought here: an artifact, or with hf://org/name[:config] a data set.

    A data set is a folder of Parquet files, one a split, classes by their names. Raises UserError.
    """
    url = url_of(path) or ""
    if not (asked := re.fullmatch(r"hf://(?!datasets/)([^/:]+/[^/:]+)(?::(.+))?", url)):
        return here(path)
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    try:
        splits = datasets.load_dataset(asked[1], asked[2])
        identity = digest_of({key: split._fingerprint for key, split in splits.items()})
        folder = cached("datasets", url, identity)
        folder.mkdir(parents=True, exist_ok=True)
        for key, split in splits.items():
            if not (file := folder / f"{key}.parquet").exists():
                _store(split, file)
    except Exception as error:  # a network, a server and the parsers of many formats can fail in many ways
        raise UserError(f"{url} can't be had ({' '.join(str(error).split())[:300]}); check the name") from error
    return folder


def _store(split: Any, file: Path) -> None:
    """Write a split as Parquet, with the names of classes instead of their numbers."""
    import pyarrow
    from pyarrow import compute, parquet

    table = split.with_format("arrow")[:]
    for number, (column, kind) in enumerate(split.features.items()):
        if names := getattr(kind, "names", None):
            known = compute.if_else(compute.greater_equal(table[column], 0), table[column], None)
            table = table.set_column(number, column, pyarrow.array(names).take(known.combine_chunks()))
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as scratch:
        parquet.write_table(table, scratch)
    Path(scratch.name).rename(file)  # at once: it is whole for other processes


def _read(
    path: Path, parse: Callable[[Mapping[str, Any]], R], tally: Tally | None, columns: tuple[str, ...] = ()
) -> Iterator[tuple[R, str]]:
    tally = tally or Tally()
    for record, place in _rows(path, columns, tally):
        if not isinstance(record, dict):
            raise UserError(f'{place} is not an object with "messages" or other keys; correct or remove it')
        try:
            found = parse(record)
        except formats.Unusable as reason:
            tally.dropped[str(reason)] += 1
            tally.first.setdefault(str(reason), place)
            continue
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        yield found, place


def _rows(path: Path, columns: tuple[str, ...], tally: Tally) -> Iterator[tuple[Any, str]]:
    """The records of a file, or of a folder of classes, by its suffix."""
    if path.is_dir():
        yield from _class_rows(path, tally)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path, tally)
    elif path.suffix in _SUFFIXES:
        with path.open("rb") as file:
            if path.suffix in (".csv", ".tsv"):
                yield from _table_rows(path, file, columns, tally)
            elif path.suffix == ".json" and file.read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                tally.bytes += _size(path, MAX_FILE_BYTES)
                items = _parse_json(path.read_bytes(), str(path))
                yield from ((item, f"{path} item {number}") for number, item in enumerate(items, 1))
            else:
                file.seek(0)
                lines = _lines(path, file, tally)
                yield from ((_parse_json(line, place), place) for line, place in lines if line.strip())
    else:
        raise UserError(f"{path} has the suffix '{path.suffix}'; records are read from {', '.join(_SUFFIXES)}")


def _lines(path: Path, file: BinaryIO, tally: Tally) -> Iterator[tuple[bytes, str]]:
    """All lines and their places. Raises UserError for one that is too long."""
    for number in itertools.count(1):
        if not (raw := file.readline(MAX_LINE_BYTES + 1)):
            return
        tally.bytes += len(raw)
        place = f"{path} line {number}"
        if len(raw) > MAX_LINE_BYTES:
            raise UserError(f"{place} is longer than {MAX_LINE_BYTES} bytes; split the record")
        yield raw, place


def _parse_json(raw: bytes, place: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not valid JSON in UTF-8 ({error}); correct or remove it") from error


def _table_rows(path: Path, file: BinaryIO, columns: tuple[str, ...], tally: Tally) -> Iterator[tuple[Any, str]]:
    """Rows of a table whose first line names the columns unless they are given.

    .csv: separated by the comma, semicolon or tab that its first line has most of, with quotes around cells that need
    them. .tsv: by tabs, and a quote is a letter like others (IANA, text/tab-separated-values).
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    plain, first = path.suffix == ".tsv", file.readline(MAX_LINE_BYTES)
    file.seek(0)
    delimiter = "\t" if plain else max(",;\t", key=lambda mark: first.count(mark.encode()))
    quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    rows = csv.reader((_text(*line) for line in _lines(path, file, tally)), delimiter=delimiter, quoting=quoting)
    try:
        names = list(columns) or next(rows, [])
        for cells in filter(None, rows):
            place = f"{path} line {rows.line_num}"
            if len(cells) != len(names):
                raise UserError(f"{place} has {len(cells)} cells, not {len(names)} ({', '.join(names)[:200]})")
            yield dict(zip(names, cells, strict=True)), place
    except csv.Error as error:
        raise UserError(f"{path} line {rows.line_num} is no row of a table ({error}); correct it") from error


def _text(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not in UTF-8 ({error}); convert the file") from error


def _parquet_rows(path: Path, tally: Tally) -> Iterator[tuple[Any, str]]:
    pyarrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as table:
            batches = table.iter_batches(batch_size=64, use_threads=False)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from ((row, f"{path} row {number}") for number, row in enumerate(rows, 1))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({' '.join(str(error).split())[:200]}); it is damaged") from error
    tally.bytes += path.stat().st_size


def _class_rows(folder: Path, tally: Tally) -> Iterator[tuple[Any, str]]:
    for file in sorted(file for file in folder.glob("[!.]*/[!.]*") if file.is_file()):
        tally.bytes += _size(file, MAX_LINE_BYTES)
        try:
            yield {"text": decode(file.read_bytes()), "label": file.parent.name}, str(file)
        except NotTextError as error:
            raise UserError(f"{file} is no text ({error}); remove it") from error


def _size(path: Path, most: int) -> int:
    if (size := path.stat().st_size) > most:
        raise UserError(f"{path} has {size:,} bytes, more than {most:,}, in one piece; split it, or write JSON lines")
    return size
