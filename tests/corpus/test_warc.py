"""WARC files written record by record."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from fromzero.corpus.files import kind_of
from fromzero.corpus.formats import read
from fromzero.corpus.reading import Raw, ReadSettings, reason_of
from fromzero.corpus.settings import Limits
from tests.corpus.test_archives import zstd

SETTINGS = ReadSettings(Limits(), "fast", "text")
DATE = "2024-02-03T04:05:06Z"


def record(kind: str, body: bytes, content_type: str, length: int | None = None, url: str = "https://a.org/x") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: {DATE}\r\n"
    head += f"Content-Type: {content_type}\r\n"
    head += "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nContent-Length: "
    return f"{head}{len(body) if length is None else length}\r\n\r\n".encode() + body + b"\r\n\r\n"


def response(body: bytes, content_type: str, status: int = 200, headers: str = "", **fields: int) -> bytes:
    http = f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\n{headers}\r\n".encode() + body
    return record("response", http, "application/http; msgtype=response", **fields)


def found(path: Path, settings: ReadSettings = SETTINGS) -> list[Raw | str]:
    answers: list[Raw | str] = []
    try:
        for entry in read(path, str(kind_of(path.name)), settings):
            try:
                raw = entry.parse()
                answers.append(Raw("".join(raw.blocks), raw.url, raw.meta))
            except Exception as error:
                answers.append(reason_of(error))
    except Exception as error:
        answers.append(reason_of(error))
    return answers


@pytest.fixture
def crawl(page: Callable[[str, str], str], chinese: str) -> list[bytes]:
    html = page("utf-8", chinese * 4)
    return [
        record("warcinfo", b"software: x\r\n", "application/warc-fields"),
        record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
        response(html.encode(), "text/html; charset=utf-8"),
        response(html.replace("utf-8", "x").encode("gb18030"), "text/html; charset=gb2312"),
        response(gzip.compress(html.encode()), "text/html", headers="Content-Encoding: gzip\r\n"),
        response(b"User-agent: *", "text/plain"),
        response(b"\x89PNG", "image/png"),
        response(b"gone", "text/html", status=404),
        record("conversion", chinese.encode(), "text/plain"),
    ]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst", "a.warc.wet.gz"])
def test_pages_and_texts_of_a_crawl(tmp_path: Path, name: str, crawl: list[bytes], chinese: str) -> None:
    pack = {"gz": gzip.compress, "zst": zstd}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(b"".join(map(pack, crawl)))  # each record packed on its own, as crawlers do
    *documents, rest = found(tmp_path / name)
    assert rest == "format that is not read: 2 records (1 image/png, 1 status 404)"
    pages = [raw for raw in documents if isinstance(raw, Raw)]
    assert [chinese * 4 in raw.blocks for raw in pages] == [True, True, True, False, False]
    assert [pages[3].blocks, pages[4].blocks] == ["User-agent: *", chinese]
    assert all((raw.url, raw.meta["date"]) == ("https://a.org/x", DATE) for raw in pages)
    assert pages[0].meta["title"] == "标题 Title"


def test_a_large_or_lying_record_costs_what_it_spoils(tmp_path: Path, crawl: list[bytes]) -> None:
    path, good = tmp_path / "a.warc.gz", gzip.compress(crawl[2])
    bomb = gzip.compress(response(b"a" * 5_000_000, "text/html"))
    nested = gzip.compress(response(gzip.compress(b"a" * 5_000_000), "text/html", headers="Content-Encoding: gzip\r\n"))
    path.write_bytes(good + bomb + nested + good)
    first, *bad, last = found(path, ReadSettings(Limits(file_bytes=100_000), "fast", "text"))
    assert bad == ["file too large: more than 100,000 bytes"] * 2
    assert isinstance(first, Raw)
    assert isinstance(last, Raw)
    for length in (10**6, 10**18, 3):
        path.write_bytes(good + gzip.compress(response(b"<p>short</p>", "text/html", length=length)) + good)
        answers = found(path)
        assert isinstance(answers[0], Raw)
        assert len(answers) > 1


def test_truncated_files_say_so(tmp_path: Path, crawl: list[bytes]) -> None:
    for name, pack in (("a.warc", bytes), ("a.warc.gz", gzip.compress)):
        data = b"".join(map(pack, [crawl[2], crawl[2]]))
        for length in range(len(pack(crawl[2])) + 20, len(data) - 20, 29):
            (tmp_path / name).write_bytes(data[:length])
            assert isinstance(found(tmp_path / name)[-1], str), (name, length)


def test_what_is_no_warc_file(tmp_path: Path) -> None:
    for data in (b"plain text\n" * 100, b"\0" * 1000, gzip.compress(b"x" * 1000)):
        (tmp_path / "a.warc.gz").write_bytes(data)
        assert [answer for answer in found(tmp_path / "a.warc.gz") if "damaged" in str(answer)]
