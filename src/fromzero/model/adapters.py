"""Small matrices beside frozen ones: LoRA (Hu et al. 2021, section 4.1), y = W x + (alpha / rank) B A x.

`add_adapters` freezes a model and puts adapters on its linear layers; A is drawn at random and B is 0, so nothing has
changed yet. `merge_adapters` makes them part of the weights.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.layers import Linear
from fromzero.model.quantized import QuantizedLinear


@dataclass(frozen=True)
class AdapterConfig:
    """Which layers get adapters, and how large these are."""

    rank: int = 16
    """Numbers between A and B."""
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    targets: tuple[str, ...] = ("attention", "feed_forward")
    """Linear layers whose name in the model has one of these as a part: attention, feed_forward, query, key, value,
    output, up, gate, down."""
    dropout: float = 0.0
    """Share of the inputs of adapters that are zeroed in training."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets or not 0 <= self.dropout < 1 or not 0 < self.alpha < math.inf:
            raise UserError(
                f"adapters: rank ({self.rank}) must be at least 1, alpha ({self.alpha}) above 0, dropout "
                f"({self.dropout}) at least 0 and below 1, and targets must name something"
            )


class Adapted(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base: Linear | QuantizedLinear, inputs: int, outputs: int, config: AdapterConfig) -> None:
        super().__init__()
        self.base, self.scale, self.active = base, config.alpha / config.rank, True
        self.drop = nn.Dropout(config.dropout)
        self.down, self.up = Linear(inputs, config.rank, bias=False), Linear(config.rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = self.base(x)
        return y + self.up(self.down(self.drop(x))) * self.scale if self.active else y

    @torch.no_grad()
    def delta(self) -> Tensor:
        """What the adapter adds to W, (out, in) in fp32."""
        return self.up.weight.float() @ self.down.weight.float() * self.scale


def add_adapters(model: nn.Module, config: AdapterConfig, seed: int = 0) -> list[str]:
    """Freeze a model and put adapters on it, in place; the names of the layers. Raises UserError when none fits."""
    model.requires_grad_(False)
    kinds = (Linear, QuantizedLinear)
    found = [name for name, module in model.named_modules() if isinstance(module, kinds) and _wanted(name, config)]
    if not found:
        raise UserError(f"adapters.targets {', '.join(config.targets)} name no linear layer of the model")
    generator = torch.Generator().manual_seed(seed)
    for name in found:
        parent, _, leaf = name.rpartition(".")
        base: Any = model.get_submodule(name)
        outputs, inputs = _shape(base)
        adapted = Adapted(base, inputs, outputs, config)
        with torch.no_grad():
            bound = 1 / math.sqrt(inputs)  # kaiming_uniform with a = sqrt(5), as published
            adapted.down.weight.uniform_(-bound, bound, generator=generator)
            adapted.up.weight.zero_()
        device = next(iter(base.state_dict().values())).device
        setattr(model.get_submodule(parent), leaf, adapted.to(device))
    return found


def _shape(base: Linear | QuantizedLinear) -> tuple[int, ...]:
    """(out, in)."""
    return base.packed.shape if isinstance(base, QuantizedLinear) else tuple(base.weight.shape)


def _wanted(name: str, config: AdapterConfig) -> bool:
    return not set(config.targets).isdisjoint(name.split("."))


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """All adapted layers, by the names that the layers had."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Adapted))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it was before adapters were added, for as long as this lasts; it is then what it started from."""
    found = [module for _, module in adapters(model)]
    for module in found:
        module.active = False
    try:
        yield
    finally:
        for module in found:
            module.active = True


def plain_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state dict of the same model without adapters, with these merged, one tensor at a time.

    Raises UserError where an adapted matrix is in few bits: what they add is lost in these.
    """
    places = dict(adapters(model))
    for name, tensor in model.state_dict().items():
        owner = next((place for place in places if name.startswith(f"{place}.")), None)
        if owner is None:
            yield name, tensor
        elif name.startswith(f"{owner}.base."):
            if isinstance(places[owner].base, QuantizedLinear):
                raise UserError("adapters on matrices in few bits can't be merged into them; keep them apart")
            leaf = name.removeprefix(f"{owner}.base.")
            yield f"{owner}.{leaf}", tensor + places[owner].delta().to(tensor.dtype) if leaf == "weight" else tensor


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Make adapters part of the weights, in place; the model is then as if it had never had any."""
    merged = dict(plain_state(model))
    for name, module in list(adapters(model)):
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module.base)
    model.load_state_dict(merged)
    model.requires_grad_(True)
