"""From what the engine puts out to what a client gets: whole, or as a stream of events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from fromzero.inference.request import Logprob, Output, Request
from fromzero.inference.sampling import Constraint
from fromzero.serving.errors import ApiError, as_api_error
from fromzero.serving.metrics import REASONS
from fromzero.serving.schema import StreamOptions
from fromzero.serving.service import Service

T = TypeVar("T")
Outputs = AsyncIterator[tuple[int, Output]]


class ClientGoneError(Exception):
    """Nobody is there any more to be answered."""


@dataclass
class Told:
    """One answer, as far as it is there."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    cached: int = 0
    reason: str | None = None
    stop: str | int | None = None

    def add(self, output: Output) -> None:
        """It goes on. Raises ApiError where the engine failed."""
        if output.reason == "error":
            raise ApiError(500, f"the engine failed: {output.message}")
        self.text += output.text
        self.tokens += output.tokens
        self.logprobs += output.logprobs
        self.prompt_logprobs = output.prompt_logprobs or self.prompt_logprobs
        self.cached = max(self.cached, output.cached)
        if output.reason is not None:
            self.reason, self.stop = REASONS[output.reason], output.stop


class Shape(Protocol):
    """How a kind of answer is written."""

    whole_object: str
    piece_object: str

    def whole(self, answers: Sequence[Told]) -> list[dict[str, Any]]:
        """The choices of a whole answer."""

    def piece(self, index: int, output: Output, told: Told) -> list[dict[str, Any]]:
        """What an output adds to choice `index`, of which all so far is told: choices of chunks, often one."""


@dataclass
class Job:
    """A request of HTTP, as the engine has it."""

    id: str
    requests: list[Request]
    shape: Shape
    constraint: Constraint | None = None
    stream: bool = False
    options: StreamOptions = field(default_factory=StreamOptions)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def answers(self) -> int:
        """How many there are to be."""
        return sum(request.sampling.n for request in self.requests)

    def envelope(self, kind: str, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """What all answers and chunks have around their choices."""
        head = {"id": self.id, "object": kind, "created": self.created, "model": model}
        return {**head, "choices": choices, "system_fingerprint": None}

    def usage(self, told: Sequence[Told]) -> dict[str, Any]:
        """Tokens read and written."""
        read = sum(len(request.source or request.prompt) for request in self.requests)
        written = sum(len(answer.tokens) for answer in told)
        cached, first = 0, 0
        for request in self.requests:
            cached += told[first].cached
            first += request.sampling.n
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


async def respond(http: HttpRequest, service: Service, job: Job) -> Response:
    """Answer it, whole or as a stream. A client that goes away ends it."""
    limits, told = service.config.limits, [Told() for _ in range(job.answers)]
    note = http.scope["fromzero"]
    outputs = _in_time(service.outputs(job.requests, job.constraint), limits.request_seconds)
    if job.stream:  # what is refused is refused before a stream begins
        first = await while_connected(http, anext(outputs))
        return EventStream(_events(service, job, told, first, outputs, note), limits.send_seconds)
    await while_connected(http, _collect(outputs, told))
    _note(service, job, told, note)
    body = job.envelope(job.shape.whole_object, service.name_of(job.requests[0]), job.shape.whole(told))
    return JSONResponse(body | {"usage": job.usage(told)})


async def while_connected(http: HttpRequest, work: Awaitable[T]) -> T:
    """Do it, unless the client goes away first: then it is cancelled, and ClientGoneError raised."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGoneError
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _in_time(outputs: Outputs, seconds: float) -> Outputs:
    """The same, with an error where it takes longer than that in all."""
    end = time.monotonic() + seconds
    async with aclosing(outputs):  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    item = await anext(outputs)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ApiError(503, f"the answer took more than {seconds:g} seconds; ask for less") from None
            yield item


async def _collect(outputs: Outputs, told: list[Told]) -> None:
    async with aclosing(outputs):  # type: ignore[type-var]
        async for index, output in outputs:
            told[index].add(output)


async def _events(
    service: Service, job: Job, told: list[Told], first: tuple[int, Output], outputs: Outputs, note: dict[str, Any]
) -> AsyncIterator[bytes]:
    """Chunks as server-sent events; an error becomes the last of them before the end."""
    model, options = service.name_of(job.requests[0]), job.options

    def chunk(choices: list[dict[str, Any]], usage: bool) -> bytes:
        body = job.envelope(job.shape.piece_object, model, choices)
        if options.include_usage or usage:
            body["usage"] = job.usage(told) if usage else None
        return _event(body)

    try:
        async with aclosing(outputs):  # type: ignore[type-var]
            async for index, output in _behind(first, outputs):
                told[index].add(output)
                for choice in job.shape.piece(index, output, told[index]):
                    yield chunk([choice], options.continuous_usage_stats)
        _note(service, job, told, note)
        if options.include_usage:
            yield chunk([], True)
    except Exception as error:
        yield _event(as_api_error(error).body)
    yield b"data: [DONE]\n\n"


async def _behind(first: tuple[int, Output], outputs: Outputs) -> Outputs:
    yield first
    async for item in outputs:
        yield item


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


def _note(service: Service, job: Job, told: Sequence[Told], note: dict[str, Any]) -> None:
    """For the log and the metrics: it is done."""
    first = 0
    for request in job.requests:
        own = told[first : first + request.sampling.n]
        service.metrics.finished(request, sum(len(answer.tokens) for answer in own))
        first += request.sampling.n
    usage = job.usage(told)
    note |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    note["finish_reasons"] = [answer.reason for answer in told][:16]


class EventStream(StreamingResponse):
    """Events for a client who takes them; one that takes none for so many seconds is not served on."""

    def __init__(self, events: AsyncIterator[bytes], seconds: float) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._events, self._seconds = events, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(self._seconds):
                await send(message)

        async with aclosing(self._events):  # type: ignore[type-var]
            await super().__call__(scope, receive, in_time)
