"""Files of records: JSON lines, JSON, CSV and Parquet, an object or a row to each document."""

import csv
import functools
import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from fromzero.corpus.document import BAD_RECORD, DAMAGED, DOCUMENT_TOO_LARGE
from fromzero.corpus.encoding import decode_stream, detect
from fromzero.corpus.reading import Opened, Raw, ReadError, ReadSettings, Record, failure, optional, whole


def read_jsonl(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """JSON lines: an object a line, with the text under `text_key` or 'content', and maybe id, url and title."""
    with _characters(file.stream) as text:
        lines = map(str.strip, _lines(text, settings.limits.document_bytes))
        yield from _each(lines, "line", functools.partial(_json_record, settings=settings))


def _each(rows: Iterator[Any], what: str, parse: Callable[[Any, str], Raw]) -> Iterator[Record]:
    """A record of each row that is not empty, by parse(row, "line 7"); one that can't be read costs that one."""
    for number in itertools.count(1):
        try:
            row = next(rows, None)
        except (csv.Error, ReadError) as error:  # `rows` goes on with the next line
            yield failure(f"{BAD_RECORD if isinstance(error, csv.Error) else error}: {what} {number}")
            continue
        if row is None:
            return
        if row:
            yield Record(functools.partial(parse, row, f"{what} {number}"))


def _characters(stream: BinaryIO) -> io.TextIOWrapper:
    """A file as text in which lines end as they do in the file."""
    return io.TextIOWrapper(stream, encoding=detect(stream), errors="replace", newline="\n")


def _lines(text: io.TextIOWrapper, longest: int) -> Iterator[str]:
    """All lines. One that is too long is read to its end and raises ReadError, after which the next can be had."""

    def line() -> str:
        found = text.readline(longest + 1)
        if len(found) <= longest:
            return found
        while found and not found.endswith("\n"):
            found = text.readline(1 << 20)
        raise ReadError(DOCUMENT_TOO_LARGE)

    return iter(line, "")


def _json_record(line: str, where: str, settings: ReadSettings) -> Raw:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep or a number too long"
        raise ReadError(f"{BAD_RECORD}: {where} is not valid JSON ({message})") from error
    return record_text(record, where, settings)


def read_json(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """A JSON file that holds one object, or a list of them, each like an object of JSON lines."""
    try:
        data = io.BytesIO(whole(file.stream, settings.limits.file_bytes))
        value = json.loads("".join(decode_stream(data, detect(data))))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{DAMAGED}: not valid JSON ({str(error)[:100]})") from error
    for number, record in enumerate(value if isinstance(value, list) else [value], 1):
        yield Record(functools.partial(record_text, record, f"item {number}", settings))


def read_csv(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """A table in text, separated by commas (or tabs, if there are more of them in its first line), with a header."""
    longest = settings.limits.document_bytes
    csv.field_size_limit(longest)  # of lines in quotes that never end
    with _characters(file.stream) as text:
        first = text.readline(1 << 16).lstrip("\ufeff")
        delimiter = max(",\t;", key=first.count)
        header = next(csv.reader([first], delimiter=delimiter), [])
        if not {settings.text_key, "content"} & set(header):
            raise ReadError(f"{BAD_RECORD}: no column '{settings.text_key}'")
        rows = csv.DictReader(_lines(text, longest), header, delimiter=delimiter)
        yield from _each(rows, "row", functools.partial(record_text, settings=settings))


def read_parquet(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """A Parquet file with a column of texts, read in small batches."""
    pyarrow, parquet = optional("pyarrow"), optional("pyarrow.parquet")
    data = io.BytesIO(whole(file.stream, settings.limits.file_bytes)) if file.depth else file.stream
    try:
        with parquet.ParquetFile(data) as table:
            wanted = {settings.text_key, "content", "id", "url", "title", *settings.heading_keys}
            columns = [name for name in table.schema_arrow.names if name in wanted]
            if not {settings.text_key, "content"} & set(columns):
                raise ReadError(f"{BAD_RECORD}: no column '{settings.text_key}'")
            batches = table.iter_batches(batch_size=64, columns=columns, use_threads=False)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from _each(rows, "row", functools.partial(record_text, settings=settings))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        raise ReadError(f"{DAMAGED}: {' '.join(str(error).split())[:200]}") from error


def record_text(record: Any, where: str, settings: ReadSettings) -> Raw:
    """The document of a JSON object or a row. Raises ReadError when there is no text in it."""
    if not isinstance(record, dict):
        raise ReadError(f"{BAD_RECORD}: {where} is not a JSON object")
    text = record.get(settings.text_key, record.get("content"))
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        raise ReadError(f"{BAD_RECORD}: {where} has no text under '{settings.text_key}'")
    headings = [str(record[key]) for key in settings.heading_keys if isinstance(record.get(key), str)]
    text = "\n".join([*headings, text])
    meta = {key: str(record[key]) for key in ("id", "title") if isinstance(record.get(key), str | int)}
    url = record.get("url")
    return Raw([text], url if isinstance(url, str) else "", meta)
