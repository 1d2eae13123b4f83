"""WARC files of web crawls (ISO 28500): pages as they were sent, and Common Crawl's WET texts."""

import collections
import functools
from collections.abc import Iterator
from typing import Any

from fromzero.corpus.document import DAMAGED, UNKNOWN_FORMAT
from fromzero.corpus.encoding import decode_declared
from fromzero.corpus.html import decode_html, page_text
from fromzero.corpus.reading import Opened, Raw, ReadError, ReadSettings, Record, failure, optional, whole

_PAGES = ("text/html", "application/xhtml+xml")


def read_warc(file: Opened, settings: ReadSettings) -> Iterator[Record]:
    """Successful responses of HTML or plain text, and conversion records, with their address and date."""
    warc = optional("fastwarc.warc")
    types = warc.WarcRecordType
    passed_over: collections.Counter[str] = collections.Counter()
    wanted = types.response | types.resource | types.conversion | types.unknown
    for record in warc.ArchiveIterator(file.stream, record_types=wanted, auto_decode="all"):
        kind = _content_type(record)
        status = record.http_headers.status_code if record.http_headers is not None else 200
        if status == 200 and kind in (*_PAGES, "text/plain"):
            yield Record(functools.partial(_parse, record, kind, settings))
            if file.allowance.left < 0:
                return  # the record that says so was the last
        else:
            passed_over[kind if status == 200 else f"status {status}"] += 1
    if passed_over:
        listed = ", ".join(f"{count} {kind}" for kind, count in passed_over.most_common(5))
        yield failure(f"{UNKNOWN_FORMAT}: {passed_over.total()} records ({listed})")


def _content_type(record: Any) -> str:
    named = record.http_content_type if record.is_http else record.headers.get("Content-Type", "")
    return (named or "no type").partition(";")[0].strip().lower()[:50]


def _parse(record: Any, kind: str, settings: ReadSettings) -> Raw:
    data = whole(record.reader, settings.limits.file_bytes)
    coded = record.is_http and any(record.http_headers.get(f"{kind}-Encoding") for kind in ("Content", "Transfer"))
    if len(data) < record.content_length and not coded:
        raise ReadError(f"{DAMAGED}: the record is cut off")
    label = record.http_charset if record.is_http else "utf-8"
    url = record.headers.get("WARC-Target-URI", "").strip("<>")
    meta = {"date": date} if (date := record.headers.get("WARC-Date", "")) else {}
    if kind not in _PAGES:
        return Raw([decode_declared(data, label)], url, meta)
    page = page_text(decode_html(data, label), settings.html)
    return Raw(page.blocks, url or page.url, meta | page.meta)
