"""Compressed files and archives as streams of their members, which never touch the disk under their names."""

import bz2
import functools
import gzip
import io
import lzma
import tarfile
import tempfile
import types
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from fromzero.corpus.document import DAMAGED, ENCRYPTED
from fromzero.corpus.encoding import NotTextError, decode
from fromzero.corpus.reading import Allowance, Opened, ReadError, optional, whole

_BLOCK = 1 << 20
_IN_MEMORY = 1 << 24
_ENCRYPTED_FLAG, _UTF8_FLAG = 1, 1 << 11
Member = tuple[str, Callable[[], BinaryIO] | None]
"""A name and how to open it; None for a link or a device, which is never followed."""


class Unpacked(io.RawIOBase):
    """What a compressed stream holds, counted against the allowance; to seek back is to unpack it again."""

    def __init__(self, unpack: Callable[[], Any], allowance: Allowance) -> None:
        self._unpack, self._allowance = unpack, allowance
        self._inner, self._at, self._paid = unpack(), 0, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, but not from the end."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes. Raises ReadError when the allowance is spent."""
        data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        self._allowance.spend(max(0, self._at - self._paid))
        self._paid = max(self._paid, self._at)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place counted from the start or from here."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("its end is not known")
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if target < self._at:
            self._inner, self._at = self._unpack(), 0
        while self._at < target and self.read(min(_BLOCK, target - self._at)):
            pass
        return self._at


def _unpacked(unpack: Callable[[], Any], allowance: Allowance) -> BinaryIO:
    """What a compressed stream holds, as a file; `unpack` opens it at its start."""
    return cast(BinaryIO, io.BufferedReader(Unpacked(unpack, allowance), _BLOCK // 8))


def decompressed(file: Opened, kind: str) -> BinaryIO:
    """What a compressed file holds."""

    def unpack() -> Any:
        file.stream.seek(0)
        return DECOMPRESSORS[kind](file.stream)

    return _unpacked(unpack, file.allowance)


def _zst(stream: BinaryIO) -> Any:
    pyarrow = optional("pyarrow")
    lent = types.SimpleNamespace(read=stream.read, closed=False, close=lambda: None)  # it would close the stream itself
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(lent, mode="r"), "zstd")


DECOMPRESSORS: dict[str, Callable[[BinaryIO], Any]] = {
    "gz": lambda stream: gzip.GzipFile(fileobj=stream),
    "zst": _zst,
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def zip_members(file: Opened, limit: int) -> Iterator[Member]:
    """The members of a zip archive, which is held in memory, up to `limit` bytes, when it is itself inside another."""
    with zipfile.ZipFile(io.BytesIO(whole(file.stream, limit)) if file.depth else file.stream) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield _zip_name(info), functools.partial(_open_zip_member, archive, info, file.allowance)


def _open_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, allowance: Allowance) -> BinaryIO:
    if info.flag_bits & _ENCRYPTED_FLAG:
        raise ReadError(ENCRYPTED)
    return _unpacked(lambda: archive.open(info), allowance)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Names that are not marked as UTF-8 are in whatever the maker's system spoke: GBK in China, not DOS's cp437."""
    if info.flag_bits & _UTF8_FLAG or info.filename.isascii():
        return info.filename
    try:
        return decode(info.filename.encode("cp437"))
    except (UnicodeEncodeError, NotTextError):
        return info.filename


class _StrictHeader(tarfile.TarInfo):
    """tarfile takes a header that is cut off or damaged for the end of the archive; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_StrictHeader":
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise ReadError(f"{DAMAGED}: {error} after {tarfile_.offset:,} bytes") from error


def tar_members(file: Opened, limit: int) -> Iterator[Member]:
    """The members of a tar archive in their order; each has to be opened before the next is asked for."""
    with tarfile.open(fileobj=file.stream, mode="r|", tarinfo=_StrictHeader) as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or it remembers all of a million
            if info.isfile():
                yield info.name, functools.partial(_spool, archive, info, file.allowance)
            elif not info.isdir():
                yield info.name, None


def _spool(archive: tarfile.TarFile, info: tarfile.TarInfo, allowance: Allowance) -> BinaryIO:
    """A member of a stream that can't go back as a file that can: in memory while it is small."""
    source = cast(BinaryIO, archive.extractfile(info))
    spool = cast(BinaryIO, tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 -- the reader closes it
    while block := source.read(_BLOCK):
        allowance.spend(len(block))
        spool.write(block)
    spool.seek(0)
    return spool


ARCHIVES: dict[str, Callable[[Opened, int], Iterator[Member]]] = {"zip": zip_members, "tar": tar_members}
