"""By which merge each token of a rank file comes to be: the pair of tokens that is left when all but one are done.

The pairs of all tokens are found side by side, the shorter tokens first: a token is cut in two in every way that gives
two tokens, and of these ways one is right, in which nothing merges over the cut before both sides are whole.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import AnyStr

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError

MAX_WORK = 1 << 26  # sum of the squared lengths of the tokens; o200k_base has a twelfth of it
_NEVER = 1 << 60
_BASE, _BUCKETS, _DEEPEST = 0x9E3779B97F4A7C15, 20, 16


def last_pairs(tokens: Sequence[AnyStr]) -> list[tuple[int, int] | None]:
    """For each token, in the order of ranks, the pair of tokens that is left when its symbols are merged by rank.

    Tokens are bytes or characters, by which they are merged; pairs are places in `tokens`. None for one symbol, and for
    a token that merging never makes. Raises UserError when the tokens are so long that it would take too long.
    """
    if not tokens:
        return []
    stretches = _Stretches(tokens)
    pairs: list[tuple[int, int] | None] = []
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for token, left, right in zip(tokens, *_pairs(stretches).T.tolist(), strict=True):
        sure = left >= 0 and tokens[left] + tokens[right] == token  # equal hashes may have misled
        pairs.append((left, right) if sure else _merged_pair(token, ranks))
    return pairs


class _Stretches:
    """Tells which token a stretch of a token is, for many at once, by hashes that grow with the stretch."""

    def __init__(self, tokens: Sequence[AnyStr]) -> None:
        joined = tokens[0][:0].join(tokens)
        data = joined if isinstance(joined, bytes) else joined.encode("utf-32-le")
        codes = np.frombuffer(data, np.uint8 if isinstance(joined, bytes) else np.uint32).astype(np.uint64)
        self.lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        if (self.lengths**2).sum() > MAX_WORK:
            raise UserError("its tokens are too long to be those of a tokenizer; get the file again")
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        # A hash is the sum of codes times powers of an odd number, modulo 2**64; that of where it begins is taken back.
        self._powers, self._back = (_powers(base, len(codes)) for base in (_BASE, pow(_BASE, -1, 1 << 64)))
        mixed = (codes + np.uint64(1)) * np.uint64(_BASE)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * self._powers[:-1]
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed)])
        self._hashes = self._hash(self.starts, self.ends)
        ranks = np.argsort(self._hashes)
        ordered = self._hashes[ranks]
        counts = np.bincount(_bucket(ordered), minlength=1 << _BUCKETS)
        self._first = np.cumsum(counts) - counts
        self._deep = int(counts.max())
        self._ordered = np.append(ordered, np.zeros(self._deep, np.uint64))
        self._ranks = np.append(ranks, np.full(self._deep, _NEVER))
        self.differ = self._deep <= _DEEPEST and bool((ordered[1:] != ordered[:-1]).all())

    def find(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ranks of the stretches between these places; _NEVER where one is no token."""
        return self._find(self._hash(start, stop))

    def find_joined(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ranks of what pairs of tokens join to."""
        return self._find(self._hashes[left] + self._hashes[right] * self._powers[self.lengths[left]])

    def _hash(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.uint64]:
        hashes: NDArray[np.uint64] = (self._sums[stop] - self._sums[start]) * self._back[start]
        return hashes

    def _find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        first, found = self._first[_bucket(hashes)], np.full(len(hashes), _NEVER)
        for i in range(self._deep):
            hits = np.flatnonzero(self._ordered[first + i] == hashes)
            found[hits] = self._ranks[first[hits] + i]
        return found


def _powers(base: int, most: int) -> NDArray[np.uint64]:
    factors = np.full(most + 1, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _bucket(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _BUCKETS)).astype(np.int64)


def _pairs(stretches: _Stretches) -> NDArray[np.int64]:
    """By token, two tokens of lower rank that stay apart until each of them is whole; (-1, -1) where there are none.

    Short tokens come first. Known is how a token is made if it is made after all that it is made of, so that its rank
    is the time at which it is made.
    """
    starts, lengths = stretches.starts, stretches.lengths
    pairs = np.full((len(lengths), 2), -1)
    known: NDArray[np.bool_] = lengths == 1
    if not stretches.differ:
        return pairs
    tokens = np.repeat(np.arange(len(lengths)), lengths - 1)
    cuts = np.arange(len(tokens)) + tokens + 1  # each token has one cut less than it has symbols
    left = stretches.find(starts[tokens], cuts)
    lower = np.flatnonzero(left < tokens)
    tokens, left, cuts = tokens[lower], left[lower], cuts[lower]
    right = stretches.find(cuts, stretches.ends[tokens])
    lower = np.flatnonzero(right < tokens)
    lower = lower[np.argsort(lengths[tokens[lower]], kind="stable")]
    tokens, left, right = tokens[lower], left[lower], right[lower]
    bounds = np.flatnonzero(np.diff(lengths[tokens], prepend=0, append=0))
    for start, stop in itertools.pairwise(bounds.tolist()):
        here = start + np.flatnonzero(known[left[start:stop]] & known[right[start:stop]])
        here = here[_stay_apart(left[here], right[here], pairs, stretches)]
        pairs[tokens[here]] = np.stack([left[here], right[here]], 1)
        known[tokens[here]] = True
    return pairs


def _stay_apart(
    left: NDArray[np.int64], right: NDArray[np.int64], pairs: NDArray[np.int64], stretches: _Stretches
) -> NDArray[np.int64]:
    """The places of those where no merge over the border comes before both are whole: goes back, merge by merge."""
    apart, places = [], np.arange(len(left))
    while len(places):
        last, first = pairs[left, 1], pairs[right, 0]
        goes_left = (last >= 0) & ((first < 0) | (left > right))
        before = np.where(goes_left, left, right + 1)  # of two merges with the same rank, the left one comes first
        whole = (last < 0) & (first < 0)
        apart.append(places[whole])
        left, right = np.where(goes_left, last, left), np.where(goes_left, right, first)
        going = np.flatnonzero(~whole)
        going = going[stretches.find_joined(left[going], right[going]) >= before[going]]
        places, left, right = places[going], left[going], right[going]
    return np.concatenate([*apart, np.empty(0, np.int64)])


def _merged_pair(token: AnyStr, ranks: Mapping[AnyStr, int]) -> tuple[int, int] | None:
    """What is left of the token when merging has come to two parts, if it does: the plain way."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [left + right for left, right in itertools.pairwise(parts)]
        found = [ranks.get(pair, _NEVER) for pair in joined]
        best = min(found)
        if best == _NEVER:
            return None
        i = found.index(best)
        parts[i : i + 2] = [joined[i]]
    if len(parts) < 2 or not all(part in ranks for part in parts):
        return None
    return ranks[parts[0]], ranks[parts[1]]
