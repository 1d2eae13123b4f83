"""SentencePiece's `.model` files (Kudo & Richardson 2018): pieces with scores, and how text is normalised before.

The file is a protocol buffer: fields of a number, a wire type and a value, in any order. GGUF files of the kinds
"llama" and "t5" hold the same things under other names, so both come to `from_pieces`.
"""

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromzero.errors import UserError
from fromzero.tokenizer.added import AddedToken
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.foreign import read_file, reading
from fromzero.tokenizer.last_pairs import last_pairs
from fromzero.tokenizer.normalize import Normalizer, precompiled, prepend, replace, sequence
from fromzero.tokenizer.sentencepiece_bpe import SentencePieceBPETokenizer
from fromzero.tokenizer.unigram import SPACE, UnigramTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
_FIXED = {1: 8, 5: 4}  # wire type -> bytes
_START, _END = r"(?<![\s\S])%s+", r"%s+(?![\s\S])"  # ^ and $ are about lines in some engines


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    type: int


class Settings(NamedTuple):
    """What else the file says."""

    kind: str = "unigram"
    precision: type[np.floating[Any]] = np.float32
    roles: Mapping[str, str] = {}
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def load_sentencepiece(path: Path, **common: Any) -> Tokenizer:
    """The tokenizer of a `.model` file, of the type BPE, Unigram or char, with the same ids as the library.

    common: chat_template, roles and such, as in `Tokenizer`; roles are otherwise those of the file.
    Special tokens are the unknown piece and the control pieces.
    Raises UserError for a damaged file, and for what can't be represented exactly.
    """
    path = Path(path)
    with reading(path, "a SentencePiece model"):
        pieces, settings = _parse(read_file(path))
        return from_pieces(pieces, settings, **common)


def from_pieces(pieces: Sequence[Piece], settings: Settings, **common: Any) -> Tokenizer:
    """The tokenizer of pieces, in the order of ids."""
    if strange := [piece for piece in pieces if piece.type not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE)]:
        raise UserError(f"it has the piece {strange[0].text!r} of type {strange[0].type}, which is not supported")
    if len({piece.text for piece in pieces}) != len(pieces) or not all(piece.text for piece in pieces):
        raise UserError("it has an empty piece, or one twice; get the file again")
    unknown = [piece.text for piece in pieces if piece.type == UNKNOWN]
    if len(unknown) != 1:
        raise UserError(f"it has {len(unknown)} unknown pieces; there should be one")
    if not settings.escape_whitespaces:
        raise UserError("it has escape_whitespaces off, which fromzero can't represent exactly")
    special_tokens = {piece.text: i for i, piece in enumerate(pieces) if piece.type in (UNKNOWN, CONTROL)}
    common = {
        "special_tokens": special_tokens,
        "roles": {name: text for name, text in settings.roles.items() if text in special_tokens},
        **common,
        "normalizer": normalizer_of(settings),
        "leading_space": settings.add_dummy_prefix,
    }
    byte_fallback = any(piece.type == BYTE for piece in pieces)
    if settings.kind == "unigram":
        scored = [(piece.text, piece.score) for piece in pieces]
        tokenizer: Tokenizer = UnigramTokenizer(
            scored, unknown[0], byte_fallback=byte_fallback, precision=settings.precision, **common
        )
    else:
        vocabulary = {piece.text: i for i, piece in enumerate(pieces)}
        merges = _merges(pieces) if settings.kind == "bpe" else []
        tokenizer = SentencePieceBPETokenizer(vocabulary, merges, unknown[0], byte_fallback=byte_fallback, **common)
    defined = {piece.text: i for i, piece in enumerate(pieces) if piece.type == USER_DEFINED}
    tokenizer.set_added_tokens({text: AddedToken(i, special=False, normalized=True) for text, i in defined.items()})
    return tokenizer


def _merges(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """The merge of each piece, best score first.

    Pieces of the same score have no order but from left to right. For runs of one character it is that of their
    lengths: the leftmost run grows until it is the longest.
    """
    normal = [i for i, piece in enumerate(pieces) if piece.type == NORMAL]
    ranked = sorted(normal, key=lambda i: (-pieces[i].score, -len(pieces[i].text)))
    for left, right in itertools.pairwise(pieces[i] for i in ranked if len(pieces[i].text) > 1):
        if left.score == right.score and len({*left.text, *right.text}) > 1:
            raise UserError(f"its pieces {left.text!r} and {right.text!r} have the same score, so which comes first?")
    pairs = last_pairs([pieces[i].text for i in ranked])
    return [(ranked[pair[0]], ranked[pair[1]]) for pair in pairs if pair is not None]


def normalizer_of(settings: Settings) -> Normalizer:
    """What SentencePiece does to a text, in its order."""
    parts = [precompiled(settings.charsmap, graphemes=False)] if settings.charsmap else []
    if settings.remove_extra_whitespaces:
        parts += [replace(_START % " ", "", expression=True), replace(" {2,}", " ", expression=True)]
    if settings.add_dummy_prefix:
        parts.append(prepend(SPACE))
    parts.append(replace(" ", SPACE))
    if settings.remove_extra_whitespaces:
        parts.append(replace(_END % SPACE, "", expression=True))
    return sequence(*parts)


def _parse(data: bytes) -> tuple[list[Piece], Settings]:
    """ModelProto: pieces (1), how it was trained (2), how text is normalised (3)."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            score = struct.unpack("<f", piece.get(2, bytes(4)))[0]
            pieces.append(Piece(piece[1].decode(), score, piece.get(3, NORMAL)))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(_fields(value))
    if not trainer or not normalizer:
        raise UserError("it ends before it says how it was trained, or how text is normalised; get the file again")
    if trainer.get(24):
        raise UserError("it has treat_whitespace_as_suffix on, which fromzero can't represent exactly")
    kind = _KINDS.get(trainer.get(3, 1))
    if kind in (None, "word"):
        raise UserError(f"it is of the type {kind or trainer[3]}; the types unigram, bpe and char can be read")
    names = ((46, "bos", "<s>"), (47, "eos", "</s>"), (45, "unk", "<unk>"), (48, "pad", "<pad>"))
    return pieces, Settings(
        kind=kind,
        roles={f"{name}_token": trainer.get(field, default.encode()).decode() for field, name, default in names},
        charsmap=normalizer.get(2, b""),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: an int for varints, else bytes. Raises UserError when cut off."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire not in _FIXED and wire != 2:
            raise UserError(f"it has a field of wire type {wire} at byte {place}, which is no protocol buffer")
        size, place = (_FIXED[wire], place) if wire in _FIXED else _varint(data, place)
        if size > len(data) - place:
            raise UserError(f"it ends inside of field {number}; get the file again")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for i, byte in enumerate(data[place : place + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, place + i + 1
    raise UserError(f"it has a number without end at byte {place}; get the file again")
