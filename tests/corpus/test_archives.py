"""Archives and compressed files, real ones and hostile ones."""

import bz2
import dataclasses
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fromzero.corpus.files import kind_of
from fromzero.corpus.formats import read
from fromzero.corpus.reading import ReadSettings, reason_of
from fromzero.corpus.settings import Limits

SETTINGS = ReadSettings(Limits(), "fast", "text")
Parts = Mapping[str, bytes]


def zstd(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


def zipped(parts: Parts, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return data.getvalue()


def tarred(parts: Parts) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, part in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(part)
            archive.addfile(info, io.BytesIO(part))
    return data.getvalue()


def found(path: Path, settings: ReadSettings = SETTINGS) -> list[tuple[str, str]]:
    """Place inside and text (or reason) of each record; also the reason for which reading ended early."""
    answers = []
    try:
        for record in read(path, str(kind_of(path.name)), settings):
            try:
                answers.append((record.inside, "".join(record.parse().blocks)))
            except Exception as error:
                answers.append((record.inside, reason_of(error)))
    except Exception as error:
        answers.append(("", reason_of(error)))
    return answers


def limited(**limits: float) -> ReadSettings:
    return dataclasses.replace(SETTINGS, limits=Limits(**limits))  # type: ignore[arg-type]


PARTS = {"folder/a.txt": "第一篇。\n".encode("gb18030") * 9, "b.jsonl": b'{"text": "two"}\n{"text": "three"}\n'}
EXPECTED = [("!/folder/a.txt", "第一篇。\n" * 9), ("!/b.jsonl", "two"), ("!/b.jsonl", "three")]
ARCHIVES: dict[str, Callable[[Parts], bytes]] = {
    ".zip": zipped,
    ".tar": tarred,
    ".tar.gz": lambda parts: gzip.compress(tarred(parts)),
    ".tgz": lambda parts: gzip.compress(tarred(parts)),
    ".tar.bz2": lambda parts: bz2.compress(tarred(parts)),
    ".tar.xz": lambda parts: lzma.compress(tarred(parts)),
    ".tar.zst": lambda parts: zstd(tarred(parts)),
}


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_archives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(ARCHIVES[suffix](PARTS))
    assert found(path) == EXPECTED


PACKERS = [("gz", gzip.compress), ("zst", zstd), ("bz2", bz2.compress), ("xz", lzma.compress)]


@pytest.mark.parametrize(("suffix", "pack"), PACKERS)
def test_compressed_files(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], chinese: str) -> None:
    lines = [f"{number} {chinese}" for number in range(3000)]
    data = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines).encode()
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(pack(data) + pack(data))  # as `cat` makes them
    assert [text for _, text in found(path)] == lines * 2
    path.write_bytes(pack(data)[:-1000])
    *_, (_, reason) = found(path)
    assert reason.startswith("damaged file: ")
    path = tmp_path / f"a.png.{suffix}"
    path.write_bytes(pack(data))
    assert found(path) == [("", "format that is not read: .png")]


def test_archives_in_archives_to_a_depth(tmp_path: Path) -> None:
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["deep", "deeper"]}), table)
    data = zipped({"t.parquet": table.getvalue(), "x.txt.gz": gzip.compress(b"packed")})
    expected = [("t.parquet", "deep"), ("t.parquet", "deeper"), ("x.txt.gz", "packed")]
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    assert found(path) == [(f"!/{name}", text) for name, text in expected]
    path.write_bytes(zipped({"in.tgz": gzip.compress(tarred({"b.zip": data, "c.txt": b"after"}))}))
    deep = [(f"!/in.tgz!/b.zip!/{name}", text) for name, text in expected]
    assert found(path, limited(nesting=5)) == [*deep, ("!/in.tgz!/c.txt", "after")]
    assert found(path, limited(nesting=3)) == [
        ("!/in.tgz!/b.zip!/t.parquet", "archives in archives: deeper than 3"),
        ("!/in.tgz!/b.zip!/x.txt.gz", "archives in archives: deeper than 3"),
        ("!/in.tgz!/c.txt", "after"),
    ]


def test_what_is_no_document_in_an_archive_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    pictures = {f"{n}.png": b"x" for n in range(3)}
    hidden = {".hidden.txt": b"x", "__MACOSX/._a.txt": b"x"}
    path.write_bytes(zipped({"a.txt": b"text", **pictures, "LICENSE": b"x", **hidden}))
    assert found(path) == [("!/a.txt", "text"), ("", "format that is not read: 4 members (3 .png, 1 no suffix)")]


def test_names_climb_nowhere_and_links_lead_nowhere(tmp_path: Path) -> None:
    names = ("../../up.txt", "/etc/root.txt", "..\\x.txt", "C:\\y.txt", "a\n\x1b[31mb.txt")
    before = set(tmp_path.rglob("*"))
    for suffix, pack in ((".zip", zipped), (".tar", tarred)):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(pack(dict.fromkeys(names, b"text")))
        assert all(text == "text" and inside.isprintable() for inside, text in found(path))
        path.unlink()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("passwd.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert found(tmp_path / "a.tar") == [("", "format that is not read: 4 members (4 links)")]
    (tmp_path / "a.tar").unlink()
    assert set(tmp_path.rglob("*")) == before


def test_names_of_chinese_archives(tmp_path: Path) -> None:
    name = "中文网页/第一篇文章.txt"
    data = zipped({"x" * len(name.encode("gbk")): b"text"}).replace(b"x" * len(name.encode("gbk")), name.encode("gbk"))
    (tmp_path / "a.zip").write_bytes(data)
    assert found(tmp_path / "a.zip") == [(f"!/{name}", "text")]


ZEROS = b" " * 3_000_000
BOMBS = {
    "a.txt.gz": gzip.compress(ZEROS),
    "a.txt.xz": lzma.compress(ZEROS),
    "a.jsonl.bz2": bz2.compress(ZEROS),
    "a.txt.zst": zstd(ZEROS),
    "a.zip": zipped({"a.txt": ZEROS}),
    "b.zip": zipped({"b.zip": zipped({"a.html": ZEROS})}),
    "a.docx": zipped({"word/document.xml": ZEROS}),
    "a.epub": zipped({"META-INF/container.xml": ZEROS}),
    "a.tar.gz": gzip.compress(tarred({"a.txt": ZEROS})),
    "a.gz.gz.gz": gzip.compress(gzip.compress(gzip.compress(ZEROS))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BOMBS[name])
    answers = found(tmp_path / name, limited(document_bytes=10_000, unpacked_ratio=50))
    expected = "format that is not read" if "gz.gz" in name else "unpacks to too much: it grows as only bombs do"
    assert [reason.partition(": ")[0] if "gz.gz" in name else reason for _, reason in answers] == [expected]


def test_a_bomb_ends_its_archive_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"a.txt": b"before", "b.txt": ZEROS, "c.txt": b"after"}))
    answers = found(tmp_path / "a.zip", limited(document_bytes=10_000, unpacked_ratio=50))
    assert answers == [("!/a.txt", "before"), ("!/b.txt", "unpacks to too much: it grows as only bombs do")]


def test_sparse_members_count_what_they_claim(tmp_path: Path) -> None:
    with (tmp_path / "hole.txt").open("wb") as hole:
        hole.truncate(50_000_000)
    info = tarfile.TarInfo("a.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:398] = b"%011o " % 0
    header[398:410] = b"%011o " % 0
    header[483:495] = b"%011o " % 50_000_000
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    ((_, reason),) = found(tmp_path / "a.tar", limited(document_bytes=10_000))
    assert reason.startswith("unpacks to too much")


def test_encrypted_members(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"secret", "b.txt": b"open"}))
    data[6] |= 1  # the flags of the first member, and of the first entry of the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    assert found(tmp_path / "a.zip") == [("!/a.txt", "encrypted file"), ("!/b.txt", "open")]


def test_a_member_that_is_damaged_costs_that_member(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": os.urandom(50).hex().encode() * 20, "b.txt": b"good"}))
    data[60] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(bytes(data))
    (inside, reason), good = found(tmp_path / "a.zip")
    assert (inside, reason.partition(": ")[0]) == ("!/a.txt", "damaged file")
    assert good == ("!/b.txt", "good")


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_truncated_archives_say_so(tmp_path: Path, suffix: str) -> None:
    data = ARCHIVES[suffix]({f"{number}.txt": os.urandom(3000).hex().encode() for number in range(5)})
    path = tmp_path / f"a{suffix}"
    for length in range(0, len(data) - 11_000, len(data) // 23):
        path.write_bytes(data[:length])
        answers = found(path)
        assert answers, length
        assert answers[-1][1].startswith(("damaged file", "file could not")), (length, answers[-1])


def test_an_empty_archive_and_an_empty_name(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({}))
    (tmp_path / "a.tar").write_bytes(tarred({}))
    (tmp_path / ".gz").write_bytes(gzip.compress(b"x"))
    assert found(tmp_path / "a.zip") == found(tmp_path / "a.tar") == []
