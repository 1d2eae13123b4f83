"""What the server costs: tokens a second over HTTP beside the same engine called directly, by turns.

    python bench/serving.py [MODEL] [--dtype bfloat16] [--rounds 3] [--save]

MODEL is a folder, a GGUF file or the name of a downloaded model (default smollm2-135m-instruct). The server is a
process of its own; the clients are in this one, and only read bytes. Both share the cores with the engine, as on every
small machine. Requests: greedy, prompts of 64 tokens, answers of 128.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from common import child_environment, fail, machine_lines, markdown_table, publish
from fromzero.inference import SamplingConfig
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.opening import open_engine
from fromzero.inference.request import Request

PROMPT, ANSWER = 64, 128
LEVELS = (1, 8, 32)


def main() -> None:
    """All rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("smollm2-135m-instruct"))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    engine = open_engine(arguments.model, "cpu", EngineConfig(dtype=arguments.dtype, cache_tokens=16384))
    with serving(arguments.model, arguments.dtype) as url:
        rows = [row for level in LEVELS for row in measured(engine, url, level, arguments.rounds)]
    header = ["requests at once", "engine, tokens/s", "over HTTP", "tokens/s", "of the engine's", "spread"]
    body = f"{arguments.model.name}, {arguments.dtype}, {arguments.rounds} rounds, medians.\n\n"
    publish("serving", "What the server costs", body + markdown_table(header, rows), machine_lines(), arguments.save)


def measured(engine: Engine, url: str, level: int, rounds: int) -> list[list[str]]:
    """Two rows of the table; the first round warms up."""
    ways: dict[str, Callable[[list[list[int]]], float]] = {
        "engine": partial(directly, engine), "streamed": partial(over_http, url, True),
        "at once": partial(over_http, url, False),
    }  # fmt: skip
    found: dict[str, list[float]] = {way: [] for way in ways}
    chance = Random(level)
    for number in range(rounds + 1):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            prompts = [[chance.randrange(100, 40000) for _ in range(PROMPT)] for _ in range(level)]
            found[way].append(level * ANSWER / ways[way](prompts))
    rows, base = [], found.pop("engine")[1:]
    for way, rates in found.items():
        shares = sorted(rate / own for rate, own in zip(rates[1:], base, strict=True))
        numbers = f"{statistics.median(base):.1f}", way, f"{statistics.median(rates[1:]):.1f}"
        rows.append([str(level), *numbers, f"{statistics.median(shares):.3f}", f"{shares[0]:.3f} to {shares[-1]:.3f}"])
        print(*rows[-1], flush=True)
    return rows


def directly(engine: Engine, prompts: list[list[int]]) -> float:
    """Seconds of the engine by itself."""
    plain = SamplingConfig(temperature=0, max_tokens=ANSWER, ignore_end=True)
    requests = [Request(str(number), tuple(ids), replace(plain)) for number, ids in enumerate(prompts)]
    started = time.perf_counter()
    engine.answers(requests)
    return time.perf_counter() - started


def over_http(url: str, stream: bool, prompts: list[list[int]]) -> float:
    """Seconds of as many clients at once."""
    started = time.perf_counter()
    asyncio.run(crowd(url, stream, prompts))
    return time.perf_counter() - started


async def crowd(url: str, stream: bool, prompts: list[list[int]]) -> None:
    """All clients."""
    await asyncio.gather(*(ask(url, stream, prompt) for prompt in prompts))


async def ask(url: str, stream: bool, prompt: list[int]) -> None:
    """Send a request and read to the end of its answer."""
    address = urlsplit(url)
    fields = {"temperature": 0, "max_tokens": ANSWER, "ignore_eos": True, "stream": stream}
    body = json.dumps({"prompt": prompt, **fields}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    size, first = 0, await reader.read(65536)
    if b" 200 " not in first[:20]:
        fail(f"the server said {first[:300]!r}")
    while piece := await reader.read(65536):
        size += len(piece)
    writer.close()


@contextmanager
def serving(model: Path, dtype: str) -> Iterator[str]:
    """`fromzero serve` as a process, until it is not needed any more: where it listens."""
    line = [sys.executable, "-m", "fromzero", "serve", str(model), "--port", "0", "--engine.dtype", dtype]
    line += ["--engine.cache_tokens", "16384"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=child_environment()) as process:
        assert process.stderr is not None
        url = ""
        for text in process.stderr:
            url = found.group() if (found := re.search(r"http://[\d.]+:\d+", text)) else url
            if text.startswith("ready"):
                break
        else:
            fail("the server did not start")
        try:
            with open("/dev/null", "w") as nowhere:
                copy = subprocess.Popen(["cat"], stdin=process.stderr, stdout=nowhere)  # its log
                yield url
                copy.kill()
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
