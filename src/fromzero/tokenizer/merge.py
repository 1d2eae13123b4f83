"""Merging, the plain way: from the bytes of a pre-token to its token ids, always the pair that was learned first."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

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
