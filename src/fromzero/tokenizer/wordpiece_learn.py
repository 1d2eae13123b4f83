"""Learning WordPiece's vocabulary as the field does today: byte-pair merges, over characters instead of bytes.

Schuster & Nakajima (2012) chose the pair that raises the likelihood of the text most. The trainer behind BERT was never
published, and the `tokenizers` library takes the most frequent pair, which is what this file does too.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from fromzero.tokenizer.unigram_learn import COVERAGE, frequent_characters
from fromzero.tokenizer.wordpiece import CONTINUES

Pair = tuple[str, str]


def learn_wordpieces(
    counts: Mapping[str, int],
    size: int,
    coverage: float = COVERAGE,
    report: Callable[[float], None] = lambda done: None,
) -> list[str]:
    """`size` tokens: characters at the beginning of a word and, after `##`, within one; then merges in order.

    counts: word -> how often it occurs. coverage: share of all characters that are tokens; words with one of the rest
    are not learned from. report: told the number of tokens. Of equally frequent pairs the least is merged.
    There are more tokens when the characters are more, and fewer when no pair occurs twice.
    """
    characters = frozenset(frequent_characters(counts, coverage))
    learner = _Learner({word: count for word, count in counts.items() if characters.issuperset(word)})
    tokens = sorted({token for word in learner.words for token in word})
    known = set(tokens)
    while len(tokens) < size and (pair := learner.most_frequent()):
        learner.merge(pair)
        if join(pair) not in known:
            tokens.append(join(pair))
            known.add(tokens[-1])
        report(len(tokens))
    return tokens


def join(pair: Pair) -> str:
    """The token that a pair becomes."""
    return pair[0] + pair[1].removeprefix(CONTINUES)


class _Learner:
    """Words as lists of tokens, how often each pair occurs in them, and where."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.words = [[word[0], *(CONTINUES + character for character in word[1:])] for word in counts]
        self.weights = [*counts.values()]
        self.counts: Counter[Pair] = Counter()
        self.where: defaultdict[Pair, set[int]] = defaultdict(set)  # words that have or had the pair
        for i in range(len(self.words)):
            self._count(i, 1)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def most_frequent(self) -> Pair | None:
        """The next pair to merge; None when none occurs twice. Entries of the heap that are out of date are dropped."""
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            if count <= -2 and self.counts[pair] == -count:
                return pair
        return None

    def merge(self, pair: Pair) -> None:
        """Join the pair wherever it stands, from the left in each word."""
        changed: set[Pair] = set()
        for i in self.where.pop(pair):
            changed |= self._count(i, -1)
            self.words[i] = _merged(self.words[i], pair)
            changed |= self._count(i, 1)
        for other in changed - {pair}:
            heapq.heappush(self.heap, (-self.counts[other], other))

    def _count(self, i: int, sign: int) -> set[Pair]:
        pairs = [*itertools.pairwise(self.words[i])]
        for pair in pairs:
            self.counts[pair] += sign * self.weights[i]
            if sign > 0:
                self.where[pair].add(i)
        return set(pairs)


def _merged(word: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    i = 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        joined.append(join(pair) if found else word[i])
        i += 1 + found
    return joined
