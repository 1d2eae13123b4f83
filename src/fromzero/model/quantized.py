"""Weights in 4 or 8 bits: how they are kept, and the plain products with them.

Each row of W (out, in) is cut into groups of inputs that share a scale: w = scale q in 8 bits (q from -127 to 127), and
w = scale q + minimum in 4 bits (q from 0 to 15). In 4 bits a group of G inputs is G / 2 bytes: byte j has input j in
its low half and input j + G / 2 in its high half (for G = 32 as in GGUF's Q4_1), so that both halves are whole vectors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fromzero.model.wide_linear import Blocks, product_dtype, row_blocks, times, times_rows

Bits = Literal[4, 8]
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Packed:
    """A matrix (out, in) in few bits."""

    codes: Tensor
    """(out, in) int8, or (out, in / 2) uint8."""
    scale: Tensor
    """(out, in / group) float16."""
    minimum: Tensor | None
    """The same in 4 bits; None in 8."""

    @property
    def bits(self) -> Bits:
        """Of a weight."""
        return 8 if self.minimum is None else 4

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.codes.shape[0], self.codes.shape[1] * (8 // self.bits)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.shape[1] // self.scale.shape[1]

    def rows(self, which: Tensor | slice) -> "Packed":
        """Some of the rows."""
        return Packed(self.codes[which], self.scale[which], None if self.minimum is None else self.minimum[which])

    def unpacked(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix (out, in) that it stands for; made in fp32, some rows at a time."""
        whole = torch.empty(self.shape, dtype=dtype, device=self.codes.device)
        for rows, block in self.blocks(dtype):
            whole[rows] = block
        return whole

    def blocks(self, dtype: torch.dtype) -> Blocks:
        """The same, some rows after the other."""
        return row_blocks(self.shape, self.codes.device, lambda rows: self.rows(rows)._in_fp32().to(dtype))

    def _in_fp32(self) -> Tensor:
        groups = self.codes.unflatten(1, (self.scale.shape[1], -1))
        if self.minimum is None:
            return (groups.float() * self.scale.float()[..., None]).flatten(1)
        codes = torch.cat([groups & 15, groups >> 4], -1).float()
        return torch.addcmul(self.minimum.float()[..., None], codes, self.scale.float()[..., None]).flatten(1)


def round_to_nearest(weight: Tensor, bits: Bits, group: int) -> Packed:
    """The nearest codes of each weight, scales by the largest of a group (8 bits), or by both ends (4 bits)."""
    groups = weight.float().unflatten(1, (-1, group))
    scale, minimum = grid_of(groups, bits)
    return packed_from(
        nearest(groups, scale[..., None], None if minimum is None else minimum[..., None]), scale, minimum
    )


def grid_of(groups: Tensor, bits: Bits) -> tuple[Tensor, Tensor | None]:
    """Scales and minima (...) of groups of weights (..., G): the values that codes of these weights may stand for."""
    if bits == 8:
        return (groups.abs().amax(-1) / 127).half(), None
    low, high = groups.amin(-1), groups.amax(-1)
    return ((high - low) / 15).half(), low.half()


def nearest(weight: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """The codes, as fp32, that stand for what is nearest to the weights; scales and minima broadcast."""
    if minimum is None:
        return (weight / scale.float().clamp(min=_SMALLEST)).round().clamp(-127, 127)
    return ((weight - minimum.float()) / scale.float().clamp(min=_SMALLEST)).round().clamp(0, 15)


def packed_from(codes: Tensor, scale: Tensor, minimum: Tensor | None) -> Packed:
    """Of codes (out, groups, G)."""
    if minimum is None:
        return Packed(codes.to(torch.int8).flatten(1), scale, None)
    low, high = codes.to(torch.uint8).chunk(2, -1)
    return Packed((low | (high << 4)).flatten(1), scale, minimum)


class QuantizedMatrix(nn.Module):
    """A matrix W (out, in) in few bits, in the place of a parameter; it gets no gradient."""

    product: Callable[[Tensor, "QuantizedMatrix"], Tensor] | None = None
    """What computes x W^T faster on this machine, once a probe has found it; None: the plain product."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.codes: Tensor
        self.scale: Tensor
        self.minimum: Tensor | None
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("minimum", packed.minimum)

    @property
    def packed(self) -> Packed:
        """What is kept."""
        return Packed(self.codes, self.scale, self.minimum)

    @property
    def weight(self) -> Tensor:
        """W in fp32, made anew."""
        return self.packed.unpacked()

    def times(self, x: Tensor) -> Tensor:
        """x W^T, (..., in) -> (..., out), in the dtype of x; x gets a gradient."""
        if self.product is not None and not x.requires_grad:
            return self.product(x, self)
        if torch.is_grad_enabled() and x.requires_grad:
            y_NO: Tensor = _Times.apply(x.flatten(0, -2), self)
            return y_NO.view(*x.shape[:-1], -1)
        return _product(x, self.packed)

    def each_times(self, x_MI: Tensor, counts_E: Tensor) -> Tensor:
        """W is E matrices one under the other: the first rows of x times the first, the next times the second, ..."""
        size = self.codes.shape[0] // len(counts_E)
        parts = enumerate(x_MI.split(counts_E.tolist()))
        matrices = ((rows, self.packed.rows(slice(e * size, (e + 1) * size))) for e, rows in parts if len(rows))
        return torch.cat([_product(rows, packed) for rows, packed in matrices])


def _product(x: Tensor, packed: Packed) -> Tensor:
    y_NO = times(x.flatten(0, -2), packed.blocks(product_dtype(x)), packed.shape[0])
    return y_NO.view(*x.shape[:-1], -1)


class _Times(torch.autograd.Function):
    """x W^T; the backward pass unpacks W again, so no unpacked matrix is kept until then."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, matrix: QuantizedMatrix) -> Tensor:
        ctx.matrix = matrix
        return times(x_NI, matrix.packed.blocks(product_dtype(x_NI)), matrix.packed.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, None]:
        packed: Packed = ctx.matrix.packed
        return times_rows(grad_NO, packed.blocks(product_dtype(grad_NO)), packed.shape[1]), None


class QuantizedLinear(QuantizedMatrix):
    """y = x W^T + b with W in few bits, computed in the dtype of x; W gets no gradient, x does."""

    def __init__(self, packed: Packed, bias: Tensor | None = None) -> None:
        super().__init__(packed)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = self.times(x)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class QuantizedEmbedding(QuantizedMatrix):
    """A row of W (rows, D) for each id, unpacked when it is looked up; fp32."""

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return self.packed.rows(ids.flatten()).unpacked().unflatten(0, ids.shape)


Matrix = Tensor | QuantizedMatrix


def numbers(weight: Matrix, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix as a tensor; made in `dtype` where it is in few bits."""
    return weight.packed.unpacked(dtype) if isinstance(weight, QuantizedMatrix) else weight


def linear(x: Tensor, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """x W^T + b in the dtype of x."""
    if isinstance(weight, QuantizedMatrix):
        y = weight.times(x)
        return y if bias is None else y + bias
    dtype = product_dtype(x)
    return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)).to(x.dtype)


def put(model: nn.Module, name: str, packed: Packed) -> None:
    """Let a matrix in few bits take the place of a linear layer, an embedding, or a parameter, which `name` says."""
    parent, _, leaf = name.rpartition(".")
    place = model.get_submodule(parent)
    there = getattr(place, leaf)
    delattr(place, leaf)
    if isinstance(there, nn.Linear):
        setattr(place, leaf, QuantizedLinear(packed, there.bias))
    else:
        setattr(place, leaf, (QuantizedEmbedding if isinstance(there, nn.Embedding) else QuantizedMatrix)(packed))


def quantized(model: nn.Module) -> Iterator[tuple[str, QuantizedMatrix]]:
    """All matrices in few bits, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, QuantizedMatrix))
