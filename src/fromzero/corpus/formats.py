"""The table of formats, and one file -> its records, through archives in archives."""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from fromzero.corpus.archives import ARCHIVES, decompressed
from fromzero.corpus.document import NESTED, UNKNOWN_FORMAT
from fromzero.corpus.files import kind_of
from fromzero.corpus.html import parse_html
from fromzero.corpus.packages import parse_docx, parse_epub
from fromzero.corpus.pdf import parse_pdf
from fromzero.corpus.reading import (
    Allowance,
    Opened,
    Raw,
    ReadError,
    ReadSettings,
    Record,
    failure,
    parse_markdown,
    parse_text,
    reason_of,
)
from fromzero.corpus.records import read_csv, read_json, read_jsonl, read_parquet
from fromzero.corpus.warc import read_warc

PARSERS: dict[str, Callable[[Opened, ReadSettings], Raw]] = {  # a file is a document
    "text": parse_text,
    "markdown": parse_markdown,
    "html": parse_html,
    "pdf": parse_pdf,
    "docx": parse_docx,
    "epub": parse_epub,
}
READERS: dict[str, Callable[[Opened, ReadSettings], Iterator[Record]]] = {  # a file holds documents
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
    "warc": read_warc,
}
_LONGEST_NAME = 500
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def read(path: Path, kind: str, settings: ReadSettings) -> Iterator[Record]:
    """The records of one file, streamed where the format allows; each can be parsed until the next is asked for.

    Raises ReadError, OSError, MemoryError or what a parser raises when there is no way to go on.
    """
    limits = settings.limits
    with path.open("rb") as stream:
        allowance = Allowance(limits.document_bytes + int(limits.unpacked_ratio * path.stat().st_size))
        yield from _records(Opened(stream, path.name, allowance), kind, settings)


def _records(file: Opened, kind: str, settings: ReadSettings) -> Iterator[Record]:
    if file.depth > settings.limits.nesting:
        raise ReadError(f"{NESTED}: deeper than {settings.limits.nesting}")
    if kind in PARSERS:
        yield Record(functools.partial(PARSERS[kind], file, settings))
    elif kind in READERS:
        yield from READERS[kind](file, settings)
    elif kind in ARCHIVES:
        yield from _archived(file, kind, settings)
    else:
        stem, suffix = os.path.splitext(file.name)
        name = f"{stem}.tar" if suffix.lower() == ".tgz" else stem
        if (inner := kind_of(name)) is None:
            raise ReadError(f"{UNKNOWN_FORMAT}: {_suffix(name)}")
        yield from _records(Opened(decompressed(file, kind), name, file.allowance, file.depth + 1), inner, settings)


def _archived(file: Opened, kind: str, settings: ReadSettings) -> Iterator[Record]:
    """The records of all members, with their places; what goes wrong in a member costs that member."""
    passed_over: collections.Counter[str] = collections.Counter()
    for name, opener in ARCHIVES[kind](file, settings.limits.file_bytes):
        if any(part.startswith((".", "__MACOSX")) and part.strip(".") for part in name.split("/")):
            continue  # hidden, as in folders
        if opener is None or (inner := kind_of(name)) is None:
            passed_over["links" if opener is None else _suffix(name)] += 1
            continue
        try:
            with opener() as stream:
                for record in _records(Opened(stream, name, file.allowance, file.depth + 1), inner, settings):
                    yield dataclasses.replace(record, inside=f"!/{_shown(name)}{record.inside}")
        except Exception as error:
            yield failure(reason_of(error), f"!/{_shown(name)}")
        if file.allowance.left < 0:
            return  # the record that says so was the last
    if passed_over:
        listed = ", ".join(f"{count} {suffix}" for suffix, count in passed_over.most_common(5))
        yield failure(f"{UNKNOWN_FORMAT}: {passed_over.total()} members ({listed})")


def _suffix(name: str) -> str:
    return _shown(os.path.splitext(name)[1].lower()) or "no suffix"


def _shown(name: str) -> str:
    """A member's name as it can be stored and printed."""
    return _NOT_IN_NAMES.sub("\ufffd", name[:_LONGEST_NAME])
