"""Steps on a GPU as CUDA graphs: a step of many small kernels is recorded once for each size and replayed as one.

What changes from step to step lies in tensors that stay where they are: ids, places, slots. Sizes are rounded up: there
are as many recordings as there are powers of two of sequences, times those of keys. What fills up a step are copies of
its first sequence, which write what that writes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fromzero.inference.paged import Group, PageStore, Places, hidden_at, run_apart, run_spans, side_by_side
from fromzero.inference.request import Span
from fromzero.model import ModelConfig, Transformer

SHORTEST = 256
"""Keys that the shortest recording has room for."""


def recordable(config: ModelConfig) -> bool:
    """Whether a step does the same whatever its tokens are: how many of them an expert gets is not known before."""
    return not config.experts and config.positions != "alibi"  # whose slopes come from the CPU


class RecordedRunner:
    """Sequences with one token in a step go through recordings, pieces of prompts through plain torch."""

    def __init__(self, model: Transformer, store: PageStore, most: int = 256) -> None:
        """most: sequences of a recording."""
        self.model, self.store, self.most = model, store, most
        self.why = f"steps of up to {most} answers are CUDA graphs, pieces of prompts are not"
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if store.device.type == "cuda" else None

    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Runner."""
        plain = partial(run_spans, self.model, self.store)
        return run_apart(spans, 1, self.most, self._replay, plain).cpu()

    def forget(self, key: str) -> None:
        """Nothing is kept."""

    def refresh(self) -> None:
        """Recordings read the weights where they are."""

    def _replay(self, spans: Sequence[Span]) -> Tensor:
        size = _power(len(spans), 1), _power(max(span.start + 1 for span in spans), SHORTEST)
        if size not in self._recordings:
            self._recordings[size] = Recording(self.model, self.store, *size, self._pool)
        wanted = [number for number, span in enumerate(spans) if span.wanted]
        return self._recordings[size].run(spans)[wanted]


class Recording:
    """One size of step: so many sequences, with room for so many keys."""

    def __init__(self, model: Transformer, store: PageStore, sequences: int, keys: int, pool: Any = None) -> None:
        """pool: where all recordings have their memory, of torch.cuda.graph_pool_handle."""
        self.model, self.store, self.pool, device = model, store, pool, store.device
        self.ids_BT = torch.zeros(1, sequences, dtype=torch.int64, device=device)
        self.slots_BS = torch.zeros(sequences, keys, dtype=torch.int64, device=device)
        self.keep_BS = torch.ones(sequences, keys, dtype=torch.bool, device=device)
        self.places = Places(
            torch.zeros_like(self.ids_BT),
            torch.zeros(sequences, dtype=torch.int64, device=device),
            [Group(torch.arange(sequences, device=device), self.slots_BS, self.keep_BS)],
        )
        self._replay: Callable[[], None] | None = None
        self._logits_BV = torch.zeros(0)

    def run(self, spans: Sequence[Span]) -> Tensor:
        """Logits (B, V) of the step, of which those of what fills it up mean nothing."""
        sequences, keys = self.slots_BS.shape
        spans = [*spans, *[spans[0]] * (sequences - len(spans))]
        slots_BS, keep_BS = side_by_side(self.store.slots(spans), keys)
        self.ids_BT.copy_(torch.tensor([[span.ids[0] for span in spans]]))
        self.places.positions_BT.copy_(torch.tensor([[span.start for span in spans]]))
        self.places.new_T.copy_(slots_BS[:, -1])
        self.slots_BS.copy_(slots_BS)
        self.keep_BS.copy_(torch.ones_like(self.keep_BS) if keep_BS is None else keep_BS)
        if self._replay is None:
            self._replay = self._recorded()
        self._replay()
        return self._logits_BV

    @torch.inference_mode()
    def _compute(self) -> None:
        x_BD = hidden_at(self.model, self.store, self.ids_BT, self.places)
        self._logits_BV = self.model.head(x_BD, self.model.head_weight).float()

    def _recorded(self) -> Callable[[], None]:
        """What computes the step again from what the tensors hold then; elsewhere than on a GPU, by computing it."""
        if self.store.device.type != "cuda":
            return self._compute
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up before the recording
            self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # What one recording computes in, all others may; other threads of a server may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            self._compute()
        return graph.replay


def _power(number: int, least: int) -> int:
    """The next power of two."""
    return max(least, 1 << (number - 1).bit_length())
