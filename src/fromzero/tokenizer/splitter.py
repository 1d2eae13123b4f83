"""Cutting text into pre-tokens, by compiled automata where the patterns allow it, else by the `regex` module."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError
from fromzero.tokenizer.automaton import Automaton, compile_automaton
from fromzero.tokenizer.patterns import compile_pattern, split

PADDING = bytes(16)  # kernels read ahead by so much
_automaton = functools.lru_cache(maxsize=32)(compile_automaton)


class Splitter:
    """Patterns that are applied one after the other, each to the pieces of the one before.

    Raises UserError for one that `compile_pattern` refuses.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._compiled = [compile_pattern(pattern) for pattern in patterns]

    @functools.cached_property
    def automata(self) -> list[Automaton | None]:
        """Of each pattern the automaton, or None where only the `regex` module knows it."""
        return [_automaton(pattern) for pattern in self.patterns]

    @property
    def single(self) -> Automaton | None:
        """The automaton, if there is one pattern and it has one."""
        return self.automata[0] if len(self.automata) == 1 else None

    def pieces(self, text: str) -> list[str]:
        """The pre-tokens, by the `regex` module: the plain reference."""
        pieces = [text] if text else []
        for compiled in self._compiled:
            pieces = [part for piece in pieces for part in split(compiled, piece)]
        return pieces

    def cuts(self, data: bytes) -> NDArray[np.int64]:
        """Where the pre-tokens of valid UTF-8 end."""
        from fromzero.kernels.scan import scan_pieces

        if not all(self.automata):
            return np.cumsum([len(piece.encode()) for piece in self.pieces(data.decode())], dtype=np.int64)
        padded, ends = as_array(data), np.array([len(data)], np.int64)
        for automaton in self.automata:
            assert automaton is not None
            ends = scan_pieces(padded, ends, automaton.classes, automaton.table, automaton.width)
            if len(ends) and ends[0] < 0:
                raise no_progress(self.patterns[0])
        return ends


def no_progress(pattern: str) -> UserError:
    """The error for a pattern that reads the same text again and again."""
    return UserError(f"the pre-token pattern {pattern!r} looks too far ahead on this text; use a simpler one")


def as_array(data: bytes) -> NDArray[np.uint8]:
    """Bytes as an array for kernels, with padding behind them."""
    return np.frombuffer(data + PADDING, np.uint8)
