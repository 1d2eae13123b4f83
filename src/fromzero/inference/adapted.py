"""Adapters of one model side by side: a sequence goes through the base and the small matrices that it asks for.

Nothing is merged, so the weights stay as they are and a change of adapters takes no time; a step may have tokens of
several adapters, whose base products are computed together (S-LoRA, Sheng et al. 2023; Punica, Chen et al. 2023).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import local
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.inference.paged import PageStore, Run, run_parts, run_spans
from fromzero.inference.request import Span
from fromzero.interop.adapters import read_adapters
from fromzero.model import Transformer
from fromzero.model.layers import Linear
from fromzero.model.quantized import QuantizedLinear


class Small(NamedTuple):
    """What an adapter does to one linear layer."""

    down_RI: Tensor
    up_OR: Tensor
    """With the scale."""
    share_O: Tensor | None
    """Of DoRA: what each output is multiplied by."""
    bias_O: Tensor | None
    """The layer's own, which is not multiplied."""

    @classmethod
    @torch.no_grad()
    def of(cls, layer: Linear | QuantizedLinear, parts: Mapping[str, Tensor], scale: float) -> "Small":
        """Of what `read_adapters` gives for a layer."""
        weight_OI, bias = layer.weight, layer.bias
        down, up = parts["down.weight"].to(weight_OI.device), parts["up.weight"].to(weight_OI.device) * scale
        share = None
        if "magnitude" in parts:
            share = parts["magnitude"].to(weight_OI.device) / torch.linalg.vector_norm(weight_OI + up @ down, dim=1)
        return cls(down, up, share, None if bias is None else bias.detach())

    def changed(self, y_TO: Tensor, x_TI: Tensor) -> Tensor:
        """The layer's outputs with the adapter."""
        added_TO = (x_TI.float() @ self.down_RI.T @ self.up_OR.T).to(y_TO.dtype)
        if self.share_O is None:
            return y_TO + added_TO
        bias = 0.0 if self.bias_O is None else self.bias_O.to(y_TO.dtype)
        return (y_TO - bias + added_TO) * self.share_O.to(y_TO.dtype) + bias


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a request names beside its prompt; whoever holds it may use it."""

    name: str
    layers: Mapping[str, Small]
    """By the names of linear layers."""
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """What tells its cached prefixes from those of any other, also of one of the same name before it."""

    @classmethod
    def read(cls, name: str, folder: Path, model: nn.Module) -> "Adapter":
        """Those of a folder for this model. Raises UserError."""
        config, found = read_adapters(model, folder)
        if odd := next((place for place in found if place.endswith(("key_up", "value_up"))), None):
            raise UserError(f"{folder}: attention unfolds {odd}, so an adapter of it must be merged into the model")
        layers: dict[str, Any] = {place: model.get_submodule(place) for place in found}
        return cls(name, {place: Small.of(layers[place], parts, config.scale) for place, parts in found.items()})


class AdapterRunner:
    """Steps with sequences that ask for adapters."""

    def __init__(self, model: Transformer, store: PageStore) -> None:
        self.model, self.store = model, store
        self._here = local()  # others may use the model on threads of their own
        self._hooked = set[str]()

    def run(self, spans: Sequence[Span], plain: Run) -> Tensor:
        """Logits as a Runner gives them; `plain` computes the spans of the base."""
        base = [number for number, span in enumerate(spans) if span.adapter is None]
        rest = [number for number, span in enumerate(spans) if span.adapter is not None]
        rest.sort(key=lambda number: id(spans[number].adapter))
        return run_parts(spans, [(base, plain), (rest, self._run)])

    def _run(self, spans: Sequence[Span]) -> Tensor:
        """Those of one adapter lie behind each other."""
        routes, end = list[tuple[Adapter, slice]](), 0
        for adapter, own in groupby(spans, lambda span: span.adapter):
            start, end = end, end + sum(len(span.ids) for span in own)
            assert adapter is not None
            routes.append((adapter, slice(start, end)))
            for name in adapter.layers.keys() - self._hooked:
                self.model.get_submodule(name).register_forward_hook(partial(self._change, name))
                self._hooked.add(name)
        self._here.routes = routes
        try:
            return run_spans(self.model, self.store, spans).cpu()
        finally:
            self._here.routes = ()

    def _change(self, name: str, module: nn.Module, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
        """What a hook makes of the outputs (..., T, O) of the layer `name`."""
        y_TO, x_TI = y.flatten(0, -2), inputs[0].flatten(0, -2)
        for adapter, rows in getattr(self._here, "routes", ()):
            if small := adapter.layers.get(name):
                y_TO[rows] = small.changed(y_TO[rows], x_TI[rows])
        return y_TO.view_as(y)
