"""Added tokens: those that are found in a text as they are, before what is left of it is encoded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import regex

from fromzero.tokenizer.normalize import WHITE_SPACE

_WORD = regex.compile(r"\w")


@dataclass(frozen=True)
class AddedToken:
    """How one is found, in the terms of `tokenizer.json`."""

    id: int
    special: bool = True
    """Found only where special tokens are allowed, and left out where decoding skips them."""
    lstrip: bool = False
    """Takes the blanks before it with it."""
    rstrip: bool = False
    """Takes the blanks behind it with it."""
    single_word: bool = False
    """Found only where no letter or digit touches it."""
    normalized: bool = False
    """Looked for in the normalised text."""


class Found(NamedTuple):
    """A stretch of a text, and the token that it is, or None."""

    text: str
    token: AddedToken | None


class AddedTokens:
    """Finds tokens in a text, the longest first where several begin, as the `tokenizers` library does."""

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = dict(tokens)
        self._pattern = regex.compile(r"\L<tokens>", tokens=list(self._tokens))

    def cut(self, text: str, allow_special: bool) -> Iterator[Found]:
        """The text in stretches, beginning and ending with one that is no token, which may be empty."""
        done = 0
        for match in self._pattern.finditer(text) if self._tokens else ():
            token, (start, stop) = self._tokens[match.group()], match.span()
            if token.special and not allow_special:
                continue
            if token.single_word and (_WORD.match(text[start - 1 : start]) or _WORD.match(text[stop : stop + 1])):
                continue
            while token.lstrip and start > done and text[start - 1] in WHITE_SPACE:
                start -= 1
            while token.rstrip and stop < len(text) and text[stop] in WHITE_SPACE:
                stop += 1
            yield Found(text[done:start], None)
            yield Found(text[start:stop], token)
            done = stop
        yield Found(text[done:], None)
