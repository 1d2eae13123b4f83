"""POST /v1/chat/completions: the next turn of a conversation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fromzero.inference.request import Output
from fromzero.serving.answers import Job, Told
from fromzero.serving.errors import bad
from fromzero.serving.pieces import Pieces
from fromzero.serving.prompts import conversation_ids
from fromzero.serving.rules import constraint_of
from fromzero.serving.schema import ChatRequest, Choice, Described, StreamOptions
from fromzero.serving.service import Service
from fromzero.serving.tools import ToolReader, ToolStyle, style_of
from fromzero.tokenizer import Tokenizer


async def chat_job(service: Service, body: ChatRequest, job_id: str) -> Job:
    """The request as the engine has it. Raises ApiError and UserError."""
    tokenizer, limits = service.tokenizer, service.config.limits
    offered, forced = _tools(body)
    prompt = await conversation_ids(tokenizer, body, with_tools=bool(offered))
    assert tokenizer.chat_template is not None
    style = style_of(tokenizer.chat_template) if offered else None
    if forced and style is not None and style.begin:
        prompt += tokenizer.encode(style.begin + "\n", "allow", later=True)
    room = max(1, service.context - len(prompt))
    asked = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    if asked is not None and asked < 1:
        raise bad(f"max_tokens is {asked}; it must be at least 1", "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise bad("top_logprobs needs logprobs to be true", "top_logprobs")
    noted = (body.top_logprobs or 0) if body.logprobs else None
    sampling = body.sampling(limits, min(asked or room, room), noted, 1 if body.n is None else body.n)
    if style is not None and style.begin in tokenizer.special_tokens:  # or it would end the answer
        ends = {*tokenizer.special_tokens.values()} - {tokenizer.special_tokens[style.begin], tokenizer.unknown_id}
        sampling = replace(sampling, ignore_end=True, stop_ids=(*sampling.stop_ids, *sorted(ends)))
    request = service.request(f"{job_id}-0", prompt, sampling, body, goes_on=body.continue_final_message)
    schema = style.schema(forced) if forced and style is not None else None
    constraint = await constraint_of(tokenizer, body, body.continue_final_message, schema)
    shape = ChatShape(tokenizer, style, bool(forced), bool(body.logprobs))
    return Job(job_id, [request], shape, constraint, bool(body.stream), body.stream_options or StreamOptions())


def _tools(body: ChatRequest) -> tuple[list[Described], list[Described]]:
    """(tools that the model is told of, those of which it must call one)."""
    known, choice = [tool.function for tool in body.tools or ()], body.tool_choice or "auto"
    if choice == "none" or (choice == "auto" and not known):
        return [], []
    if not known:
        raise bad("tool_choice asks for a call, and there are no tools", "tool_choice")
    if isinstance(choice, Choice):
        named = [tool for tool in known if tool.name == choice.function.name]
        if not named:
            raise bad(f"tool_choice names {choice.function.name!r:.80}, which is not among the tools", "tool_choice")
        return known, named
    return known, known if choice == "required" else []


class ChatShape:
    """How turns of the assistant are written."""

    whole_object, piece_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, style: ToolStyle | None, forced: bool, logprobs: bool) -> None:
        """style: how calls of tools are written, if any may come; forced: one has begun in the prompt."""
        self._tokenizer, self._style, self._forced, self._logprobs = tokenizer, style, forced, logprobs
        self._begun: dict[int, tuple[Pieces, ToolReader | None]] = {}

    def whole(self, answers: Sequence[Told]) -> list[dict[str, Any]]:
        """See Shape."""
        choices = []
        for index, told in enumerate(answers):
            pieces, reader = self._start()
            words, calls = self._part(reader, told.text, ended=True)
            message: dict[str, Any] = {"role": "assistant", "content": words or (None if calls else "")}
            if calls:
                message["tool_calls"] = calls
            choices.append({"index": index, "message": message, **self._end(pieces, told.logprobs, told, reader)})
        return choices

    def piece(self, index: int, output: Output, told: Told) -> list[dict[str, Any]]:
        """See Shape. The role comes first and alone, the end last and alone."""
        choices, head = list[dict[str, Any]](), {"index": index, "logprobs": None, "finish_reason": None}
        if index not in self._begun:
            self._begun[index] = self._start()
            choices.append({**head, "delta": {"role": "assistant", "content": None}})
        pieces, reader = self._begun[index]
        before = reader.calls if reader else 0
        words, calls = self._part(reader, output.text, ended=output.reason is not None)
        if words or (self._logprobs and output.logprobs):
            logprobs = self._told(pieces, output.logprobs)
            choices.append({**head, "delta": {"content": words}, "logprobs": logprobs})
        for number, call in enumerate(calls, before):
            choices.append({**head, "delta": {"tool_calls": [{"index": number, **call}]}})
        if output.reason is not None:
            choices.append({"index": index, "delta": {}, **self._end(pieces, (), told, reader), "logprobs": None})
        return choices

    def _start(self) -> tuple[Pieces, ToolReader | None]:
        reader = None if self._style is None else ToolReader(self._style, inside=self._forced)
        return Pieces(self._tokenizer), reader

    def _part(self, reader: ToolReader | None, text: str, ended: bool) -> tuple[str, list[dict[str, Any]]]:
        if reader is None:
            return text, []
        words, calls = reader.feed(text)
        if ended:
            rest, more = reader.flush()
            words, calls = words + rest, calls + more
        return words, calls

    def _told(self, pieces: Pieces, logprobs: Sequence[Any]) -> dict[str, Any] | None:
        return {"content": [pieces.chat(noted) for noted in logprobs], "refusal": None} if self._logprobs else None

    def _end(self, pieces: Pieces, logprobs: Sequence[Any], told: Told, reader: ToolReader | None) -> dict[str, Any]:
        called = reader is not None and reader.calls > 0 and told.reason == "stop"
        return {
            "logprobs": self._told(pieces, logprobs),
            "finish_reason": "tool_calls" if called else told.reason,
            "stop_reason": told.stop,
        }
