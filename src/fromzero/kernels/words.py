"""Short byte strings as two machine words, so that comparing them is comparing numbers; and hashes of any."""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean

KEY_BYTES = 15  # longest string with a key
PADDING = 16  # bytes behind a text that may be read, though not used

_MIX, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_ONE = np.uint64(1)


@inlined
def word_at(data: Any, at: Any) -> Any:
    """Eight bytes as one number (uint64); compiled to a single load."""
    low = np.uint64(data[at]) | np.uint64(data[at + 1]) << np.uint64(8) | np.uint64(data[at + 2]) << np.uint64(16)
    low |= np.uint64(data[at + 3]) << np.uint64(24) | np.uint64(data[at + 4]) << np.uint64(32)
    low |= np.uint64(data[at + 5]) << np.uint64(40) | np.uint64(data[at + 6]) << np.uint64(48)
    return low | np.uint64(data[at + 7]) << np.uint64(56)


@inlined
def key_of(data: Any, start: Any, size: Any) -> Any:
    """Up to KEY_BYTES bytes and their number as two uint64, different for different strings."""
    low, high = word_at(data, start), np.uint64(0)
    if size < 8:
        low &= (_ONE << np.uint64(8 * size)) - _ONE
    else:
        high = word_at(data, start + 8) & ((_ONE << np.uint64(8 * size - 64)) - _ONE)
    return low, high | np.uint64(size) << np.uint64(56)


@inlined
def slot_of(low: Any, high: Any, bits: Any) -> Any:
    """Where a key belongs in a table of 2**bits slots."""
    return (low * _MIX + high * _MIX2) >> np.uint64(64 - bits)


@lean
def hash_of(data: Any, start: Any, size: Any) -> Any:
    """A hash (int64, not negative) of any bytes that are padded by PADDING."""
    mixed, at, end = np.uint64(size), start, start + size
    while at + 8 <= end:
        mixed = (mixed ^ word_at(data, at)) * _MIX
        mixed ^= mixed >> np.uint64(32)
        at += 8
    if at < end:
        rest = word_at(data, at) & ((_ONE << np.uint64(8 * (end - at))) - _ONE)
        mixed = (mixed ^ rest) * _MIX2
    return np.int64((mixed ^ mixed >> np.uint64(29)) >> np.uint64(1))


@lean
def same(data: Any, start: Any, others: Any, other: Any, size: Any) -> Any:
    """Whether `size` bytes of two arrays are equal."""
    for i in range(size):  # noqa: SIM110 (compiled)
        if data[start + i] != others[other + i]:
            return False
    return True
