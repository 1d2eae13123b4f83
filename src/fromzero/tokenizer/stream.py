"""Decoding as tokens arrive: whole characters only, because one character may be spread over several tokens."""

import codecs
from collections.abc import Iterable

from fromzero.tokenizer.base import Tokenizer


class StreamDecoder:
    """Feed ids, get text. The pieces and the flush joined equal `tokenizer.decode` of all ids.

    later: other words stand before the first ids, so that a blank that begins them is kept.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = False, later: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.special_tokens.values()) if skip_special_tokens else frozenset()
        self._starting = tokenizer.leading_space and not later
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; empty while a character still lacks bytes."""
        text = self._decoder.decode(self._tokenizer.decode_bytes(i for i in ids if i not in self._skipped))
        if self._starting and text:
            self._starting, text = False, text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character was never finished. Ready for a new text then."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._starting = self._tokenizer.leading_space
        return rest
