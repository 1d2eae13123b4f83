"""POST /v1/completions: texts that go on from prompts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fromzero.inference.request import Output, Request
from fromzero.serving.answers import Job, Told
from fromzero.serving.errors import bad
from fromzero.serving.pieces import Pieces
from fromzero.serving.prompts import prompts_of
from fromzero.serving.rules import constraint_of
from fromzero.serving.schema import CompletionRequest, StreamOptions
from fromzero.serving.service import Service
from fromzero.tokenizer import Tokenizer

USUAL_TOKENS = 16  # what OpenAI takes where max_tokens is not given


async def completion_job(service: Service, body: CompletionRequest, job_id: str) -> Job:
    """The request as the engine has it. Raises ApiError and UserError."""
    if body.suffix:
        raise bad("suffix is not supported; put what comes after into the prompt", "suffix")
    n, limits = 1 if body.n is None else body.n, service.config.limits
    best_of = n if body.best_of is None else body.best_of
    if best_of < n or (best_of > n and body.stream):
        raise bad(f"best_of is {best_of}; it must be at least n ({n}), and equal to it in a stream", "best_of")
    given = body.prompt
    prompts = await prompts_of(
        service.tokenizer, given, limits.prompts, "prompt", body.add_special_tokens, body.parse_special
    )
    asked = USUAL_TOKENS if body.max_tokens is None else body.max_tokens
    if asked < 0 or (asked == 0 and not body.echo):
        raise bad(f"max_tokens is {asked}; it must be at least 1, or 0 with echo", "max_tokens")
    noted = body.logprobs if body.logprobs is not None or best_of == n else 0
    sampling = body.sampling(limits, max(asked, 1), noted, best_of)
    if body.echo and asked <= 1:  # scores of a prompt: clients count on the one token behind it, whichever it is
        sampling = replace(sampling, ignore_end=True)
    scored = body.echo and body.logprobs is not None
    requests = [  # ids are to be learned from: with log-probabilities by which they are drawn, that of the end too
        replace(service.request(f"{job_id}-{i}", prompt, sampling, body, scored), drawn=body.return_token_ids)
        for i, prompt in enumerate(prompts)
    ]
    texts = [given] if isinstance(given, str) else given
    shown = [text if isinstance(text, str) else None for text in texts] if len(texts) == len(prompts) else [None]
    shape = CompletionShape(service.tokenizer, requests, body, shown, n, asked)
    constraint = await constraint_of(service.tokenizer, body, goes_on=True)
    return Job(job_id, requests, shape, constraint, bool(body.stream), body.stream_options or StreamOptions())


class CompletionShape:
    """How completions are written."""

    whole_object = piece_object = "text_completion"

    def __init__(
        self,
        tokenizer: Tokenizer,
        requests: Sequence[Request],
        body: CompletionRequest,
        shown: Sequence[str | None],
        n: int,
        asked: int,
    ) -> None:
        """shown: the prompts, where they were given as texts; n of best_of are told; asked: max_tokens, maybe 0."""
        self._tokenizer, self._requests, self._shown = tokenizer, requests, shown
        self._echo, self._logprobs, self._n, self._asked = body.echo, body.logprobs is not None, n, asked
        self._made, self._ids = requests[0].sampling.n, body.return_token_ids
        self._pieces: dict[int, Pieces] = {}

    def whole(self, answers: Sequence[Told]) -> list[dict[str, Any]]:
        """See Shape. Of best_of answers, those with the highest mean log-probability (OpenAI's definition)."""
        choices = list[dict[str, Any]]()
        for first in range(0, len(answers), self._made):
            own = range(first, first + self._made)
            best = sorted(own, key=lambda index: -_mean(answers[index])) if self._n < self._made else own
            for index in best[: self._n]:
                told = answers[index]
                output = Output("", 0, tuple(told.tokens), told.text, tuple(told.logprobs), told.prompt_logprobs)
                output = replace(output, stop=told.stop)
                choices.append(self._choice(index, output, told, first=True) | {"index": len(choices)})
        return choices

    def piece(self, index: int, output: Output, told: Told) -> list[dict[str, Any]]:
        """See Shape."""
        first = index not in self._pieces
        if not (first and self._echo) and not output.text and not told.reason and not (self._logprobs or self._ids):
            return []
        return [self._choice(index, output, told, first)]

    def _choice(self, index: int, output: Output, told: Told, first: bool) -> dict[str, Any]:
        pieces = self._pieces.setdefault(index, Pieces(self._tokenizer))
        number, answers = index // self._made, self._asked > 0
        request, echo = self._requests[number], self._echo and first
        text = output.text if answers else ""
        if echo:
            shown = self._shown[number]
            text = (self._tokenizer.decode(request.prompt) if shown is None else shown) + text
        lists: dict[str, list[Any]] | None = None
        if self._logprobs:
            lists = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
            for token, noted in zip(request.prompt, output.prompt_logprobs, strict=False) if echo else ():
                pieces.completion(token, noted, lists)
            for noted in output.logprobs if answers else ():
                pieces.completion(noted.token, noted, lists)
        reason = told.reason if output.reason or told.reason else None
        ids = [*output.tokens, output.stop] if isinstance(output.stop, int) else list(output.tokens)
        return {
            "index": index,
            "text": text,
            "logprobs": lists,
            "finish_reason": reason,
            "stop_reason": told.stop if reason else None,
        } | ({"token_ids": ids if answers else []} if self._ids else {})


def _mean(told: Told) -> float:
    return sum(noted.logprob for noted in told.logprobs) / max(1, len(told.logprobs))
