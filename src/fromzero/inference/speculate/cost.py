"""What a step costs by the number of its tokens: measured, since processors and kernels differ widely in it."""

from collections.abc import Callable
from collections.abc import Sequence as Ids
from functools import partial
from time import perf_counter

import numpy as np

from fromzero.inference.request import Span

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""Tokens of the steps that are timed; longer ones are busy enough without drafts."""


class Costs:
    """Seconds of a step by its tokens."""

    def __init__(self, run: Callable[[Ids[Span]], object], page_tokens: int, room: int) -> None:
        """Times short steps. They write into the first pages, so nothing may be in the cache; room: tokens it holds."""
        self._lengths = [length for length in LENGTHS if length <= room]
        spans = [Span((0,) * length, 0, range(-(-length // page_tokens)), length) for length in self._lengths]
        self._seconds = [fastest(partial(run, [span])) for span in spans]
        self.longest = self._lengths[-1]
        """Tokens of the longest step that was timed."""

    def __call__(self, tokens: int) -> float:
        """In between, along straight lines."""
        return float(np.interp(tokens, self._lengths, self._seconds))


def fastest(action: Callable[[], object], times: int = 4) -> float:
    """Seconds of the fastest of a few runs: the others were disturbed, or the first."""
    seconds = []
    for _ in range(times):
        start = perf_counter()
        action()
        seconds.append(perf_counter() - start)
    return min(seconds)
