"""The plain way to merge and the compiled one give what the plainest algorithm gives, on hostile input too."""

import random
from itertools import pairwise

import numpy as np
import pytest

from fromzero.errors import UserError
from fromzero.kernels.merge import LONG, SHORT
from fromzero.tokenizer.merge import merge
from fromzero.tokenizer.merge_table import MergeTable
from fromzero.tokenizer.splitter import Splitter


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


def table(ranks: dict[tuple[int, int], int], results: list[int]) -> MergeTable:
    pairs, made = np.array(list(ranks), np.int32).reshape(-1, 2), np.array(results, np.int32)
    return MergeTable(np.arange(256, dtype=np.int32), pairs, made)


def matching(ranks: dict[tuple[int, int], int], results: list[int]) -> tuple[MergeTable, list[bytes]]:
    """The same with the bytes of tokens, so that text can be matched; and these."""
    tokens = [bytes([i]) for i in range(256)]
    for left, right in ranks:
        tokens.append(tokens[left] + tokens[right])
    pairs, made = np.array(list(ranks), np.int32).reshape(-1, 2), np.array(results, np.int32)
    return MergeTable(np.arange(256, dtype=np.int32), pairs, made, tokens), tokens


@pytest.mark.parametrize("seed", range(60))
def test_all_equal_the_plain_algorithm(seed: int) -> None:
    ranks, results = random_merges(seed, 30)
    compiled, everything = table(ranks, results), Splitter([r"[\s\S]+"])
    choose = random.Random(seed)
    for length in (0, 1, 2, 3, 10, 15, 16, SHORT, SHORT + 1, 100, LONG - 1, LONG, LONG + 1, 2 * LONG):
        symbols = choose.choices([97, 98, 99], k=length)
        expected = plain(list(symbols), ranks, results)
        assert merge(symbols, ranks, results) == expected
        for _ in range(2):  # the second time from the cache, where it is short
            assert compiled.encode([bytes(symbols)], everything)[0].tolist() == expected


@pytest.mark.parametrize(
    "period", ["a", "ab", "abca", "^", " ", "\n", "\u0301", "👨\u200d👩", "a\u0301", "\u3000", "9"]
)
def test_a_million_characters_of_one_kind_are_encoded(period: str) -> None:
    doubling = {(97, 97): 0, (256, 256): 1, (257, 257): 2, (97, 98): 3, (259, 259): 4, (32, 32): 5, (261, 261): 6}
    compiled = table(doubling, [256 + i for i in range(7)])
    text = (period * 1_000_000)[:1_000_000].encode()
    for pattern in ([r"\S+|\s+(?!\S)|\s"], [r"[\s\S]{1,3}", r"\w+"]):
        ids, ends = compiled.encode([text], Splitter(pattern))
        spelled = [bytes([i]) for i in range(256)] + [b"aa", b"a" * 4, b"a" * 8, b"ab", b"abab", b"  ", b"    "]
        assert b"".join(spelled[i] for i in ids.tolist()) == text
        assert ends.tolist() == [len(ids)]


@pytest.mark.parametrize("letters", ["a", "ab", "abc", "中", "中丰", "中丰仲", "é中a", "👍中é", " 中.", "ァ中a👍é"])
@pytest.mark.parametrize("seed", range(12))
def test_matching_gives_what_merging_gives(seed: int, letters: str) -> None:
    choose = random.Random(seed)
    spelled, ranks = {i: bytes([i]) for i in range(256)}, {}
    example = list("".join(choose.choices(letters, k=200)).encode())
    for _ in range(choose.choice([5, 30, 80])):
        i = choose.randrange(len(example) - 1)
        pair, joined = (example[i], example[i + 1]), spelled[example[i]] + spelled[example[i + 1]]
        if joined not in spelled.values() and len(joined) < 40:
            spelled[256 + len(ranks)] = joined
            ranks[pair] = len(ranks)
            example = plain(example, {pair: 0}, [255 + len(ranks)])
    results, everything = [256 + i for i in range(len(ranks))], Splitter([r"[\s\S]+"])
    compiled, _ = matching(ranks, results)
    for length in (1, 2, 3, 5, 16, 17, 40, 200, LONG + 100):
        text = "".join(choose.choices(letters, k=length)).encode()
        expected = plain(list(text), ranks, results)
        assert compiled.encode([text], everything)[0].tolist() == expected


def test_merges_before_their_halves_are_merged_and_not_matched() -> None:
    ranks = {(97, 257): 0, (98, 99): 1}  # a+bc is ranked before b+c
    table_of_all, _ = matching({(98, 99): 0, (97, 256): 1}, [256, 257])
    assert table_of_all.encode([b"abcabc"], Splitter([r".+"]))[0].tolist() == [257, 257]
    tokens = [*(bytes([i]) for i in range(256)), b"abc", b"bc"]
    pairs = np.array(list(ranks), np.int32)
    early = MergeTable(np.arange(256, dtype=np.int32), pairs, np.array([256, 257], np.int32), tokens)
    assert early.encode([b"abcabc" * 10], Splitter([r".+"]))[0].tolist() == plain([*b"abcabc" * 10], ranks, [256, 257])


def test_a_piece_is_whole_only_where_it_is_named() -> None:
    tokens = [*(bytes([i]) for i in range(256)), b"ab", b"cd", b"long words are whole as well"]
    compiled = MergeTable(
        np.arange(256, dtype=np.int32), np.array([[97, 98]], np.int32), np.array([256], np.int32), tokens, whole=True
    )
    words = Splitter([r"[^,]+"])
    text = b"ab,cd,acd,long words are whole as well,cd"
    expected = [256, 44, 257, 44, *b"acd", 44, 258, 44, 257]
    assert compiled.encode([text, text], words)[0].tolist() == expected * 2


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="ids below 1048576"):
        table({(97, 1 << 20): 0}, [256])
