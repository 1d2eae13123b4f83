"""A random order of any number of things, in constant memory.

A Feistel network turns any function into a permutation of 2^(2h) numbers: split the number into halves of h bits, add
to one half a hash of the other, swap, repeat (Luby and Rackoff 1988). To permute n numbers, take the smallest such
power of 4 that holds them, and where a result is n or more, permute it again until it is not: "cycle walking" (Black
and Rogaway 2002), less than 4 steps on average, since the power is less than 4n. The i-th item of the order is computed
without the others, so a loader can start anywhere, on any rank, at once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8


class Permutation:
    """A permutation of 0 to size - 1 that is drawn by a key, such as (seed, epoch)."""

    def __init__(self, size: int, *key: int) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} things")
        self.size = size
        self.half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self.low = np.uint64((1 << int(self.half)) - 1)
        self.keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, index: Any) -> NDArray[np.int64]:
        """The items at some places of the order. index: int64, each 0 to size - 1; the result has its shape."""
        value = self._network(np.asarray(index, np.uint64))
        while (outside := value >= self.size).any():
            value = np.where(outside, self._network(value), value)
        return value.astype(np.int64)

    def _network(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> self.half, value & self.low
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & self.low)
        return (left << self.half) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of the input."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
