"""Who is talked to: a model on this machine, or one behind a server."""

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fromzero.console import say
from fromzero.errors import Interrupted, UserError
from fromzero.inference import SamplingConfig
from fromzero.inference.client import Server, request_fields
from fromzero.inference.engine import Engine
from fromzero.inference.request import Request
from fromzero.inference.retrieval import Index, grounded
from fromzero.training.signals import stop_on_signals
from fromzero.tuning.grading import prompt_ids

ROOM_FOR_ANSWER = 32  # tokens that a prompt must leave free; older turns are forgotten to make the room

Messages = list[dict[str, Any]]


@dataclass
class Reply:
    """What is known of an answer beside its text: tokens of the prompt, of these in the cache, of the answer."""

    prompt: int = 0
    cached: int = 0
    tokens: int = 0
    reason: str = "stop"
    notes: list[str] = field(default_factory=list)
    """Lines to say below it."""


class Local:
    """A model on this machine, which answers from documents if there is an index. Its cache has the earlier turns."""

    def __init__(self, engine: Engine, index: Index | None) -> None:
        if engine.tokenizer.chat_template is None:
            raise UserError(
                "the model has no chat template: it was not made to talk; `fromzero generate` goes on from texts"
            )
        self.engine, self.index, self.context = engine, index, engine.model.config.context

    def ask(self, messages: Messages, sampling: SamplingConfig, reply: Reply) -> Iterator[str]:
        """Pieces of the answer; Ctrl-C raises KeyboardInterrupt. Forgets the oldest turns when the context is full."""
        self._forget(messages)
        shown = self._grounded(self.index, messages, sampling, reply) if self.index else messages
        request = Request("", tuple(prompt_ids(self.engine.tokenizer, shown)), replace(sampling, n=1, logprobs=None))
        reply.prompt = len(request.prompt)
        self.engine.submit(request)
        try:
            with stop_on_signals() as stopped:  # never in the midst of a step
                while self.engine.busy and not stopped:
                    for output in self.engine.step():
                        reply.tokens += len(output.tokens)
                        reply.cached, reply.reason = output.cached or reply.cached, output.reason or reply.reason
                        if output.reason == "error":
                            raise UserError(output.message)
                        yield output.text
        finally:
            self.engine.cancel(request.id)
        if stopped.signal == signal.SIGTERM:
            raise Interrupted("ended", stopped.exit_code)
        if stopped:
            raise KeyboardInterrupt

    def size(self, messages: Messages) -> str:
        """How long the conversation is."""
        return f"{self._tokens(messages) if messages else 0:,} tokens of {self.context:,}"

    def _tokens(self, messages: Messages) -> int:
        return len(prompt_ids(self.engine.tokenizer, messages))

    def _grounded(self, index: Index, messages: Messages, sampling: SamplingConfig, reply: Reply) -> Messages:
        found = [passage for _, passage in index.search(messages[-1]["content"])]
        room = self.context - min(sampling.max_tokens, self.context // 4)
        shown, passages = grounded(messages, found, lambda made: self._tokens(list(made)) <= room)
        reply.notes = [f"[{number}] {passage.file}, line {passage.line}" for number, passage in enumerate(passages, 1)]
        reply.notes = reply.notes or ["(no passage of the documents fits into the model's context)"]
        return shown

    def _forget(self, messages: Messages) -> None:
        """Drop the oldest turns until the conversation leaves room for an answer, and say so."""
        first, dropped = int(messages[0]["role"] == "system"), 0
        while len(messages) > first + 1 and self._tokens(messages) > self.context - ROOM_FOR_ANSWER:
            del messages[first : first + 2]
            dropped += 1
        if dropped:
            say(f"(the context holds {self.context} tokens: the oldest {dropped} exchanges were forgotten)")


class Remote:
    """A model behind a server that speaks OpenAI's protocol."""

    def __init__(self, url: str, model: str | None) -> None:
        """model: what the server calls it; None takes the first that it names. Raises UserError."""
        self._runner, self._server = asyncio.Runner(), Server(url)
        self.model, self._tokens = self._runner.run(self._server.named(model, "--model")), 0

    def ask(self, messages: Messages, sampling: SamplingConfig, reply: Reply) -> Iterator[str]:
        """As Local does; what the context holds is for the server to say."""
        body = {"model": self.model, "messages": messages, "stream_options": {"include_usage": True}}
        events = self._server.events("/chat/completions", body | request_fields(sampling))

        async def following() -> dict[str, Any] | None:
            return await anext(events, None)

        try:
            while event := self._runner.run(following()):
                for choice in event.get("choices") or ():
                    reply.reason = choice.get("finish_reason") or reply.reason
                    yield choice.get("delta", {}).get("content") or ""
                if usage := event.get("usage"):
                    reply.prompt, reply.tokens = usage["prompt_tokens"], usage["completion_tokens"]
                    reply.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        finally:  # the server is not to go on for nobody
            self._runner.run(events.aclose())
        self._tokens = reply.prompt + reply.tokens

    def size(self, messages: Messages) -> str:
        """How long the conversation was."""
        return f"{self._tokens:,} tokens after the last answer"


Partner = Local | Remote
