"""Text -> the same text in one form: Unicode NFC, LF, no control characters, no trailing blanks, no blank gaps.

NFC, not NFKC: NFKC would turn full-width punctuation, superscripts and ligatures into other characters, and Chinese
text is full of the first. Blocks of a long file come out exactly as the whole file would.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fromzero.errors import missing_extra

# Controls but tab and newline, soft hyphens, zero-width spaces, direction marks, byte order marks, non-characters.
# Zero-width joiners (U+200C, U+200D) stay: Persian, Indic scripts and emoji are spelled with them.
_JUNK = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\ufeff\ufffe\uffff]"
)
_ASCII_JUNK = bytes(code for code in range(128) if _JUNK.match(chr(code)))
_LINE_END = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_TRAILING_BLANKS = re.compile(r"(?<![ \t\u00a0\u3000])[ \t\u00a0\u3000]+(?=\n)")
_GAP = re.compile(r"\n{3,}")
_SURROGATE = re.compile("[\ud800-\udfff]")
# A place where text can be divided without changing what normalisation does to either side: before a character that
# composes with nothing on its left, and is neither blank nor junk.
_SAFE = re.compile(r"[!-~\u4e00-\u9fff]")
_SAFE_SEARCH = 1 << 16


def normalize(text: str) -> str:
    """One normal form of a text; normalising it again changes nothing. At most one newline is left at its end."""
    return "".join(normalize_stream([text]))


def normalize_stream(blocks: Iterable[str]) -> Iterator[str]:
    """The normal form of a text that arrives in blocks, itself in blocks, in constant memory."""
    started, newlines = False, 0
    for block in _safe_blocks(blocks):
        text = "\n" * newlines + _clean(block)  # newlines held back: how many stay depends on what follows
        body = text.rstrip("\n") if started else text.strip("\n")
        newlines = min(2, len(text) - len(text.rstrip("\n"))) if started or body else 0
        if body:
            yield body if not started else _GAP.sub("\n\n", body)
            started = True
    if started and newlines:
        yield "\n"


def repair(text: str) -> str:
    """Text that was decoded with the wrong encoding and saved again ('cafÃ©', 'æ–‡å­—') put right, line by line (ftfy).

    Only where the letters say so: text in any language that is right stays as it is. An option, since it takes as long
    as all filters together.
    """
    return _repairer()(text)


def repair_stream(blocks: Iterable[str]) -> Iterator[str]:
    """The same for a text that arrives in blocks: whole lines at a time, of which very long ones are divided."""
    kept = ""
    for block in blocks:
        kept += block
        if cut := kept.rfind("\n") + 1 or (len(kept) if len(kept) > _SAFE_SEARCH else 0):
            yield repair(kept[:cut])
            kept = kept[cut:]
    yield repair(kept)


@functools.cache
def _repairer() -> Callable[[str], str]:
    try:
        import ftfy
    except ImportError as error:
        raise missing_extra("ftfy", "corpus") from error
    wanted = {"fix_encoding", "restore_byte_a0", "replace_lossy_sequences", "decode_inconsistent_utf8"}
    switches: dict[str, Any] = {
        key: key in wanted for key, value in ftfy.TextFixerConfig._field_defaults.items() if value is True
    }
    config = ftfy.TextFixerConfig(**switches | {"unescape_html": False, "normalization": None})
    return functools.partial(ftfy.fix_text, config=config)


def replace_surrogates(text: str) -> str:
    """Lone surrogates (from JSON escapes) as U+FFFD: they are not characters, and UTF-8 can't hold them."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _clean(text: str) -> str:
    """Looking for a character takes a tenth of the time that a pattern takes, so patterns run where there is one."""
    if any(end in text for end in "\r\x0b\x0c\x85\u2028\u2029"):
        text = _LINE_END.sub("\n", text)
    if text.isascii():
        text = text.encode().translate(None, _ASCII_JUNK).decode()
    else:
        text = unicodedata.normalize("NFC", _JUNK.sub("", replace_surrogates(text)))
    if any(f"{blank}\n" in text for blank in " \t\u00a0\u3000"):
        text = _TRAILING_BLANKS.sub("", text)
    return _GAP.sub("\n\n", text) if "\n\n\n" in text else text


def _safe_blocks(blocks: Iterable[str]) -> Iterator[str]:
    """The same text, divided at safe places only (or anywhere, where 65,536 characters hold no safe place)."""
    kept = ""
    for block in blocks:
        kept += block
        start = max(0, len(kept) - _SAFE_SEARCH)
        tail = kept[start:][::-1]
        found = _SAFE.search(tail)
        cut = len(kept) - found.end() if found else (start if len(kept) > 2 * _SAFE_SEARCH else 0)
        if cut:
            yield kept[:cut]
            kept = kept[cut:]
    yield kept
