"""What is done to a text before it is cut: the normalizers of `tokenizer.json`, as functions from text to text.

Each constructor returns a `Normalizer`, which also knows its form in the file; `read_normalizer` goes the other way.
Unicode's tables are those of Python and of the `regex` module. The `tokenizers` library brings older ones (8 for
BERT's, 2015), so newer characters may be treated differently there; for all others the texts are identical.
"""

import base64
import functools
import struct
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex

from fromzero.errors import UserError
from fromzero.tokenizer.text import check_unicode

# Unicode's property White_Space. Python's str.isspace has four control characters more.
_SPACES = "".join(map(chr, range(0x2000, 0x200B)))
WHITE_SPACE = f"\t\n\v\f\r \x85\xa0\u1680{_SPACES}\u2028\u2029\u202f\u205f\u3000"
MAX_DEPTH = 8  # of sequences in sequences
MAX_ADDED = 1000  # characters that are put for one
MAX_GROWTH = 64  # times a text may grow; Unicode's forms make 18 characters of one
_CACHE_SIZE = 1 << 16


@dataclass(frozen=True)
class Normalizer:
    """A function from text to text, and its form in `tokenizer.json`."""

    apply: Callable[[str], str]
    form: Mapping[str, Any]

    def __call__(self, text: str) -> str:
        return self.apply(text)

    def to_json(self) -> dict[str, Any]:
        """What stands under "normalizer" in the file."""
        return dict(self.form)


def sequence(*parts: Normalizer) -> Normalizer:
    """One after the other. Raises UserError when a text grows too much by it."""

    def apply(text: str) -> str:
        limit = MAX_GROWTH * len(text) + MAX_ADDED
        for part in parts:
            text = part(text)
            if len(text) > limit:
                raise UserError(f"the normalizer makes a text of more than {limit} characters; use another tokenizer")
        return text

    return Normalizer(apply, {"type": "Sequence", "normalizers": [part.to_json() for part in parts]})


def plain(kind: str) -> Normalizer:
    """One that has no settings: a key of `PLAIN`."""
    return Normalizer(PLAIN[kind], {"type": kind})


def lowercase() -> Normalizer:
    """Lower case, character by character: a sigma at the end of a word is one like any other."""
    return plain("Lowercase")


def strip(left: bool = True, right: bool = True) -> Normalizer:
    """Without blanks at the ends."""
    apply = {(True, True): str.strip, (True, False): str.lstrip, (False, True): str.rstrip}.get((left, right))
    form = {"type": "Strip", "strip_left": left, "strip_right": right}
    return Normalizer(lambda text: apply(text, WHITE_SPACE) if apply else text, form)


def prepend(start: str) -> Normalizer:
    """With something before it, unless it is empty. Raises UserError when that is longer than MAX_ADDED."""
    _check_added(start)
    return Normalizer(lambda text: start + text if text else text, {"type": "Prepend", "prepend": start})


def replace(old: str, new: str, expression: bool = False) -> Normalizer:
    """With each `old`, a text or a regular expression, replaced by `new`.

    Raises UserError for a bad expression, and when `new` is longer than MAX_ADDED.
    """
    _check_added(new, old)
    form = {"type": "Replace", "pattern": {"Regex" if expression else "String": old}, "content": new}
    if not expression:
        return Normalizer(lambda text: text.replace(old, new) if old else text, form)
    try:
        compiled = regex.compile(old)
    except regex.error as error:
        raise UserError(f"the normalizer's pattern {old!r} is not a regular expression: {error}; correct it") from error
    return Normalizer(lambda text: str(compiled.sub(lambda match: new, text)), form)


def bert(
    clean_text: bool = True,
    handle_chinese_chars: bool = True,
    strip_accents: bool | None = None,
    lowercase: bool = True,
) -> Normalizer:
    """BERT's (Devlin et al. 2019): no control characters, plain blanks, blanks around Chinese characters, no accents,
    lower case. strip_accents: None does as `lowercase` does.
    """
    form: dict[str, Any] = {"type": "BertNormalizer", "clean_text": clean_text, "lowercase": lowercase}
    form |= {"handle_chinese_chars": handle_chinese_chars, "strip_accents": strip_accents}
    accents = lowercase if strip_accents is None else strip_accents

    def apply(text: str) -> str:
        if clean_text:
            text = _BLANKS.sub(" ", _CONTROLS.sub("", text))
        if handle_chinese_chars:
            text = _CHINESE.sub(r" \g<0> ", text)
        if accents:
            text = _NONSPACING.sub("", unicodedata.normalize("NFD", text))
        return _lower(text) if lowercase else text

    return Normalizer(apply, form)


def precompiled(charsmap: bytes, graphemes: bool = True) -> Normalizer:
    """SentencePiece's compiled table of replacements, such as its own variant of NFKC.

    graphemes: as `tokenizers` reads it, where the shortest entry that a grapheme of less than 6 bytes begins with
    replaces all of it, and else each character is looked up; False: as SentencePiece does, the longest entry at each
    place. They differ only in rare combinations of marks. Raises UserError when the table is damaged.
    """
    form = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    table = _Charsmap(charsmap)
    return Normalizer(table.by_graphemes if graphemes else table.by_longest, form)


def read_normalizer(form: Mapping[str, Any] | None, depth: int = 0) -> Normalizer | None:
    """The normalizer under "normalizer" in `tokenizer.json`; None where there is none.

    Raises UserError for one that is not known, naming it.
    """
    if form is None:
        return None
    kind = form["type"]
    if kind in PLAIN:
        return plain(kind)
    if kind == "Sequence" and depth <= MAX_DEPTH:
        return sequence(*filter(None, (read_normalizer(part, depth + 1) for part in form["normalizers"])))
    if kind == "Strip":
        return strip(form["strip_left"], form["strip_right"])
    if kind == "Prepend":
        return prepend(form["prepend"])
    if kind == "Replace":
        ((how, old),) = form["pattern"].items()
        return replace(old, form["content"], expression=how == "Regex")
    if kind == "BertNormalizer":
        return bert(**{name: value for name, value in form.items() if name != "type"})
    if kind == "Precompiled":
        return precompiled(base64.b64decode(form["precompiled_charsmap"], validate=True))
    raise UserError(f"it has a {kind} normalizer, which fromzero can't represent exactly")


_MARKS = regex.compile(r"\p{M}+")
_NONSPACING = regex.compile(r"\p{Mn}+")
_CONTROLS = regex.compile(r"[\p{Cc}\p{Cf}\p{Co}\uFFFD--[\t\n\r]]+", regex.VERSION1)
_BLANKS = regex.compile(rf"[{WHITE_SPACE}]")
_CHINESE = regex.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b920-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)


def _check_added(text: Any, old: Any = "") -> None:
    if not isinstance(text, str) or not isinstance(old, str):
        raise UserError(f"the normalizer puts {text!r:.50} for {old!r:.50}, which is not a text; get the file again")
    check_unicode(text, "what the normalizer adds")
    if len(text) > MAX_ADDED:
        raise UserError(f"the normalizer adds {len(text)} characters at once; use another tokenizer")


def _lower(text: str) -> str:
    return text.replace("\u03a3", "\u03c3").lower()


# StripAccents takes combining marks; what is composed has to be taken apart (NFD, NFKD) before.
PLAIN: dict[str, Callable[[str], str]] = {
    **{form: functools.partial(unicodedata.normalize, form) for form in ("NFC", "NFD", "NFKC", "NFKD")},
    "Lowercase": _lower,
    "StripAccents": lambda text: _MARKS.sub("", text),
}


class _Charsmap:
    """A double-array trie (Darts-clone) from byte strings to places in a heap of texts that end in a zero byte."""

    def __init__(self, charsmap: bytes) -> None:
        size = struct.unpack_from("<I", charsmap)[0] if len(charsmap) >= 4 else 0
        if not size or size % 4 or 4 + size > len(charsmap):
            raise UserError(f"the normalizer's table of {len(charsmap)} bytes is cut off or damaged; get it again")
        self._units: list[int] = np.frombuffer(charsmap, "<u4", size // 4, 4).tolist()
        self._heap = charsmap[4 + size :]
        self._graphemes: dict[str, str] = {}
        printable = [bytes([code]) for code in range(0x20, 0x7F)]
        ascii_stays = all(self._entries(one)[:1] in ([], [(1, one.decode())]) for one in printable)
        pairs_stay = ascii_stays and not any(self._begins(one + two) for one in printable for two in printable)
        # An ASCII character before another one is a grapheme, and if all of them stay as they are, it can be skipped.
        self._changing = regex.compile(r"(?![ -~][\0-\x7f])\X" if ascii_stays else r"\X")
        self._staying = regex.compile(rb"[ -~]+(?=[ -~])" if pairs_stay else rb"(?!)")

    def by_graphemes(self, text: str) -> str:
        changed: str = self._changing.sub(self._replace_grapheme, text)
        return changed

    def _replace_grapheme(self, match: Any) -> str:
        grapheme = match.group()
        found = self._graphemes.get(grapheme)
        if found is None:
            if len(self._graphemes) >= _CACHE_SIZE:
                self._graphemes.clear()
            found = self._graphemes[grapheme] = self._look_up(grapheme)
        return found

    def _look_up(self, grapheme: str) -> str:
        whole = self._entries(grapheme.encode())[:1] if len(grapheme.encode()) < 6 else []
        if whole:
            return whole[0][1]
        found = [(character, self._entries(character.encode())[:1]) for character in grapheme]
        return "".join(entries[0][1] if entries else character for character, entries in found)

    def by_longest(self, text: str) -> str:
        data, done, parts = text.encode(), 0, []
        while done < len(data):
            if staying := self._staying.match(data, done):
                parts.append(staying.group().decode())
                done = staying.end()
            entries = self._entries(data, done)
            length = entries[-1][0] if entries else _character_length(data[done])
            parts.append(entries[-1][1] if entries else data[done : done + length].decode())
            done += length
        return "".join(parts)

    def _entries(self, key: bytes, start: int = 0) -> list[tuple[int, str]]:
        """Length and replacement of each entry that the key begins with from `start` on, shortest first."""
        units, place = self._units, _offset(self._units[0])
        found = []
        for i in range(start, len(key)):
            place ^= key[i]
            if place >= len(units) or units[place] & 0x800000FF != key[i] or not key[i]:
                break
            unit = units[place]
            place ^= _offset(unit)
            if unit >> 8 & 1:
                found.append((i + 1 - start, self._text(place)))
        return found

    def _begins(self, start: bytes) -> bool:
        place = _offset(self._units[0])
        for byte in start:
            place ^= byte
            if place >= len(self._units) or self._units[place] & 0x800000FF != byte:
                return False
            place ^= _offset(self._units[place])
        return True

    def _text(self, place: int) -> str:
        start = self._units[place] & 0x7FFFFFFF if place < len(self._units) else -1
        end = self._heap.find(b"\0", start, start + MAX_ADDED) if 0 <= start < len(self._heap) else -1
        if end < 0:
            raise UserError("the normalizer's table points outside of itself; get the file again")
        return self._heap[start:end].decode("utf-8", errors="replace")


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _character_length(first: int) -> int:
    """Bytes of the UTF-8 character that begins with this one."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
