"""Bytes -> text: which encoding a file is in, and whether it is text at all.

The order of trust: a byte order mark, UTF-16 recognised by its shape, UTF-8 that decodes without an error, or with more
right than wrong, then resiliparse's statistics with a check against our own for what it confuses (Big5, and anything it
can't decode). A file has one encoding: where another one was mixed in, that becomes U+FFFD or wrong characters, and a
document with many of these ends at the filters.
Works on a seekable file, so that a file of any size is judged in constant memory.
"""

import codecs
import functools
import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO

from fromzero.errors import missing_extra

SAMPLE_BYTES = 1 << 16
BLOCK_BYTES = 1 << 20
_BOMS = (  # UTF-32 before UTF-16: one starts with the other
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# PNG, JPEG, GIF, zip (twice), ELF, Windows, PDF, gzip, bzip2, xz, Zstandard, RAR, 7-Zip, OLE, Java, Mac, SQLite,
# Parquet, WebAssembly
_MAGIC_HEX = """
    89504e470d0a1a0a ffd8ff 47494638 504b0304 504b0506 7f454c46 4d5a90 255044462d 1f8b08 425a68
    fd377a585a00 28b52ffd 526172211a07 377abcaf271c d0cf11e0a1b11ae1 cafebabe cffaedfe
    53514c69746520666f726d6174203300 50415231 0061736d
"""
_MAGIC = tuple(map(bytes.fromhex, _MAGIC_HEX.split()))
_ALIASES = {"gb2312": "gb18030", "gbk": "gb18030", "gb_2312-80": "gb18030", "hz-gb-2312": "hz", "x-sjis": "cp932"}
_ALIASES |= {"shift_jis": "cp932", "shift-jis": "cp932", "iso-8859-1": "cp1252", "latin-1": "cp1252", "ascii": "cp1252"}
_ALIASES |= {"euc-kr": "cp949", "ks_c_5601-1987": "cp949", "big5": "cp950", "big5-hkscs": "big5hkscs"}
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x08\x1b")  # backspace and escape: man pages and terminal logs
MAX_CONTROL_SHARE = 0.02


class NotTextError(ValueError):
    """The bytes are not text in any encoding; says why."""


def detect(file: BinaryIO) -> str:
    """The Python codec of a file of text, read from its start and left there.

    Raises NotTextError for binary content.
    """
    file.seek(0)
    sample = file.read(SAMPLE_BYTES)
    codec = _from_shape(sample)
    if codec is None and (error := _utf8_error(file)) is not None:
        start = sample
        if error > SAMPLE_BYTES // 2:  # the first bytes say little: ask those that are not UTF-8
            file.seek(error)
            sample = file.read(SAMPLE_BYTES)
        codec = "utf-8" if _mostly_utf8(start + sample) else _from_statistics(sample)
    file.seek(0)
    return codec or "utf-8"


def decode(data: bytes) -> str:
    """Text of bytes in whatever encoding; what can't be decoded becomes U+FFFD. Raises NotTextError."""
    return data.decode(detect(io.BytesIO(data)), "replace")


def decode_declared(data: bytes, label: str | None) -> str:
    """Text of bytes that say what they are in (an HTML page): the label counts if they decode with it.

    A byte order mark counts more. Raises NotTextError.
    """
    if label and not data.startswith(tuple(bom for bom, _ in _BOMS)):
        try:
            return data.decode(codec_of(label))
        except (LookupError, UnicodeError):
            pass
    return decode(data)


def decode_stream(file: BinaryIO, codec: str) -> Iterator[str]:
    """The text of a file in blocks of about a megabyte, in constant memory."""
    decoder = codecs.getincrementaldecoder(codec)("replace")
    while block := file.read(BLOCK_BYTES):
        yield decoder.decode(block)
    yield decoder.decode(b"", True)


def codec_of(label: str) -> str:
    """Python codec of an encoding label as the web uses labels: gb2312 and gbk mean gb18030, latin-1 means cp1252."""
    label = label.strip().strip("\"'").lower()
    return codecs.lookup(_ALIASES.get(label, label)).name


def _from_shape(sample: bytes) -> str | None:
    """What the first bytes show without statistics."""
    for bom, codec in _BOMS:
        if sample.startswith(bom):
            return codec
    if sample.startswith(_MAGIC):
        raise NotTextError("it starts like an image, an archive, a program or a PDF")
    if (wide := _wide_codec(sample)) is not None:
        return wide
    controls = sum(1 for byte in sample if byte < 32 and byte not in _TEXT_CONTROLS)
    if controls > MAX_CONTROL_SHARE * len(sample):
        raise NotTextError(f"{100 * controls / len(sample):.0f} % of its first bytes are control characters")
    return None


def _utf8_error(file: BinaryIO) -> int | None:
    """Where a file stops being UTF-8, in bytes from its start; None when it is UTF-8 to its end."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    try:
        while block := file.read(BLOCK_BYTES):
            held = len(decoder.getstate()[0])
            decoder.decode(block)
            read += len(block)
        held = len(decoder.getstate()[0])
        decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        return read - held + error.start
    return None


def _mostly_utf8(sample: bytes) -> bool:
    """Whether more characters of a damaged or mixed text are UTF-8 than bytes are not; ASCII says nothing."""
    foreign = [c for c in sample.decode("utf-8", "replace") if c > "\x7f"]
    return foreign.count("\ufffd") < len(foreign) / 2


def _wide_codec(sample: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark. ASCII and UTF-8 are never taken for it: they come out as rare
    ideographs, of which less than half are in common use, and real text has nearly all of its characters there."""
    if _decodes(sample, "utf-8") and b"\0" not in sample:
        return None
    for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        width = 4 if "32" in codec else 2
        whole = sample[: len(sample) - len(sample) % width]
        if len(sample) < SAMPLE_BYTES and len(whole) != len(sample):
            continue
        if whole and _decodes(whole, codec) and _common_share(whole.decode(codec, "ignore"), codec) > 0.9:
            return codec
    return None


def _from_statistics(sample: bytes) -> str:
    try:
        from resiliparse.parse.encoding import detect_encoding
    except ImportError as error:
        raise missing_extra("resiliparse", "corpus") from error
    guess = codec_of(detect_encoding(sample) or "utf-8")
    if guess not in _DOUBLE_BYTE and _decodes(sample, guess):
        return guess
    # EUC-KR before GB18030: both use the same bytes, and only Korean keeps to the rows that are common in both.
    scored = {codec: _score(sample, codec) for codec in ("cp949", "gb18030", "cp950", "cp932")}
    if max(scored.values()) < 0:  # damaged, or mixed
        scored = {codec: _score(sample, codec, "replace") - 0.1 for codec in scored}
    best = max(scored, key=lambda codec: scored[codec])
    if (known := scored.get(guess, -1.0)) >= 0:
        # resiliparse is right more often than our score, which counts only when it is clearly of another opinion
        return best if scored[best] > known + 0.25 else guess
    return best if scored[best] > 0.5 else "cp1252"  # which decodes anything; what is not text ends at the filters


def _score(sample: bytes, codec: str, errors: str = "ignore") -> float:
    """Share of characters in common use among those that are not ASCII; -1 when the bytes are not in this encoding."""
    if errors == "ignore" and not _decodes(sample, codec):
        return -1.0
    return _common_share("".join(c for c in sample.decode(codec, errors) if c > "\x7f"), codec)


def _decodes(sample: bytes, codec: str) -> bool:
    """Whether the bytes are valid, but for a character that the end of the sample cuts."""
    try:
        codecs.getincrementaldecoder(codec)().decode(sample, len(sample) < SAMPLE_BYTES)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _common_share(text: str, codec: str) -> float:
    common = _common_characters(codec)
    return sum(1 for c in text if c in common) / len(text) if text else 0.0


# The rows of each standard that hold symbols, kana and the ideographs (or syllables) in common use.
_DOUBLE_BYTE = {
    "gb18030": [(0xA1, 0xA3), (0xB0, 0xD7)],
    "cp950": [(0xA1, 0xA3), (0xA4, 0xC6)],
    "cp932": [(0x81, 0x83), (0x88, 0x97)],
    "cp949": [(0xA1, 0xA3), (0xB0, 0xC8)],
}


@functools.cache
def _common_characters(codec: str) -> frozenset[str]:
    if codec in _DOUBLE_BYTE:
        trails = range(0xA1, 0xFF) if codec in ("gb18030", "cp949") else range(0x40, 0xFD)
        leads = itertools.chain.from_iterable(range(first, last + 1) for first, last in _DOUBLE_BYTE[codec])
        return frozenset("".join(bytes(pair).decode(codec, "ignore") for pair in itertools.product(leads, trails)))
    common = {chr(c) for c in (*range(32, 127), 9, 10, 13, *range(0xA0, 0x180), *range(0x370, 0x460))}
    return frozenset(common.union("—’‘“”…·", *map(_common_characters, _DOUBLE_BYTE)))
