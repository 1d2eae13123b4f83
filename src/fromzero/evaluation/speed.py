"""`fromzero evaluate speed`: how fast a model answers, in this process or behind a server, under a load that is stated.

What is measured of a request, with the names of vLLM's benchmark; times are those at which pieces of text arrive:
- TTFT, time to the first token: from when it was due to be sent to its first piece;
- E2EL, end-to-end latency: to its last piece;
- TPOT, time per output token: (E2EL - TTFT) / (tokens - 1);
- ITL, inter-token latency: between one piece and the next, over all requests (several tokens may come in one piece).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from fromzero.device import DeviceName
from fromzero.errors import UserError
from fromzero.files import write_json
from fromzero.inference.client import Server, request_fields
from fromzero.inference.engine import EngineConfig
from fromzero.inference.opening import open_engine
from fromzero.inference.request import Request
from fromzero.inference.sampling import SamplingConfig
from fromzero.inference.streams import Streams

WORDS = "the of and to in is that for it as was with on be by at from or an have this not are but which you one we all"


@dataclass(frozen=True)
class SpeedConfig:
    """Who is measured, and with which load."""

    model: Path | None = None
    """Folder or GGUF file of a model, the name of a downloaded one, or what the server at `url` calls it."""
    url: str | None = None
    """A server that speaks OpenAI's protocol, such as http://127.0.0.1:8000; its key is in FROMZERO_API_KEY."""
    endpoint: Literal["completions", "chat"] = "completions"
    """What is asked of a server: /v1/completions, or /v1/chat/completions."""
    concurrency: tuple[int, ...] = (1, 4, 16)
    """Requests at once: as soon as one is answered, the next is sent. A level of load each."""
    rates: tuple[float, ...] = ()
    """In place of that, requests a second that arrive whether earlier ones are answered or not. A level each."""
    arrivals: Literal["poisson", "fixed"] = "poisson"
    """Whether requests of a rate arrive at random (exponential gaps) or at equal distances."""
    requests: int = 32
    """Requests of a level; at least as many as are sent at once."""
    prompt_tokens: int = 128
    """Length of a prompt: tokens in this process, short common words to a server, which are a token each or nearly."""
    answer_tokens: int = 64
    """Length of an answer, tokens."""
    full_answers: bool = True
    """Whether answers go on to their full length: `ignore_eos`, which vLLM, SGLang, llama.cpp and fromzero know."""
    warmup: int = 2
    """Requests before all others that are not counted."""
    patience: float = 600.0
    """Longest wait for a server's next bytes, seconds."""
    seed: int | None = None
    """Seed of prompts and arrivals; null: others each time, since servers remember prompts."""
    output: Path | None = None
    """Folder for speed.json."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much is computed at once, in this process."""
    device: DeviceName = "auto"
    """Where the model runs, in this process."""

    def __post_init__(self) -> None:
        counts = (self.requests, self.prompt_tokens, self.answer_tokens, *self.concurrency)
        if min(counts) < 1 or min(self.rates, default=1.0) <= 0 or self.warmup < 0:
            raise UserError("requests, tokens and concurrency are at least 1, rates above 0, warmup at least 0")


@dataclass
class Timed:
    """One request: when it was due, when pieces came (seconds), how many tokens, and why it failed, if it did."""

    due: float
    times: list[float] = field(default_factory=list)
    prompt: int = 0
    tokens: int = 0
    error: str = ""


Ask = Callable[[str, Timed], Coroutine[Any, Any, None]]
"""Sends a prompt and notes what comes. Raises UserError."""


def measure_speed(config: SpeedConfig, say_level: Callable[[dict[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """The figures of each level, as they are written to speed.json; `say_level` is given each as it is there."""
    return asyncio.run(_measure(config, say_level))


async def _measure(config: SpeedConfig, say_level: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    random, streams, levels = Random(config.seed), None, list[dict[str, Any]]()
    if config.url:
        name, ask = await _server(config, config.url)
    elif config.model:
        streams = Streams(open_engine(config.model, config.device, config.engine))
        name, ask = str(config.model), _engine(config, streams)
    else:
        raise UserError("name a model, or a server with --url")
    try:
        for _ in range(config.warmup):
            await ask(_prompt(config, random), Timed(0))
        for level in config.rates or config.concurrency:
            found = figures(await _run(config, ask, level, random))
            levels.append({"rate" if config.rates else "concurrency": level, **found})
            say_level(levels[-1])
    finally:
        if streams:
            streams.close()
    result = {"measured": config.url or "in this process", "model": name, "config": config, "levels": levels}
    if config.output:
        config.output.mkdir(parents=True, exist_ok=True)
        write_json(config.output / "speed.json", result)
    return result


async def _run(config: SpeedConfig, ask: Ask, level: float, random: Random) -> list[Timed]:
    """The requests of a level: of so many clients, or so many a second."""
    count = config.requests if config.rates else max(config.requests, int(level))
    prompts = iter([_prompt(config, random) for _ in range(count)])
    if not config.rates:

        async def client() -> list[Timed]:
            return [await _one(ask, prompt, time.perf_counter()) for prompt in prompts]

        return sum(await asyncio.gather(*(client() for _ in range(int(level)))), list[Timed]())
    due, tasks = time.perf_counter(), list[asyncio.Task[Timed]]()
    for prompt in prompts:
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(_one(ask, prompt, due)))
        due += random.expovariate(level) if config.arrivals == "poisson" else 1 / level
    return await asyncio.gather(*tasks)


async def _one(ask: Ask, prompt: str, due: float) -> Timed:
    timed = Timed(due)
    try:
        await ask(prompt, timed)
        timed.error = "" if timed.times else "no text"
    except UserError as error:
        timed.error = getattr(error, "kind", type(error).__name__)
    return timed


def figures(timed: list[Timed]) -> dict[str, Any]:
    """What the module's docstring defines, in milliseconds, and rates a second, from the first request on."""
    good = [t for t in timed if not t.error and t.times]
    seconds = max(t.times[-1] for t in good) - min(t.due for t in timed) if good else 0.0
    first, last = [t.times[0] - t.due for t in good], [t.times[-1] - t.due for t in good]
    values = {
        "ttft": first,
        "tpot": [(b - a) / (t.tokens - 1) for t, a, b in zip(good, first, last, strict=True) if t.tokens > 1],
        "itl": [b - a for t in good for a, b in zip(t.times, t.times[1:], strict=False)],
        "e2el": last,
    }
    totals = {
        "requests": len(good),
        "tokens": sum(t.tokens for t in good),
        "prompt_tokens": sum(t.prompt for t in good),
    }
    return {
        **totals,
        "errors": dict(Counter(t.error for t in timed if t.error)),
        "seconds": seconds,
        **{f"{name}_per_second": total / seconds if seconds else 0.0 for name, total in totals.items()},
        **{f"{name}_ms": _spread(times) for name, times in values.items()},
    }


def _spread(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)) * 1000
    return {"mean": float(np.mean(seconds)) * 1000, "p50": float(p50), "p90": float(p90), "p99": float(p99)}


def _prompt(config: SpeedConfig, random: Random) -> str:
    return " ".join(random.choices(WORDS.split(), k=config.prompt_tokens))


def _sampling(config: SpeedConfig) -> SamplingConfig:
    return SamplingConfig(temperature=0, top_p=1, max_tokens=config.answer_tokens, ignore_end=config.full_answers)


def _engine(config: SpeedConfig, streams: Streams) -> Ask:
    tokenizer = streams.engine.tokenizer

    async def ask(prompt: str, timed: Timed) -> None:
        ids = tuple(tokenizer.encode_ordinary(prompt)[: config.prompt_tokens])
        request = Request(str(id(timed)), ids, _sampling(config))
        async with aclosing(streams.stream(request)) as outputs:
            async for output in outputs:
                if output.tokens:
                    timed.times.append(time.perf_counter())
                    timed.tokens += len(output.tokens)
                if output.reason == "error":
                    raise UserError(output.message)
        timed.prompt = len(ids)

    return ask


async def _server(config: SpeedConfig, url: str) -> tuple[str, Ask]:
    """What the server calls its model, and what asks it."""
    server = Server(url, patience=config.patience)
    model = await server.named(str(config.model) if config.model else None, "--model")
    chat = config.endpoint == "chat"
    body = {"model": model, "stream_options": {"include_usage": True}, **request_fields(_sampling(config))}

    async def ask(prompt: str, timed: Timed) -> None:
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        async with aclosing(server.events("/chat/completions" if chat else "/completions", body | asked)) as events:
            async for event in events:
                for choice in event.get("choices") or ():
                    if choice.get("delta", {}).get("content") if chat else choice.get("text"):
                        timed.times.append(time.perf_counter())
                if usage := event.get("usage"):
                    timed.prompt, timed.tokens = usage["prompt_tokens"], usage["completion_tokens"]
        timed.tokens = timed.tokens or len(timed.times)

    return model, ask
