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
LENGTHS = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
)  # bytes: the last of each class of token lengths; longer ones are a class of theirs
PASSAGES, PASSAGE_BYTES = 2, 300  # of each group
SPEED_BYTES, SPEED_REPEATS, SPEED_SECONDS = 300_000, 5, 2.0
# Scripts without blanks between words; there, each character counts as a word.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_WORD = regex.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})\S)+")
_GRAPHEMES = regex.compile(r"\X")

Token = tuple[int, bytes]
Part = tuple[str, bool]  # text as it is, or (True) a sign for what can't be seen


@dataclass(frozen=True)
class Counts:
    """What was counted on texts, or on several groups of them together."""

    texts: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    tokens: int = 0
    single_bytes: int = 0
    unknown: int = 0
    lossy: int = 0
    """Texts that decoding does not give back, those among them that the tokenizer refuses to encode."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def per_token(self, what: str) -> float | None:
        """Bytes, characters, single_bytes or unknown for each token; None without tokens."""
        return getattr(self, what) / self.tokens if self.tokens else None

    @property
    def tokens_per_word(self) -> float | None:
        """Tokens for each word, or for each character of a script without blanks."""
        return self.tokens / self.words if self.words else None


@dataclass(frozen=True)
class Measured:
    """A tokenizer's figures. speed: MB of UTF-8 per second on one thread, rough; None when nothing could be encoded."""

    name: str
    kind: str
    vocab_size: int
    used: int
    speed: float | None
    groups: Mapping[str, Counts]
    longest: tuple[bytes, ...]
    lengths: tuple[int, ...]
    """How many tokens have each class of LENGTHS, and longer ones last; special tokens don't count."""

    @property
    def total(self) -> Counts:
        """All groups but the numbers, which the others hold as well."""
        return sum((counts for group, counts in self.groups.items() if group != NUMBERS), Counts())


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
    pieces = {name: _pieces(tokenizer) for name, tokenizer in tokenizers.items()}
    overlap = tuple(tuple(len(a & b) / max(1, len(a)) for b in pieces.values()) for a in pieces.values())
    measured = tuple(_measure(n, t, pieces[n], groups, speeds[n]) for n, t in tokenizers.items())
    passages = (Passage(group, text, _cut(tokenizers, text)) for group, text in _passages(groups))
    return Comparison(measured, overlap, tuple(passages))


def visible(piece: bytes) -> list[Part]:
    """A token to look at: blanks, control and format characters, and the bytes of half characters become signs."""
    parts: list[Part] = []
    for i, c in enumerate(piece.decode(errors="surrogateescape")):
        category = unicodedata.category(c)
        if c in _SIGNS:
            parts.append((_SIGNS[c], True))
        elif category == "Cs":  # a byte that is no character: surrogateescape adds 0xDC00
            parts.append((f"\\x{ord(c) - 0xDC00:02X}", True))
        elif category[0] in "CZ":
            parts.append((f"U+{ord(c):04X}", True))
        else:  # a mark that begins a token would stand on the token before
            parts.append(("◌" + c if i == 0 and category[0] == "M" else c, False))
    return parts


def shown(piece: bytes) -> str:
    """`visible` as one text."""
    return "".join(text for text, _ in visible(piece))


_SIGNS = {" ": "·", "\n": "↵", "\t": "⇥"}


def _measure(
    name: str, tokenizer: Tokenizer, pieces: set[bytes], groups: Mapping[str, Sequence[str]], speed: float | None
) -> Measured:
    used: set[int] = set()
    counts = {
        group: sum((_count(tokenizer, text, used) for text in texts), Counts()) for group, texts in groups.items()
    }
    classes = Counter(sum(len(piece) > most for most in LENGTHS) for piece in pieces)
    return Measured(
        name,
        tokenizer.kind,
        tokenizer.vocab_size,
        len(used),
        speed,
        counts,
        tuple(sorted(pieces, key=lambda piece: (-len(piece), piece))[:LONGEST]),
        tuple(classes[i] for i in range(len(LENGTHS) + 1)),
    )


def _count(tokenizer: Tokenizer, text: str, used: set[int]) -> Counts:
    """The counts of one text; the ids are added to `used`. A text that is refused only counts as lost."""
    ids = _encode(tokenizer, text)
    if ids is None:
        return Counts(texts=1, lossy=1)
    often = Counter(ids)
    used.update(often)
    unknown = tokenizer.special_tokens.get(tokenizer.roles.get("unk_token", ""))
    return Counts(
        1,
        len(text.encode()),
        len(text),
        len(_WORD.findall(text)),
        len(ids),
        sum(n for i, n in often.items() if len(tokenizer.token_bytes(i)) == 1),
        0 if unknown is None else often[unknown],
        int(tokenizer.decode(ids) != text),
    )


def _encode(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        return tokenizer.encode_ordinary(text)
    except UserError:  # a kind without an unknown token has no ids for some texts
        return None


def _pieces(tokenizer: Tokenizer) -> set[bytes]:
    special = frozenset(tokenizer.special_tokens.values())
    return {piece for i, piece in enumerate(tokenizer.tokens) if piece is not None and i not in special}


def _speeds(tokenizers: Mapping[str, Tokenizer], groups: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """The median of interleaved repeats over the beginning of each group, after one that warms up; bounded in time."""
    share = SPEED_BYTES // len(groups)
    texts = [clip("\n".join(texts), share) for texts in groups.values()]
    size = sum(len(text.encode()) for text in texts)
    seconds: dict[str, list[float]] = {
        name: [] for name, t in tokenizers.items() if all(_encode(t, text) is not None for text in texts)
    }
    for _ in range(SPEED_REPEATS):
        for name, taken in seconds.items():
            if sum(taken) < SPEED_SECONDS:
                start = time.perf_counter()
                for text in texts:
                    tokenizers[name].encode_array(text)
                taken.append(time.perf_counter() - start)
    return {name: size / 1e6 / statistics.median(seconds[name]) if name in seconds else None for name in tokenizers}


def _passages(groups: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """The beginnings of texts from different places of each group."""
    chosen = [(g, text) for g, texts in groups.items() for text in texts[:: max(1, len(texts) // PASSAGES)][:PASSAGES]]
    return [(group, begun) for group, text in chosen if (begun := _beginning(text.lstrip()))]


def _beginning(text: str) -> str:
    """At most PASSAGE_BYTES, cut between words, or at least between what a reader sees as characters."""
    clipped = clip(text, PASSAGE_BYTES)
    if len(clipped) < len(text):
        words = clipped.rpartition(" ")[0]
        clipped = words if len(words) > len(clipped) / 2 else "".join(_GRAPHEMES.findall(clipped)[:-1])
    return clipped.rstrip()


def _cut(tokenizers: Mapping[str, Tokenizer], text: str) -> dict[str, tuple[Token, ...] | None]:
    cut: dict[str, tuple[Token, ...] | None] = {}
    for name, tokenizer in tokenizers.items():
        ids = _encode(tokenizer, text)
        cut[name] = None if ids is None else tuple((i, tokenizer.token_bytes(i)) for i in ids)
    return cut
