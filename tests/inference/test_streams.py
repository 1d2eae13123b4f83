"""Streams of a live engine on a real event loop: who leaves frees pages, who stops drains, a fault reaches everyone."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.request import Output, Overloaded, Request, Unavailable
from fromzero.inference.streams import Streams
from fromzero.model import ModelConfig, Transformer
from tests.conftest import Chain

pytestmark = pytest.mark.anyio
SHAPE = ModelConfig(context=2048, layers=1, width=16, heads=2)
LONG = SamplingConfig(temperature=0, max_tokens=2000, ignore_end=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def streams(chain: Chain) -> Iterator[Streams]:
    model = Transformer(SHAPE.with_vocab(chain.tokenizer.vocab_size), seed=1).eval()
    made = Streams(Engine(model, chain.tokenizer, EngineConfig(cache_tokens=16_384, running=8)))
    yield made
    made.close()
    assert not made._thread.is_alive()
    assert not made._listeners
    assert made.engine.pool.free == made.engine.pool.count


def asked(name: str, tokens: int = 2000, n: int = 1, prompt: int = 5) -> Request:
    return Request(name, tuple(range(10, 10 + prompt)), replace(LONG, max_tokens=tokens, n=n))


async def outputs(streams: Streams, request: Request) -> list[Output]:
    async with aclosing(streams.stream(request)) as stream:
        return [output async for output in stream]


async def begun(streams: Streams, request: Request) -> AsyncGenerator[Output, None]:
    stream = streams.stream(request)
    await anext(stream)
    return stream


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def idle(streams: Streams) -> bool:
    return not streams.engine.busy and streams.engine.pool.free == streams.engine.pool.count


async def test_all_answers_of_a_request_come_to_their_end(streams: Streams) -> None:
    found = await outputs(streams, asked("a", tokens=7, n=3))
    assert [output.reason for output in found if output.reason] == ["length"] * 3
    for index in range(3):
        mine = [output for output in found if output.index == index]
        assert isinstance(streams.engine.model, Transformer)
        alone = list(generate_tokens(streams.engine.model, tuple(range(10, 15)), replace(LONG, max_tokens=7)))
        assert [token for output in mine for token in output.tokens] == alone
        times = mine[-1].timing
        assert times is not None
        assert times.queued <= times.started <= times.first <= times.last


async def test_who_breaks_out_frees_the_pages(streams: Streams) -> None:
    async with aclosing(streams.stream(asked("a", n=2))) as stream:
        async for _ in stream:
            assert streams.engine.pool.free < streams.engine.pool.count
            break
    steps = streams.engine.stats.steps
    await until(lambda: idle(streams))
    assert streams.engine.stats.steps <= steps + 1  # the one that was under way
    assert streams.engine.stats.finished == {"cancelled": 2}


async def test_a_cancelled_task_frees_them_too(streams: Streams) -> None:
    tasks = [asyncio.create_task(outputs(streams, asked(str(number)))) for number in range(20)]  # 8 run, 12 wait
    await until(lambda: streams.engine.stats.running == 8)
    for task in tasks:
        task.cancel()
    assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True))
    await until(lambda: idle(streams))


async def test_gone_before_it_was_asked(streams: Streams) -> None:
    """The engine's thread is busy with something else while a client asks and leaves."""
    held = threading.Event()
    streams._do(lambda: held.wait(10) and None)  # type: ignore[arg-type]
    task = asyncio.create_task(outputs(streams, asked("a")))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    held.set()
    assert len(await outputs(streams, asked("b", tokens=3))) == 3
    assert streams.engine.stats.finished == {"length": 1}


async def test_a_name_that_is_taken_is_refused_and_the_first_goes_on(streams: Streams) -> None:
    first = await begun(streams, asked("a", tokens=40))
    with pytest.raises(UserError, match="is being answered already"):
        await outputs(streams, asked("a"))
    assert [output.reason async for output in first][-1] == "length"


async def test_bad_requests_and_a_full_queue_are_refused_at_once(streams: Streams) -> None:
    with pytest.raises(UserError, match="prompt is empty"):
        await outputs(streams, Request("a", (), LONG))
    first = await begun(streams, asked("a"))
    with pytest.raises(UserError, match="n is 300"):
        await outputs(streams, asked("b", n=300))
    tasks = [asyncio.create_task(outputs(streams, asked(f"n{n}", n=100))) for n in range(4)]
    with pytest.raises(Overloaded, match="try again later"):
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
    await first.aclose()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: idle(streams))


async def test_close_with_patience_lets_them_end(streams: Streams) -> None:
    task = asyncio.create_task(outputs(streams, asked("a", tokens=300)))
    await until(lambda: streams.engine.stats.running == 1)
    closing = asyncio.create_task(asyncio.to_thread(streams.close, 30.0))
    await until(lambda: streams._draining)
    with pytest.raises(Unavailable, match="stopping"):
        await outputs(streams, asked("late"))
    assert (await task)[-1].reason == "length"
    await closing
    with pytest.raises(Unavailable, match="stopping"):
        await outputs(streams, asked("later"))


async def test_close_without_patience_cancels_them(streams: Streams) -> None:
    tasks = [asyncio.create_task(outputs(streams, asked(str(number), n=2))) for number in range(6)]
    await until(lambda: streams.engine.stats.running + streams.engine.stats.waiting == 12)
    await asyncio.to_thread(streams.close)
    for found in await asyncio.gather(*tasks):
        assert sorted(output.index for output in found if output.reason == "cancelled") == [0, 1]


async def test_a_fault_reaches_everyone_and_who_comes_later(streams: Streams) -> None:
    class Broken:
        def run(self, spans: object) -> torch.Tensor:
            raise RuntimeError("out of memory")

        def forget(self, key: str) -> None:
            raise RuntimeError("and of order")

    tasks = [asyncio.create_task(outputs(streams, asked(str(number), n=2))) for number in range(6)]
    await until(lambda: streams.engine.stats.running + streams.engine.stats.waiting == 12)
    runner, streams.engine.runner = streams.engine.runner, Broken()
    for found in await asyncio.wait_for(asyncio.gather(*tasks), 10):
        ends = [output for output in found if output.reason]
        assert [(output.reason, output.message) for output in ends] == [("error", "the engine has failed")] * 2
    assert str(streams.fault) == "out of memory"
    with pytest.raises(Unavailable, match="has failed"):
        await outputs(streams, asked("later"))
    streams.engine.runner = runner


def own_tasks() -> list[object]:
    """Tasks of this code: file systems that other tests left end in whichever loop runs."""
    found = (task.get_coro() for task in asyncio.all_tasks())
    return [one for one in found if "site-packages" not in str(getattr(one, "cr_code", ""))]


async def test_200_streams_at_once_leave_nothing_behind(streams: Streams) -> None:
    async def use(number: int) -> int:
        one = asked(str(number), tokens=6 if number % 5 else 2000, prompt=1 + number % 7)
        async with aclosing(streams.stream(one)) as stream:
            seen = 0
            async for output in stream:
                seen += len(output.tokens)
                if number % 5 == 0 and seen == 2:
                    break
            return seen

    threads, tasks = threading.active_count(), len(own_tasks())
    async with asyncio.timeout(60):
        seen = await asyncio.gather(*(use(number) for number in range(200)))
    assert seen == [2 if number % 5 == 0 else 6 for number in range(200)]
    await until(lambda: idle(streams))
    gc.collect()
    assert threading.active_count() <= threads
    assert len(own_tasks()) == tasks
    assert not streams._listeners
    stats = streams.engine.stats
    assert stats.finished == {"length": 160, "cancelled": 40}
    assert stats.running == stats.waiting == stats.pages_held == 0
