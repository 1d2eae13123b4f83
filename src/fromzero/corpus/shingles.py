"""Words for comparing texts, and the runs of words (shingles) that two texts share.

A word is a run of letters, marks and digits, without regard to case and width; all else stands between words. In
scripts that are written without blanks between words (Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer) each
character is a word: five of them say about as much as three English words, and nothing has to guess where words end.
"""

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

_PLANES = 0x20000  # beyond them are ideographs only
_END = 0x323B0
_UNSPACED = ((0xE00, 0x10A0), (0x1780, 0x1800), (0x2E80, 0xA4D0), (0xF900, 0xFB00), (0x1B000, 0x1B170), (_PLANES, _END))


@functools.cache
def word_table() -> NDArray[np.uint32]:
    """By code point: 0 between words, else the folded character, with ALONE added where it is a word by itself."""
    from fromzero.kernels.shingles import ALONE

    table = np.zeros(0x110000, np.uint32)
    table[:_PLANES] = [_folded(chr(code)) for code in range(_PLANES)]
    table[_PLANES:_END] = np.arange(_PLANES, _END)
    alone = np.zeros(len(table), np.uint32)
    for start, stop in _UNSPACED:
        alone[start:stop] = ALONE
    return table | alone[table]


def _folded(character: str) -> int:
    """The lower-case form of full width, or 0 for what is no part of a word."""
    if not character.isalnum() and unicodedata.category(character)[0] != "M":
        return 0
    folded = unicodedata.normalize("NFKC", character).lower()
    return ord(folded) if len(folded) == 1 else ord(character)


def words_of(data: bytes) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes of the words of a UTF-8 text, and where each of them starts and ends, (words, 2)."""
    from fromzero.kernels.shingles import cut_words

    room = len(data) // 2 + 3
    words, ends = np.empty(room, np.uint64), np.empty((room, 2), np.int64)
    count, _ = cut_words(np.frombuffer(data, np.uint8), 0, len(data), word_table(), words, ends, 0)
    return words[:count], ends[:count]


def shingles_of(words: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """The hash of each run of `size` words, or of all of them when they are fewer."""
    from fromzero.kernels.shingles import roll

    hashes = np.empty(max(len(words), 1), np.uint64)
    return hashes[: roll(words, len(words), size, hashes)]
