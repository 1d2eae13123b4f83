"""How GGUF stores numbers: plain, or as blocks of 32 or 256 small integers with a scale.

A block stands for numbers of one row: x = scale * integer, or scale * integer + minimum. The K kinds have 256 of them,
in groups of 16 or 32 with scales of their own, which are small integers too, times a scale of the whole block.
Integers of 1, 2 or 4 bits share bytes: the lowest bits of a run of bytes come first, then the next ones.
"""

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

    def bytes_of(self, shape: tuple[int, ...], name: str) -> int:
        """Bytes of a tensor. Raises UserError when its rows are not whole blocks."""
        row, rows = shape[-1] if shape else 1, int(np.prod(shape[:-1], dtype=object))
        if row % self.size:
            raise UserError(f"tensor '{name}' has rows of {row} numbers, but {self.name} has blocks of {self.size}")
        return rows * row // self.size * self.bytes


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
    with np.errstate(over="ignore"):
        if kind.pack is not None:
            parts = kind.pack(x.reshape(-1, kind.size))
        elif kind.name == "bf16":  # rounded to the nearest, ties to even, as torch and the processors do
            bits = x.view(np.uint32)
            return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2").tobytes()
        else:
            parts = [x.astype("<f2" if kind.name == "f16" else "<f4")]
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


def _fifth_bits(data: Bytes) -> NDArray[np.int8]:
    return np.unpackbits(data, axis=1, bitorder="little").view(np.int8) << np.int8(4)


def _q4_0(b: Bytes) -> Parts:
    return _half(b, 0), _integers(b[:, 2:], 4, 16) - np.int8(8), None


def _q4_1(b: Bytes) -> Parts:
    return _half(b, 0), _integers(b[:, 4:], 4, 16), _half(b, 2)


def _q5_0(b: Bytes) -> Parts:
    return _half(b, 0), (_integers(b[:, 6:], 4, 16) | _fifth_bits(b[:, 2:6])) - np.int8(16), None


def _q5_1(b: Bytes) -> Parts:
    return _half(b, 0), _integers(b[:, 8:], 4, 16) | _fifth_bits(b[:, 4:8]), _half(b, 2)


def _q8_0(b: Bytes) -> Parts:
    return _half(b, 0), b[:, 2:].view(np.int8), None


def _q2_k(b: Bytes) -> Parts:
    scales = _half(b, 80) * (b[:, :16] & 15)
    return scales, _integers(b[:, 16:80], 2, 32), -_half(b, 82) * (b[:, :16] >> 4)


def _q3_k(b: Bytes) -> Parts:
    low, high = _integers(b[:, 96:104], 4, 8), _integers(b[:, 104:108], 2, 4)
    integers = _integers(b[:, 32:96], 2, 32) + (_integers(b[:, :32], 1, 32) << np.int8(2)) - np.int8(4)
    return _half(b, 108) * ((low | high << np.int8(4)) - np.int8(32)), integers, None


def _scales_and_minima(b: Bytes) -> tuple[Floats, Floats]:
    """Eight of each: 6 bits in the first 8 bytes; of the last four, 4 bits are in the last, 2 above the first."""
    first, last = b[:, 4:12], b[:, 12:16]
    top = first >> 6 << 4
    scales = np.concatenate([first[:, :4] & 63, last & 15 | top[:, :4]], axis=1)
    minima = np.concatenate([first[:, 4:] & 63, last >> 4 | top[:, 4:]], axis=1)
    return _half(b, 0) * scales, -_half(b, 2) * minima


def _q4_k(b: Bytes) -> Parts:
    scales, minima = _scales_and_minima(b)
    return scales, _integers(b[:, 16:], 4, 32), minima


def _q5_k(b: Bytes) -> Parts:
    scales, minima = _scales_and_minima(b)
    return scales, _integers(b[:, 48:], 4, 32) | _integers(b[:, 16:48], 1, 32) << np.int8(4), minima


def _q6_k(b: Bytes) -> Parts:
    integers = _integers(b[:, :128], 4, 64) | _integers(b[:, 128:192], 2, 32) << np.int8(4)
    return _half(b, 208) * b[:, 192:208].view(np.int8), integers - np.int8(32), None


def _inverse(scale: Floats) -> Floats:
    return np.divide(1, scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)


def _together(integers: NDArray[np.uint8]) -> Bytes:
    """Two integers of 4 bits a byte."""
    return integers[:, :16] | integers[:, 16:] << np.uint8(4)


def _pack_q8_0(x: Floats) -> list[NDArray]:
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(scale)
    return [scale.astype("<f2"), np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled).astype(np.int8)]


def _pack_q4_0(x: Floats) -> list[NDArray]:
    """The number farthest from 0 becomes -8, whatever its sign."""
    farthest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    scale = farthest / np.float32(-8)
    integers = np.clip(x * _inverse(scale).astype(np.float64) + 8.5, 0, 15).astype(np.uint8)
    return [scale.astype("<f2"), _together(integers)]


def _pack_q4_1(x: Floats) -> list[NDArray]:
    least = x.min(axis=1, keepdims=True)
    scale = (x.max(axis=1, keepdims=True) - least) / np.float32(15)
    integers = np.clip((x - least) * _inverse(scale) + np.float32(0.5), 0, 15).astype(np.uint8)
    return [scale.astype("<f2"), least.astype("<f2"), _together(integers)]


KINDS = {
    0: Kind("f32", 1, 4),
    1: Kind("f16", 1, 2),
    2: Kind("q4_0", 32, 18, _q4_0, _pack_q4_0),
    3: Kind("q4_1", 32, 20, _q4_1, _pack_q4_1),
    6: Kind("q5_0", 32, 22, _q5_0),
    7: Kind("q5_1", 32, 24, _q5_1),
    8: Kind("q8_0", 32, 34, _q8_0, _pack_q8_0),
    10: Kind("q2_k", 256, 84, _q2_k),
    11: Kind("q3_k", 256, 110, _q3_k),
    12: Kind("q4_k", 256, 144, _q4_k),
    13: Kind("q5_k", 256, 176, _q5_k),
    14: Kind("q6_k", 256, 210, _q6_k),
    30: Kind("bf16", 1, 2),
}  # by the number that ggml gives them
