"""Files of records: JSON lines, JSON, CSV and Parquet, an object or a row to each document."""

import csv
import functools
import io
import itertools
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from fromzero.corpus.document import BAD_RECORD, DAMAGED, DOCUMENT_TOO_LARGE
from fromzero.corpus.encoding import decode_stream, detect
from fromzero.corpus.reading import Opened, Raw, ReadError, ReadSettings, Record, failure, optional, whole


def read_jsonl(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """JSON lines: an object a line, with the text under `text_key` or 'content', and maybe id, url and title."""
    longest = settings.limits.document_bytes
    with _characters(file.stream) as text:
        for number in itertools.count(1):
            try:
                line = _line(text, longest)
            except ReadError as error:
                yield failure(f"{error}: line {number}")
                continue
            if not line:
                return
            if line.strip():
                yield Record(functools.partial(_json_record, line, number, settings))


def _characters(stream: BinaryIO) -> io.TextIOWrapper:
    """A file as text in which lines end as they do in the file."""
    return io.TextIOWrapper(stream, encoding=detect(stream), errors="replace", newline="\n")


def _line(text: io.TextIOWrapper, longest: int) -> str:
    """The next line, or nothing at the end. A line that is too long is read to its end, and raises ReadError."""
    line = text.readline(longest + 1)
    if len(line) <= longest:
        return line
    while line and not line.endswith("\n"):
        line = text.readline(1 << 20)
    raise ReadError(DOCUMENT_TOO_LARGE)


def _json_record(line: str, number: int, settings: ReadSettings) -> Raw:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep or a number too long"
        raise ReadError(f"{BAD_RECORD}: line {number} is not valid JSON ({message})") from error
    return record_text(record, settings, f"line {number}")


def read_json(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """A JSON file that holds one object, or a list of them, each like an object of JSON lines."""
    try:
        data = io.BytesIO(whole(file.stream, settings.limits.file_bytes))
        value = json.loads("".join(decode_stream(data, detect(data))))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{DAMAGED}: not valid JSON ({str(error)[:100]})") from error
    for number, record in enumerate(value if isinstance(value, list) else [value], 1):
        yield Record(functools.partial(record_text, record, settings, f"item {number}"))


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
        for number in itertools.count(1):
            rows = csv.reader(iter(functools.partial(_line, text, longest), ""), delimiter=delimiter)
            try:
                row = next(rows, None)
            except (
                csv.Error,
                ReadError,
            ) as error:  # the next reader begins with the next line
                reason = BAD_RECORD if isinstance(error, csv.Error) else str(error)
                yield failure(f"{reason}: row {number}")
                continue
            if row is None:
                return
            if row:
                record = dict(zip(header, row, strict=False))
                yield Record(functools.partial(record_text, record, settings, f"row {number}"))


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
            rows = itertools.count(1)
            for batch in table.iter_batches(batch_size=64, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield Record(functools.partial(record_text, row, settings, f"row {next(rows)}"))
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        raise ReadError(f"{DAMAGED}: {' '.join(str(error).split())[:200]}") from error


def record_text(record: Any, settings: ReadSettings, where: str) -> Raw:
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
