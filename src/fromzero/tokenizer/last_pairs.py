"""By which merge each token of a rank file comes to be: the pair of tokens that is left when all but one are done.

The shorter tokens come first: a token is cut in two in every way that gives two tokens of lower rank, and of these ways
one is right, in which nothing merges over the cut before both sides are whole.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import AnyStr

from fromzero.errors import UserError

MAX_WORK = 1 << 26  # sum of the squared lengths of the tokens; o200k_base has a twelfth of it
_NEVER = 1 << 60
_Pair = tuple[int, int]


def last_pairs(tokens: Sequence[AnyStr]) -> list[_Pair | None]:
    """For each token, in the order of ranks, the pair of tokens that is left when its symbols are merged by rank.

    Tokens are bytes or characters, by which they are merged; pairs are places in `tokens`. None for one symbol, and for
    a token that merging never makes. Raises UserError when the tokens are so long that it would take too long.
    """
    if sum(len(token) ** 2 for token in tokens) > MAX_WORK:
        raise UserError("its tokens are too long to be those of a tokenizer; get the file again")
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs: list[_Pair | None] = [None] * len(tokens)
    for rank in sorted(range(len(tokens)), key=lambda rank: len(tokens[rank])):
        pairs[rank] = _pair_in_order(rank, tokens, ranks, pairs)
    return [pair or _merged_pair(token, ranks) for token, pair in zip(tokens, pairs, strict=True)]


def _pair_in_order(
    rank: int, tokens: Sequence[AnyStr], ranks: Mapping[AnyStr, int], pairs: Sequence[_Pair | None]
) -> _Pair | None:
    """The pair of a token that is made after all that it is made of, so that ranks are the times of making."""
    token, size = tokens[rank], len(tokens[rank])
    for cut in range(1, size):
        left = ranks.get(token[:cut], _NEVER)
        right = ranks.get(token[cut:], _NEVER) if left < rank else _NEVER
        known = right < rank and (cut == 1 or pairs[left]) and (cut == size - 1 or pairs[right])
        if known and _stay_apart(left, right, tokens, ranks, pairs):
            return left, right
    return None


def _stay_apart(
    left: int, right: int, tokens: Sequence[AnyStr], ranks: Mapping[AnyStr, int], pairs: Sequence[_Pair | None]
) -> bool:
    """Whether no merge over the border comes before both sides are whole: goes back in time, merge by merge."""
    while True:
        made_left, made_right = pairs[left], pairs[right]
        if made_left and (not made_right or left > right):
            before, left = left, made_left[1]
        elif made_right:  # of two merges with the same rank, the left one comes first
            before, right = right + 1, made_right[0]
        else:
            return True
        if ranks.get(tokens[left] + tokens[right], _NEVER) < before:
            return False


def _merged_pair(token: AnyStr, ranks: Mapping[AnyStr, int]) -> _Pair | None:
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
    pair = tuple(ranks.get(part, _NEVER) for part in parts)
    return pair if len(pair) == 2 and _NEVER not in pair else None
