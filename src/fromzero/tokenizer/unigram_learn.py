"""Learning the pieces of a Unigram model (Kudo 2018): begin with far too many, and take away what is missed least.

Seeds are the substrings that save most when they become pieces. Then, in turns: expectation-maximisation gives each
piece its probability, and the quarter of the pieces whose loss costs the least likelihood goes, until the size is
reached. Constants and order are those of SentencePiece, so that its models can be compared with.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from fromzero.kernels.viterbi import best_counts, build_trie, expected_counts, losses
from fromzero.tokenizer.unigram import SPACE

COVERAGE = 0.9995  # of the characters of a text; the rarest rest is unknown
SEEDS = 1_000_000
LONGEST = 16  # characters of a piece
SHRINK = 0.75  # of the pieces are kept in each turn
STEPS = 2  # of expectation-maximisation in each turn
SPARE = 1.1  # turns end with so many times the size; the least likely of them go at the end
MIN_COUNT = 0.5  # expected; a piece below it goes at once

# A piece lies in one of these runs: Chinese and Japanese, letters of other scripts, or digits and signs. Only at its
# beginning may it have a blank.
_KANA = r"[\p{Han}\p{Hiragana}\p{Katakana}\u30FC]"
UNITS = rf"{SPACE}?(?:{_KANA}+|(?:(?!{_KANA})[\p{{L}}\p{{M}}])+|[^\p{{L}}\p{{M}}{SPACE}]+)|{SPACE}"
_UNITS = regex.compile(UNITS)


@dataclass(frozen=True)
class _Text:
    """Units laid out one after the other, with a zero between them."""

    codes: NDArray[np.int32]
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class _Pieces:
    """Stretches of the text's codes, and their scores."""

    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __getitem__(self, which: Any) -> "_Pieces":
        return _Pieces(self.begins[which], self.lengths[which], self.scores[which])


def learn_pieces(
    counts: Mapping[str, int],
    size: int,
    coverage: float = COVERAGE,
    report: Callable[[float], None] = lambda done: None,
) -> list[tuple[str, float]]:
    """Pieces with their log probabilities, the most likely first: `size` of them, or fewer when no more are in use.

    counts: word, with SPACE for the blank before it -> how often it occurs. coverage: share of all characters that
    have to be pieces themselves, and are all there is when they are more than `size`. report: told the percentage done.
    """
    units = Counter[str]()
    for word, count in counts.items():
        for unit in _UNITS.findall(word):
            units[unit] += count
    alphabet = frequent_characters(units, coverage)
    if not alphabet or len(alphabet) > size:
        return [(character, 0.0) for character in alphabet]
    text = _lay_out(units, alphabet)
    pieces = _seeds(text)
    seeds, goal = len(pieces.scores), SPARE * size
    while True:
        for _ in range(STEPS):
            pieces = _expect_and_maximise(text, pieces)
        if len(pieces.scores) <= goal:
            break
        pieces = _prune(text, pieces, int(goal))
        report(100 * (1 - np.log(len(pieces.scores) / goal) / np.log(seeds / goal)))
    return _finish(text, pieces, size)


def frequent_characters(units: Mapping[str, int], coverage: float) -> list[str]:
    """The most frequent characters that make up this share of the text."""
    counts: Counter[str] = Counter()
    for unit, count in units.items():
        for character in unit:
            counts[character] += count
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    covered = np.cumsum([counts[character] for character in ordered])
    needed = int(np.searchsorted(covered, coverage * covered[-1])) + 1 if ordered else 0
    return ordered[:needed]


def _lay_out(units: Mapping[str, int], alphabet: list[str]) -> _Text:
    """Units as arrays; a character outside the alphabet ends one and begins another."""
    joined = "\0" + "\0".join(units) + "\0"
    codes = np.frombuffer(joined.encode("utf-32-le"), np.int32).copy()
    unit_of = np.cumsum(codes == 0) - 1
    codes[~np.isin(codes, [ord(character) for character in alphabet])] = 0
    inside = codes != 0
    begins = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
    stops = np.flatnonzero(inside[:-1] & ~inside[1:]) + 1
    totals = np.array([*units.values()], np.float64)
    return _Text(codes, begins, stops - begins, totals[unit_of[begins]])


def _seeds(text: _Text) -> _Pieces:
    """All characters, and the substrings of the greatest length times count.

    Substrings grow by a character at a time: those of n + 1 characters lie where a frequent one of n lies. One that
    the same character follows always is no candidate: the longer one serves instead.
    """
    weights = np.repeat(text.weights, text.lengths)
    places = np.flatnonzero(text.codes)
    at = np.zeros(len(text.codes), np.int64)
    at[places] = np.arange(len(places))
    letters, groups = np.unique(text.codes[places], return_inverse=True)
    letter = np.append(np.searchsorted(letters, text.codes), 0)
    totals, firsts = np.bincount(groups, weights), places[np.unique(groups, return_index=True)[1]]
    found, length = [(firsts, np.ones(len(firsts), np.int64), totals)], 1
    while len(places) and length < LONGEST:
        follows = text.codes[places + length] != 0
        places, groups = places[follows], groups[follows]
        keys, first, inverse = np.unique(
            groups * len(letters) + letter[places + length], return_index=True, return_inverse=True
        )
        longer = np.bincount(inverse, weights[at[places]], len(keys))
        if length > 1:
            best = np.zeros(len(totals))
            np.maximum.at(best, keys // len(letters), longer)
            branches = best < totals
            found.append((firsts[branches], np.full(branches.sum(), length), totals[branches]))
        kept = longer >= 2
        totals, firsts, length = longer[kept], places[first[kept]], length + 1
        places, groups = places[kept[inverse]], (np.cumsum(kept) - 1)[inverse[kept[inverse]]]
    found.append((firsts, np.full(len(firsts), length), totals))
    begins, lengths, totals = (np.concatenate(column) for column in zip(*found, strict=True))
    gains = totals * lengths
    chosen = np.argsort(-np.where(lengths == 1, np.inf, gains), kind="stable")[: max(SEEDS, len(letters))]
    return _Pieces(begins[chosen], lengths[chosen], np.log(gains[chosen]) - np.log(gains[chosen].sum()))


def _expect_and_maximise(text: _Text, pieces: _Pieces) -> _Pieces:
    """Better scores by one step of expectation-maximisation, without the pieces that are hardly ever expected.

    The scores come out of a Dirichlet prior's digamma, which makes rare pieces rarer (Bayesian, as in SentencePiece).
    """
    trie = build_trie(text.codes, pieces.begins, pieces.lengths)
    counts, _ = expected_counts(
        text.codes, text.begins, text.lengths, text.weights, trie, pieces.scores, pieces.lengths.max()
    )
    kept = (counts >= MIN_COUNT) | (pieces.lengths == 1)
    counts = np.maximum(counts[kept], MIN_COUNT)
    pieces = pieces[kept]
    return _Pieces(pieces.begins, pieces.lengths, _digamma(counts) - _digamma(counts.sum(keepdims=True)))


def _prune(text: _Text, pieces: _Pieces, least: int) -> _Pieces:
    """Without the pieces that are missed least, in their order."""
    trie = build_trie(text.codes, pieces.begins, pieces.lengths)
    counts = best_counts(text.codes, text.begins, text.lengths, text.weights, trie, pieces.scores)
    missed = losses(text.codes, pieces.begins, pieces.lengths, counts, trie, pieces.scores)
    kept = np.argsort(-missed, kind="stable")[: max(least, int(SHRINK * len(missed)))]
    return pieces[np.sort(kept[missed[kept] >= 0])]


def _finish(text: _Text, pieces: _Pieces, size: int) -> list[tuple[str, float]]:
    """All characters and the most likely other pieces, as texts, the most likely first."""
    first = np.argsort(-np.where(pieces.lengths == 1, np.inf, pieces.scores), kind="stable")[:size]
    chosen = pieces[first]
    texts = [
        text.codes[begin : begin + length].tobytes().decode("utf-32-le")
        for begin, length in zip(chosen.begins, chosen.lengths, strict=True)
    ]
    return sorted(zip(texts, chosen.scores.tolist(), strict=True), key=lambda piece: (-piece[1], piece[0]))


def _digamma(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The derivative of the logarithm of the gamma function, x > 0: the recurrence up to 7, then the series."""
    shift, x = np.zeros_like(x), x.copy()
    for _ in range(7):
        small = x < 7
        shift[small] -= 1 / x[small]
        x[small] += 1
    square = 1 / (x - 0.5) ** 2
    return shift + np.log(x - 0.5) + square * (1 / 24 - square * (7 / 960 - square * 31 / 8064))
