"""One id out of many logits, drawn by their softmax, and the log-probability of an id.

The plain reference is `inference.sampling`: logits by temperature, and the noise of `gumbel_noise`, whose two
logarithms take longer than all else. Here they are taken of the few ids that can still win, since noise is at most
-log u for a uniform u, and -log2 u at most what the bits of that number say when they are read as an integer.
"""

import math
from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean, loose
from fromzero.kernels.lanes import as_float, as_integer, exponential

_BLOCK = 256  # ids whose bounds are compared at once
_LN2 = np.float32(math.log(2))


@inlined
def _uniform(i: Any, low: Any, high: Any) -> Any:
    """The number inside 0 and 1 that id i gets; see `gumbel_noise`."""
    bits = np.uint32(np.uint32(i) * np.uint32(0x9E3779B9) + low)  # Numba's products of 32 bits have 64
    bits = np.uint32(np.uint32(bits ^ bits >> np.uint32(16)) * np.uint32(0x21F0AAAD)) ^ high
    bits = np.uint32(np.uint32(bits ^ bits >> np.uint32(15)) * np.uint32(0x735A2D97))
    bits = np.uint32(bits ^ bits >> np.uint32(15))
    return (np.float32(bits) + np.float32(0.5)) * np.float32(2**-32 * (1 - 2**-23))


@inlined
def _most(score: Any, uniform: Any, room: Any) -> Any:
    """No less than score and noise."""
    return score + _LN2 * (room - np.float32(as_integer(uniform)) * np.float32(2**-23))


@lean
def draw(logits: Any, temperature: Any, low: Any, high: Any) -> Any:
    """The id that wins with its noise; -1 for logits (fp32) that are no numbers. low, high: the key of the draw."""
    count, best, winner, share = len(logits), np.float32(-np.inf), 0, np.float32(1) / np.float32(temperature)
    top = _top(logits)
    if not math.isfinite(top):
        return -1
    room = np.float32(127.001) + abs(top * share) * np.float32(2**-20)  # for what is rounded
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        if _rivals(logits[first:last], first, share, low, high, room, best):
            for i in range(first, last):
                score, uniform = logits[i] / np.float32(temperature), _uniform(i, low, high)
                if _most(score, uniform, room) > best:
                    value = score - np.float32(math.log(-np.float32(math.log1p(-uniform))))
                    if value > best:
                        best, winner = value, i
    return winner


@loose
def _rivals(logits: Any, first: Any, share: Any, low: Any, high: Any, room: Any, best: Any) -> Any:
    """How many of a block could win: a count, which the compiler makes vectors of."""
    count = 0
    for i in range(len(logits)):
        count += _most(logits[i] * share, _uniform(first + i, low, high), room) > best
    return count


@loose
def _top(logits: Any) -> Any:
    """The largest, by the order of their bits; NaN if one is NaN."""
    top, broken = np.int32(-0x80000000), 0
    for i in range(len(logits)):
        bits = as_integer(logits[i])
        size = np.int32(bits & np.int32(0x7FFFFFFF))
        broken += size > np.int32(0x7F800000)
        top = max(top, np.int32(bits if bits >= 0 else -size))
    if broken:
        return np.float32(np.nan)
    return as_float(top) if top >= 0 else -as_float(np.int32(-top))


@lean
def logprob(logits: Any, temperature: Any, token: Any) -> Any:
    """Of an id at a temperature."""
    top, share, sum_ = _top(logits), np.float32(1) / np.float32(temperature), 0.0
    for first in range(0, len(logits), _BLOCK):
        sum_ += _sum(logits[first : first + _BLOCK], top, share)
    return (logits[token] - top) * share - math.log(sum_)


@loose
def _sum(logits: Any, top: Any, share: Any) -> Any:
    sum_ = np.float32(0)
    for i in range(len(logits)):
        sum_ += exponential((logits[i] - top) * share)
    return sum_
