"""The quality filters: small pure functions, text in, None (keep) or the reason to drop it out.

Written for Chinese as well as for alphabets: an ideograph weighs as much as three letters, and rules about words look
only at scripts that put spaces between words. Every rule takes linear time, also for a megabyte on one line.

Sources: Rae et al. 2021 (Gopher), table A1 and section A1.1, with other thresholds (see `settings.Filters`); the
compression test follows the idea of Whisper (Radford et al. 2022, section 4.5).
"""

import re
import zlib
from collections.abc import Callable

from fromzero.corpus.document import (
    EMPTY,
    FEW_LETTERS,
    REPEATED_LINES,
    REPEATED_TEXT,
    REPLACED,
    TOO_SHORT,
    WORD_LENGTH,
)
from fromzero.corpus.settings import Filters

IDEOGRAPH_WEIGHT = 3
# Scripts written without spaces between words: Thai to Myanmar, Khmer, CJK with kana and full-width forms.
_IDEOGRAPHS = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]+"
)
# A rule about shares is not asked about fewer characters than this: four words can't show a habit.
_ENOUGH = 50


def judge(text: str, settings: Filters) -> str | None:
    """The first reason to drop the text, or None to keep it."""
    for rule in RULES:
        if (reason := rule(text, settings)) is not None:
            return reason
    return None


def length(text: str, settings: Filters) -> str | None:
    """Drop what is too short to teach anything: characters, an ideograph counting as three."""
    characters = len(text.strip())
    if not characters:
        return EMPTY
    weighed = characters + (IDEOGRAPH_WEIGHT - 1) * sum(map(len, _IDEOGRAPHS.findall(text)))
    return TOO_SHORT if weighed < settings.min_length else None


def symbols(text: str, settings: Filters) -> str | None:
    """Drop what is not language: undecodable bytes, dumps of numbers, words without spaces (encoded binary data)."""
    solid = "".join(text.split())
    if solid.count("\ufffd") > settings.max_undecodable * len(solid):
        return REPLACED
    if sum(map(str.isalpha, solid)) < settings.min_letters * len(solid):
        return FEW_LETTERS
    words = _UNSPACED.sub(" ", text).split()
    characters = sum(map(len, words))
    if characters < _ENOUGH or characters < len(solid) / 2:  # mostly a script without spaces
        return None
    mean = characters / len(words)
    return WORD_LENGTH if not settings.min_word_length <= mean <= settings.max_word_length else None


def repetition(text: str, settings: Filters) -> str | None:
    """Drop what says the same again: lines that stood before, then anything that compresses too well."""
    lines = [line.strip() for line in text.split("\n")]
    total = sum(map(len, lines))
    distinct = sum(map(len, set(lines)))
    if total >= _ENOUGH and total - distinct > settings.max_repeated_lines * total:
        return REPEATED_LINES
    data = text.encode("utf-8", "surrogatepass")
    if len(data) < 4 * _ENOUGH:  # too short for DEFLATE's own overhead not to count
        return None
    return REPEATED_TEXT if len(zlib.compress(data, 1)) < settings.min_compressed * len(data) else None


RULES: tuple[Callable[[str, Filters], str | None], ...] = (length, symbols, repetition)
