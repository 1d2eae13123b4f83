"""From the tokens of an answer to its text: whole characters, stop texts, and how it ends."""

from collections.abc import Sequence
from dataclasses import replace

from fromzero.inference.request import Logprob, Output, Reason, Request
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.stream import StreamDecoder


class Answer:
    """The text of one answer as its tokens come."""

    def __init__(self, request: Request, tokenizer: Tokenizer, index: int = 0) -> None:
        """index: which of a request's n answers it is."""
        self._request, self._config, self._index = request.id, request.sampling, index
        self._decoder = StreamDecoder(tokenizer, later=request.goes_on)
        special = frozenset(i for i in tokenizer.special_tokens.values() if i != tokenizer.unknown_id)
        self.ends = frozenset(self._config.stop_ids) | (frozenset() if self._config.ignore_end else special)
        """Ids that end it."""
        self._held = ""  # text that might be the beginning of a stop text
        self.tokens = 0

    @property
    def forbidden(self) -> Sequence[int]:
        """Ids that may not come now: those that would end an answer that is too short."""
        return sorted(self.ends) if self.tokens < self._config.min_tokens else ()

    def add(self, token: int, logprobs: tuple[Logprob, ...] = (), over: Reason | None = None) -> Output:
        """The answer goes on with this; logprobs: of it, if asked for; over: why it ends with it."""
        if token in self.ends:
            return self.end("stop", token)
        self.tokens += 1
        text, self._held, stop = split_at_stop(self._held + self._decoder.feed([token]), self._stops())
        if stop is not None:
            return Output(self._request, self._index, (token,), text, logprobs, reason="stop", stop=stop)
        if over != "stop" and self.tokens >= self._config.max_tokens:
            over = "length"
        if over is not None:
            last = self.end(over)
            return replace(last, tokens=(token,), text=text + last.text, logprobs=logprobs)
        return Output(self._request, self._index, (token,), text, logprobs)

    def end(self, reason: Reason, by: int | None = None) -> Output:
        """It ends; what was held back is said after all, unless a stop text appears in it."""
        text, held, stop = split_at_stop(self._held + self._decoder.flush(), self._stops())
        if stop is not None:
            return Output(self._request, self._index, text=text, reason="stop", stop=stop)
        return Output(self._request, self._index, text=text + held, reason=reason, stop=by)

    def _stops(self) -> Sequence[str]:
        return self._config.stop if self.tokens > self._config.min_tokens or not self._config.min_tokens else ()


def split_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str, str | None]:
    """(text that is safe to show, text to hold back, the stop text that was found, if any)."""
    if not stops:
        return text, "", None
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        at, stop = min(found)
        return text[:at], "", stop
    for start in range(max(0, len(text) - max(map(len, stops))), len(text)):
        if any(stop.startswith(text[start:]) for stop in stops):
            return text[:start], text[start:], None
    return text, "", None
