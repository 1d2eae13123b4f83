"""The figures of speed come out right: from made-up times, and from a server whose delays are known."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.evaluation.speed import SpeedConfig, Timed, _run, figures, measure_speed
from fromzero.inference.client import RefusedError, Server

FIRST, GAP, PIECES, TOKENS = 0.15, 0.04, 5, 9


class Scripted:
    """A server that answers as its script says: how each of its answers goes, one after the other, `good` at last."""

    def __init__(self, script: tuple[str, ...] = ()) -> None:
        self.script, self.bodies, self.came = list(script), list[dict[str, Any]](), list[float]()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.came.append(time.perf_counter())
        self.bodies.append(await request.json())
        how = self.script.pop(0) if self.script else "good"
        if how.isdigit():
            return web.json_response({"error": {"message": f"scripted {how}"}}, status=int(how))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if how == "role":  # a chunk without text comes at once: it is no token
            await response.write(b'data: {"choices": [{"text": ""}]}\n\n')
        await asyncio.sleep(FIRST)
        for number in range(PIECES):
            await asyncio.sleep(GAP if number else 0)
            await response.write(b": a comment\n\ndata: " + json.dumps({"choices": [{"text": "a"}]}).encode() + b"\n\n")
            if how == "cut":
                return response
            if how == "hang":
                await asyncio.sleep(1)
        usage = {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": TOKENS}}
        await response.write(b"data: " + json.dumps(usage).encode() + b"\n\n")
        await response.write(b'data: {"error": {"message": "broken"}}\n\n' if how == "error" else b"data: [DONE]\n\n")
        return response


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[str, Scripted]]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runners: list[web.AppRunner] = []

    def on_loop(work: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)  # type: ignore[arg-type]

    def start(*script: str) -> tuple[str, Scripted]:
        server, app = Scripted(script), web.Application()
        app.router.add_post("/v1/completions", server.answer)
        app.router.add_get("/v1/models", lambda _: _models())
        runners.append(runner := web.AppRunner(app, shutdown_timeout=0.1))
        on_loop(runner.setup())
        on_loop(web.TCPSite(runner, "127.0.0.1", 0).start())
        return f"http://127.0.0.1:{runner.addresses[0][1]}", server

    yield start
    for runner in runners:
        on_loop(runner.cleanup())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _models() -> web.Response:
    return web.json_response({"data": [{"id": "scripted"}]})


def test_figures_of_known_times() -> None:
    one = Timed(due=10.0, times=[10.5, 10.6, 10.8], prompt=7, tokens=5)
    two = Timed(due=10.2, times=[11.2], prompt=3, tokens=1)
    failed = Timed(due=10.0, times=[10.1], tokens=1, error="cut off")
    found = figures([one, two, failed])
    assert found["requests"] == 2
    assert found["errors"] == {"cut off": 1}
    assert found["seconds"] == pytest.approx(1.2)
    assert found["tokens_per_second"] == pytest.approx(6 / 1.2)
    assert found["prompt_tokens_per_second"] == pytest.approx(10 / 1.2)
    assert found["requests_per_second"] == pytest.approx(2 / 1.2)
    assert found["ttft_ms"]["mean"] == pytest.approx(750)
    assert found["ttft_ms"]["p50"] == pytest.approx(750)
    assert found["ttft_ms"]["p90"] == pytest.approx(950)
    assert found["tpot_ms"]["p50"] == pytest.approx(75)  # 0.3 s for four tokens; an answer of one has none
    assert found["itl_ms"]["mean"] == pytest.approx(150)
    assert found["e2el_ms"]["p99"] == pytest.approx(998)
    assert figures([failed])["ttft_ms"] is None


def test_a_server_with_known_delays(scripted: Callable[..., tuple[str, Scripted]], tmp_path: Path) -> None:
    url, server = scripted("good", "role")
    config = SpeedConfig(url=url, concurrency=(1, 3), requests=3, warmup=1, answer_tokens=TOKENS, output=tmp_path)
    levels = measure_speed(config)["levels"]
    whole = FIRST + (PIECES - 1) * GAP
    for level, rounds in zip(levels, (3, 1), strict=True):
        assert level["requests"] == 3
        assert not level["errors"]
        assert level["tokens"] == 3 * TOKENS
        assert level["prompt_tokens"] == 60
        assert 1000 * FIRST <= level["ttft_ms"]["p50"] < 1000 * FIRST + 60
        assert 1000 * GAP - 5 <= level["itl_ms"]["p50"] < 1000 * GAP + 25
        assert 1000 * (whole - FIRST) / (TOKENS - 1) - 2 <= level["tpot_ms"]["p50"] < 40
        assert 1000 * whole - 5 <= level["e2el_ms"]["p50"] < 1000 * whole + 120
        assert rounds * whole <= level["seconds"] < rounds * whole + 0.5
        assert level["tokens_per_second"] == pytest.approx(3 * TOKENS / level["seconds"])
    assert server.bodies[1]["ignore_eos"] is True
    assert server.bodies[1]["max_tokens"] == TOKENS
    assert server.bodies[1]["model"] == "scripted"
    assert len({body["prompt"] for body in server.bodies}) == 7  # none that a cache could know
    assert json.loads((tmp_path / "speed.json").read_text())["levels"] == levels


def test_requests_arrive_at_their_times_whatever_earlier_ones_do() -> None:
    def arrivals(config: SpeedConfig, rate: float) -> list[float]:
        """The gaps between requests none of which is answered before all have come."""
        coming = iter(range(config.requests - 1, -1, -1))
        all_came = asyncio.Event()

        async def ask(prompt: str, timed: Timed) -> None:
            if not next(coming):
                all_came.set()
            await asyncio.wait_for(all_came.wait(), 60)
            timed.times.append(time.perf_counter())

        timed = asyncio.run(_run(config, ask, rate, Random(3)))
        assert not any(one.error for one in timed)
        return [b.due - a.due for a, b in pairwise(timed)]

    url = "http://127.0.0.1"
    fixed = arrivals(SpeedConfig(url=url, rates=(200.0,), arrivals="fixed", requests=6), 200.0)
    assert fixed == pytest.approx([1 / 200] * 5)
    gaps = sorted(arrivals(SpeedConfig(url=url, rates=(1000.0,), requests=400), 1000.0))
    assert sum(gaps) == pytest.approx(399 / 1000, rel=0.2)
    assert gaps[200] == pytest.approx(math.log(2) / 1000, rel=0.2)  # the median of a Poisson process's


def test_failures_are_counted_by_kind(
    scripted: Callable[..., tuple[str, Scripted]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = scripted("429", "cut", "error", "500", "hang")
    config = SpeedConfig(url=url, concurrency=(1,), requests=6, warmup=0, patience=0.5)
    (level,) = measure_speed(config)["levels"]
    kinds = {"HTTP 429": 1, "cut off": 1, "error in the stream": 1, "HTTP 500": 1, "too slow": 1}
    assert level["errors"] == kinds
    assert level["requests"] == 1
    url, _ = scripted("429")
    assert main(["evaluate", "speed", "--url", url, "--concurrency", "1", "--requests", "2", "--warmup", "0"]) == 0
    assert "1 at once: 1 requests failed (HTTP 429)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9", "can't be reached"),
        ("127.0.0.1:8000", "is no address"),
        ("http://user:secret@127.0.0.1:9", "http://***@127.0.0.1:9 can't be reached"),
    ],
)
def test_a_server_that_is_not_there(url: str, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        measure_speed(SpeedConfig(url=url))
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_key_that_is_not_taken_and_what_is_no_server(scripted: Callable[..., tuple[str, Scripted]]) -> None:
    url, _ = scripted("401")

    async def ask(path: str) -> None:
        async for _ in Server(url).events(path, {}):
            pass

    with pytest.raises(RefusedError, match="answered 401: scripted 401; set FROMZERO_API_KEY to its key"):
        asyncio.run(ask("/completions"))
    with pytest.raises(RefusedError, match=r"answered 404: 404: Not Found; check the address"):
        asyncio.run(ask("/nowhere"))


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"concurrency": (0,)}, {"rates": (0.0,)}, {"requests": 0}, {"warmup": -1}):
        with pytest.raises(UserError, match="at least 1"):
            SpeedConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="name a model, or a server with --url"):
        measure_speed(SpeedConfig())


def test_in_this_process(served_model: Path) -> None:
    config = SpeedConfig(served_model, concurrency=(2,), requests=4, prompt_tokens=12, answer_tokens=5, warmup=0)
    (level,) = measure_speed(config)["levels"]
    assert level["tokens"] == 20
    assert level["prompt_tokens"] == 48
    assert not level["errors"]
    assert level["ttft_ms"]["p50"] <= level["e2el_ms"]["p50"]
