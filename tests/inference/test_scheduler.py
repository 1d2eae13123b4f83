"""Random operations on pages and queues: nothing leaks, nothing is freed twice, what is found is right, all end."""

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fromzero.inference.pages import PagePool, PageTable
from fromzero.inference.request import Request, Sequence
from fromzero.inference.sampling import Sampler, SamplingConfig
from fromzero.inference.scheduler import Scheduler

SIZE, PAGES, BUDGET, MOST = 3, 9, 7, 4


class Pool(RuleBasedStateMachine):
    """Tables that grow, are sealed and given back, beside a plain account of what each page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(PAGES, SIZE)
        self.tables: dict[int, tuple[PageTable, list[int]]] = {}
        self.written: dict[int, tuple[bytes, list[int]]] = {}
        """Of each page, the salt and all tokens up to its end when it was last written."""
        self.made = 0

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=SIZE * PAGES), salt=st.sampled_from([b"", b"a"]))
    def begin(self, tokens: list[int], salt: bytes) -> None:
        table = PageTable(salt)
        found = self.pool.reuse(table, tokens)
        assert found < len(tokens)
        assert found == len(table.pages) * SIZE
        for place, page in enumerate(table.pages):
            assert self.written[page] == (salt, tokens[: (place + 1) * SIZE])
        self.tables[self.made] = (table, tokens[:found])
        self.made += 1

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=2 * SIZE))
    def grow(self, data: st.DataObject, tokens: list[int]) -> None:
        table, held = self.tables[data.draw(st.sampled_from(sorted(self.tables)))]
        before, free = list(table.pages), self.pool.free
        wanted = -(-(len(held) + len(tokens)) // SIZE) - len(before)
        assert self.pool.extend(table, len(held) + len(tokens)) == (wanted <= free)
        if wanted > free:
            assert (table.pages, self.pool.free) == (before, free)
            return
        assert table.pages[: len(before)] == before
        held += tokens
        for place, page in enumerate(table.pages):
            if place * SIZE >= len(held) - len(tokens) - SIZE:
                self.written[page] = table.salt, held[: (place + 1) * SIZE]
        self.pool.seal(table, held, len(held))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        table, _ = self.tables.pop(data.draw(st.sampled_from(sorted(self.tables))))
        self.pool.release(table)
        assert not table.pages
        self.pool.release(table)  # once more is nothing more

    @invariant()
    def each_page_has_its_holders(self) -> None:
        holders = Counter(page for table, _ in self.tables.values() for page in table.pages)
        assert self.pool._holders == [holders[page] for page in range(PAGES)]
        assert set(self.pool._unheld) == set(range(PAGES)) - set(holders)
        assert self.pool.free == PAGES - len(holders)
        assert sorted(self.pool._found.values()) == sorted(self.pool._known)


class Queues(RuleBasedStateMachine):
    """Requests that come, go and are answered, with drafts that turn out wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(PAGES, SIZE)
        self.scheduler = Scheduler(self.pool, BUDGET, MOST)
        self.alive: list[Sequence] = []
        self.ended = self.made = 0

    @rule(
        prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12),
        answer=st.integers(1, 12),
        n=st.integers(1, 2),
        priority=st.integers(0, 1),
        tenant=st.sampled_from("ab"),
        logprobs=st.booleans(),
    )
    def ask(self, prompt: list[int], answer: int, n: int, priority: int, tenant: str, logprobs: bool) -> None:
        config = SamplingConfig(max_tokens=answer, n=n)
        request = Request(str(self.made), tuple(prompt), config, priority, tenant, logprobs)
        for index in range(n):
            sequence = Sequence(request, index, Sampler(config, prompt), self.made, list(prompt))
            self.made += 1
            self.alive.append(sequence)
            self.scheduler.add(sequence)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        gone = self.alive.pop(data.draw(st.integers(0, len(self.alive) - 1)))
        self.scheduler.remove(gone)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        for sequence in self.scheduler.running:
            if sequence.missing == 1:
                sequence.draft = data.draw(st.lists(st.integers(0, 1), max_size=3))
        self.advance(lambda count: data.draw(st.integers(1, count)))

    def advance(self, right: object = lambda count: count) -> int:
        planned = self.scheduler.plan()
        assert bool(planned) == bool(self.alive)
        assert sum(len(span.ids) for _, span in planned) <= BUDGET
        for sequence, span in planned:
            known = sequence.tokens + sequence.draft
            assert span.start == sequence.computed
            assert list(span.ids) == known[span.start : span.start + len(span.ids)]
            assert len(span.pages) * SIZE >= span.start + len(span.ids)
            last = span.start + len(span.ids) == len(known)
            assert not sequence.draft or last
            asked = sequence.request.prompt_logprobs and span.start < sequence.prompt_length
            assert span.wanted == (len(span.ids) if asked else last + len(sequence.draft) if last else 0)
            if not last:
                self.scheduler.computed(sequence, len(span.ids))
                continue
            accepted = right(len(sequence.draft) + 1)  # type: ignore[operator]
            sequence.tokens += [*sequence.draft, 1][:accepted]
            sequence.draft = []
            self.scheduler.computed(sequence, len(sequence.tokens) - 1 - span.start)
            if sequence.answered >= sequence.request.sampling.max_tokens:
                self.scheduler.remove(sequence)
                self.alive.remove(sequence)
                self.ended += 1
        return len(planned)

    @invariant()
    def all_are_somewhere_and_hold_what_they_need(self) -> None:
        scheduler = self.scheduler
        assert {*scheduler.running, *scheduler.waiting} == set(self.alive)
        assert len(scheduler.running) + len(scheduler.waiting) == len(self.alive)
        assert len(scheduler.running) <= MOST
        holders = Counter(page for sequence in scheduler.running for page in sequence.table.pages)
        assert self.pool._holders == [holders[page] for page in range(PAGES)]
        for sequence in scheduler.waiting:
            assert (sequence.table.pages, sequence.computed) == ([], 0)

    def teardown(self) -> None:
        """Everyone's answer ends, in no more steps than if each had been alone."""
        alone = sum(s.request.sampling.max_tokens + len(s.tokens) for s in self.alive)
        for _ in range(alone):
            if not self.alive:
                break
            self.advance()
        assert not self.alive
        assert self.pool.free == PAGES


Pool.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
Queues.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = Pool.TestCase
TestQueues = Queues.TestCase


def sequence(number: int, prompt: int, answer: int, tenant: str = "", priority: int = 0) -> Sequence:
    config, tokens = SamplingConfig(max_tokens=answer), Random(number).choices(range(1000), k=prompt)
    request = Request(str(number), tuple(tokens), config, priority, tenant)
    return Sequence(request, 0, Sampler(config, tokens), number, tokens)


def run(scheduler: Scheduler, steps: int) -> Counter[str]:
    """Answer in turn, and say how many tokens each tenant's requests had computed."""
    done: Counter[str] = Counter()
    for _ in range(steps):
        for one, span in scheduler.plan():
            done[one.request.tenant] += len(span.ids)
            scheduler.computed(one, len(span.ids))
            if one.computed == len(one.tokens):
                one.tokens.append(1)
            if one.answered > one.request.sampling.max_tokens:
                scheduler.remove(one)
    return done


def test_a_tenant_with_many_requests_gets_no_more_than_one_with_few() -> None:
    scheduler = Scheduler(PagePool(400, 4), budget=16, most=2)
    for number in range(60):
        scheduler.add(sequence(number, 20, 8, "busy"))
    for number in range(60, 90):
        scheduler.add(sequence(number, 20, 8, "modest"))
    done = run(scheduler, 200)
    assert scheduler.waiting
    assert done["modest"] == pytest.approx(done["busy"], rel=0.1)


def test_who_was_away_has_nothing_saved_up() -> None:
    scheduler = Scheduler(PagePool(400, 4), budget=16, most=2)
    scheduler.add(sequence(0, 4, 2, "late"))
    run(scheduler, 6)
    for number in range(1, 60):
        scheduler.add(sequence(number, 20, 8, "here"))
    run(scheduler, 60)
    for number in range(60, 120):
        scheduler.add(sequence(number, 20, 8, "late"))
    done = run(scheduler, 60)
    assert done["late"] == pytest.approx(done["here"], rel=0.25)


def test_one_of_higher_priority_takes_the_place_of_one_of_lower() -> None:
    scheduler = Scheduler(PagePool(12, 4), budget=64, most=2)
    low = [sequence(number, 16, 8, priority=1) for number in range(2)]
    for one in low:
        scheduler.add(one)
    run(scheduler, 2)
    urgent = sequence(2, 16, 8)
    scheduler.add(urgent)
    assert urgent in [one for one, _ in scheduler.plan()]
    assert scheduler.running == [low[0], urgent]
    assert scheduler.waiting == [low[1]]
    equal = sequence(3, 16, 8)
    scheduler.add(equal)
    scheduler.plan()
    assert scheduler.running == [urgent, equal]


def test_long_prompts_do_not_hold_up_those_that_answer() -> None:
    scheduler = Scheduler(PagePool(400, 4), budget=8, most=4)
    for number in range(2):
        scheduler.add(sequence(number, 3, 20, priority=1))
    run(scheduler, 1)
    scheduler.add(sequence(2, 500, 4))
    for _ in range(5):
        assert {one.arrival: len(span.ids) for one, span in scheduler.plan()} == {0: 1, 1: 1, 2: 6}
        run(scheduler, 1)


def test_answers_to_one_prompt_share_its_pages() -> None:
    pool = PagePool(100, 4)
    scheduler = Scheduler(pool, budget=64, most=8)
    config, tokens = SamplingConfig(max_tokens=4, n=3), list(range(40))
    request = Request("a", tuple(tokens), config)
    for index in range(3):
        scheduler.add(Sequence(request, index, Sampler(config, tokens), index, list(tokens)))
    run(scheduler, 2)
    assert len(scheduler.running) == 3
    run(scheduler, 1)
    assert pool.count - pool.free == 9 + 3 * 2
