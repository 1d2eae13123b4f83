"""The fast trainer gives the merges of the plain one, ties included."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.tokenizer.learn import TieBreak, learn_merges, learn_merges_plainly

Pair = tuple[bytes, bytes]


def plain(counts: dict[bytes, int], merges: int, tie_break: TieBreak) -> tuple[list[Pair], int]:
    """Count all pairs anew before each merge (Sennrich et al. 2016)."""
    words = [([bytes([byte]) for byte in word], count) for word, count in counts.items()]
    known, learned = {bytes([i]) for i in range(256)}, []
    while len(learned) < merges:
        pairs: dict[Pair, int] = {}
        for word, count in words:
            for left, right in pairwise(word):
                pairs[left, right] = pairs.get((left, right), 0) + count
        pairs = {pair: n for pair, n in pairs.items() if n >= 2 and pair[0] + pair[1] not in known}
        if not pairs:
            break
        most = [pair for pair, n in pairs.items() if n == max(pairs.values())]
        best = max(most) if tie_break == "greatest" else most[0]
        learned.append(best)
        known.add(best[0] + best[1])
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1
    return learned, sum(len(word) * count for word, count in words)


def spelled(merges: list[tuple[int, int]]) -> list[Pair]:
    tokens, pairs = [bytes([i]) for i in range(256)], []
    for left, right in merges:
        pairs.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return pairs


@pytest.mark.parametrize("tie_break", ["greatest", "first"])
@pytest.mark.parametrize("seed", range(80))
def test_equals_the_plain_trainer_on_random_words(seed: int, tie_break: TieBreak) -> None:
    choose = random.Random(seed)
    letters = choose.choice(["a", "ab", "abc", "abcdefgh", "\x00\xffa"])
    counts: dict[bytes, int] = {}
    for _ in range(choose.randint(1, 40)):
        word = "".join(choose.choices(letters, k=choose.randint(1, choose.choice([3, 8, 30])))).encode("latin-1")
        counts[word] = counts.get(word, 0) + choose.randint(1, 3)
    merges = choose.randint(0, 60)
    learned = learn_merges(counts, merges, tie_break)
    assert (spelled(learned.merges), learned.tokens) == plain(counts, merges, tie_break)
    assert learn_merges_plainly(counts, merges, tie_break) == learned


@given(st.dictionaries(st.binary(min_size=1, max_size=12), st.integers(1, 4), min_size=1, max_size=12))
def test_equals_the_plain_trainer_on_any_bytes(counts: dict[bytes, int]) -> None:
    for tie_break in ("greatest", "first"):
        learned = learn_merges(counts, 20, tie_break)
        assert (spelled(learned.merges), learned.tokens) == plain(counts, 20, tie_break)


def test_greatest_compares_bytes_and_a_longer_token_is_greater() -> None:
    counts = {b"xa": 2, b"xb": 2, b"xa\x00": 1, b"xa\xff": 1}
    assert spelled(learn_merges(counts, 1).merges) == [(b"x", b"a")]
    counts = {b"ab": 2, b"cd": 2, b"cde": 0}
    assert spelled(learn_merges(counts, 1).merges) == [(b"c", b"d")]
    assert spelled(learn_merges(counts, 1, "first").merges) == [(b"a", b"b")]


def test_tokens_have_bytes_of_their_own() -> None:
    counts = {b"a" * n: 3 for n in range(1, 40)}
    tokens = [left + right for left, right in spelled(learn_merges(counts, 100).merges)]
    assert len(tokens) == len(set(tokens))


def test_stops_when_no_pair_occurs_twice() -> None:
    assert learn_merges({b"abc": 1}, 10).merges == []
    assert learn_merges({}, 10).tokens == 0
