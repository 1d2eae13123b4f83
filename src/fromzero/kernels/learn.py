"""Learning merges: the pair of neighbouring tokens that occurs most often becomes the next token, again and again.

The plain reference is in `tokenizer.learn`. When a token is made, all the pairs that it will ever be part of with older
tokens exist already. So the places of a pair are listed once, when its younger half is made; from then on they and its
count only shrink, and a place, or an entry of the heap of pairs, is checked when it comes up. The pre-tokens lie in one
array of slots, one a byte. A token stands in its first and in its last slot, so both its neighbours are one look-up
away.

Pairs that are too rare to be merged soon are not listed at all: below a threshold they are left out, and when no pair
above it is left, it is lowered and all pairs are listed anew.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import compiled, lean
from fromzero.kernels.pairs import Pairs, add, find, insert, push, sift_down, swap
from fromzero.kernels.spelling import join, spell_bytes

BOUNDARY, GONE = -2, -1  # between two pre-tokens; first slot of a token that became the right half of another
LEAST = 2  # a pair that occurs once is never merged
STEP = 8  # by which the threshold is divided
RESERVE = 256  # how much rarer than an average merge a listed pair may be at first


@lean
def lay_out(letters: Any, starts: Any, counts: Any, slots: Any) -> None:
    """Write pre-tokens into slots, int32 (n, 2): boundary, bytes, boundary, ..., boundary; beside each its count.

    letters: uint8, the pre-tokens joined; starts: int64 (words + 1,); all have two bytes or more.
    """
    slots[0, 0], slots[0, 1], at = BOUNDARY, 0, 1
    for i in range(len(counts)):
        count = min(counts[i], 2**31 - 1)
        for place in range(starts[i], starts[i + 1]):
            slots[at, 0], slots[at, 1] = letters[place], count
            at += 1
        slots[at, 0], slots[at, 1] = BOUNDARY, 0
        at += 1


@compiled
def learn(slots: Any, places: Any, merges: Any, ties_first: Any, progress: Any) -> Any:
    """Learn at most `merges` merges: int32 (made, 2), pairs of ids; and by how many they make the tokens fewer.

    places: int32, room for the places of pairs; three for two slots are enough to begin with. (Large arrays come from
    outside, because NumPy asks for large pages of memory, without which each look at a place costs twice.)
    ties_first: of pairs that occur equally often, the one that stands first; else the one of the greatest bytes.
    progress: int64 (2,): merges made so far, and whether to stop (set from outside).
    """
    lengths, scratch = np.ones(256 + merges, np.int64), np.zeros((256 + merges, 4), np.int64)
    learned, made, fewer = np.empty((merges, 2), np.int32), 0, np.int64(0)
    spelling = spell_bytes(256 + merges)
    threshold = max(LEAST, slots[:, 1].sum() // max(1, merges * RESERVE))
    pairs = _list_pairs(slots, places, lengths, threshold, ties_first, spelling, True)
    while made < merges and not progress[1]:
        pair = _next_pair(pairs, slots, lengths, ties_first, spelling, threshold)
        if pair < 0:
            if threshold == LEAST:
                break
            threshold = max(LEAST, threshold // STEP)
            pairs = _list_pairs(slots, pairs.places, lengths, threshold, ties_first, spelling, False)
            continue
        a, b, new = np.int64(pairs.halves[pair, 0]), np.int64(pairs.halves[pair, 1]), 256 + made
        pairs.counts[pair] = 0
        spelling, unknown = join(spelling, a, b, new)
        if not unknown:
            continue  # another pair has made these bytes
        lengths[new], learned[made, 0], learned[made, 1] = lengths[a] + lengths[b], a, b
        start, size = pairs.spans[pair]
        found = _replace(pairs.places[start : start + size], a, b, new, slots, lengths, scratch)
        fewer += found[5]
        pairs = _recount(pairs, found, a, b, new, slots, lengths, scratch, threshold, ties_first, spelling)
        made += 1
        progress[0] = made
    return learned[:made], fewer


@compiled
def _replace(places: Any, a: Any, b: Any, new: Any, slots: Any, lengths: Any, scratch: Any) -> Any:
    """Put the new token where the pair stands.

    Returns int32 (3, n), the places and what is left and right of each; the different neighbours on either side; weight
    and number of the places right after which the pair stands again; and the weight of all. scratch gets, by neighbour,
    the weight and number of places with it on the left, then on the right.
    """
    merged, lefts, rights, sums = (
        np.empty((3, len(places)), np.int32),
        places.copy(),
        places.copy(),
        np.zeros(3, np.int64),
    )
    count, left_count, right_count = _replace_all(
        places, a, b, new, slots, lengths, scratch, merged, lefts, rights, sums
    )
    return merged[:, :count], lefts[:left_count], rights[:right_count], sums[0], sums[1], sums[2]


@lean
def _replace_all(
    places: Any, a: Any, b: Any, new: Any, slots: Any, lengths: Any, scratch: Any, merged: Any, lefts: Any, rights: Any,
    sums: Any,
) -> Any:  # fmt: skip
    count, left_count, right_count, end = 0, 0, 0, np.int64(-1)
    half, whole = lengths[a], lengths[new]
    for p in places:
        place = np.int64(p)
        if slots[place, 0] != a or slots[place + half, 0] != b:
            continue
        weight, last = np.int64(slots[place, 1]), place + whole - 1
        left, right = np.int64(slots[place - 1, 0]), np.int64(slots[last + 1, 0])
        slots[place + half, 0] = GONE
        slots[place, 0] = slots[last, 0] = new
        sums[2] += weight
        if place == end:  # what was right of the last one is this one
            merged[2, count - 1] = GONE
            sums[0] += weight
            sums[1] += 1
        merged[0, count], merged[1, count], merged[2, count] = place, left, right
        if left >= 0:
            if scratch[left, 1] == 0:
                lefts[left_count], left_count = left, left_count + 1
            scratch[left, 0], scratch[left, 1] = scratch[left, 0] + weight, scratch[left, 1] + 1
        if right >= 0:
            if scratch[right, 3] == 0:
                rights[right_count], right_count = right, right_count + 1
            scratch[right, 2], scratch[right, 3] = scratch[right, 2] + weight, scratch[right, 3] + 1
        count, end = count + 1, last + 1
    return count, left_count, right_count


@compiled
def _recount(
    pairs: Any, found: Any, a: Any, b: Any, new: Any, slots: Any, lengths: Any, scratch: Any, threshold: Any,
    ties_first: Any, spelling: Any,
) -> Any:  # fmt: skip
    """Count the old neighbours down, and list the new ones where they are frequent enough."""
    merged, lefts, rights, again_weight, again, _ = found
    for left in lefts:
        pair = find(pairs.table, pairs.halves, left, a)
        if pair >= 0 and pairs.counts[pair] > 0:
            pairs.counts[pair] -= scratch[left, 0]
    for right in rights:
        pair = find(pairs.table, pairs.halves, b, right)
        if pair >= 0 and pairs.counts[pair] > 0:
            pairs.counts[pair] -= scratch[right, 2]
    scratch[a, 2] -= again_weight
    scratch[a, 3] -= again
    more = len(lefts) + len(rights)
    pairs = _reserve(pairs, more, 2 * merged.shape[1], slots, lengths, threshold, ties_first, spelling)
    first = pairs.used[0]
    # From here on, the numbers of places become where the next place of each pair goes, or -1.
    for left in lefts:
        frequent = scratch[left, 0] >= threshold
        scratch[left, 1] = add(pairs, left, new, scratch[left, 0], scratch[left, 1]) if frequent else -1
    for right in rights:
        frequent = scratch[right, 2] >= threshold
        scratch[right, 3] = add(pairs, new, right, scratch[right, 2], scratch[right, 3]) if frequent else -1
    _fill(merged, pairs.places, lengths, scratch)
    for left in lefts:
        scratch[left, 0] = scratch[left, 1] = 0
    for right in rights:
        scratch[right, 2] = scratch[right, 3] = 0
    for pair in range(first, pairs.used[0]):
        push(pairs, pair, ties_first, spelling)
    return pairs


@lean
def _fill(merged: Any, places: Any, lengths: Any, scratch: Any) -> None:
    for i in range(merged.shape[1]):
        place, left, right = merged[0, i], np.int64(merged[1, i]), np.int64(merged[2, i])
        if left >= 0 and scratch[left, 1] >= 0:
            places[scratch[left, 1]] = place - lengths[left]
            scratch[left, 1] += 1
        if right >= 0 and scratch[right, 3] >= 0:
            places[scratch[right, 3]] = place
            scratch[right, 3] += 1


@compiled
def _reserve(
    pairs: Any, more: Any, places: Any, slots: Any, lengths: Any, threshold: Any, ties_first: Any, spelling: Any
) -> Any:
    """Room for more pairs and places. When places run out, dead pairs are thrown out, and if need be dead places."""
    if pairs.used[0] + more <= len(pairs.counts) and pairs.used[1] + places <= len(pairs.places):
        return pairs
    for check in (False, True):
        if pairs.used[1] + places > len(pairs.places) * 3 // 4:
            _throw_out(pairs, slots, lengths, threshold, check)
    pairs = _with_room(pairs, pairs.used[0] + more, pairs.used[1] + places)
    pairs.used[2] = 0
    for pair in range(pairs.used[0]):
        insert(pairs.table, pairs.halves, pair)
        push(pairs, pair, ties_first, spelling)
    return pairs


@lean
def _throw_out(pairs: Any, slots: Any, lengths: Any, threshold: Any, check: Any) -> None:
    """Move the pairs that are still frequent together; check: only with the places where they still stand."""
    halves, spans, listed, kept, filled = pairs.halves, pairs.spans, pairs.places, 0, 0
    for pair in range(pairs.used[0]):  # in the order of their places, so that these can move down
        if pairs.counts[pair] < threshold:
            continue
        start, size, before = spans[pair, 0], spans[pair, 1], filled
        left, right = halves[pair, 0], halves[pair, 1]
        for i in range(start, start + size):
            place = np.int64(listed[i])
            if not check or (slots[place, 0] == left and slots[place + lengths[left], 0] == right):
                listed[filled] = place
                filled += 1
        halves[kept, 0], halves[kept, 1], pairs.counts[kept] = left, right, pairs.counts[pair]
        spans[kept, 0], spans[kept, 1] = before, filled - before
        kept += 1
    pairs.used[0], pairs.used[1] = kept, filled


@compiled
def _with_room(pairs: Any, count: Any, places: Any) -> Any:
    """The same pairs with room for so many in all, and a table and a heap that are still to be filled."""
    halves, counts, spans, listed = pairs.halves, pairs.counts, pairs.spans, pairs.places
    kept = pairs.used[0]
    if count > len(counts) * 3 // 4:
        halves, counts = np.empty((2 * count, 2), np.int32), np.empty(2 * count, np.int64)
        spans = np.empty((2 * count, 2), np.int64)
        halves[:kept], counts[:kept], spans[:kept] = pairs.halves[:kept], pairs.counts[:kept], pairs.spans[:kept]
    if places > len(listed) * 3 // 4:
        listed = np.empty(places * 3 // 2, np.int32)
        listed[: pairs.used[1]] = pairs.places[: pairs.used[1]]
    size = 1024
    while size < 2 * len(counts):
        size *= 2
    return Pairs(
        halves, counts, spans, listed, np.zeros(size, np.int32), np.empty((len(counts), 3), np.int64), pairs.used
    )


@compiled
def _list_pairs(
    slots: Any, places: Any, lengths: Any, threshold: Any, ties_first: Any, spelling: Any, bytes_only: Any
) -> Any:
    """All pairs that occur at least `threshold` times in what the slots hold now; bytes_only: no tokens but bytes."""
    if bytes_only:
        halves, counts, numbers, table = _count_bytes(slots)
    else:
        halves, counts, numbers, table = _count_pairs(slots, lengths)
    cursors, kept, filled = np.full(len(counts), -1, np.int64), 0, 0
    for pair in range(len(counts)):
        if counts[pair] >= threshold:
            cursors[pair], kept, filled = filled, kept + 1, filled + numbers[pair]
    pairs = Pairs(
        np.empty((0, 2), np.int32), np.empty(0, np.int64), np.empty((0, 2), np.int64), places,
        np.zeros(1, np.int32), np.empty((0, 3), np.int64), np.zeros(3, np.int64),
    )  # fmt: skip
    pairs = _with_room(pairs, kept + 8 * len(lengths), filled + 1024)
    for pair in range(len(counts)):
        if cursors[pair] >= 0:
            add(pairs, halves[pair, 0], halves[pair, 1], counts[pair], numbers[pair])
    if bytes_only:
        _fill_byte_places(slots, cursors, pairs.places)
    else:
        _fill_places(slots, lengths, table, halves, cursors, pairs.places)
    for pair in range(pairs.used[0]):
        push(pairs, pair, ties_first, spelling)
    return pairs


@compiled
def _count_bytes(slots: Any) -> Any:
    """`_count_pairs` where all tokens are bytes, and the number of a pair is the two of them."""
    halves, counts, numbers = np.empty((1 << 16, 2), np.int32), np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
    for pair in range(1 << 16):
        halves[pair, 0], halves[pair, 1] = pair >> 8, pair & 255
    for place in range(len(slots) - 1):
        left, right = np.int64(slots[place, 0]), np.int64(slots[place + 1, 0])
        if left >= 0 and right >= 0:
            counts[left << 8 | right] += slots[place, 1]
            numbers[left << 8 | right] += 1
    return halves, counts, numbers, np.zeros(1, np.int32)


@lean
def _fill_byte_places(slots: Any, cursors: Any, places: Any) -> None:
    for place in range(len(slots) - 1):
        left, right = np.int64(slots[place, 0]), np.int64(slots[place + 1, 0])
        if left >= 0 and right >= 0 and cursors[left << 8 | right] >= 0:
            places[cursors[left << 8 | right]] = place
            cursors[left << 8 | right] += 1


@lean
def _fill_places(slots: Any, lengths: Any, table: Any, halves: Any, cursors: Any, places: Any) -> None:
    place, last = np.int64(0), len(slots) - 1
    while place < last:
        token = np.int64(slots[place, 0])
        following = place + lengths[token] if token >= 0 else place + 1
        if token >= 0 and slots[following, 0] >= 0:
            pair = find(table, halves, token, slots[following, 0])
            if cursors[pair] >= 0:
                places[cursors[pair]] = place
                cursors[pair] += 1
        place = following


@compiled
def _count_pairs(slots: Any, lengths: Any) -> Any:
    """Each pair, its weight, the number of its places, and the hash table of them."""
    size = 1 << 16  # room for all pairs of bytes, and a table in which they hardly ever meet
    halves, table = np.empty((size, 2), np.int32), np.zeros(4 * size, np.int32)
    counts, numbers, found, place = np.zeros(size, np.int64), np.zeros(size, np.int64), 0, np.int64(0)
    while place < len(slots):
        found, place = _count_some(slots, lengths, place, halves, counts, numbers, table, found)
        if found == len(counts):
            halves = np.concatenate((halves, halves))
            counts, numbers = np.concatenate((counts, counts * 0)), np.concatenate((numbers, numbers * 0))
            table = np.zeros(2 * len(table), np.int32)
            for i in range(found):
                insert(table, halves, i)
    return halves[:found], counts[:found], numbers[:found], table


@lean
def _count_some(
    slots: Any, lengths: Any, place: Any, halves: Any, counts: Any, numbers: Any, table: Any, found: Any
) -> Any:
    """Count from the token at a place on until the arrays are full; the pairs found and the token to go on from."""
    while found < len(counts):
        token = np.int64(slots[place, 0])
        following = place + lengths[token] if token >= 0 else place + 1
        if following >= len(slots):
            return found, np.int64(following)
        right = np.int64(slots[following, 0])
        if token >= 0 and right >= 0:
            pair = find(table, halves, token, right)
            if pair < 0:
                pair, found = np.int64(found), found + 1
                halves[pair, 0], halves[pair, 1] = token, right
                insert(table, halves, pair)
            counts[pair] += slots[place, 1]
            numbers[pair] += 1
        place = following
    return found, np.int64(place)


@lean
def _next_pair(pairs: Any, slots: Any, lengths: Any, ties_first: Any, spelling: Any, threshold: Any) -> Any:
    """Take the pair to merge next from the heap; -1 when none is left."""
    heap, used = pairs.heap, pairs.used
    while used[2] > 0:
        pair = heap[0, 2]
        count = pairs.counts[pair]
        if count >= threshold:
            first = _first_place(pairs, pair, slots, lengths) if ties_first else heap[0, 1]
            if heap[0, 0] != count or heap[0, 1] != first:  # it got rarer, or was merged where it stood first
                heap[0, 0], heap[0, 1] = count, first
                sift_down(pairs, spelling)
                continue
        used[2] -= 1
        swap(heap, 0, used[2])
        sift_down(pairs, spelling)
        if count >= threshold:
            return pair
    return np.int64(-1)


@lean
def _first_place(pairs: Any, pair: Any, slots: Any, lengths: Any) -> Any:
    start, size = pairs.spans[pair]
    left, right = pairs.halves[pair, 0], pairs.halves[pair, 1]
    while size > 0:
        place = np.int64(pairs.places[start])
        if slots[place, 0] == left and slots[place + lengths[left], 0] == right:
            break
        start, size = start + 1, size - 1
    pairs.spans[pair, 0], pairs.spans[pair, 1] = start, size
    return np.int64(pairs.places[start])
