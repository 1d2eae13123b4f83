"""How GGUF stores numbers: plain, or as blocks of 32 or 256 small integers with a scale.

A block stands for numbers of one row: x = scale * integer, or scale * integer + minimum. The K kinds have 256 of them,
in groups of 16 or 32 with scales of their own, which are small integers too, times a scale of the whole block.
Integers of 1, 2 or 4 bits share bytes: the lowest bits of a run of bytes come first, then the next ones.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
# Of N blocks, in G groups each: scales (N, G), integers (N, numbers of a block), minima (N, G).
Parts = tuple[Floats, NDArray[np.integer], Floats | None]

CHUNK_BYTES = 1 << 17  # turned into numbers at a time, so that what lies between stays in the processor's cache


class Kind(NamedTuple):
    """How numbers are stored: so many (`size`) in so many bytes."""

    name: str
    size: int
    bytes: int
    unpack: Callable[[Bytes], Parts] | None = None
    pack: Callable[[Floats], list[NDArray]] | None = None

    def bytes_of(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor. Raises UserError when its rows are not whole blocks."""
        if shape[-1:] and shape[-1] % self.size:
            raise UserError(f"it has a tensor of the shape {shape}, but {self.name} has blocks of {self.size}")
        return math.prod(shape) // self.size * self.bytes


def dequantise(data: Bytes, kind: Kind, shape: tuple[int, ...]) -> Floats:
    """The numbers that the bytes stand for; plain ones share their memory."""
    if kind.name == "f32":
        return data.view("<f4").reshape(shape)
    if kind.name == "f16":
        return data.view("<f2").astype(np.float32).reshape(shape)
    if kind.unpack is None:
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    out = np.empty(len(data) // kind.bytes * kind.size, np.float32)
    blocks, step = data.reshape(-1, kind.bytes), CHUNK_BYTES // kind.bytes
    for start in range(0, len(blocks), step):
        scales, integers, minima = kind.unpack(blocks[start : start + step])
        x_NGI = out[start * kind.size : (start + step) * kind.size].reshape(*scales.shape, -1)
        np.multiply(integers.reshape(x_NGI.shape), scales[:, :, None], out=x_NGI)
        if minima is not None:
            x_NGI += minima[:, :, None]
    return out.reshape(shape)


def quantise(x: Floats, kind: Kind) -> bytes:
    """The bytes of a tensor of `kind`. Raises UserError when numbers are too large for it."""
    if kind.name == "bf16":  # rounded to the nearest, ties to even, as torch and the processors do
        bits = x.view(np.uint32)
        return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        parts = kind.pack(x.reshape(-1, kind.size)) if kind.pack else [x.astype("<f2" if kind.name == "f16" else "<f4")]
    if not all(np.isfinite(part).all() for part in parts):
        raise UserError(f"{kind.name} can't hold {np.abs(x).max()}; write bf16 or f32")
    return np.concatenate([part.view(np.uint8) for part in parts], axis=-1).tobytes()


def _half(blocks: Bytes, place: int) -> Floats:
    return blocks[:, place : place + 2].view("<f2").astype(np.float32)


def _integers(data: Bytes, bits: int, run: int) -> NDArray[np.int8]:
    """Integers of some bits, out of each run of so many bytes."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    apart = data.reshape(len(data), -1, 1, run) >> shifts & np.uint8((1 << bits) - 1)
    return apart.reshape(len(data), -1).view(np.int8)


def _five_bits(low: Bytes, high: Bytes) -> NDArray[np.int8]:
    return _integers(low, 4, 16) | np.unpackbits(high, axis=1, bitorder="little").view(np.int8) << 4


def _scales_of_16(b: Bytes) -> NDArray[np.int8]:
    """Six bits each: four in the first eight bytes, two in the last four."""
    return (_integers(b[:, :8], 4, 8) | _integers(b[:, 8:], 2, 4) << 4) - 32


def _with_minima(b: Bytes, integers: NDArray[np.int8]) -> Parts:
    """Eight scales and minima: 6 bits in the first 8 bytes; of the last four, 4 bits are in the last, 2 above those."""
    first, last = b[:, 4:12], b[:, 12:16]
    top = first >> 6 << 4
    scales = np.concatenate([first[:, :4] & 63, last & 15 | top[:, :4]], axis=1)
    minima = np.concatenate([first[:, 4:] & 63, last >> 4 | top[:, 4:]], axis=1)
    return _half(b, 0) * scales, integers, -_half(b, 2) * minima


def _inverse(scale: Floats) -> Floats:
    return np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)


def _pairs(integers: NDArray) -> Bytes:
    """Two integers of 4 bits a byte."""
    small = np.clip(integers, 0, 15).astype(np.uint8)
    return small[:, :16] | small[:, 16:] << np.uint8(4)


def _pack_q8_0(x: Floats) -> list[NDArray]:
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(scale)
    return [scale.astype("<f2"), np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)]


def _pack_q4_0(x: Floats) -> list[NDArray]:
    """The number farthest from 0 becomes -8, whatever its sign."""
    scale = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1) / np.float32(-8)
    return [scale.astype("<f2"), _pairs(x * _inverse(scale).astype(np.float64) + 8.5)]


def _pack_q4_1(x: Floats) -> list[NDArray]:
    least = x.min(axis=1, keepdims=True)
    scale = (x.max(axis=1, keepdims=True) - least) / np.float32(15)
    return [scale.astype("<f2"), least.astype("<f2"), _pairs((x - least) * _inverse(scale) + np.float32(0.5))]


# By the number that ggml gives them. b: bytes of blocks.
KINDS = {
    0: Kind("f32", 1, 4),
    1: Kind("f16", 1, 2),
    2: Kind("q4_0", 32, 18, lambda b: (_half(b, 0), _integers(b[:, 2:], 4, 16) - 8, None), _pack_q4_0),
    3: Kind("q4_1", 32, 20, lambda b: (_half(b, 0), _integers(b[:, 4:], 4, 16), _half(b, 2)), _pack_q4_1),
    6: Kind("q5_0", 32, 22, lambda b: (_half(b, 0), _five_bits(b[:, 6:], b[:, 2:6]) - 16, None)),
    7: Kind("q5_1", 32, 24, lambda b: (_half(b, 0), _five_bits(b[:, 8:], b[:, 4:8]), _half(b, 2))),
    8: Kind("q8_0", 32, 34, lambda b: (_half(b, 0), b[:, 2:].view(np.int8), None), _pack_q8_0),
    10: Kind("q2_k", 256, 84, lambda b: (
        _half(b, 80) * (b[:, :16] & 15), _integers(b[:, 16:80], 2, 32), -_half(b, 82) * (b[:, :16] >> 4))),
    11: Kind("q3_k", 256, 110, lambda b: (
        _half(b, 108) * _scales_of_16(b[:, 96:108]),
        (_integers(b[:, 32:96], 2, 32) | _integers(b[:, :32], 1, 32) << 2) - 4, None)),
    12: Kind("q4_k", 256, 144, lambda b: _with_minima(b, _integers(b[:, 16:], 4, 32))),
    13: Kind("q5_k", 256, 176, lambda b: _with_minima(
        b, _integers(b[:, 48:], 4, 32) | _integers(b[:, 16:48], 1, 32) << 4)),
    14: Kind("q6_k", 256, 210, lambda b: (
        _half(b, 208) * b[:, 192:208].view(np.int8),
        (_integers(b[:, :128], 4, 64) | _integers(b[:, 128:192], 2, 32) << 4) - 32, None)),
    30: Kind("bf16", 1, 2),
}  # fmt: skip
