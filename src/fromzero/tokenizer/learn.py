"""Learning merges: which pair of neighbouring tokens becomes the next token, counted over all pre-tokens.

`learn_merges_plainly` is the algorithm as Sennrich et al. (2016) give it, in a few lines: count all pairs, merge the
most frequent one everywhere, and start over. `learn_merges` gives the same merges from compiled code, which touches
only what changes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from fromzero.tokenizer.pretokens import Pretokens

TieBreak = Literal["greatest", "first"]
REPORTS = 0.2  # seconds between two looks at how far the learning is


class Learned(NamedTuple):
    """The merges in order, as pairs of ids (bytes are 0 to 255, merge i makes 256 + i), and what they achieve."""

    merges: list[tuple[int, int]]
    tokens: int
    """Tokens into which the counted text falls after all merges."""


def learn_merges(
    counts: Pretokens | Mapping[bytes, int],
    merges: int,
    tie_break: TieBreak = "greatest",
    report: Callable[[float], None] = lambda done: None,
) -> Learned:
    """Learn at most that many merges; fewer when no pair is left that occurs at least twice.

    A pair whose joined bytes are a token already (`a`+`bc` after `ab`+`c`) is passed over, so that every token has
    bytes of its own: the vocabulary is a mapping in the formats that others read.

    counts: pre-tokens and how often each occurs, in the order of first appearance. tie_break, between pairs that occur
    equally often: "greatest" takes the greatest pair of byte strings, "first" the one that occurs first in the
    pre-tokens as they are cut at that moment. report: called with the number of merges made so far.
    """
    from fromzero.kernels import learn

    pretokens = counts if isinstance(counts, Pretokens) else Pretokens(counts)
    letters, starts, times = pretokens.longer_than_one()
    slots = np.empty((len(letters) + len(times) + 1, 2), np.int32)
    learn.lay_out(letters, starts, times, slots)
    progress = np.zeros(2, np.int64)
    places = np.empty(len(slots) * 3 // 2, np.int32)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(learn.learn, slots, places, merges, tie_break == "first", progress)
        try:
            while not wait([running], REPORTS).done:
                report(int(progress[0]))
        finally:
            progress[1] = 1  # it stops if this was left by an interruption
    pairs, fewer = running.result()
    report(len(pairs))
    return Learned(list(map(tuple, pairs.tolist())), pretokens.total_bytes - int(fewer))


def learn_merges_plainly(counts: Mapping[bytes, int], merges: int, tie_break: TieBreak = "greatest") -> Learned:
    """The same by counting anew for every merge."""
    words = [([*word], count) for word, count in counts.items()]
    spelling = [bytes([byte]) for byte in range(256)]
    learned: list[tuple[int, int]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in words:
            for pair in pairwise(word):
                pairs[pair] += count
        rows = [
            (count, (spelling[a], spelling[b]) if tie_break == "greatest" else -place, (a, b))
            for place, ((a, b), count) in enumerate(pairs.items())
            if count >= 2 and spelling[a] + spelling[b] not in spelling
        ]
        if not rows:
            break
        *_, (a, b) = max(rows)
        words = [(_joined(word, a, b, len(spelling)), count) for word, count in words]
        spelling.append(spelling[a] + spelling[b])
        learned.append((a, b))
    return Learned(learned, sum(len(word) * count for word, count in words))


def _joined(word: list[int], a: int, b: int, new: int) -> list[int]:
    """A word with every a b, from the left, replaced by a new token."""
    joined: list[int] = []
    for token in word:
        if token == b and joined and joined[-1] == a:
            joined[-1] = new
        else:
            joined.append(token)
    return joined
