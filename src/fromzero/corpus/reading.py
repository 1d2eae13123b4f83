"""One file -> the raw documents in it, by format. Runs in a child process: every byte here may be hostile.

A reader yields `Raw` documents, or `Rejected` for a record that can't be read, so that one bad line costs one line.
Errors of the file as a whole are raised as ReadError with the reason.
"""

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fromzero.corpus.document import BAD_RECORD, BINARY, DAMAGED, DOCUMENT_TOO_LARGE, TOO_LARGE
from fromzero.corpus.encoding import NotTextError, decode_declared, decode_stream, detect
from fromzero.corpus.settings import Limits
from fromzero.errors import missing_extra

TINY_BYTES = 200
"""When the precise extractor finds less than this on a page, the fast one is asked as well."""
TINY_SHARE = 0.1
"""When both find less than this share of all that is visible on a page, everything visible is taken."""
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.-]{2,40})""")
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,500})</title", re.IGNORECASE)
_CANONICAL = re.compile(
    r"""<link[^>]{0,200}?rel=["']?canonical["']?[^>]{0,200}?href=["']([^"'<>]{1,2000})""", re.IGNORECASE
)
_FRONT_MATTER = re.compile(
    r"\A\ufeff?---[ \t]*\r?\n(.{0,20000}?)^(?:---|\.\.\.)[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE
)
_FRONT_TITLE = re.compile(r"""^title:[ \t]*["']?([^\n]{1,500}?)["']?[ \t]*\r?$""", re.MULTILINE)


class ReadError(Exception):
    """The file can't be read; the message is the reason for the rejected document."""


@dataclasses.dataclass(frozen=True)
class Raw:
    """A document before normalisation, its text in blocks."""

    blocks: Iterable[str]
    url: str = ""
    meta: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that can't be read, with the reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class ReadSettings:
    """What readers need to know."""

    limits: Limits
    html: str
    text_key: str
    heading_keys: tuple[str, ...] = ()


def read(path: Path, kind: str, settings: ReadSettings) -> Iterator[Raw | Rejected]:
    """The documents of one file, streamed where the format allows. Raises ReadError, OSError, MemoryError."""
    try:
        yield from READERS[kind](path, settings)
    except NotTextError as error:
        raise ReadError(f"{BINARY}: {error}") from error


def read_text(path: Path, settings: ReadSettings) -> Iterator[Raw]:
    """Plain text and reStructuredText: the whole file, as it is, in blocks."""
    with path.open("rb") as file:
        yield Raw(decode_stream(file, detect(file)))


def read_markdown(path: Path, settings: ReadSettings) -> Iterator[Raw]:
    """Markdown: as text, without the front matter that site generators put before it."""
    with path.open("rb") as file:
        blocks = decode_stream(file, detect(file))
        first = next(blocks, "")
        meta: dict[str, str] = {}
        if (front := _FRONT_MATTER.match(first)) is not None:
            first = first[front.end() :]
            meta = {"title": title[1]} if (title := _FRONT_TITLE.search(front[1])) else {}
        yield Raw(itertools.chain([first], blocks), meta=meta)


def read_html(path: Path, settings: ReadSettings) -> Iterator[Raw]:
    """A web page: its main text, without navigation, scripts and footers."""
    html = decode_html(_whole(path, settings.limits))
    title, canonical = _TITLE.search(html), _CANONICAL.search(html)
    meta = {"title": " ".join(title[1].split())} if title else {}
    yield Raw([extract_html(html, settings.html)], canonical[1] if canonical else "", meta)


def decode_html(data: bytes) -> str:
    """A page's bytes as text; what the page says about its encoding counts if the bytes agree."""
    label = _XML_CHARSET.search(data[:1024]) or _META_CHARSET.search(data[:8192])
    return decode_declared(data, label[1].decode("ascii") if label else None)


def extract_html(html: str, mode: str) -> str:
    """The main text of a page, 'precise' or 'fast'; everything visible when there is no main part to be found."""
    try:
        from resiliparse.extract.html2text import extract_plain_text
    except ImportError as error:
        raise missing_extra("resiliparse", "corpus") from error
    best = _trafilatura(html) if mode == "precise" else ""
    if len(best.encode("utf-8", "replace")) < TINY_BYTES:
        best = max(best, extract_plain_text(html, main_content=True, alt_texts=False), key=len)
        visible = extract_plain_text(html, main_content=False, alt_texts=False)
        best = visible if len(best) < TINY_SHARE * len(visible) else best
    return best


def _trafilatura(html: str) -> str:
    try:
        import trafilatura
    except ImportError as error:
        raise missing_extra("trafilatura", "corpus") from error
    found = trafilatura.extract(html, favor_precision=True, include_comments=False, output_format="txt")
    return found or ""


def read_pdf(path: Path, settings: ReadSettings) -> Iterator[Raw]:
    """A PDF: the text of its pages, in blocks."""
    try:
        import pypdfium2
    except ImportError as error:
        raise missing_extra("pypdfium2", "corpus") from error
    data = _whole(path, settings.limits)
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise ReadError(f"{DAMAGED}: {' '.join(str(error).split())}") from error
    title = pdf.get_metadata_dict(skip_empty=True).get("Title")
    yield Raw(_pdf_pages(pdf), meta={"title": title} if title else {})
    pdf.close()


def _pdf_pages(pdf: Any) -> Iterator[str]:
    for number in range(len(pdf)):
        page = pdf[number]
        text_page = page.get_textpage()
        yield text_page.get_text_range() + "\n\n"
        text_page.close()
        page.close()


def read_jsonl(path: Path, settings: ReadSettings) -> Iterator[Raw | Rejected]:
    """JSON lines: an object a line, with the text under `text_key` or 'content', and maybe id, url and title."""
    with path.open("rb") as binary:
        codec = detect(binary)
    longest = settings.limits.document_bytes
    with path.open(encoding=codec, errors="replace", newline="\n") as file:
        for number in itertools.count(1):
            line = file.readline(longest + 1)
            if not line:
                return
            if len(line) > longest:
                while line and not line.endswith("\n"):
                    line = file.readline(1 << 20)
                yield Rejected(f"{DOCUMENT_TOO_LARGE}: line {number}")
            elif line.strip():
                yield _json_record(line, number, settings)


def _json_record(line: str, number: int, settings: ReadSettings) -> Raw | Rejected:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep or a number too long"
        return Rejected(f"{BAD_RECORD}: line {number} is not valid JSON ({message})")
    return _record(record, settings, f"line {number}")


def read_json(path: Path, settings: ReadSettings) -> Iterator[Raw | Rejected]:
    """A JSON file that holds one object, or a list of them, each like an object of JSON lines."""
    try:
        data = io.BytesIO(_whole(path, settings.limits))
        value = json.loads("".join(decode_stream(data, detect(data))))
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{DAMAGED}: not valid JSON ({str(error)[:100]})") from error
    for number, record in enumerate(value if isinstance(value, list) else [value], 1):
        yield _record(record, settings, f"item {number}")


def _record(record: Any, settings: ReadSettings, where: str) -> Raw | Rejected:
    if not isinstance(record, dict):
        return Rejected(f"{BAD_RECORD}: {where} is not a JSON object")
    text = record.get(settings.text_key, record.get("content"))
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)
    if not isinstance(text, str):
        return Rejected(f"{BAD_RECORD}: {where} has no text under '{settings.text_key}'")
    headings = [str(record[key]) for key in settings.heading_keys if isinstance(record.get(key), str)]
    text = "\n".join([*headings, text])
    meta = {key: str(record[key]) for key in ("id", "title") if isinstance(record.get(key), str | int)}
    url = record.get("url")
    return Raw([text], url if isinstance(url, str) else "", meta)


def read_parquet(path: Path, settings: ReadSettings) -> Iterator[Raw | Rejected]:
    """A Parquet file with a column of texts, read in small batches."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("pyarrow", "corpus") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            wanted = {settings.text_key, "content", "id", "url", "title", *settings.heading_keys}
            columns = [name for name in file.schema_arrow.names if name in wanted]
            if not {settings.text_key, "content"} & set(columns):
                raise ReadError(f"{BAD_RECORD}: no column '{settings.text_key}'")
            rows = itertools.count(1)
            for batch in file.iter_batches(batch_size=64, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield _record(row, settings, f"row {next(rows)}")
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        raise ReadError(f"{DAMAGED}: {' '.join(str(error).split())[:200]}") from error


def _whole(path: Path, limits: Limits) -> bytes:
    """All bytes of a file that has to be parsed as one."""
    with path.open("rb") as file:
        data = file.read(limits.file_bytes + 1)
    if len(data) > limits.file_bytes:
        raise ReadError(f"{TOO_LARGE}: more than {limits.file_bytes:,} bytes")
    return data


READERS: dict[str, Callable[[Path, ReadSettings], Iterator[Raw | Rejected]]] = {
    "text": read_text,
    "markdown": read_markdown,
    "html": read_html,
    "pdf": read_pdf,
    "json": read_json,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
}
