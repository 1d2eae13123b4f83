"""An encoder-decoder a step at a time: each request's source is read once, and kept until it is forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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

    def __init__(self, model: EncoderDecoder, store: PageStore) -> None:
        self.model, self.store = model, store
        self._memories: dict[str, Memory] = {}
        self._row: _Row | None = None

    @torch.inference_mode()
    def run(self, spans: Sequence[Span]) -> Tensor:
        """See Runner."""
        for span in spans:
            if span.key not in self._memories:
                self._memories[span.key] = self.model.encode(torch.tensor([span.source], device=self.store.device))
        names = list(dict.fromkeys(span.key for span in spans))
        if self._row is None or list(self._row.places) != names:  # mostly they are those of the step before
            self._row = self._joined(names)
        self._row.spans = spans
        return run_spans(self.model, self.store, spans, self._row).cpu()

    def forget(self, key: str) -> None:
        """See Runner."""
        if self._memories.pop(key, None) is not None:
            self._row = None

    def _joined(self, names: list[str]) -> "_Row":
        memories, pairs = [self._memories[name] for name in names], {}
        for layer, block in enumerate(self.model.decoder.blocks):
            found = [block.cross.remembered(memory, layer) for memory in memories]  # type: ignore[union-attr, operator]
            pairs[layer] = torch.cat([k for k, _ in found], 2), torch.cat([v for _, v in found], 2)
        row, end = _Row(torch.cat([memory.states_BSD for memory in memories], 1), pairs=pairs), 0
        for name, memory in zip(names, memories, strict=True):
            start, end = end, end + memory.states_BSD.shape[1]
            row.places[name] = slice(start, end)
        return row


@dataclass
class _Row(Memory):
    """Several sources behind each other; the tokens of a span see their own."""

    places: dict[str, slice] = field(default_factory=dict)
    spans: Sequence[Span] = ()

    def scene(self) -> Scene:
        return Scene(self.states_BSD.shape[1], attend=self._attend)

    def _attend(self, q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *settings: Any) -> Tensor:
        mixed, end = [], 0
        for span in self.spans:
            start, end, place = end, end + len(span.ids), self.places[span.key]
            own = Scene(place.stop - place.start)
            mixed.append(attend(q_BHTC[:, :, start:end], k_BKSC[:, :, place], v_BKSC[:, :, place], own, *settings))
        return torch.cat(mixed, 2)
