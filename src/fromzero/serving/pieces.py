"""Tokens as texts, for log-probabilities."""

import codecs
from typing import Any

from fromzero.inference.request import Logprob
from fromzero.tokenizer import Tokenizer

LEAST = -9999.0
"""Stands for minus infinity, which JSON lacks."""


class Pieces:
    """The text of each token of an answer, in turn: joined, they are the text of all.

    A character over several tokens belongs to the last of them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def chat(self, noted: Logprob) -> dict[str, Any]:
        """As a chat completion has it."""
        token = self._decoder.decode(self._tokenizer.token_bytes(noted.token))
        return self._entry(token, noted.token, noted.logprob) | {
            "top_logprobs": [self._entry(self._alone(top), top, logprob) for top, logprob in noted.top]
        }

    def completion(self, token: int, noted: Logprob | None, into: dict[str, list[Any]]) -> None:
        """Add it to the lists that a completion has; noted None: nothing came before it."""
        text = self._decoder.decode(self._tokenizer.token_bytes(token))
        into["tokens"].append(text)
        into["text_offset"].append(self._offset)
        into["token_logprobs"].append(None if noted is None else max(noted.logprob, LEAST))
        top: dict[str, float] = {}
        for other, logprob in noted.top if noted is not None else ():
            top.setdefault(self._alone(other), max(logprob, LEAST))  # of those that look the same, the likeliest
        into["top_logprobs"].append(None if noted is None else top)
        self._offset += len(text)

    def _alone(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")

    def _entry(self, text: str, token: int, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(self._tokenizer.token_bytes(token))}
