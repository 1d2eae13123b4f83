"""The model that is served: loaded once, asked by all."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal

from fromzero.errors import UserError
from fromzero.inference.adapted import Adapter
from fromzero.inference.embedding import Embedder
from fromzero.inference.opening import check_model, open_engine, start_id
from fromzero.inference.request import Output, Request
from fromzero.inference.sampling import Constraint, SamplingConfig
from fromzero.inference.streams import Streams
from fromzero.interop.huggingface import open_stored
from fromzero.model import EncoderDecoder
from fromzero.serving.config import ServeConfig
from fromzero.serving.errors import ApiError, bad
from fromzero.serving.metrics import Metrics
from fromzero.serving.schema import Sampled
from fromzero.tokenizer import Tokenizer


class Service:
    """What the routes talk to."""

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.metrics = config, Metrics(config.served_name)
        self.state: Literal["loading", "ready", "stopping"] = "loading"
        self.streams: Streams | None = None
        self.embedder: Embedder | None = None
        self.context, self.made = 0, int(time.time())
        self.adapters: dict[str, Adapter] = {}
        self.start: int | None = None  # of an encoder-decoder: the id that its answers begin with
        self._embedding = asyncio.Lock()

    def load(self) -> None:
        """Read the model. Raises UserError."""
        config = self.config
        stored = open_stored(check_model(config.model))
        self.context = stored.config.context
        if config.adapters and stored.config.kind != "decoder":
            raise UserError(f"adapters are for decoders, and {config.model} is none; leave them out")
        if stored.config.kind == "encoder":
            self.embedder = Embedder(config.model, config.device)
        else:
            engine = open_engine(config.model, config.device, config.engine)
            if isinstance(engine.model, EncoderDecoder):
                self.start = start_id(config.model, engine.tokenizer)
            else:
                self.embedder = Embedder.over(engine.model, engine.tokenizer)
            for name, folder in config.adapter_folders.items():
                self.adapters[name] = Adapter.read(name, folder, engine.model, config.model)
            self.metrics.watch(engine)
            self.context = min(self.context, engine.pool.count * engine.pool.size)
            self.streams = Streams(engine)
        self.state = "ready"

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        if self.streams is not None:
            return self.streams.engine.tokenizer
        assert self.embedder is not None
        return self.embedder.tokenizer

    @property
    def capabilities(self) -> list[str]:
        """What it can be asked for, in the words of other servers."""
        chats = self.streams is not None and self.tokenizer.chat_template is not None
        can = {"chat": chats, "completion": self.streams is not None, "embedding": self.embedder is not None}
        return [name for name, holds in can.items() if holds]

    @property
    def longest(self) -> int:
        """Most tokens of a text that is embedded or classified."""
        return self.embedder.longest if self.embedder is not None else self.context

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.embedder.model.config.width if self.embedder is not None else 0

    @property
    def busy(self) -> bool:
        """Whether there are answers in the making."""
        return self.streams is not None and self.streams.engine.busy

    def problem(self) -> str | None:
        """Why it can't answer now, if so."""
        if self.streams is not None and self.streams.fault is not None:
            return "the engine has failed; start the server again"
        return {"loading": "loading the model", "stopping": "the server is stopping"}.get(self.state)

    def adapter(self, name: str | None) -> Adapter | None:
        """Which one a model's name means. Raises ApiError for the name of a model that is not here."""
        served = self.config.served_name
        if name is None or name == served:
            return None
        if name not in self.adapters:
            known = ", ".join(f"'{known}'" for known in (served, *self.adapters))
            raise ApiError(404, f"there is no model '{name[:100]}' here, only {known}", "model")
        return self.adapters[name]

    def name_of(self, request: Request) -> str:
        """What clients call the model that answers it."""
        return request.adapter.name if request.adapter else self.config.served_name

    def request(
        self,
        name: str,
        prompt: Sequence[int],
        sampling: SamplingConfig,
        body: Sampled,
        prompt_logprobs: bool = False,
        goes_on: bool = True,
    ) -> Request:
        """A prompt as the engine has it. Raises ApiError."""
        if body.priority < 0:
            raise bad(f"priority is {body.priority}; it must be at least 0, the usual one", "priority")
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, max(1, self.context - len(prompt))))
        request = Request(name, tuple(prompt), sampling, body.priority, body.cache_salt or "", prompt_logprobs)
        request = replace(request, adapter=self.adapter(body.model))
        if self.start is None:
            return replace(request, goes_on=goes_on)
        if prompt_logprobs:
            raise bad("an encoder-decoder reads its prompt and does not score it; leave echo out", "echo")
        ends = [self.tokenizer.special_tokens[text] for text in self.tokenizer.suffix]
        source = prompt if list(prompt[-len(ends) :]) == ends else (*prompt, *ends)
        return replace(request, prompt=(self.start,), source=tuple(source))

    async def outputs(
        self, requests: Sequence[Request], constraint: Constraint | None = None
    ) -> AsyncIterator[tuple[int, Output]]:
        """What the answers to all these prompts get, with the number of the answer among all of them.

        Raises UserError, Overloaded and Unavailable. Closing it cancels what is not finished.
        """
        if self.streams is None:
            raise ApiError(422, "this model writes no text: it is an encoder; ask /v1/embeddings")
        found: asyncio.Queue[tuple[int, Output] | BaseException | None] = asyncio.Queue(maxsize=16)
        tasks = [asyncio.create_task(self._pump(i, one, constraint, found)) for i, one in enumerate(requests)]
        left = len(tasks)
        try:
            while left:
                item = await found.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()

    async def _pump(
        self,
        number: int,
        request: Request,
        constraint: Constraint | None,
        found: "asyncio.Queue[tuple[int, Output] | BaseException | None]",
    ) -> None:
        assert self.streams is not None
        try:
            async with aclosing(self.streams.stream(request, constraint)) as outputs:
                async for output in outputs:
                    self.metrics.note(request, output)
                    await found.put((number * request.sampling.n + output.index, output))
            await found.put(None)
        except Exception as error:
            await found.put(error)
        finally:
            self.metrics.forget(request)

    async def embed(self, rows: list[list[int]]) -> list[list[float]]:
        """Vectors of texts, one request at a time. Raises ApiError for a model that makes none."""
        if self.embedder is None:
            raise ApiError(422, "this model makes no vectors of texts; serve an encoder or a decoder")
        async with self._embedding:
            return (await asyncio.to_thread(self.embedder.embed, rows)).tolist()

    async def classify(self, rows: list[list[int]]) -> list[list[float]]:
        """Probabilities of the classes of texts. Raises ApiError for a model without any."""
        if self.embedder is None or not self.embedder.has_classes:
            raise ApiError(422, "this model has no classes of texts; serve one that was tuned to classify")
        async with self._embedding:
            return (await asyncio.to_thread(self.embedder.classify, rows)).tolist()

    def close(self) -> None:
        """End what still runs."""
        self.state = "stopping"
        if self.streams is not None:
            self.streams.close()
