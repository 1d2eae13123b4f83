"""An encoder-decoder a step at a time: each request's source is read once, and kept until it is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromzero.inference.paged import PageStore, run_spans
from fromzero.inference.request import Span
from fromzero.model import EncoderDecoder
from fromzero.model.attention import attend
from fromzero.model.scene import Memory, Scene


class SourceRunner:
    """Runs an encoder-decoder; see Runner."""

    why = "torch computes all steps of an encoder-decoder"

    def __init__(self, model: EncoderDecoder, store: PageStore) -> None:
        self.model, self.store = model, store
        self._memories: dict[str, Memory] = {}

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Runner."""
        for span in spans:
            if span.key not in self._memories:
                self._memories[span.key] = self.model.encode(torch.tensor([span.source], device=self.store.device))
        memories, pairs = [self._memories[span.key] for span in spans], dict[int, Any]()
        for layer, block in enumerate(self.model.decoder.blocks):
            found = [block.cross.remembered(memory, layer) for memory in memories]  # type: ignore[union-attr, operator]
            pairs[layer] = zip(*found, strict=True)  # keys of all, values of all
        row = _Row(memories[0].states_BSD, None, pairs, [len(span.ids) for span in spans])
        return run_spans(self.model, self.store, spans, row).cpu()

    def forget(self, key: str) -> None:
        """See Runner."""
        self._memories.pop(key, None)

    def refresh(self) -> None:
        """See Runner."""
        self._memories.clear()


@dataclass
class _Row(Memory):
    """Of tokens in a row, the first `counts[0]` look at the first memory, and so on."""

    counts: Sequence[int] = ()

    def scene(self) -> Scene:
        return Scene(0, attend=self._attend)

    def _attend(self, q_BHTC: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], *settings: Any) -> Tensor:
        parts = zip(q_BHTC.split(list(self.counts), 2), keys, values, strict=True)
        return torch.cat([attend(q, k, v, Scene(k.shape[2]), *settings) for q, k, v in parts], 2)
