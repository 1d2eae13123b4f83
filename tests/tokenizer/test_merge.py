"""Both ways to merge give what the plain algorithm gives, and the long one stays near-linear."""

import random
from collections import UserDict
from itertools import pairwise
from typing import Any

import pytest

from fromzero.tokenizer.merge import merge, merge_long, merge_short


def plain(symbols: list[int], ranks: dict[tuple[int, int], int], results: list[int]) -> list[int]:
    """All places of the lowest-ranked pair at a time, from the left (minbpe's way)."""
    while True:
        known = [ranks[pair] for pair in pairwise(symbols) if pair in ranks]
        if not known:
            return symbols
        rank, out, i = min(known), [], 0
        while i < len(symbols):
            if i + 1 < len(symbols) and ranks.get((symbols[i], symbols[i + 1])) == rank:
                out.append(results[rank])
                i += 2
            else:
                out.append(symbols[i])
                i += 1
        symbols = out


def random_merges(seed: int, count: int) -> tuple[dict[tuple[int, int], int], list[int]]:
    """Merges over a few letters, as training could make them: each joins tokens that exist by then."""
    choose = random.Random(seed)
    tokens, ranks = [97, 98, 99], {}
    while len(ranks) < count:
        pair = choose.choice(tokens), choose.choice(tokens)
        if pair not in ranks:
            tokens.append(256 + len(ranks))
            ranks[pair] = len(ranks)
    return ranks, [256 + rank for rank in range(count)]


@pytest.mark.parametrize("seed", range(60))
def test_short_and_long_equal_the_plain_algorithm(seed: int) -> None:
    ranks, results = random_merges(seed, 30)
    choose = random.Random(seed)
    for length in (1, 2, 3, 10, 40, 300):
        symbols = choose.choices([97, 98, 99], k=length)
        expected = plain(list(symbols), ranks, results)
        assert merge_short(symbols, ranks, results) == expected
        assert merge_long(symbols, ranks, results) == expected
        assert merge(symbols, ranks, results) == expected


class Counting(UserDict[tuple[int, int], int]):
    """Ranks that count how often they are asked."""

    asked = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.asked += 1
        return self.data.get(key, default)


@pytest.mark.parametrize("period", [[97], [97, 98], [97, 98, 99, 97]])
def test_work_on_a_long_line_grows_linearly(period: list[int]) -> None:
    doubling = {(97, 97): 0, (256, 256): 1, (257, 257): 2, (97, 98): 3, (259, 259): 4, (260, 260): 5, (99, 97): 6}
    results = [256, 257, 258, 259, 260, 261, 262]
    asked = []
    for length in (10_000, 20_000, 40_000):
        ranks = Counting(doubling)
        merge((period * length)[:length], ranks, results)
        asked.append(ranks.asked / length)
    assert max(asked) < 5
    assert asked[-1] <= asked[0] * 1.1
