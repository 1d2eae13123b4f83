"""Merging, the plain way: from the bytes of a pre-token to its token ids, always the pair that was learned first."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import AnyStr

from fromzero.errors import UserError

_NEVER = 1 << 60  # rank of a pair that is no merge


def merge(symbols: Sequence[int], ranks: Mapping[tuple[int, int], int], results: Sequence[int]) -> list[int]:
    """Replace the leftmost pair of the lowest rank until none is left (Sennrich et al. 2016, algorithm 1).

    symbols: ids of a pre-token's bytes or characters. ranks: pair of ids -> its place in the order of merges. results:
    by that place, the id that replaces the pair. Time grows with the square of the length; `kernels.merge` gives the
    same ids faster.
    """
    symbols = list(symbols)
    while len(symbols) > 1:
        found = [ranks.get(pair, _NEVER) for pair in pairwise(symbols)]
        if (best := min(found)) == _NEVER:
            break
        i = found.index(best)
        symbols[i : i + 2] = [results[best]]
    return symbols


def rank_merges(
    merges: Sequence[tuple[int, int]], vocabulary: Mapping[AnyStr, int]
) -> tuple[dict[tuple[int, int], int], list[int]]:
    """`ranks` and `results` of merges in their order. Raises UserError where the vocabulary lacks a half or a whole."""
    tokens = {i: token for token, i in vocabulary.items()}
    ranks: dict[tuple[int, int], int] = {}
    results = []
    for rank, (left, right) in enumerate(merges):
        known = left in tokens and right in tokens
        result = vocabulary.get(tokens[left] + tokens[right]) if known else None
        if result is None:
            raise UserError(f"merge {rank} joins the ids {left} and {right} to what is not in the vocabulary")
        if ranks.setdefault((left, right), rank) != rank:
            raise UserError(f"merge {rank} of {tokens[left]!r} and {tokens[right]!r} was there before")
        results.append(result)
    return ranks, results
