"""What computes a step of a decoder, and which way is the fastest on this machine."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from fromzero.inference.compiled import CompiledRunner, UnfitError
from fromzero.inference.paged import PageStore, run_spans
from fromzero.inference.recorded import RecordedRunner, recordable
from fromzero.inference.request import Span
from fromzero.model import Transformer

TRIED = (1, 8, 32, 64)
"""Sequences with a token each, for which both ways are measured."""


class Runner(Protocol):
    """What computes a step."""

    why: str
    """It was chosen."""

    def run(self, spans: Sequence[Span]) -> Tensor:
        """Logits (N, V) in fp32 on the CPU of the wanted places, span after span."""

    def forget(self, key: str) -> None:
        """What it keeps for a request beside pages is not needed any more."""

    def refresh(self) -> None:
        """The model's weights were changed in place: what was made of them is made again."""


class TorchRunner:
    """Runs any decoder."""

    def __init__(self, model: Transformer, store: PageStore, why: str = "") -> None:
        """why: it was chosen."""
        self.model, self.store, self.why = model, store, why

    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Runner."""
        return run_spans(self.model, self.store, spans).cpu()

    def forget(self, key: str) -> None:
        """Nothing is kept."""

    def refresh(self) -> None:
        """Nothing was made of the weights."""


def pick_runner(model: Transformer, store: PageStore) -> TorchRunner | CompiledRunner | RecordedRunner:
    """On a GPU recordings; on a CPU compiled steps, if measured to be faster; else torch. `why` says it.

    The pages must be empty: what is measured writes into them.
    """
    plain = TorchRunner(model, store)
    if store.device.type == "cuda" and recordable(model.config):
        return RecordedRunner(model, store)
    try:
        compiled = CompiledRunner(model, store, TRIED[-1])
    except UnfitError as reason:
        plain.why = f"torch computes all steps: {reason}"
        return plain
    most, place = 0, min(store.size, model.config.context) - 1
    for rows in TRIED:
        spans = [Span([0], place, [row % store.pages], 1) for row in range(rows)]
        if _seconds(partial(compiled.run, spans)) < _seconds(partial(plain.run, spans)):
            most = rows
    compiled.most = most
    compiled.why = f"calls of up to {most} tokens are compiled, pieces of prompts go through torch, as measured"
    return compiled


def _seconds(step: Callable[[], Tensor]) -> float:
    """The better of two runs, after one that does not count."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times[1:])
