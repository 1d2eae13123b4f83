"""Equal windows of a text: its suffix array, sorted as far as the length that is asked for.

Prefix doubling (Manber and Myers 1993): places are sorted by their first 8 bytes and numbered, equal ones alike; the
numbers at a place and 8 bytes on tell the order by 16 bytes, and so on. A place whose bytes are found nowhere else
leaves at once. The sorting between these steps is NumPy's.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import lean

FIRST = 8
UNIQUE = -1


@lean
def first_keys(data: Any, ends: Any, places: Any, keys: Any) -> Any:
    """Write all places with FIRST bytes before the end of their document, and those bytes; how many there are."""
    count, start = 0, 0
    for end in ends:
        key = np.uint64(0)
        for i in range(start, end):
            key = key << np.uint64(8) | np.uint64(data[i])
            if i - start >= FIRST - 1:
                places[count], keys[count] = i - FIRST + 1, key
                count += 1
        start = end
    return count


@lean
def number(places: Any, keys: Any, order: Any, numbers: Any) -> None:
    """Number the places by their keys, whose order is given; UNIQUE for a key that no other place has."""
    numbers[:] = UNIQUE
    start = 0
    for stop in range(1, len(order) + 1):
        if stop < len(order) and keys[order[stop]] == keys[order[start]]:
            continue
        if stop - start > 1:
            for i in range(start, stop):
                numbers[places[order[i]]] = start
        start = stop


@lean
def next_keys(numbers: Any, step: Any, length: Any, ends: Any, places: Any, keys: Any) -> Any:
    """Keep the places that may still be equal over `length` bytes, with their new keys; how many there are.

    step: how far on the second half begins. places: ascending, as ends; both they and keys are overwritten.
    """
    count, document = 0, 0
    for i in range(len(places)):
        place = np.int64(places[i])
        while ends[document] <= place:
            document += 1
        if place + length <= ends[document] and numbers[place] >= 0 and numbers[place + step] >= 0:
            keys[count] = np.uint64(numbers[place]) << np.uint64(32) | np.uint64(numbers[place + step])
            places[count] = place
            count += 1
    return count


@lean
def mark(places: Any, numbers: Any, length: Any, first: Any, marks: Any) -> None:
    """Set in `marks` (uint8, by byte) 1 for what stands in a window that stood before, but 0 for any first of several.

    places: ascending. first: int32 zeros, one for each number.
    """
    for step in (1, 2):
        done = np.int64(0)
        for i in range(len(places)):
            place = np.int64(places[i])
            kind = numbers[place]
            if kind < 0:
                continue
            if first[kind] < step:
                first[kind] = step
                if step == 1:
                    continue
            elif step == 2:
                continue
            for at in range(max(place, done), place + length):
                marks[at] = 2 - step
            done = place + length
