"""Counting: the different pre-tokens of a text and how often each occurs.

The plain reference is a dictionary. Entries are int64 (n, 4): where a pre-token starts in its array of bytes, its
length, its hash and its count. A hash table has their numbers plus 1; in front of it stands a small cache, in which a
pre-token of up to 15 bytes is found by one comparison.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import compiled
from fromzero.kernels.scan import BLOCK, scan
from fromzero.kernels.words import KEY_BYTES, hash_of, key_of, same, slot_of

CACHE_BITS = 14


@compiled
def count_text(data: Any, ends: Any, classes: Any, table: Any, width: Any) -> Any:
    """The entries of the documents that lie one after the other in `data`, in the order of first appearance.

    data: uint8, padded by PADDING. ends: int64, where each document ends. classes, table, width: of an `Automaton`.
    Returns them and whether the pattern got ahead.
    """
    cuts, room, start, count = np.empty(BLOCK, np.int64), BLOCK, np.int64(0), np.int64(0)
    entries, slots = np.empty((4 * BLOCK, 4), np.int64), np.zeros(8 * BLOCK, np.int32)
    keys, numbers = np.zeros((1 << CACHE_BITS, 2), np.uint64), np.zeros(1 << CACHE_BITS, np.int32)
    for end in ends:
        while start < end:
            found, resume = scan(data, start, end, True, classes, table, width, cuts)
            if resume < 0:
                return entries[:0], False
            if count + room > len(entries):
                entries, slots = with_room(entries, slots, count, room)
            count = _count_pieces(data, start, cuts[:found], entries, slots, keys, numbers, count)
            start = resume
    return entries[:count], True


@compiled
def count_pieces(data: Any, cuts: Any) -> Any:
    """The entries of the pre-tokens data[0:cuts[0]], data[cuts[0]:cuts[1]] and so on."""
    entries, slots = with_room(np.empty((0, 4), np.int64), np.zeros(0, np.int32), 0, len(cuts))
    keys, numbers = np.zeros((1 << CACHE_BITS, 2), np.uint64), np.zeros(1 << CACHE_BITS, np.int32)
    return entries[: _count_pieces(data, 0, cuts, entries, slots, keys, numbers, 0)]


@compiled
def add_entries(data: Any, more: Any, letters: Any, used: Any, entries: Any, count: Any, slots: Any) -> Any:
    """Add entries with bytes in `data` to a table that keeps the bytes itself, in letters[:used].

    Returns letters, used, entries, count and slots anew.
    """
    needed = used + more[:, 1].sum() + 16
    if needed > len(letters):
        letters = np.concatenate((letters[:used], np.empty(needed, np.uint8)))
    if count + len(more) > len(entries):
        entries, slots = with_room(entries, slots, count, len(more))
    for i in range(len(more)):
        start, size, mixed = more[i, 0], more[i, 1], more[i, 2]
        slot = slot_of_piece(data, start, size, mixed, letters, entries, slots)
        if slots[slot] == 0:
            letters[used : used + size] = data[start : start + size]
            entries[count, 0], entries[count, 1], entries[count, 2], entries[count, 3] = used, size, mixed, 0
            used, count = used + size, count + 1
            slots[slot] = count
        entries[slots[slot] - 1, 3] += more[i, 3]
    return letters, used, entries, count, slots


@compiled
def _count_pieces(
    data: Any, start: Any, cuts: Any, entries: Any, slots: Any, keys: Any, numbers: Any, count: Any
) -> Any:
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
            slots[slot] = count
        number = slots[slot] - 1
        entries[number, 3] += 1
        if size <= KEY_BYTES:
            keys[place, 0], keys[place, 1], numbers[place] = low, high, number
        start = end
    return count


@compiled
def slot_of_piece(data: Any, start: Any, size: Any, mixed: Any, letters: Any, entries: Any, slots: Any) -> Any:
    """The slot that has a pre-token, or the empty one where it belongs. The bytes of entries are in `letters`."""
    slot = mixed & (len(slots) - 1)
    while slots[slot]:
        number = slots[slot] - 1
        alike = entries[number, 2] == mixed and entries[number, 1] == size
        if alike and same(data, start, letters, entries[number, 0], size):
            break
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@compiled
def with_room(entries: Any, slots: Any, count: Any, more: Any) -> Any:
    """Entries and slots with room for more."""
    larger = np.empty((max(2 * count, count + more), 4), np.int64)
    larger[:count] = entries[:count]
    size = 1024
    while size < 2 * len(larger):
        size *= 2
    slots = np.zeros(size, np.int32)
    for i in range(count):
        slot = larger[i, 2] & (size - 1)
        while slots[slot]:
            slot = (slot + 1) & (size - 1)
        slots[slot] = i + 1
    return larger, slots
