"""Which sequences take part in the next step, and with how many tokens.

There are no phases: every sequence has tokens, and some of them are computed. A step computes the newest token of those
that answer (and the tokens that they try), then pieces of prompts, as far as its budget of tokens goes. When pages run
out, the last in line gives up its own and computes them anew later, on from what the cache still has.
"""

from collections import Counter

from fromzero.inference.pages import PagePool, PageTable
from fromzero.inference.request import Sequence, Span, Stats


class Scheduler:
    """Sequences that wait, and those that run."""

    def __init__(self, pool: PagePool, budget: int, most: int) -> None:
        """budget: tokens of a step, at least `most`; most: sequences that run at once."""
        self.pool, self.budget, self.most = pool, budget, most
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.stats = Stats(pages=pool.count)
        self._served: Counter[str] = Counter()

    def add(self, sequence: Sequence) -> None:
        """A new one. A tenant who was away begins with those who got least (Sheng 2024, the lift of algorithm 2)."""
        tenant = sequence.request.tenant
        active = {s.request.tenant for s in (*self.waiting, *self.running)}
        if not active:
            self._served.clear()
        elif tenant not in active:
            self._served[tenant] = max(self._served[tenant], min(self._served[t] for t in active))
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """It is finished, or not wanted any more; its pages are free at once."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.pool.release(sequence.table)

    def plan(self) -> list[tuple[Sequence, Span]]:
        """What the next step computes; those that wait are let in as far as there is room."""
        left, counts = self.budget, dict[Sequence, int]()
        line = sorted(self.running, key=lambda s: (s.missing > 1 + len(s.draft), *_in_line(s)))
        for behind, sequence in zip(range(len(line) - 1, -1, -1), line, strict=True):
            count = min(sequence.missing, left - behind)  # one token at least for each
            if sequence.table.pages and (count := self._make_room(sequence, count)):
                left -= count
                counts[sequence] = count
        while left and self.waiting and (next_ := self._next()) and (count := self._let_in(next_, left)):
            left -= count
            counts[next_] = count
        planned = [(s, _span(s, count)) for s, count in counts.items() if s.table.pages]  # else it gave way to another
        for sequence, span in planned:
            self._served[sequence.request.tenant] += len(span.ids)
        return planned

    def computed(self, sequence: Sequence, count: int) -> None:
        """So many more of its tokens are in the cache; those pages that are full can be found from now on."""
        sequence.computed += count
        self.pool.seal(sequence.table, sequence.tokens, sequence.computed)

    def _next(self) -> Sequence | None:
        """Who is let in next: by priority, then who got least, then who came first.

        Of the answers to one prompt the first goes ahead, so that the others find its pages.
        """
        reading = {s.request.id for s in self.running if s.prompt_length - s.computed > self.pool.size}
        ready = (s for s in self.waiting if s.request.id not in reading)
        return min(ready, key=lambda s: (s.request.priority, self._served[s.request.tenant], s.arrival), default=None)

    def _let_in(self, sequence: Sequence, left: int) -> int:
        """How many of its tokens the step computes; 0: it is not let in. It may drive away those of less priority."""
        while True:
            if len(self.running) < self.most and self.pool.free:
                cached = self._reuse(sequence)
                count = min(len(sequence.tokens) - cached, left)
                if self.pool.extend(sequence.table, cached + count):
                    self._begin(sequence, cached)
                    return count
                self.pool.release(sequence.table)
            last = max(self.running, key=_in_line)
            if last.request.priority <= sequence.request.priority:
                return 0
            self._preempt(last)

    def _reuse(self, sequence: Sequence) -> int:
        """Tokens that the cache has. Keys and values that depend on a source or an adapter fit no other."""
        request = sequence.request
        adapter = request.adapter and request.adapter.key
        sequence.table = PageTable(salt=repr((request.tenant, request.source, adapter)).encode())
        if request.prompt_logprobs and not sequence.answered:
            return 0  # every place is to be computed
        return self.pool.reuse(sequence.table, sequence.tokens)

    def _begin(self, sequence: Sequence, cached: int) -> None:
        self.waiting.remove(sequence)
        self.running.append(sequence)
        sequence.computed = cached
        if not sequence.preemptions:
            sequence.cached = cached
            self.stats.lookups += sequence.prompt_length
            self.stats.hits += cached

    def _make_room(self, sequence: Sequence, count: int) -> int:
        """Pages for so many more tokens of a running one, from the last in line if need be; 0 if that is itself.

        What is only tried drives nobody away: without room for it, fewer tokens are to be computed.
        """
        del sequence.draft[max(0, sequence.computed + count - len(sequence.tokens)) :]
        if sequence.draft and not self.pool.extend(sequence.table, sequence.computed + count):
            count -= len(sequence.draft)
            sequence.draft.clear()
        while not self.pool.extend(sequence.table, sequence.computed + count):
            last = max(self.running, key=_in_line)
            self._preempt(last)
            if last is sequence:
                return 0
        return count

    def _preempt(self, sequence: Sequence) -> None:
        self.pool.release(sequence.table)
        sequence.computed, sequence.draft = 0, []
        sequence.preemptions += 1
        self.stats.preemptions += 1
        self.running.remove(sequence)
        self.waiting.append(sequence)


def _in_line(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.priority, sequence.arrival


def _span(sequence: Sequence, count: int) -> Span:
    """The next `count` tokens; logits are wanted of the newest one, of those that are tried, or of a whole prompt."""
    start, end, length = sequence.computed, sequence.computed + count, len(sequence.tokens)
    ids = sequence.tokens[start:end] + sequence.draft[: max(0, end - length)]
    request = sequence.request
    asked = request.prompt_logprobs and start < sequence.prompt_length
    wanted = count if asked else max(0, end - length + 1)  # of these, what comes next is open
    return Span(ids, start, sequence.table.pages, wanted, request.source, request.id, request.adapter)
