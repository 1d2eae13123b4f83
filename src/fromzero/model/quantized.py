"""Weights in 4 or 8 bits: how they are kept, and the plain product with them.

Each row of W (out, in) is cut into groups of inputs that share a scale: w = scale q in 8 bits (q from -127 to 127), and
w = scale q + minimum in 4 bits (q from 0 to 15). In 4 bits a group of G inputs is G / 2 bytes: byte j has input j in
its low half and input j + G / 2 in its high half (for G = 32 as in GGUF's Q4_1), so that both halves are whole vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Bits = Literal[4, 8]


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
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[1] * (8 // self.bits) // self.scale.shape[1]

    def unpacked(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix (out, in) that it stands for."""
        groups = self.codes.unflatten(1, (self.scale.shape[1], -1))
        if self.minimum is None:
            return (groups.float() * self.scale.float()[..., None]).flatten(1).to(dtype)
        codes = torch.cat([groups & 15, groups >> 4], -1).float()
        return torch.addcmul(self.minimum.float()[..., None], codes, self.scale.float()[..., None]).flatten(1).to(dtype)


def round_to_nearest(weight: Tensor, bits: Bits, group: int) -> Packed:
    """The nearest codes of each weight, scales by the largest of a group (8 bits), or by both ends (4 bits)."""
    groups = weight.float().unflatten(1, (-1, group))
    if bits == 8:
        scale = (groups.abs().amax(-1) / 127).half()
        codes = (groups / scale.float().clamp(min=1e-12)[..., None]).round().clamp(-127, 127)
        return Packed(codes.to(torch.int8).flatten(1), scale, None)
    low, high = groups.amin(-1), groups.amax(-1)
    scale, minimum = ((high - low) / 15).half(), low.half()
    return Packed(pack(codes_of(groups, scale, minimum)), scale, minimum)


def codes_of(groups: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """Nearest 4-bit codes (out, groups, G) as uint8 of weights in groups, for given scales and minima."""
    codes = (groups - minimum.float()[..., None]) / scale.float().clamp(min=1e-12)[..., None]
    return codes.round().clamp(0, 15).to(torch.uint8)


def pack(codes: Tensor) -> Tensor:
    """Two 4-bit codes a byte: (out, groups, G) -> (out, groups x G / 2)."""
    low, high = codes.chunk(2, -1)
    return (low | (high << 4)).flatten(1)


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W in few bits, computed in the dtype of x; W gets no gradient, x does."""

    product: Callable[[Tensor, "QuantizedLinear"], Tensor] | None = None
    """What computes x W^T faster on this machine, once a probe has found it; None: the plain product."""

    def __init__(self, packed: Packed, bias: Tensor | None = None) -> None:
        super().__init__()
        self.codes: Tensor
        self.scale: Tensor
        self.minimum: Tensor | None
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("minimum", packed.minimum)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def packed(self) -> Packed:
        """Its matrix."""
        return Packed(self.codes, self.scale, self.minimum)

    @property
    def weight(self) -> Tensor:
        """Its matrix (out, in) in fp32."""
        return self.packed.unpacked()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.product is not None and not x.requires_grad:
            y = self.product(x, self)
        else:
            y = F.linear(x, self.packed.unpacked(x.dtype))
        return y if self.bias is None else y + self.bias.to(x.dtype)
