"""What the quality rules ask about a text: `measure` gives every number by its name.

A token is a run of letters, digits and marks, or of one and the same symbol (`...`, `---`). In scripts without blanks
between words (`UNSPACED`: Chinese, Japanese, Thai, ...) each character with its marks is one. In others `.`, `@` and
`_` join what they stand between, `,` and `:` digits only; addresses go from '://' to the next blank; an apostrophe
between letters begins a token ("it", "'s"). That is nearly what spaCy cuts, for which published limits were found.
A word is a token with a letter, a digit or a mark. Lines end at a newline, and blank ones don't count; paragraphs are
what blank lines divide. A copy is what stood before in the same text; the first of several is none. Characters are
code points. What there is nothing to ask about (a share of no lines, say) is NaN, which breaks no rule.

Plain arithmetic on `kernels.text`, one pass; what only a few rules need is found when it is asked for. It takes some
25 bytes of memory for each character.
"""

import functools
import math
import re
import zlib
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

IDEOGRAPH_WEIGHT = 3
ENOUGH = 50
"""Characters. A rule about habits is not asked about fewer: four words can't show one."""
UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

# What is a share: name -> the counts (kernels.text.COUNTS) above and below the line.
RATIOS = {
    "undecodable": ("undecodable", "solid"),  # U+FFFD among characters that are not blank
    "letters": ("letters", "solid"),
    "han": ("han", "solid"),
    "word_share": ("alpha_words", "tokens"),  # tokens with a letter
    "hashes": ("hashes", "tokens"),
    "ellipses": ("ellipses", "tokens"),  # '...' and '…'
    "newlines": ("newlines", "tokens"),
    "bullets": ("bullet_lines", "all_lines"),  # lines that begin with '-' or '•'; Gopher's lines may be blank
    "ellipsis_lines": ("ellipsis_lines", "all_lines"),
    "duplicate_lines": ("repeated_lines", "lines"),
    "duplicate_line_characters": ("repeated_line_characters", "characters"),
    "duplicate_paragraphs": ("repeated_paragraphs", "paragraphs"),
    "duplicate_paragraph_characters": ("repeated_paragraph_characters", "characters"),
    "duplicate_characters": ("repeated_line_characters", "unbroken"),  # of all characters but newlines
    "line_ends": ("terminal_lines", "lines"),  # lines whose last character ends a sentence
    "short_lines": ("short_lines", "lines"),  # of up to 30 characters
    "line_length": ("line_characters", "lines"),
    "digits": ("digits", "characters"),
    "parentheses": ("parentheses", "characters"),
}
COUNTED = {"words": "words", "characters": "solid", "stop_words": "stop_words", "long_lines": "long_lines"}
"""What is a number as it is; stop words are different ones, long lines have 200 characters or more."""

# What takes some arithmetic.
COMPOSED: dict[str, Callable[[dict[str, int]], float]] = {
    # Characters without the blanks around them, an ideograph counting as three.
    "length": lambda c: max(0, c["last"] - c["first"]) + (IDEOGRAPH_WEIGHT - 1) * c["ideographs"],
    # What blanks divide in scripts that put them between words, if that is most of the text.
    "word_length": lambda c: (
        share(c["chunk_characters"], c["chunks"]) if c["chunk_characters"] >= max(ENOUGH, c["solid"] / 2) else math.nan
    ),
    # Words as above, of the same scripts, if most words are.
    "mean_word_length": lambda c: (
        share(c["word_characters"], c["spaced_words"]) if 2 * c["spaced_words"] >= c["words"] else math.nan
    ),
    # Characters in lines without the blanks around them.
    "repeated_lines": lambda c: (
        share(c["repeated_stripped"], c["stripped_characters"]) if c["stripped_characters"] >= ENOUGH else math.nan
    ),
    # A line has at least one; what ends sentences does so before a blank, in Chinese anywhere.
    "sentences": lambda c: c["lines"] + c["sentences"],
    "white_space": lambda c: share(c["characters"] - c["solid"], c["characters"]),
    "symbols": lambda c: share(c["solid"] - c["alphanumeric"], c["solid"]),  # neither letters, digits nor marks
}

_URL = re.compile(r"\b(?:https?://|www\.)\S+")
_GRAMS = re.compile(r"(top|duplicate)_(\d+)grams")


def _compressed(text: str) -> float:
    data = text.encode("utf-8", "surrogatepass")
    if len(data) < 4 * ENOUGH:  # too short for DEFLATE's own overhead not to count
        return math.nan
    return len(zlib.compress(data, 1)) / len(data)


# What is found by searching the text.
SEARCHED: dict[str, Callable[[str], float]] = {
    "compressed": _compressed,  # size after DEFLATE at level 1, as a share
    "urls": lambda text: share(sum(map(len, _URL.findall(text))), len(text)),  # characters in addresses
    "lorem_ipsum": lambda text: text.lower().count("lorem ipsum"),
    "curly_brackets": lambda text: text.count("{"),
}
# Shares of characters in n tokens in a row: in all copies of the most frequent ones, with a blank between two tokens;
# in those that stood before, what was counted once not being counted again. Other numbers can be asked for too.
GRAMS = tuple(f"top_{n}grams" for n in (2, 3, 4, 5, 7)) + tuple(f"duplicate_{n}grams" for n in range(5, 19))
NAMES = (*RATIOS, *COUNTED, *COMPOSED, *SEARCHED, *GRAMS)


def measure(text: str, names: Collection[str] = NAMES, stop_words: Collection[str] = ()) -> dict[str, float]:
    """The statistics of a text by name. Raises KeyError for a name that there is none of."""
    grams = {name: int(match[2]) for name in names if (match := _GRAMS.fullmatch(name))}
    counts, copies = _count(text, sorted(set(grams.values())), tuple(stop_words))
    found = {name: share(copies[name.partition("_")[0], n], len(text)) for name, n in grams.items()}
    for name in names:
        if name in RATIOS:
            found[name] = share(*(counts[count] for count in RATIOS[name]))
        elif name in COUNTED:
            found[name] = counts[COUNTED[name]]
        elif name in COMPOSED:
            found[name] = COMPOSED[name](counts)
        elif name not in found:
            found[name] = SEARCHED[name](text)
    return found


def share(part: float, whole: float) -> float:
    """A part of a whole; NaN of nothing."""
    return part / whole if whole else math.nan


def _count(
    text: str, grams: Sequence[int], stop_words: tuple[str, ...]
) -> tuple[dict[str, int], dict[tuple[str, int], int]]:
    """Everything by its name in `kernels.text.COUNTS`, and characters by ('top' or 'duplicate', n)."""
    from fromzero.kernels import text as kernel
    from fromzero.kernels.compiling import first_use

    points, classes, stops = _points(text), _classes(), _stops(stop_words)
    counts, found = np.zeros(len(kernel.COUNTS), np.int64), np.zeros((2, len(grams)), np.int64)
    hashes, lengths = np.empty(len(points) + 1, np.uint64), np.empty(len(points) + 1, np.int64)
    with first_use("the quality rules"):
        kernel.count_first(points, classes, stops, np.zeros(256, np.int64), hashes, lengths, counts)
        tokens = int(counts[kernel.TOKENS])
        size = 1 << (2 * max(tokens, 2 * int(counts[kernel.NEWLINES]) + 2)).bit_length()
        runs, slots = np.empty((2, tokens), np.int32)
        keys, (marks, tallies, firsts) = np.empty(size, np.uint64), np.zeros((3, size), np.int32)
        kernel.count_copies(
            points, classes, hashes, lengths, np.array(grams, np.int64), found, runs, slots, keys, marks, tallies,
            firsts, counts,
        )  # fmt: skip
    named = dict(zip(kernel.COUNTS, counts.tolist(), strict=True))
    named["all_lines"] = named["newlines"] + (not text.endswith("\n")) if text else 0
    named["unbroken"] = named["characters"] - named["newlines"]
    top, duplicate = (
        {(kind, n): row[k] for k, n in enumerate(grams)}
        for kind, row in zip(("top", "duplicate"), found.tolist(), strict=True)
    )
    return named, top | duplicate


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(bytearray(text.encode("utf-32-le", "surrogatepass")), np.uint32)  # kernels want to write


@functools.cache
def _stops(words: tuple[str, ...]) -> NDArray[np.uint64]:
    from fromzero.kernels.text import hash_of

    return np.array([hash_of(_points(word), 0, len(word)) for word in words], np.uint64)


@functools.cache
def _classes() -> NDArray[np.uint8]:
    """What each character is, as bits for `kernels.text`."""
    import regex

    from fromzero.kernels import text as kernel

    patterns = {
        r"\s\x1c-\x1f": kernel.BLANK,
        r"\p{L}": kernel.LETTER,
        r"\p{L}\p{N}\p{M}": kernel.WORD,
        UNSPACED: kernel.UNSPACED,
        IDEOGRAPHS: kernel.IDEOGRAPH,
        r"\p{Sentence_Terminal}": kernel.TERMINAL,
        r"\p{Nd}": kernel.DIGIT,
        r"\p{M}": kernel.MARK,
    }
    classes, every = np.zeros(kernel.KNOWN, np.uint8), "".join(map(chr, range(kernel.KNOWN)))
    for pattern, bit in patterns.items():
        for run in regex.finditer(f"[{pattern}]+", every):
            classes[run.start() : run.end()] |= bit
    return classes
