"""Which sequences take part in the next step, and with how many tokens.

There are no phases: every sequence has tokens, and some of them are computed. A step computes the newest token of those
that answer (and the tokens that they try), then pieces of prompts, as far as its budget of tokens goes. When pages run
out, the last in line gives up its own and computes them anew later, on from what the cache still has.
"""

from collections import Counter

from fromzero.inference.pages import PagePool, PageTable
from fromzero.inference.request import Sequence, Span


class Scheduler:
    """Sequences that wait, and those that run."""

    def __init__(self, pool: PagePool, budget: int, most: int) -> None:
        """budget: tokens of a step; most: sequences that run at once."""
        self.pool, self.budget, self.most = pool, budget, most
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._served: Counter[str] = Counter()

    def add(self, sequence: Sequence) -> None:
        """A new one. A tenant who was away begins with those who got least (Sheng 2024, the lift of algorithm 2)."""
        tenant = sequence.request.tenant
        active = {s.request.tenant for s in (*self.waiting, *self.running)}
        if active and tenant not in active:
            self._served[tenant] = max(self._served[tenant], min(self._served[t] for t in active))
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It is finished, or not wanted any more; its pages are free at once."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.pool.release(sequence.table)

    def plan(self) -> list[tuple[Sequence, Span]]:
        """What the next step computes; those that wait are let in as far as there is room."""
        left, planned = self.budget, list[tuple[Sequence, Span]]()
        for sequence in sorted(self.running, key=_in_line):
            count = min(len(sequence.tokens) + len(sequence.draft) - sequence.computed, left)
            if count and sequence in self.running and self._make_room(sequence, sequence.computed + count):
                left -= count
                planned.append((sequence, _span(sequence, count)))
        planned = [(sequence, span) for sequence, span in planned if sequence in self.running]
        while left and len(self.running) < self.most and (sequence := self._next()):
            cached = self._reuse(sequence)
            count = min(len(sequence.tokens) - cached, left)
            if not self.pool.extend(sequence.table, cached + count):
                self.pool.release(sequence.table)
                break
            sequence.computed, left = cached, left - count
            self.waiting.remove(sequence)
            self.running.append(sequence)
            planned.append((sequence, _span(sequence, count)))
        for sequence, span in planned:
            self._served[sequence.request.tenant] += len(span.ids)
        return planned

    def computed(self, sequence: Sequence, count: int) -> None:
        """So many more of its tokens are in the cache; those pages that are full can be found from now on."""
        sequence.computed += count
        self.pool.seal(sequence.table, sequence.tokens[: sequence.computed])

    def _next(self) -> Sequence | None:
        """Who is let in next: by priority, then who got least, then who came first.

        Of the answers to one prompt the first goes ahead, so that the others find its pages.
        """
        begun = {s.request.id: s for s in self.running}
        ready = [s for s in self.waiting if s.request.id not in begun or not _reading(begun[s.request.id])]
        return min(ready, key=lambda s: (s.request.priority, self._served[s.request.tenant], s.arrival), default=None)

    def _reuse(self, sequence: Sequence) -> int:
        sequence.table = PageTable(salt=sequence.request.tenant.encode())
        if sequence.request.prompt_logprobs or sequence.request.source:
            return 0  # every place is to be computed; keys and values that depend on a source fit no other
        cached = self.pool.reuse(sequence.table, sequence.tokens)
        if not sequence.preemptions:
            sequence.cached = cached
        return cached

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Pages for so many tokens of a running one, from the last in line if need be; False if that is itself."""
        while not self.pool.extend(sequence.table, tokens):
            last = max(self.running, key=_in_line)
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.pool.release(sequence.table)
        sequence.computed, sequence.draft = 0, []
        sequence.preemptions += 1
        self.preemptions += 1
        self.running.remove(sequence)
        self.waiting.append(sequence)


def _in_line(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.priority, sequence.arrival


def _reading(sequence: Sequence) -> bool:
    return sequence.computed < sequence.prompt_length


def _span(sequence: Sequence, count: int) -> Span:
    """The next `count` tokens; logits are wanted of the newest one, of those that are tried, or of a whole prompt."""
    start, end, tokens = sequence.computed, sequence.computed + count, (*sequence.tokens, *sequence.draft)
    last = end - len(sequence.tokens) + 1  # how many of these have something to say about what comes next
    request = sequence.request
    wanted = count if request.prompt_logprobs and start < sequence.prompt_length else max(0, last)
    return Span(tokens[start:end], start, tuple(sequence.table.pages), wanted, request.source, f"{request.id}")
