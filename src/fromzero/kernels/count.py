"""Counting: the different pre-tokens of a text and how often each occurs.

The plain reference is a dictionary. Entries are int64 (n, 4): where a pre-token starts in its array of bytes, its
length, its hash and its count. Slots are a hash table (int64) of their numbers plus 1, under the upper half of the
hash. In front of it stands a small cache, in which a pre-token of up to 15 bytes is found by one comparison.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import compiled, lean
from fromzero.kernels.scan import BLOCK, scan
from fromzero.kernels.words import KEY_BYTES, hash_of, key_of, same, slot_of

CACHE_BITS = 14
NUMBER = 0xFFFFFFFF  # the lower half of a slot


@compiled
def count_text(data: Any, ends: Any, classes: Any, table: Any, width: Any, entries: Any, slots: Any) -> Any:
    """The entries of the documents that lie one after the other in `data`, in the order of first appearance.

    data: uint8, padded by PADDING. ends: int64, where each document ends. classes, table, width: of an `Automaton`.
    entries: room for some; slots: zeros, twice as many or more, a power of two.
    Returns entries, and whether the pattern got ahead.
    """
    cuts, start, count = np.empty(BLOCK, np.int64), np.int64(0), np.int64(0)
    keys, numbers = np.zeros((1 << CACHE_BITS, 2), np.uint64), np.zeros(1 << CACHE_BITS, np.int32)
    for end in ends:
        while start < end:
            found, resume = scan(data, start, end, True, classes, table, width, cuts)
            if resume < 0:
                return entries[:0], False
            if count + found > len(entries):
                entries = np.concatenate((entries[:count], np.empty((count + BLOCK, 4), np.int64)))
                slots = np.zeros(4 * len(slots), np.int64)
                index(entries, count, slots)
            count = count_pieces(data, start, cuts[:found], entries, slots, keys, numbers, count)
            start = resume
    return entries[:count], True


@compiled
def count_cut(data: Any, cuts: Any, entries: Any, slots: Any) -> Any:
    """The entries of the pre-tokens data[0:cuts[0]], data[cuts[0]:cuts[1]] and so on; there is room for all."""
    keys, numbers = np.zeros((1 << CACHE_BITS, 2), np.uint64), np.zeros(1 << CACHE_BITS, np.int32)
    return entries[: count_pieces(data, 0, cuts, entries, slots, keys, numbers, 0)]


@lean
def count_pieces(
    data: Any, start: Any, cuts: Any, entries: Any, slots: Any, keys: Any, numbers: Any, count: Any
) -> Any:
    """Count pre-tokens from `start` on; the number of entries after that. keys, numbers: the cache."""
    for end in cuts:
        size = end - start
        low, high, place = np.uint64(0), np.uint64(0), np.uint64(0)
        if size <= KEY_BYTES:
            low, high = key_of(data, start, size)
            place = slot_of(low, high, CACHE_BITS)
            if keys[place, 0] == low and keys[place, 1] == high:
                entries[numbers[place], 3] += 1
                start = end
                continue
        mixed = hash_of(data, start, size)
        slot = slot_of_piece(data, start, size, mixed, data, entries, slots)
        if slots[slot] == 0:
            entries[count, 0], entries[count, 1], entries[count, 2], entries[count, 3] = start, size, mixed, 0
            count += 1
            slots[slot] = mixed >> 32 << 32 | count
        number = (slots[slot] & NUMBER) - 1
        entries[number, 3] += 1
        if size <= KEY_BYTES:
            keys[place, 0], keys[place, 1], numbers[place] = low, high, number
        start = end
    return count


@lean
def add_entries(data: Any, more: Any, letters: Any, used: Any, entries: Any, count: Any, slots: Any) -> Any:
    """Add entries with bytes in `data` to a table that keeps the bytes itself, in letters[:used]; there is room.

    Returns `used` and `count` anew.
    """
    for i in range(len(more)):
        start, size, mixed = more[i, 0], more[i, 1], more[i, 2]
        slot = slot_of_piece(data, start, size, mixed, letters, entries, slots)
        if slots[slot] == 0:
            for j in range(size):
                letters[used + j] = data[start + j]
            entries[count, 0], entries[count, 1], entries[count, 2], entries[count, 3] = used, size, mixed, 0
            used, count = used + size, count + 1
            slots[slot] = mixed >> 32 << 32 | count
        entries[(slots[slot] & NUMBER) - 1, 3] += more[i, 3]
    return used, count


@lean
def slot_of_piece(data: Any, start: Any, size: Any, mixed: Any, letters: Any, entries: Any, slots: Any) -> Any:
    """The slot that has a pre-token, or the empty one where it belongs. The bytes of entries are in `letters`."""
    slot = mixed & (len(slots) - 1)
    while slots[slot]:
        if slots[slot] >> 32 == mixed >> 32:
            number = (slots[slot] & NUMBER) - 1
            if entries[number, 1] == size and same(data, start, letters, entries[number, 0], size):
                break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@lean
def index(entries: Any, count: Any, slots: Any) -> None:
    """Put entries into empty slots."""
    for i in range(count):
        mixed = entries[i, 2]
        slot = mixed & (len(slots) - 1)
        while slots[slot]:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = mixed >> 32 << 32 | (i + 1)
