"""Prompt lookup: who quotes goes on as the text did when its last tokens stood there before (Saxena 2023)."""

from collections.abc import Mapping
from collections.abc import Sequence as Ids
from weakref import WeakKeyDictionary

from fromzero.inference.request import Sequence, Span

LONGEST, SHORTEST = 5, 3
"""Tokens that must be the same. Fewer than three come again everywhere, and say little about what follows."""


class PromptLookup:
    """Drafts what followed the last tokens where they stood last, in the prompt or the answer."""

    seconds = 0.0

    def __init__(self) -> None:
        self._indexes: WeakKeyDictionary[Sequence, _Index] = WeakKeyDictionary()

    def propose(self, asked: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See Proposer."""
        indexes = {s: self._indexes.setdefault(s, _Index()) for s, most in asked.items() if most}
        return {s: index.find(s.tokens, asked[s]) for s, index in indexes.items()}

    def watch(self, planned: Ids[tuple[Sequence, Span]]) -> None:
        """Nothing: tokens are all it needs."""


class _Index:
    """Where each few tokens in a row ended last. It grows with the text, so that a look-up costs the same always."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def find(self, tokens: list[int], most: int) -> list[int]:
        """What came after the longest run of last tokens that stood there before; [] if none did."""
        for end in range(self._indexed + 1, len(tokens)):  # the last run is what is looked for
            for count in range(SHORTEST, min(LONGEST, end) + 1):
                self._ends[tuple(tokens[end - count : end])] = end
        self._indexed = len(tokens) - 1
        for count in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
            if found := self._ends.get(tuple(tokens[-count:])):
                period = len(tokens) - found  # a copy that reaches its own beginning goes on with it
                return [tokens[found + place % period] for place in range(most)]
        return []
