"""What reading means: a file, or a member of an archive, is opened, and its records come one by one.

A `Record` is one document that is there but not parsed yet: `parse()` gives its `Raw` text, or raises ReadError with
the reason, so that one bad record costs one record, and records can be skipped without the risk that parsing is.
Runs in a child process: every byte here may be hostile. `formats` has the table of all readers.
"""

import dataclasses
import importlib
import itertools
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from fromzero.corpus.document import BINARY, DAMAGED, DOCUMENT_TOO_LARGE, TOO_LARGE, UNOPENED, UNPACKED_TOO_LARGE
from fromzero.corpus.encoding import NotTextError, decode_stream, detect
from fromzero.corpus.settings import Limits
from fromzero.errors import DISK_FULL, UserError, missing_extra

_FRONT_MATTER = re.compile(
    r"\A\ufeff?---[ \t]*\r?\n(.{0,20000}?)^(?:---|\.\.\.)[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE
)
_FRONT_TITLE = re.compile(r"""^title:[ \t]*["']?([^\n]{1,500}?)["']?[ \t]*\r?$""", re.MULTILINE)


class ReadError(Exception):
    """The file or record can't be read; the message is the reason for the rejected document."""


@dataclasses.dataclass(frozen=True)
class Raw:
    """A document before normalisation, its text in blocks."""

    blocks: Iterable[str]
    url: str = ""
    meta: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Record:
    """A document that can be parsed until the next record is asked for."""

    parse: Callable[[], Raw]
    inside: str = ""
    """Its place in an archive: '!/folder/page.html'."""


@dataclasses.dataclass(frozen=True)
class ReadSettings:
    """What readers need to know."""

    limits: Limits
    html: str
    text_key: str
    heading_keys: tuple[str, ...] = ()


@dataclasses.dataclass
class Allowance:
    """How many bytes a file from outside may still unpack to, on all levels of nesting together."""

    left: int

    def spend(self, unpacked: int) -> None:
        """Raises ReadError when there is no allowance left."""
        self.left -= unpacked
        if self.left < 0:
            raise ReadError(f"{UNPACKED_TOO_LARGE}: it grows as only bombs do")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A file or a member of an archive, open for reading from its start."""

    stream: BinaryIO
    """Seekable from its start."""
    name: str
    allowance: Allowance
    depth: int = 0
    """How many archives and compressed files it is inside of."""


def optional(name: str) -> Any:
    """A module of the extra `corpus`. Raises UserError, with the command that installs it, when it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra(name.partition(".")[0], "corpus") from error


def failure(reason: str, inside: str = "") -> Record:
    """A record of which only the reason is known for which it can't be read."""

    def parse() -> Raw:
        raise ReadError(reason)

    return Record(parse, inside)


def reason_of(error: Exception) -> str:
    """The reason to store for an error while reading. What is not about the bytes that were read is raised again."""
    if isinstance(error, MemoryError | UserError):
        raise error
    if isinstance(error, ReadError):
        return str(error)
    if isinstance(error, NotTextError):
        return f"{BINARY}: {error}"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        raise UserError(f"{tempfile.gettempdir()}: {error.strerror}; make room for temporary files") from error
    if isinstance(error, OSError) and error.errno is not None:
        return f"{UNOPENED}: {error.strerror or error}"
    return f"{DAMAGED}: {type(error).__name__}"  # a parser of other people's formats can raise anything at all


def bounded(blocks: Iterable[str], limit: int, cause: str = "") -> Iterator[str]:
    """The same blocks. Raises ReadError when they are more than `limit` bytes of UTF-8."""
    total = 0
    for block in blocks:
        total += len(block.encode("utf-8", "surrogatepass"))
        if total > limit:
            raise ReadError(f"{DOCUMENT_TOO_LARGE}: more than {limit:,} bytes{cause}")
        yield block


def whole(stream: BinaryIO, limit: int) -> bytes:
    """All bytes of what has to be parsed as one. Raises ReadError when there are more than `limit`."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise ReadError(f"{TOO_LARGE}: more than {limit:,} bytes")
    return data


def parse_text(file: Opened, settings: ReadSettings) -> Raw:
    """Plain text and reStructuredText: the whole file, as it is, in blocks."""
    return Raw(decode_stream(file.stream, detect(file.stream)))


def parse_markdown(file: Opened, settings: ReadSettings) -> Raw:
    """Markdown: as text, without the front matter that site generators put before it."""
    blocks = decode_stream(file.stream, detect(file.stream))
    first = next(blocks, "")
    meta: dict[str, str] = {}
    if (front := _FRONT_MATTER.match(first)) is not None:
        first = first[front.end() :]
        meta = {"title": title[1]} if (title := _FRONT_TITLE.search(front[1])) else {}
    return Raw(itertools.chain([first], blocks), meta=meta)
