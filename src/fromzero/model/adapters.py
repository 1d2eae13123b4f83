"""Small matrices beside frozen ones.

LoRA (Hu et al. 2021, section 4.1): y = W x + s B A x, with s = alpha / rank, or alpha / sqrt(rank) when rank-stabilised
(Kalajdzievski 2023). DoRA (Liu et al. 2024, eq. 5) learns the length m of each row of what W + s B A is then:
W' = m (W + s B A) / |W + s B A|. QLoRA (Dettmers et al. 2023) is either on a W in few bits (see quantized).

`add_adapters` freezes a model and puts adapters on its linear layers; A is drawn at random and B is 0, so nothing has
changed yet. `merge_adapters` makes them part of the weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.layers import Linear
from fromzero.model.quantized import QuantizedEmbedding, QuantizedLinear, QuantizedMatrix, quantized


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
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones."""
    decomposed: bool = False
    """DoRA: the length of each row of the matrix is learned apart from its direction."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets or not 0 <= self.dropout < 1 or not 0 < self.alpha < math.inf:
            raise UserError(
                f"adapters: rank ({self.rank}) must be at least 1, alpha ({self.alpha}) above 0, dropout "
                f"({self.dropout}) at least 0 and below 1, and targets must name something"
            )

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class Adapted(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base: Linear | QuantizedLinear, config: AdapterConfig) -> None:
        super().__init__()
        outputs, inputs = base.packed.shape if isinstance(base, QuantizedLinear) else base.weight.shape
        self.base, self.scale, self.active = base, config.scale, True
        self.drop = nn.Dropout(config.dropout)
        self.down, self.up = Linear(inputs, config.rank, bias=False), Linear(config.rank, outputs, bias=False)
        self.magnitude = nn.Parameter(self._rows(base.weight.float())) if config.decomposed else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = self.base(x)
        if not self.active:
            return y
        added = self.up(self.down(self.drop(x)) * self.scale)
        if self.magnitude is None:
            return y + added
        with torch.no_grad():  # a constant for the gradient (DoRA, section 4.3)
            norm_O = self._rows(self.base.weight + self.delta())
        share_O = (self.magnitude / norm_O).to(y.dtype)
        if self.base.bias is None:
            return (y + added) * share_O
        bias_O = self.base.bias.to(y.dtype)
        return (y - bias_O + added) * share_O + bias_O

    @torch.no_grad()
    def delta(self) -> Tensor:
        """s B A, (out, in) in fp32: what LoRA adds to W."""
        return self.up.weight.float() @ self.down.weight.float() * self.scale

    @torch.no_grad()
    def merged(self) -> Tensor:
        """W', (out, in) in fp32."""
        weight = self.base.weight.float() + self.delta()
        return weight if self.magnitude is None else weight * (self.magnitude.float() / self._rows(weight))[:, None]

    def _rows(self, weight_OI: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weight_OI, dim=1)


def add_adapters(model: nn.Module, config: AdapterConfig, seed: int = 0) -> list[str]:
    """Freeze a model and put adapters on it, in place; the names of the layers. Raises UserError when none fits."""
    kinds = (Linear, QuantizedLinear)
    found = [name for name, module in model.named_modules() if isinstance(module, kinds) and _wanted(name, config)]
    if not found:
        raise UserError(f"adapters.targets {', '.join(config.targets)} name no linear layer of the model")
    put_adapters(model, found, config, seed)
    return found


@torch.no_grad()
def put_adapters(model: nn.Module, names: Sequence[str], config: AdapterConfig, seed: int = 0) -> None:
    """The same on the linear layers of these names, whatever config.targets says."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        base: Any = model.get_submodule(name)
        adapted = Adapted(base, config)
        bound = 1 / math.sqrt(adapted.down.in_features)  # kaiming_uniform with a = sqrt(5), as published
        adapted.down.weight.uniform_(-bound, bound, generator=generator)
        adapted.up.weight.zero_()
        device = next(iter(base.state_dict().values())).device
        setattr(model.get_submodule(parent), leaf, adapted.to(device))


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
    """The state dict of the same model in plain matrices and without adapters, one tensor at a time.

    Adapters are merged, and what is in few bits is what it stands for, both in fp32; the rest is as it is.
    """
    adapted, few_bits = dict(adapters(model)), dict(quantized(model))
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        place = next((place for place in adapted if name.startswith(f"{place}.")), None)
        if place is not None:
            if leaf == "bias":
                yield f"{place}.bias", tensor
            elif owner == f"{place}.base" and leaf in ("weight", "codes"):
                yield f"{place}.weight", adapted[place].merged()
        elif owner not in few_bits or leaf == "bias":
            yield name, tensor
        elif leaf == "codes":
            yield _plain_name(owner, few_bits[owner]), few_bits[owner].weight


def _plain_name(name: str, matrix: QuantizedMatrix) -> str:
    return f"{name}.weight" if isinstance(matrix, QuantizedLinear | QuantizedEmbedding) else name


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Make adapters part of the weights, in place; the model is then as if it had never had any.

    Merged matrices are in fp32. Raises UserError where one is in few bits: what adapters add is lost in these.
    """
    for name, module in list(adapters(model)):
        if isinstance(module.base, QuantizedLinear):
            raise UserError("adapters on matrices in few bits can't be merged into them; keep them apart")
        parent, _, leaf = name.rpartition(".")
        module.base.weight = nn.Parameter(module.merged())
        setattr(model.get_submodule(parent), leaf, module.base)
    model.requires_grad_(True)
