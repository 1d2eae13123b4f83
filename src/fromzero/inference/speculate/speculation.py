"""How many tokens to draft for each sequence: as many as are expected to pay.

When drafted tokens are right with probability r, k of them bring r + r^2 + ... + r^k tokens on average (Leviathan 2023,
section 3.1). They also make the step longer; how much, is measured. Of all numbers of drafts the one with the most
tokens per second is taken, and that may be none.

Drafts are not accepted or rejected by their probability as in that paper. The sampler draws at each place as it would
without them, and a draft is right if that is what came; a proposer that has probabilities draws with the same random
numbers, so that it comes often (Daliri 2024, "Coupling without communication and drafter-invariant speculative
decoding"). Nothing about the draft can change an answer, or what a seed gives.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol
from weakref import WeakKeyDictionary

from fromzero.inference.request import Sequence, Span
from fromzero.inference.speculate.cost import Costs

FORGETTING = 0.95
"""What an observation counts after a step more: who was wrong tries again after some dozens of steps."""


class Proposer(Protocol):
    """Who drafts tokens."""

    seconds: float
    """What a drafted token costs, beside the step that it makes longer."""

    def propose(self, asked: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """At most so many tokens behind each sequence; who is not asked about any more may be forgotten."""

    def watch(self, planned: Ids[tuple[Sequence, Span]]) -> None:
        """What a step has just computed; `computed` of the sequences says what of it is in their answers."""


@dataclass
class Rate:
    """How often a sequence's drafted tokens are right, of late; one right and one wrong are assumed at first."""

    right: float = 0.0
    tried: float = 0.0

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return (self.right + 1) / (self.tried + 2)

    def note(self, tried: int, right: int) -> None:
        """Drafts after the first wrong one say nothing."""
        self.right = FORGETTING * self.right + right
        self.tried = FORGETTING * self.tried + right + (right < tried)


class Speculation:
    """Asks a proposer for drafts, and keeps count of them."""

    def __init__(self, proposer: Proposer, most: int, context: int, cost: Costs) -> None:
        """most: drafted tokens of a sequence and step; context: of the model; cost: of its steps."""
        self.proposer, self.most, self.context, self.cost = proposer, most, context, cost
        self.drafted, self.accepted = Counter[int](), Counter[int]()
        """Tokens by their place in the draft, from 1."""
        self._rates: WeakKeyDictionary[Sequence, Rate] = WeakKeyDictionary()

    def draft(self, running: Iterable[Sequence]) -> None:
        """Give each sequence that answers a draft, maybe an empty one."""
        rooms = {sequence: self._room(sequence) for sequence in running}
        drafts = self.proposer.propose(self._shares(rooms))
        for sequence, room in rooms.items():
            sequence.draft = drafts.get(sequence, [])[:room]

    def note(self, sequence: Sequence, tried: int, right: int) -> None:
        """A step tried so many drafted tokens, and the first `right` of them were."""
        self._rate(sequence).note(tried, right)
        self.drafted.update(range(1, tried + 1))
        self.accepted.update(range(1, right + 1))

    def _rate(self, sequence: Sequence) -> Rate:
        return self._rates.setdefault(sequence, Rate())

    def _room(self, sequence: Sequence) -> int:
        """The most drafts that can be of use: a step adds one token more than those that were right."""
        if sequence.answered < 1 or sequence.computed != len(sequence.tokens) - 1:
            return 0
        left = min(sequence.request.sampling.max_tokens - sequence.answered, self.context - len(sequence.tokens))
        return max(0, min(self.most, left - 1))

    def _shares(self, rooms: Mapping[Sequence, int]) -> dict[Sequence, int]:
        """How many to draft for whom: those most likely to be right first, up to the best number of them."""
        gains = [(self._rate(s).value ** place, s) for s, room in rooms.items() for place in range(1, room + 1)]
        gains = sorted(gains, key=lambda gain: -gain[0])[: max(0, self.cost.longest - len(rooms))]
        tokens = [len(rooms) + total for total in accumulate((gain for gain, _ in gains), initial=0.0)]
        speeds = [
            expected / (self.cost(len(rooms) + count) + count * self.proposer.seconds)
            for count, expected in enumerate(tokens)
        ]
        counts = Counter(sequence for _, sequence in gains[: speeds.index(max(speeds))])
        return {sequence: counts[sequence] for sequence in rooms}
