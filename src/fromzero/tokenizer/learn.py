"""Learning merges: which pair of neighbouring tokens becomes the next token, counted over all pre-tokens.

The plain algorithm counts all pairs, merges the most frequent one everywhere, and starts over (Sennrich et al. 2016).
This one gives the same merges and touches only what changes. Two facts make it short:

- When a token is made, all the pairs it will ever be part of with older tokens exist already. So the places of a pair
  are listed once, when its younger half is made, and only ever shrink; and so does its count. A heap whose entries are
  checked when they come up is therefore exact.
- The pre-tokens lie in one flat array of slots, one a byte. A token stands in its first and in its last slot, so both
  neighbours of a token are one look-up away, and a merge at all its places is a few NumPy operations.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TieBreak = Literal["greatest", "first"]
_Pairs = Callable[[list[int]], Iterable[tuple[int, int]]]  # ids of the other halves -> pairs

_BOUNDARY = -2  # slot between two pre-tokens
_GONE = -1  # first slot of a token that became the right half of another
_REVERSED = bytes(range(255, -1, -1))


@dataclass(frozen=True)
class Learned:
    """The merges in order, as pairs of ids (bytes are 0 to 255, merge i makes 256 + i), and what they achieve."""

    merges: list[tuple[int, int]]
    tokens: int
    """Tokens into which the counted text falls after all merges."""


def learn_merges(
    counts: Mapping[bytes, int],
    merges: int,
    tie_break: TieBreak = "greatest",
    report: Callable[[float], None] = lambda done: None,
) -> Learned:
    """Learn at most that many merges; fewer when no pair is left that occurs at least twice.

    A pair whose joined bytes are a token already (`a`+`bc` after `ab`+`c`) is passed over, so that every token has
    bytes of its own: the vocabulary is a mapping in the formats that others read.

    counts: pre-token -> how often it occurs, in the order of first appearance. tie_break, between pairs that occur
    equally often: "greatest" takes the greatest pair of byte strings, "first" the one that occurs first in the
    pre-tokens as they are cut at that moment.
    """
    state = _Learner(counts, merges, tie_break)
    learned: list[tuple[int, int]] = []
    while len(learned) < merges and (found := state.most_frequent()):
        pair, places = found
        learned.append(pair)
        state.merge(pair, places)
        report(len(learned))
    return Learned(learned, state.tokens)


class _Learner:
    """Counts and places of all pairs that occur at least twice, and the slots they are about."""

    def __init__(self, counts: Mapping[bytes, int], merges: int, tie_break: TieBreak) -> None:
        self.slots, self.weights = _lay_out(counts)
        self.tokens = sum(len(word) * count for word, count in counts.items())
        self.tie_break = tie_break
        self.lengths = np.ones(256 + merges, _index_type(len(self.slots)))  # bytes of each token
        self.sort_keys = [_descending(bytes([byte])) for byte in range(256)]
        self.spelling = [bytes([byte]) for byte in range(256)]
        self.known = set(self.spelling)
        self.counts: dict[tuple[int, int], int] = {}
        self.places: dict[tuple[int, int], NDArray[Any]] = {}
        self.heap: list[Any] = []
        self._count_bytes()

    def _count_bytes(self) -> None:
        left, right = self.slots[:-1], self.slots[1:]
        places = np.flatnonzero((left >= 0) & (right >= 0)).astype(_index_type(len(self.slots)))
        self._add(left[places] * 256 + right[places], places, lambda keys: (divmod(key, 256) for key in keys))

    def most_frequent(self) -> tuple[tuple[int, int], NDArray[Any]] | None:
        """The pair to merge next and the places of its left half, ascending; None when none occurs twice."""
        while self.heap:
            entry = heapq.heappop(self.heap)
            pair = entry[-1]
            if self.counts[pair] == -entry[0]:
                self.places[pair] = self._live(pair)
            if self._entry(pair) != entry:
                self._push(pair)
                continue
            places = self.places[pair]
            del self.counts[pair], self.places[pair]
            if self.spelling[pair[0]] + self.spelling[pair[1]] not in self.known:
                return pair, places
        return None

    def merge(self, pair: tuple[int, int], places: NDArray[Any]) -> None:
        """Replace the pair at its places by a new token, and bring the counts of all pairs around them up to date."""
        (a, b), slots, new = pair, self.slots, len(self.spelling)
        if a == b:
            places = _without_overlaps(places, int(self.lengths[a]))
        seconds = places + self.lengths[a]
        ends = seconds + (self.lengths[b] - 1)
        weights = self.weights[places]
        old_left, right = slots[places - 1], slots[ends + 1]
        slots[seconds] = _GONE
        slots[places] = slots[ends] = new
        self._name(new, a, b)
        self.tokens -= int(weights.sum())
        left = slots[places - 1]
        # Where two places follow each other, the pair between them is counted once, as the left one of the second.
        has_left, has_right = left >= 0, (right >= 0) & (slots[ends + 1] != new)
        self._remove(old_left[has_left], weights[has_left], lambda others: zip(others, repeat(a)))
        self._remove(right[has_right], weights[has_right], lambda others: zip(repeat(b), others))
        left, starts = left[has_left], places[has_left]
        self._add(left, starts - self.lengths[left], lambda others: zip(others, repeat(new)))
        self._add(right[has_right], places[has_right], lambda others: zip(repeat(new), others))

    def _name(self, new: int, a: int, b: int) -> None:
        self.lengths[new] = self.lengths[a] + self.lengths[b]
        self.spelling.append(self.spelling[a] + self.spelling[b])
        self.known.add(self.spelling[new])
        self.sort_keys.append(_descending(self.spelling[new]))

    def _live(self, pair: tuple[int, int]) -> NDArray[Any]:
        places = self.places[pair]
        places = places[self.slots[places] == pair[0]]
        return places[self.slots[places + self.lengths[pair[0]]] == pair[1]]

    def _remove(self, others: NDArray[Any], weights: NDArray[Any], pairs: _Pairs) -> None:
        order, starts = _groups(others)
        sums = np.add.reduceat(weights[order], starts) if len(others) else weights
        for pair, total in zip(pairs(others[order[starts]].tolist()), sums.tolist(), strict=True):
            if pair in self.counts:
                self.counts[pair] -= total

    def _add(self, others: NDArray[Any], places: NDArray[Any], pairs: _Pairs) -> None:
        order, starts = _groups(others)
        others, places = others[order], places[order]
        ends = np.append(starts[1:], len(others))
        sums = np.add.reduceat(self.weights[places], starts) if len(others) else starts
        kept = sums >= 2  # a count never grows, so a pair that occurs once will not be merged
        starts, ends, sums = starts[kept], ends[kept], sums[kept]
        rows = zip(pairs(others[starts].tolist()), sums.tolist(), starts.tolist(), ends.tolist(), strict=True)
        for pair, total, start, end in rows:
            self.counts[pair], self.places[pair] = total, places[start:end]
            self._push(pair)

    def _push(self, pair: tuple[int, int]) -> None:
        if self.counts[pair] >= 2:
            heapq.heappush(self.heap, self._entry(pair))
        else:
            del self.counts[pair], self.places[pair]

    def _entry(self, pair: tuple[int, int]) -> Any:
        """What the heap sorts by, least first: most frequent, then the tie-break. It only ever gets greater."""
        if self.tie_break == "greatest":
            return -self.counts[pair], self.sort_keys[pair[0]], self.sort_keys[pair[1]], pair
        places = self.places[pair]
        return -self.counts[pair], int(places[0]) if len(places) else -1, pair


def _lay_out(counts: Mapping[bytes, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Pre-tokens as slots: [boundary, bytes, boundary, bytes, ..., boundary], and each slot's count."""
    words = [word for word in counts if len(word) > 1]  # a single byte has no pair
    slots = np.frombuffer(b"\0" + b"".join(word + b"\0" for word in words), np.uint8).astype(np.int32)
    lengths = np.array([len(word) + 1 for word in words], np.int64)
    slots[np.concatenate([[0], np.cumsum(lengths)])] = _BOUNDARY
    totals = np.array([counts[word] for word in words], np.int64)
    return slots, np.concatenate([np.zeros(1, np.int64), np.repeat(totals, lengths)])


def _groups(keys: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order that puts equal keys together and else leaves them as they are, and where each group of them starts."""
    if len(keys) > 500 and keys.max() < 1 << 16:
        keys = keys.astype(np.uint16)  # 16 bits: NumPy sorts them by radix
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return order, np.concatenate([np.zeros(min(1, len(keys)), np.int64), starts])


def _without_overlaps(places: NDArray[Any], length: int) -> NDArray[Any]:
    """Of a run like `aaaa`, where the pair (a, a) stands at every place, each second place, from the left."""
    index = np.arange(len(places))
    run_starts = np.zeros(len(places), index.dtype)
    new_run = np.flatnonzero(np.diff(places) != length) + 1
    run_starts[new_run] = new_run
    return places[(index - np.maximum.accumulate(run_starts)) % 2 == 0]


def _index_type(slots: int) -> Any:
    return np.int32 if slots < 2**31 else np.int64


def _descending(spelling: bytes) -> str:
    """A string that sorts before another exactly when its bytes sort after the other's."""
    return spelling.translate(_REVERSED).decode("latin-1") + "\u0100"
