"""From the tokens of an answer to its text: whole characters, stop texts, and how it ends."""

from collections.abc import Sequence

from fromzero.inference.request import Logprob, Output, Reason, Request
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.stream import StreamDecoder


class Answer:
    """The text of one answer as its tokens come."""

    def __init__(self, request: Request, tokenizer: Tokenizer, index: int = 0) -> None:
        """index: which of a request's n answers it is."""
        self._request, self._config, self._index = request, request.sampling, index
        self._decoder = StreamDecoder(tokenizer, later=request.goes_on)
        special = frozenset(i for i in tokenizer.special_tokens.values() if i != tokenizer.unknown_id)
        self._ends = frozenset(self._config.stop_ids) | (frozenset() if self._config.ignore_end else special)
        self._held = ""  # text that might be the beginning of a stop text
        self.tokens = 0

    @property
    def forbidden(self) -> Sequence[int]:
        """Ids that may not come now: those that would end an answer that is too short."""
        return sorted(self._ends) if self.tokens < self._config.min_tokens else ()

    def add(self, tokens: Sequence[int], logprobs: Sequence[Logprob], full: bool) -> Output:
        """The answer goes on with these, of which only the last may end it; full: the context has no room for more."""
        self.tokens += len(tokens)
        if (last := tokens[-1]) in self._ends:
            self.tokens -= 1
            return self._end(tokens[:-1], logprobs, "stop", last)
        ready, self._held, stop = split_at_stop(self._held + self._decoder.feed(tokens), self._stops())
        if stop is not None:
            return self._output(tokens, logprobs, ready, "stop", stop)
        if self.tokens >= self._config.max_tokens or full:
            output = self._end(tokens, logprobs, "length" if self.tokens >= self._config.max_tokens else "context")
            return Output(**{**vars(output), "text": ready + output.text})
        return self._output(tokens, logprobs, ready)

    def _stops(self) -> Sequence[str]:
        return self._config.stop if self.tokens > self._config.min_tokens or not self._config.min_tokens else ()

    def _end(self, tokens: Sequence[int], logprobs: Sequence[Logprob], reason: Reason, by: int | None = None) -> Output:
        """What was held back is said after all, unless a stop text appears in it."""
        ready, held, stop = split_at_stop(self._held + self._decoder.flush(), self._stops())
        text = ready if stop is not None else ready + held
        return self._output(
            tokens, logprobs, text, "stop" if stop is not None else reason, by if stop is None else stop
        )

    def _output(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[Logprob],
        text: str,
        reason: Reason | None = None,
        stop: str | int | None = None,
    ) -> Output:
        kept = tuple(logprobs)[: len(tokens)]
        return Output(self._request.id, self._index, tuple(tokens), text, kept, reason=reason, stop=stop)


def split_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str, str | None]:
    """(text that is safe to show, text to hold back, the stop text that was found, if any)."""
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        at, stop = min(found)
        return text[:at], "", stop
    for start in range(max(0, len(text) - max(map(len, stops), default=0)), len(text)):
        if any(stop.startswith(text[start:]) for stop in stops):
            return text[:start], text[start:], None
    return text, "", None
