"""Clients who leave, who are slow, who are many, and those who mean harm."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromzero.inference.engine import EngineConfig
from fromzero.serving import LimitsConfig
from tests.serving.conftest import Live, StartServer, metric
from tests.serving.test_process import serving

LONG = {"max_tokens": 450, "ignore_eos": True, "temperature": 1.0}
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    "completion": ("/v1/completions", {"prompt": "The river"}),
    "batch": ("/v1/completions", {"prompt": ["The river", "The hill"]}),
}


@pytest.fixture(scope="module")
def slow(start_server: StartServer) -> Live:
    """One that takes its time for each step, so that there is time to leave."""
    live = start_server(
        engine=EngineConfig(queued=64, running=4), limits=LimitsConfig(header_seconds=1.0, request_seconds=20)
    )
    run = live.engine.runner.run

    def slowly(spans: Any) -> Any:
        time.sleep(0.01)
        return run(spans)

    live.engine.runner.run = slowly  # type: ignore[method-assign]
    return live


def leave(url: str, body: dict[str, Any]) -> None:
    """Ask, and go away before the answer is there, or after its first line."""
    with suppress(httpx.ReadTimeout), httpx.stream("POST", url, json=body, timeout=0.3) as answer:
        next(iter(answer.iter_lines()))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ASKS)
@pytest.mark.parametrize("n", [1, 3])
def test_who_leaves_is_not_computed_for(slow: Live, kind: str, stream: bool, n: int) -> None:
    path, body = ASKS[kind]
    ended = slow.metric("vllm:request_success_total", finished_reason="abort")
    leave(slow.url + path, body | LONG | {"stream": stream, "n": n})
    slow.wait(slow.idle, seconds=1)
    count = n * (2 if kind == "batch" else 1)
    assert slow.metric("vllm:request_success_total", finished_reason="abort") - ended == count
    for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert slow.metric(f"vllm:{gauge}") == 0


def test_who_leaves_the_queue_is_not_begun(slow: Live) -> None:
    path, body = ASKS["completion"]
    with httpx.stream("POST", slow.url + path, json=body | LONG | {"stream": True, "n": 4}, timeout=30) as first:
        lines = first.iter_lines()
        next(lines)
        for stream in (True, False):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(slow.url + path, json=body | LONG | {"stream": stream}, timeout=0.2)
        slow.wait(lambda: slow.engine.stats.waiting == 0, seconds=1)
        assert slow.engine.stats.running == 4
    slow.wait(slow.idle, seconds=1)


def test_counts_are_exact(start_server: StartServer) -> None:
    live = start_server()
    length = len(live.service.tokenizer.encode("The river"))
    for _ in range(5):
        live.post("/v1/completions", {"prompt": "The river", "max_tokens": 7, "ignore_eos": True, "n": 2})
    expected = {
        "vllm:prompt_tokens_total": 5 * length,
        "vllm:generation_tokens_total": 70,
        "vllm:request_success_total": 10,
        "vllm:request_params_n_sum": 10,
        "vllm:request_prompt_tokens_count": 5,
        "vllm:request_generation_tokens_sum": 70,
        "vllm:time_to_first_token_seconds_count": 10,
        "vllm:e2e_request_latency_seconds_count": 10,
        "vllm:inter_token_latency_seconds_count": 50,
        "vllm:num_requests_running": 0,
    }
    assert {name: live.metric(name) for name in expected} == expected
    assert live.metric("http_requests_total", handler="/v1/completions", method="POST", status="200") == 5
    live.get("/some/path/that/is/not")
    assert live.metric("http_requests_total", handler="unknown", status="404") == 1


def raw(live: Live, data: bytes, wait: float = 5.0) -> bytes:
    """What the server says to these bytes until it hangs up."""
    port = int(live.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        connection.sendall(data)
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return said


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HOSTILE: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "no HTTP": (b"\x16\x03\x01hello\r\n\r\n", (b"400",)),
    "long header": (HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n", (b"400",)),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", (b"400",)),
    "length and chunks": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (b"400",)),
    "bad chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", (b"400", b"")),
    "negative length": (HEAD + b"Content-Length: -5\r\n\r\n", (b"400",)),
    "too long, said": (HEAD + b"Content-Length: 3000000\r\n\r\n", (b"413",)),
    "too long, in chunks": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 40,
        (b"413",),
    ),
    "strange host": (b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", (b"403",)),
    "strange host, here": (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost.evil.example:80\r\nConnection: close\r\n\r\n",
        (b"403",),
    ),
    "no host": (b"GET /v1/models HTTP/1.0\r\n\r\n", (b"403",)),
    "slow headers": (b"POST /v1/completions HTTP/1.1\r\nHost: loc", (b"",)),
    "nothing at all": (b"", (b"",)),
    "slow body": (HEAD + b"Content-Length: 20\r\n\r\n{", (b"408",)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes(slow: Live, case: str) -> None:
    data, codes = HOSTILE[case]
    said = raw(slow, data)
    assert said.split(b" ")[1:2] in [[code] if code else [] for code in codes], said[:300]
    assert slow.get("/health").status_code == 200


def test_user_text_forges_no_line_of_the_log(live: Live, capfd: pytest.CaptureFixture[str]) -> None:
    evil = 'x\r\n{"event": "forged"}\n\u2028\x1b[31m'
    live.post("/v1/completions", {"prompt": evil, "max_tokens": 1, "user": evil})
    live.post("/v1/completions", {"prompt": evil, evil: 1})
    live.get("/forged%0a%7b%22event%22:1%7d")
    raw(live, b"GET /\x0a{} HTTP/1.1\r\n\r\n", wait=0.3)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert len(lines) >= 3
    assert {line["event"] for line in lines} <= {"request", "library"}
    assert "forged" not in json.dumps(lines)


def test_an_answer_has_a_time_limit(start_server: StartServer) -> None:
    live = start_server(limits=LimitsConfig(request_seconds=0.2))
    path, body = ASKS["chat"]
    refused = live.post(path, body | LONG | {"n": 16})
    assert refused.status_code == 503
    text = live.post(path, body | LONG | {"stream": True, "n": 16}).text
    *_, error, end = [line for line in text.splitlines() if line]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == 503
    assert end == "data: [DONE]"
    live.wait(live.idle, seconds=1)


def test_cors(start_server: StartServer, live: Live) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(live.url + "/v1/models", headers=asked).headers
    open_to_one = start_server(cors_origins=("https://a.example",))
    allowed = httpx.options(open_to_one.url + "/v1/models", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    other = httpx.options(open_to_one.url + "/v1/models", headers=asked | {"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


async def crowd(url: str, clients: int, seconds: float, rude: bool) -> tuple[int, float, list[float]]:
    """So many clients at once: (tokens that the patient ones got, the seconds, how long each look at /health took)."""
    chance, end, tokens = random.Random(1), time.monotonic() + seconds, 0
    limits = httpx.Limits(max_connections=None)
    waits: list[float] = []

    async def patient(http: httpx.AsyncClient) -> None:
        nonlocal tokens
        while time.monotonic() < end:
            body = {"prompt": "The river", "max_tokens": 40, "ignore_eos": True, "stream": True}
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                assert answer.status_code in (200, 429)
                async for line in answer.aiter_lines():
                    tokens += line.startswith("data: {") and time.monotonic() < end
            if answer.status_code == 429:
                await asyncio.sleep(0.1)

    async def awful(http: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            kind = chance.randrange(5)
            body: Any = {"prompt": "The hill", "max_tokens": 400, "ignore_eos": True, "stream": True}
            if kind == 0:  # leaves
                async with http.stream("POST", "/v1/completions", json=body) as answer:
                    async for _ in answer.aiter_bytes():
                        break
            elif kind == 1:
                assert (await http.post("/v1/completions", json=body | {"prompt": "word " * 3000})).status_code == 400
            elif kind == 2:
                headers = {"content-type": "application/json"}
                assert (await http.post("/v1/completions", content=b'{"prompt', headers=headers)).status_code == 400
            elif kind == 3:  # reads nothing for a while
                async with http.stream("POST", "/v1/completions", json=body):
                    await asyncio.sleep(0.3)
            else:
                with suppress(httpx.TimeoutException):
                    await http.post("/v1/completions", json=body | {"stream": False, "n": 4}, timeout=0.2)
            await asyncio.sleep(chance.random() * 0.5)

    async def look(http: httpx.AsyncClient) -> None:
        while time.monotonic() < end:
            start = time.monotonic()
            assert (await http.get("/health")).status_code == 200
            waits.append(time.monotonic() - start)
            await asyncio.sleep(0.05)

    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        kinds: list[Callable[[httpx.AsyncClient], Any]] = [
            patient if i % 2 or not rude else awful for i in range(clients)
        ]
        await asyncio.gather(look(http), *(kind(http) for kind in kinds))
    return tokens, seconds, waits


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


LOOK = """
import sys, time, urllib.request
waits, end = [], time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    start = time.monotonic()
    assert urllib.request.urlopen(sys.argv[1]).status == 200
    waits.append(time.monotonic() - start)
    time.sleep(0.05)
print(sorted(waits)[int(0.95 * len(waits))])
"""


@pytest.mark.slow
def test_two_hundred_streams_polite_and_rude(served_model: Path) -> None:
    """As many tokens are made a second among the rude as among the polite, less a tenth, and /health answers.

    The server has a process of its own, and so has who looks at /health: 200 clients in one keep it busy.
    """
    options = ("--engine.queued", "256", "--engine.running", "32")
    with serving(served_model, *options) as (process, url):
        made: dict[bool, list[float]] = {False: [], True: []}
        asyncio.run(crowd(url, 200, 3, rude=False))
        before = len(os.listdir(f"/proc/{process.pid}/fd"))
        for rude in (False, True) * 3:
            start, tokens = time.monotonic(), metric(url, "vllm:generation_tokens_total")
            line = [sys.executable, "-c", LOOK, f"{url}/health", "15"]
            looking = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
            asyncio.run(crowd(url, 200, 15, rude=rude))
            made[rude].append((metric(url, "vllm:generation_tokens_total") - tokens) / (time.monotonic() - start))
            assert float(looking.communicate()[0]) < 0.1
        time.sleep(5)
        assert metric(url, "vllm:num_requests_running") == metric(url, "vllm:kv_cache_usage_perc") == 0
        assert sorted(made[True])[1] > 0.9 * sorted(made[False])[1], made
        assert len(os.listdir(f"/proc/{process.pid}/fd")) <= before + 8
        assert metric(url, "http_requests_total", status="500") == 0


def test_a_rude_crowd(start_server: StartServer) -> None:
    live = start_server(engine=EngineConfig(queued=64, running=32))
    asyncio.run(crowd(live.url, 20, 0.5, rude=True))
    before = handles()
    tokens, _, waits = asyncio.run(crowd(live.url, 60, 3.0, rude=True))
    assert tokens > 0
    assert waits
    live.wait(live.idle, seconds=5)
    live.wait(lambda: handles() <= before + 4, seconds=10)
    assert live.get("/health").status_code == 200
    assert live.metric("http_requests_total", status="500") == 0
