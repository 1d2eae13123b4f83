"""Prompt lookup: who quotes goes on as the text did when its last tokens stood there before (Saxena 2023)."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

from fromzero.inference.request import Sequence
from fromzero.inference.speculate.speculation import Proposer

LONGEST, SHORTEST = 5, 3
"""Tokens that must be the same. Fewer than three come again everywhere, and say little about what follows."""

Ends = dict[tuple[int, ...], int]
"""Where each few tokens in a row ended last; no tokens at all ended where the index does."""


class PromptLookup(Proposer):
    """Drafts what followed the last tokens where they stood last, in the prompt or the answer."""

    def __init__(self) -> None:
        self._ends: WeakKeyDictionary[Sequence, Ends] = WeakKeyDictionary()

    def propose(self, asked: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See Proposer."""
        return {s: look_up(self._ends.setdefault(s, {}), s.tokens, most) for s, most in asked.items() if most}


def look_up(ends: Ends, tokens: list[int], most: int) -> list[int]:
    """What came after the longest run of last tokens that stood there before; the index grows, nothing is searched."""
    for end in range(ends.get((), 0) + 1, len(tokens)):  # but for the last run, which is what is looked for
        for count in (0, *range(SHORTEST, min(LONGEST, end) + 1)):
            ends[tuple(tokens[end - count : end])] = end
    for count in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
        if end := ends.get(tuple(tokens[-count:]), 0):
            return [tokens[end + place % (len(tokens) - end)] for place in range(most)]  # it may run into itself
    return []
