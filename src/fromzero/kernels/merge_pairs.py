"""The ranks of pairs of ids, in a hash table of one machine word for each; and merging by them."""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import compiled, inlined, lean

NEVER = np.int64(2**31 - 1)  # rank of a pair that is no merge
MAX_IDS, MAX_RANK = 1 << 20, (1 << 24) - 1

_EMPTY = np.uint64(2**64 - 1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ONE, _HALF = np.uint64(1), np.uint64(32)
_ID_BITS, _RANK_BITS = np.uint64(20), np.uint64(24)


@compiled
def pair_table(lefts: Any, rights: Any) -> Any:
    """The table of pairs of ids (int32), whose ranks are their places: 20 bits for each id and 24 for the rank."""
    bits = 4
    while 1 << bits < 2 * len(lefts):  # most look-ups find nothing, which takes an empty slot
        bits += 1
    pairs = np.full(1 << bits, _EMPTY, np.uint64)
    for rank in range(len(lefts)):
        key = np.uint64(lefts[rank]) << _ID_BITS | np.uint64(rights[rank])
        slot = (key * _MIX >> _HALF) & np.uint64(len(pairs) - 1)
        while pairs[slot] != _EMPTY:
            slot = (slot + _ONE) & np.uint64(len(pairs) - 1)
        pairs[slot] = key << _RANK_BITS | np.uint64(rank)
    return pairs


@inlined
def rank_of(pairs: Any, left: Any, right: Any) -> Any:
    """The rank of a pair of ids; NEVER if it is no merge."""
    key = np.uint64(left) << _ID_BITS | np.uint64(right)
    slot = (key * _MIX >> _HALF) & np.uint64(len(pairs) - 1)
    while True:
        entry = pairs[slot]
        if entry >> _RANK_BITS == key:
            return np.int64(entry & np.uint64(MAX_RANK))
        if entry == _EMPTY:
            return NEVER
        slot = (slot + _ONE) & np.uint64(len(pairs) - 1)


@lean
def merge_few(size: Any, ranks: Any, symbols: Any, pairs: Any, results: Any) -> Any:
    """Merge symbols[:size] in place, always the leftmost pair of the lowest rank. ranks: of each symbol with the next.

    Returns how many symbols are left, and the rank of the last merge, or NEVER.
    """
    last = NEVER
    while True:
        least, i = NEVER, 0
        for place in range(size - 1):
            if ranks[place] < least:
                least, i = ranks[place], place
        if least == NEVER:
            return size, last
        symbols[i], last = results[least], least
        size -= 1
        for place in range(i + 1, size):
            symbols[place], ranks[place] = symbols[place + 1], ranks[place + 1]
        if i + 1 < size:
            ranks[i] = rank_of(pairs, symbols[i], symbols[i + 1])
        if i > 0:
            ranks[i - 1] = rank_of(pairs, symbols[i - 1], symbols[i])
