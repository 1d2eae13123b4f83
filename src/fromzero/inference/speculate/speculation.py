"""How many tokens to draft for each sequence: as many as are expected to pay.

When drafted tokens are right with probability r, k of them bring r + r^2 + ... + r^k tokens on average (Leviathan 2023,
section 3.1), and make the step longer. The number that gives most tokens per second is taken; that may be none.

Drafts are not accepted by their probability as in that paper. The sampler draws at each place as it would without them,
and a draft is right if that is what came; who has probabilities drafts with the same random numbers, so that it often
is (Daliri 2024, "Coupling without communication and drafter-invariant speculative decoding"). So no draft can change an
answer, or what a seed gives.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Ids
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter
from weakref import WeakKeyDictionary

from torch import Tensor

from fromzero.errors import UserError
from fromzero.inference.request import Sequence, Span
from fromzero.inference.sampling import Sampler
from fromzero.inference.speculate.cost import FORGETTING, LONGEST, Costs

TRUST = 0.8
"""How often drafts are right, as long as nothing is known."""
NEWER = 0.8
"""What older drafts count beside a new one: an answer may quote now, and no more in a moment."""


class Proposer:
    """Who drafts tokens."""

    def propose(self, asked: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """At most so many tokens behind each sequence; who is not asked about any more may be forgotten."""
        raise NotImplementedError

    def watch(self, planned: Ids[tuple[Sequence, Span]]) -> None:
        """What a step has just computed; `computed` of the sequences says what of it is in their answers."""


def guess(sampler: Sampler, logits_V: Tensor, drafted: list[int]) -> bool:
    """Draft what a copied sampler would choose, were these the model's logits; False where nothing may follow."""
    with suppress(UserError):
        drafted.append(sampler.choose(logits_V))
        sampler.accept(drafted[-1])
        return True
    return False


@dataclass
class Rate:
    """How often a sequence's drafted tokens are right, of late. They are trusted at first, and in time again."""

    right: float = 0.0
    tried: float = 0.0

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return (self.right + TRUST) / (self.tried + 1)

    def note(self, tried: int, right: int) -> None:
        """Drafts after the first wrong one say nothing."""
        kept = NEWER if tried else FORGETTING
        self.right = kept * self.right + right
        self.tried = kept * self.tried + right + (right < tried)


class Speculation:
    """Asks a proposer for drafts, and keeps count of them."""

    def __init__(self, proposer: Proposer, most: int, context: int) -> None:
        """most: drafted tokens of a sequence and step; context: of the model."""
        self.proposer, self.most, self.context, self.cost = proposer, most, context, Costs()
        self._seconds = self._tokens = 0.0  # of drafting, and what it gave, of late
        self.drafted, self.accepted = Counter[int](), Counter[int]()
        """Tokens by their place in the draft, from 1."""
        self._rates: WeakKeyDictionary[Sequence, Rate] = WeakKeyDictionary()

    def draft(self, running: Iterable[Sequence]) -> None:
        """Give each sequence that answers a draft, maybe an empty one."""
        rooms, start = {sequence: self._room(sequence) for sequence in running}, perf_counter()
        drafts = self.proposer.propose(self._shares(rooms))
        self._seconds = FORGETTING * self._seconds + perf_counter() - start
        self._tokens = FORGETTING * self._tokens + sum(map(len, drafts.values()))
        for sequence, room in rooms.items():
            sequence.draft = drafts.get(sequence, [])[:room]

    def note(self, sequence: Sequence, tried: int, right: int) -> None:
        """A step tried so many drafted tokens, and the first `right` of them were."""
        self._rate(sequence).note(tried, right)
        self.drafted.update(range(1, tried + 1))
        self.accepted.update(range(1, right + 1))

    def watch(self, planned: Ids[tuple[Sequence, Span]], seconds: float) -> None:
        """What a step has just computed, and how long that took."""
        self.cost.note(sum(len(span.ids) for _, span in planned), seconds)
        self.proposer.watch(planned)

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
        gains = sorted(gains, key=lambda gain: -gain[0])[: max(0, LONGEST - len(rooms))]
        if not gains:
            return dict.fromkeys(rooms, 0)
        each = self._seconds / (self._tokens + 1)
        tokens = [len(rooms) + total for total in accumulate((gain for gain, _ in gains), initial=0.0)]
        speeds = [expected / (self.cost(len(rooms) + count) + count * each) for count, expected in enumerate(tokens)]
        counts = Counter(sequence for _, sequence in gains[: speeds.index(max(speeds))])
        return {sequence: counts[sequence] for sequence in rooms}
