"""Unigram (Kudo 2018), the subwords of T5 and of SentencePiece: of all ways to cut a text, the most likely one.

Each piece has a log probability. U+2581 stands for the blank in pieces, and a text's first word begins with one as all
others do, so decoding gives any text back (a U+2581 of its own as a blank). A character that no piece has is unknown,
or its bytes where there are pieces for them.
"""

import abc
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np

from fromzero.errors import UserError
from fromzero.tokenizer.base import Common, Tokenizer, token_table
from fromzero.tokenizer.normalize import WHITE_SPACE
from fromzero.tokenizer.word import UNKNOWN, check_unknown

SPACE = "\u2581"  # stands for a blank in pieces
MAX_CHARACTERS = 1 << 24  # of all pieces together; 250,000 published ones have some 1.5 million
UNKNOWN_PENALTY = 10.0  # below the least likely piece, as in SentencePiece
BYTES = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_WORDS = re.compile(f"[^{WHITE_SPACE}]+")


@dataclass(frozen=True)
class Metaspace:
    """How blanks become U+2581, in the terms of `tokenizer.json`."""

    prepend: Literal["always", "first", "never"] = "always"
    """Where one is put before what does not begin with one: every text between special tokens, the first, or none."""
    split: bool = True
    """Words are cut on their own: no piece holds a U+2581 but at its beginning."""
    words: bool = False
    """Blanks of any kind and number only separate words, as T5 has it; `split`, and "always" for each word."""

    def __call__(self, text: str, first: bool = True) -> str:
        """The text as pieces spell it. first: no special token stands before it."""
        parts = _WORDS.findall(text) if self.words else [text] if text else []
        parts = [part.replace(" ", SPACE) for part in parts]
        if self.prepend == "always" or (self.prepend == "first" and first):
            parts = [part if part.startswith(SPACE) else SPACE + part for part in parts]
        return "".join(parts)


class PieceTokenizer(Tokenizer):
    """What tokenizers have in common whose pieces spell a blank as U+2581."""

    metaspace: Metaspace | None

    @abc.abstractmethod
    def _encode_marked(self, text: str) -> list[int]:
        """Ids of a text as pieces spell it."""

    def _encode(self, text: str) -> list[int]:
        return self._encode_marked(self.metaspace(text) if self.metaspace else text)

    def _encode_later(self, text: str) -> list[int]:
        return self._encode_marked(self.metaspace(text, first=False) if self.metaspace else text)


class UnigramTokenizer(PieceTokenizer):
    """Pieces with their log probabilities, and what is done to a text before it is cut into them.

    pieces: by id; those that are special tokens are never found in a text, nor are `<0x00>` to `<0xFF>` with
    byte_fallback. unknown: the special token for a run of characters that are no pieces. byte_fallback: the bytes of
    such characters are used instead. metaspace: None when the normalizer marks blanks. precision: of sums, which
    decides between cuts as good as equal: `tokenizers` has float64, SentencePiece float32. The rest as in `Tokenizer`.

    Raises UserError when these don't fit each other.
    """

    kind = "unigram"

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        unknown: str = UNKNOWN,
        special_tokens: Mapping[str, int] | None = None,
        *,
        metaspace: Metaspace | None = None,
        byte_fallback: bool = False,
        precision: type[np.floating[Any]] = np.float64,
        **common: Unpack[Common],
    ) -> None:
        specials = dict(special_tokens or {})
        check_unknown(unknown, specials)
        _check_pieces(pieces, specials)
        self.pieces, self.unknown, self.metaspace, self.byte_fallback = list(pieces), unknown, metaspace, byte_fallback
        self._precision = precision
        self._bytes = byte_ids({piece: i for i, (piece, _) in enumerate(pieces)}) if byte_fallback else []
        ordinary = ((bytes_of(p, byte_fallback), i) for i, (p, _) in enumerate(pieces) if p not in specials)
        table = token_table(ordinary, specials)
        super().__init__(table, specials, **({"leading_space": True} | common))
        self._prepare()

    def _prepare(self) -> None:
        """The pieces that can be found in a text, as the kernel takes them."""
        hidden = {*self.special_tokens.values(), *self._bytes}
        found = [i for i in range(len(self.pieces)) if i not in hidden]
        lengths = np.array([len(self.pieces[i][0]) for i in found], np.int64)
        from fromzero.kernels.viterbi import build_trie

        self._trie = build_trie(
            _codes("".join(self.pieces[i][0] for i in found)), np.cumsum(lengths) - lengths, lengths
        )
        self._scores = np.array([self.pieces[i][1] for i in found], self._precision)
        self._ids = np.array([*found, self.special_tokens[self.unknown]], np.int32)  # the last one is found as -1
        self._unknown_score = self._precision(min(score for _, score in self.pieces) - UNKNOWN_PENALTY)
        self._barrier = ord(SPACE) if self.metaspace and self.metaspace.split else -1

    def _encode_marked(self, text: str) -> list[int]:
        from fromzero.kernels.viterbi import best_path

        found, stops = best_path(_codes(text), self._trie, self._scores, self._unknown_score, self._barrier)
        ids: list[int] = self._ids[found].tolist()
        if not self._bytes or not (found < 0).any():
            return ids
        starts = [0, *stops.tolist()]
        return [
            byte_or_id
            for i, known, start, stop in zip(ids, found >= 0, starts, starts[1:], strict=False)
            for byte_or_id in ([i] if known else [self._bytes[byte] for byte in text[start:stop].encode()])
        ]


def segment(text: str, scores: Mapping[str, float], unknown: float) -> list[str]:
    """The best way to cut a text into pieces: the plain form of the kernel `best_path`.

    unknown: the score of a character that is no piece; a run of them becomes one piece.
    """
    longest = max(map(len, scores), default=1)
    best = [(0.0, 0)]  # by place: the score of the best path to it, and where its last piece begins
    for stop in range(1, len(text) + 1):
        starts = range(max(0, stop - longest), stop)
        paths = [(best[start][0] + scores[text[start:stop]], start) for start in starts if text[start:stop] in scores]
        if text[stop - 1] not in scores:
            paths.append((best[stop - 1][0] + unknown, stop - 1))
        best.append(max(paths, key=lambda path: path[0]))
    pieces: list[str] = []
    stop = len(text)
    while stop:
        start = best[stop][1]
        joins = pieces and text[start:stop] not in scores and pieces[-1] not in scores
        pieces.append(text[start:stop] + (pieces.pop() if joins else ""))
        stop = start
    return pieces[::-1]


def _codes(text: str) -> Any:
    return np.frombuffer(text.encode("utf-32-le"), np.int32).copy()  # kernels are compiled for arrays to write to


def _check_pieces(pieces: Sequence[tuple[str, float]], specials: Mapping[str, int]) -> None:
    if len({piece for piece, _ in pieces}) < len(pieces) or not all(piece for piece, _ in pieces):
        raise UserError("it has an empty piece, or one twice; get the file again")
    if sum(len(piece) for piece, _ in pieces) > MAX_CHARACTERS:
        raise UserError(f"its pieces have more than {MAX_CHARACTERS} characters; that can't be a tokenizer")
    if broken := [piece for piece, score in pieces if not math.isfinite(score)]:
        raise UserError(f"the piece {broken[0]!r} has a score that is not a finite number; get the file again")
    if wrong := [text for text, i in specials.items() if 0 <= i < len(pieces) and pieces[i][0] != text]:
        i = specials[wrong[0]]
        raise UserError(f"the special token {wrong[0]!r} has id {i}, which is that of the piece {pieces[i][0]!r}")


def byte_ids(ids: Mapping[str, int]) -> list[int]:
    """By byte, the id of its piece. Raises UserError where one is missing."""
    if missing := [piece for piece, _ in BYTES if piece not in ids]:
        raise UserError(f"byte_fallback needs the 256 pieces <0x00> to <0xFF>, but it lacks the piece {missing[0]}")
    return [ids[piece] for piece, _ in BYTES]


def bytes_of(piece: str, byte_fallback: bool) -> bytes:
    """What a piece decodes to."""
    byte = _BYTE.fullmatch(piece) if byte_fallback else None
    return bytes.fromhex(byte[1]) if byte else piece.replace(SPACE, " ").encode()
