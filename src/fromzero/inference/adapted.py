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
from fromzero.interop.adapters import check_base, read_adapters
from fromzero.model import Transformer
from fromzero.model.layers import Linear
from fromzero.model.quantized import QuantizedLinear


class Small(NamedTuple):
    """What an adapter makes of one linear layer's y: share y + B A x + shift; share is 1 and shift 0 but in DoRA."""

    down_RI: Tensor
    up_OR: Tensor
    share_O: Tensor | float = 1.0
    shift_O: Tensor | float = 0.0

    @classmethod
    @torch.no_grad()
    def of(cls, layer: Linear | QuantizedLinear, parts: Mapping[str, Tensor], scale: float) -> "Small":
        """Of what `read_adapters` gives for a layer."""
        down, up = parts["down.weight"], parts["up.weight"] * scale
        if "magnitude" not in parts:
            return cls(down, up)
        share_O = parts["magnitude"] / torch.linalg.vector_norm(layer.weight + up @ down, dim=1)
        bias = 0.0 if layer.bias is None else layer.bias.detach()  # no part of what is made shorter or longer
        return cls(down, up * share_O[:, None], share_O, bias * (1 - share_O))

    def changed(self, y_TO: Tensor, x_TI: Tensor) -> Tensor:
        """The layer's outputs with the adapter."""
        added_TO = x_TI.float() @ self.down_RI.T @ self.up_OR.T
        return (y_TO.float() * self.share_O + added_TO + self.shift_O).to(y_TO.dtype)


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a request names beside its prompt; whoever holds it may use it."""

    name: str
    layers: Mapping[str, Small]
    """By the names of linear layers."""
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """What tells its cached prefixes from those of any other, also of one of the same name before it."""

    @classmethod
    def read(cls, name: str, folder: Path, model: Any, base: Path | None = None) -> "Adapter":
        """Those of a folder for a Transformer; base: where that was read. Raises UserError."""
        if base is not None:
            check_base(folder, base)
        config, found = read_adapters(model, folder)
        if odd := next((place for place in found if place.endswith(("key_up", "value_up"))), None):
            raise UserError(f"{folder}: attention unfolds {odd}, so an adapter of it must be merged into the model")
        here = {place: {leaf: part.to(model.device) for leaf, part in parts.items()} for place, parts in found.items()}
        return cls(name, {p: Small.of(model.get_submodule(p), parts, config.scale) for p, parts in here.items()})


class AdapterRunner:
    """Steps with sequences that ask for adapters."""

    def __init__(self, model: Transformer, store: PageStore) -> None:
        self.model, self.store = model, store
        self._here, self._hooked = local(), set[str]()  # others use the model on threads of their own

    def run(self, spans: Sequence[Span], plain: Run) -> Tensor:
        """Logits as a Runner gives them; `plain` computes the spans of the base."""
        line = sorted(range(len(spans)), key=lambda number: id(spans[number].adapter))
        base = [number for number in line if spans[number].adapter is None]
        return run_parts(spans, [(base, plain), ([n for n in line if n not in base], self._run)])

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
