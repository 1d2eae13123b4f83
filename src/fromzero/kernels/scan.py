"""Scanning: UTF-8 text to the places where its pre-tokens end, by the table of a finite automaton.

The table is made by `tokenizer.automaton`; the plain reference is the `regex` module. One step of the loop reads one
character and makes one look-up, whatever the pattern is.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import compiled, inlined, lean
from fromzero.kernels.flags import CUTS, MATCHES, SHIFT, STOPS

BLOCK = 1 << 14  # cuts found before they are used: they stay in the fastest cache
WASTE = 64  # bytes read in vain for each byte of text before a pattern is given up as one that never gets ahead


@lean
def scan(data: Any, start: Any, stop: Any, final: Any, classes: Any, table: Any, width: Any, cuts: Any) -> Any:
    """Find the ends of the pre-tokens of data[start:stop]: as many as `cuts` has room for.

    data: uint8, valid UTF-8. final: the text ends at stop; else what might go on behind it is left over. classes,
    table, width: those of `Automaton`. cuts: int64, filled.
    Returns the number of cuts, and where the text goes on that they don't cover; -1 if the pattern does not get ahead.
    """
    found, begin, at, place, last, state, effort = 0, start, start, start, -1, width, 0
    room, slow = len(cuts) - 2, STOPS  # slow: the flags that need a closer look
    while found < room:
        step, step_bytes = np.int64(STOPS), 0
        if place < stop:
            byte = np.int64(data[place])
            kind, step_bytes = (np.int64(classes[byte]), 1) if byte < 0x80 else _character(data, place, byte, classes)
            step = np.int64(table[state + kind])
        elif final and begin < stop:
            step = np.int64(table[state + width - 1])
        if step & MATCHES:
            last = place
        if not step & slow:  # nearly always: no branch depends on where a pre-token ends
            cuts[found] = place
            found += step & CUTS
            state = step >> SHIFT
            place += step_bytes
            continue
        if place >= stop and (not final or begin >= stop):
            break
        begin = max(begin, cuts[found - 1] if found else start)
        at = max(at, begin)
        effort += place - max(at, last)  # what was read and will be read again
        if effort > WASTE * (at - start) + (1 << 20):
            return found, -1
        if last > at:
            if at > begin:  # what no alternative matches becomes a piece of its own
                cuts[found] = at
                found += 1
            cuts[found] = begin = at = place = last
            found += 1
            slow = STOPS
        elif at < stop:
            byte = np.int64(data[at])
            at += 1 if byte < 0x80 else _character(data, at, byte, classes)[1]
            place, slow = at, STOPS | CUTS
        else:
            cuts[found] = begin = stop
            found += 1
        state = width
    return found, max(begin, cuts[found - 1] if found else start)


@inlined
def _character(data: Any, place: Any, byte: Any, classes: Any) -> Any:
    """The class of a character beyond ASCII, and its bytes."""
    second = np.int64(data[place + 1]) & 0x3F
    if byte < 0xE0:
        return np.int64(classes[(byte & 0x1F) << 6 | second]), 2
    third = np.int64(data[place + 2]) & 0x3F
    if byte < 0xF0:
        return np.int64(classes[(byte & 0x0F) << 12 | second << 6 | third]), 3
    fourth = np.int64(data[place + 3]) & 0x3F
    return np.int64(classes[(byte & 0x07) << 18 | second << 12 | third << 6 | fourth]), 4


@compiled
def scan_pieces(data: Any, pieces: Any, classes: Any, table: Any, width: Any) -> Any:
    """Cut each of some pieces again. pieces: int64, their ends, the first of them beginning at 0. Returns int64 ends.

    One element of -1 says that the pattern does not get ahead.
    """
    ends = np.empty(2 * len(pieces) + 64, np.int64)
    room = np.empty(BLOCK, np.int64)
    count, start = 0, 0
    for stop in pieces:
        while start < stop:
            found, resume = scan(data, start, stop, True, classes, table, width, room)
            if resume < 0:
                return np.full(1, -1, np.int64)
            if count + found > len(ends):
                ends = np.concatenate((ends, np.empty(len(ends) + found, np.int64)))
            ends[count : count + found] = room[:found]
            count += found
            start = resume
    return ends[:count]
