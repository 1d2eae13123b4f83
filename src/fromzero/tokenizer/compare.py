"""How tokenizers cut the same text: tokens that each needs, text that it loses, its speed, what its vocabulary holds.

In: tokenizers by name and texts by group (`compare_text`). Out: a `Comparison`, the figures and a few passages cut by
each tokenizer. Text is always read as text: special tokens spelled out in it don't count.
"""

import statistics
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import regex

from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.compare_text import NUMBERS, clip

LONGEST = 10
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # bytes: the last of each class of token lengths; longer ones are a class, too
PASSAGE_BYTES = 300
SPEED_BYTES, SPEED_REPEATS, SPEED_SECONDS = 300_000, 5, 2.0
REPEAT_SECONDS = 0.05  # at least, for one figure
LEAST_BYTES = 20_000  # text that is shorter is in the caches of a processor and of a tokenizer after the first reading
# Scripts without blanks between words; there, each character counts as a word.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_WORD = regex.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\S)+")
_SIGNS = {" ": "·", "\n": "↵", "\t": "⇥"}

Token = tuple[int, bytes]


@dataclass(frozen=True)
class Measured:
    """A tokenizer's figures. used: ids of its vocabulary that the texts need.

    speed: bytes of UTF-8 a second, rough; None for too short a text.

    groups: for each group the texts, and those `changed` by encoding and decoding or refused; of what was not refused,
    the bytes, characters, words and tokens, and how many of these are single_bytes or unknown.
    lengths: how many tokens have each class of LENGTHS, and longer ones last; special tokens don't count.
    """

    name: str
    kind: str
    vocab_size: int
    used: int
    speed: float | None
    groups: Mapping[str, Counter[str]]
    longest: tuple[bytes, ...]
    lengths: tuple[int, ...]

    @property
    def total(self) -> Counter[str]:
        """All groups but the numbers, which the others hold as well."""
        return sum((counts for group, counts in self.groups.items() if group != NUMBERS), Counter())


@dataclass(frozen=True)
class Passage:
    """The beginning of a text, and its tokens by tokenizer; None where a tokenizer refuses it."""

    group: str
    text: str
    tokens: Mapping[str, tuple[Token, ...] | None]


@dataclass(frozen=True)
class Comparison:
    """Figures of each tokenizer; overlap[a][b]: the share of a's byte strings that b has; passages cut by each."""

    tokenizers: tuple[Measured, ...]
    overlap: tuple[tuple[float, ...], ...]
    passages: tuple[Passage, ...]


def compare(tokenizers: Mapping[str, Tokenizer], groups: Mapping[str, Sequence[str]]) -> Comparison:
    """Measure tokenizers on the same texts. groups: name -> texts, each without lone surrogates."""
    speeds = _speeds(tokenizers, groups)
    pieces = {}
    for name, tokenizer in tokenizers.items():
        special = frozenset(tokenizer.special_tokens.values())
        pieces[name] = {piece for i, piece in enumerate(tokenizer.tokens) if piece is not None and i not in special}
    overlap = tuple(tuple(len(a & b) / max(1, len(a)) for b in pieces.values()) for a in pieces.values())
    measured = tuple(_measure(n, t, pieces[n], groups, speeds[n]) for n, t in tokenizers.items())
    begun = [(g, _beginning(text)) for g, texts in groups.items() for text in texts[:: max(1, len(texts) // 2)][:2]]
    passages = (Passage(g, text, {n: _cut(t, text) for n, t in tokenizers.items()}) for g, text in begun if text)
    return Comparison(measured, overlap, tuple(passages))


def visible(piece: bytes) -> list[tuple[str, bool]]:
    """A token to look at, in parts: text as it is, or (True) a sign for what can't be seen and for half characters."""
    parts = []
    for i, c in enumerate(piece.decode(errors="surrogateescape")):
        category = unicodedata.category(c)
        if category == "Cs":  # a byte that is no character: surrogateescape adds 0xDC00
            parts.append((f"\\x{ord(c) - 0xDC00:02X}", True))
        elif category[0] in "CZ":
            parts.append((_SIGNS.get(c, f"U+{ord(c):04X}"), True))
        else:  # a mark that begins a token would stand on the token before
            parts.append(("◌" + c if i == 0 and category[0] == "M" else c, False))
    return parts


def shown(piece: bytes) -> str:
    """`visible` as one text."""
    return "".join(text for text, _ in visible(piece))


def _measure(
    name: str, tokenizer: Tokenizer, pieces: set[bytes], groups: Mapping[str, Sequence[str]], speed: float | None
) -> Measured:
    used: set[int] = set()
    counts = {g: sum((_count(tokenizer, text, used) for text in texts), Counter()) for g, texts in groups.items()}
    classes = Counter(sum(len(piece) > most for most in LENGTHS) for piece in pieces)
    longest = sorted(pieces, key=lambda piece: (-len(piece), piece))[:LONGEST]
    lengths = tuple(classes[i] for i in range(len(LENGTHS) + 1))
    return Measured(name, tokenizer.kind, tokenizer.vocab_size, len(used), speed, counts, tuple(longest), lengths)


def _count(tokenizer: Tokenizer, text: str, used: set[int]) -> Counter[str]:
    """The counts of one text; its ids are added to `used`."""
    ids = _encode(tokenizer, text)
    if ids is None:
        return Counter(texts=1, changed=1)
    often = Counter(ids)
    used.update(often)
    # Kinds that know their unknown token have it as `unknown`; of others, a config may name it.
    unknown = getattr(tokenizer, "unknown", None) or tokenizer.roles.get("unk_token", "")
    return Counter(
        texts=1,
        changed=int(tokenizer.decode(ids) != text),
        bytes=len(text.encode()),
        characters=len(text),
        words=len(_WORD.findall(text)),
        tokens=len(ids),
        single_bytes=sum(n for i, n in often.items() if len(tokenizer.token_bytes(i)) == 1),
        unknown=often[tokenizer.special_tokens.get(unknown, -1)],
    )


def _encode(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode_ordinary(text)
    except UserError:  # a kind without an unknown token has no ids for some texts
        return None


def _cut(tokenizer: Tokenizer, text: str) -> tuple[Token, ...] | None:
    ids = _encode(tokenizer, text)
    return None if ids is None else tuple((i, tokenizer.token_bytes(i)) for i in ids)


def _speeds(tokenizers: Mapping[str, Tokenizer], groups: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """The median of interleaved repeats over the beginning of each group; bounded in time, but for the two first."""
    begun = [clip("\n".join(texts), SPEED_BYTES // len(groups)) for texts in groups.values()]
    if sum(len(text.encode()) for text in begun) < LEAST_BYTES:
        return dict.fromkeys(tokenizers)
    rates: dict[str, list[float]] = {name: [] for name in tokenizers}
    end = time.perf_counter() + SPEED_SECONDS * len(tokenizers)
    for repeat in range(1 + SPEED_REPEATS):  # the first one warms up
        if repeat < 2 or time.perf_counter() < end:
            for name, tokenizer in tokenizers.items():
                rates[name].append(_speed(tokenizer, begun))
    return {name: statistics.median(found[1:]) for name, found in rates.items()}


def _speed(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    start, size = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < REPEAT_SECONDS:
        size += sum(len(text.encode()) for text in texts if _encode(tokenizer, text) is not None)
    return size / seconds


def _beginning(text: str) -> str:
    """At most PASSAGE_BYTES, cut between words, or at least between what a reader sees as characters."""
    text = text.lstrip()
    clipped = clip(text, PASSAGE_BYTES)
    if len(clipped) < len(text):
        words = clipped.rpartition(" ")[0]
        clipped = words if len(words) > len(clipped) / 2 else "".join(regex.findall(r"\X", clipped)[:-1])
    return clipped.rstrip()
