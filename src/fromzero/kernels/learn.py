"""Learning merges: the pair of neighbouring tokens that occurs most often becomes the next token, again and again.

The plain reference is in `tokenizer.learn`. When a token is made, all the pairs that it will ever be part of with older
tokens exist already. So the places of a pair are listed once, when its younger half is made; from then on they and its
count only shrink, and a place, or an entry of the heap of pairs, is checked when it comes up. The pre-tokens lie in one
array of slots, one a byte. A token stands in its first and in its last slot, so both its neighbours are one look-up
away.

Pairs that are too rare to be merged soon are not listed at all: below a threshold they are left out, and when no pair
above it is left, it is lowered and all pairs are listed anew; so they are when there is no room for more.
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

    places: int32, room for the places of pairs, one and a half times the slots. (Large arrays come from outside,
    because NumPy asks for large pages of memory, without which each look at a place costs twice.)
    ties_first: of pairs that occur equally often, the one that stands first; else the one of the greatest bytes.
    progress: int64 (2,): merges made so far, and whether to stop (set from outside).
    """
    lengths, scratch = np.ones(256 + merges, np.int64), np.zeros((256 + merges, 4), np.int64)
    learned, made, fewer = np.empty((merges, 2), np.int32), 0, np.int64(0)
    spelling, sides = spell_bytes(256 + merges), np.empty((2, 256 + merges), np.int32)
    threshold = max(LEAST, slots[:, 1].sum() // max(1, merges * RESERVE))
    pairs = _list_pairs(slots, places, lengths, threshold, ties_first, spelling)
    while made < merges and not progress[1]:
        pair = _next_pair(pairs, slots, lengths, ties_first, spelling, threshold)
        if pair < 0:
            if threshold == LEAST:
                break
            threshold = max(LEAST, threshold // STEP)
            pairs = _list_pairs(slots, places, lengths, threshold, ties_first, spelling)
            continue
        a, b, new = np.int64(pairs.halves[pair, 0]), np.int64(pairs.halves[pair, 1]), 256 + made
        pairs.counts[pair] = 0
        spelling, unknown = join(spelling, a, b, new)
        if not unknown:
            continue  # another pair has made these bytes
        lengths[new], learned[made, 0], learned[made, 1] = lengths[a] + lengths[b], a, b
        start, size = pairs.spans[pair]
        here = places[start : start + size]
        found = _replace(here, a, b, new, slots, lengths, scratch, sides[0], sides[1])
        here, lefts, rights = here[: found[0]], sides[0, : found[1]], sides[1, : found[2]]
        made, fewer = made + 1, fewer + found[5]
        progress[0] = made
        room = len(pairs.counts) - pairs.used[0], len(places) - pairs.used[1]
        if found[1] + found[2] <= room[0] and 2 * found[0] <= room[1]:
            replaced = here, lefts, rights, found
            _recount(pairs, replaced, a, b, new, slots, lengths, scratch, threshold, ties_first, spelling)
        else:
            pairs = _list_pairs(slots, places, lengths, threshold, ties_first, spelling)
        _clear(lefts, rights, scratch)
    return learned[:made], fewer


@lean
def _replace(
    places: Any, a: Any, b: Any, new: Any, slots: Any, lengths: Any, scratch: Any, lefts: Any, rights: Any
) -> Any:
    """Put the new token where the pair stands, and leave only these places at the beginning of `places`.

    lefts, rights: filled with the different neighbours on either side. scratch gets, by neighbour, the weight and
    number of places with it on the left, then on the right. Returns the number of places, of lefts and of rights;
    weight and number of the places right after which the pair stands again; and the weight of all.
    """
    count, left_count, right_count, end = 0, 0, 0, np.int64(-1)
    half, whole, again_weight, again, total = lengths[a], lengths[new], np.int64(0), 0, np.int64(0)
    for p in places:
        place = np.int64(p)
        if slots[place, 0] != a or slots[place + half, 0] != b:
            continue
        weight, last = np.int64(slots[place, 1]), place + whole - 1
        left, right = np.int64(slots[place - 1, 0]), np.int64(slots[last + 1, 0])
        slots[place + half, 0] = GONE
        slots[place, 0] = slots[last, 0] = new
        total += weight
        if place == end:
            again_weight, again = again_weight + weight, again + 1
        if left >= 0:
            if scratch[left, 1] == 0:
                lefts[left_count], left_count = left, left_count + 1
            scratch[left, 0], scratch[left, 1] = scratch[left, 0] + weight, scratch[left, 1] + 1
        if right >= 0:
            if scratch[right, 3] == 0:
                rights[right_count], right_count = right, right_count + 1
            scratch[right, 2], scratch[right, 3] = scratch[right, 2] + weight, scratch[right, 3] + 1
        places[count], count, end = place, count + 1, last + 1
    return count, left_count, right_count, again_weight, again, total


@lean
def _recount(
    pairs: Any, replaced: Any, a: Any, b: Any, new: Any, slots: Any, lengths: Any, scratch: Any, threshold: Any,
    ties_first: Any, spelling: Any,
) -> None:  # fmt: skip
    """Count the old neighbours down, and list the new ones where they are frequent enough."""
    here, lefts, rights, found = replaced
    for left in lefts:
        pair = find(pairs.table, pairs.halves, left, a)
        if pair >= 0 and pairs.counts[pair] > 0:
            pairs.counts[pair] -= scratch[left, 0]
    for right in rights:
        pair = find(pairs.table, pairs.halves, b, right)
        if pair >= 0 and pairs.counts[pair] > 0:
            pairs.counts[pair] -= scratch[right, 2]
    scratch[a, 2], scratch[a, 3] = scratch[a, 2] - found[3], scratch[a, 3] - found[4]
    first = pairs.used[0]
    # From here on, the numbers of places become where the next place of each pair goes, or -1.
    for left in lefts:
        frequent = scratch[left, 0] >= threshold
        scratch[left, 1] = add(pairs, left, new, scratch[left, 0], scratch[left, 1]) if frequent else -1
    for right in rights:
        frequent = scratch[right, 2] >= threshold
        scratch[right, 3] = add(pairs, new, right, scratch[right, 2], scratch[right, 3]) if frequent else -1
    _fill(here, new, slots, pairs.places, lengths, scratch)
    for pair in range(first, pairs.used[0]):
        push(pairs, pair, ties_first, spelling)


@lean
def _clear(lefts: Any, rights: Any, scratch: Any) -> None:
    for left in lefts:
        scratch[left, 0] = scratch[left, 1] = 0
    for right in rights:
        scratch[right, 2] = scratch[right, 3] = 0


@lean
def _fill(here: Any, new: Any, slots: Any, places: Any, lengths: Any, scratch: Any) -> None:
    for p in here:
        place = np.int64(p)
        left, right = np.int64(slots[place - 1, 0]), np.int64(slots[place + lengths[new], 0])
        if left >= 0 and scratch[left, 1] >= 0:
            places[scratch[left, 1]] = place - lengths[left]
            scratch[left, 1] += 1
        if right >= 0 and right != new and scratch[right, 3] >= 0:  # two new ones are told by the second
            places[scratch[right, 3]] = place
            scratch[right, 3] += 1


@compiled
def _list_pairs(slots: Any, places: Any, lengths: Any, threshold: Any, ties_first: Any, spelling: Any) -> Any:
    """All pairs that occur at least `threshold` times in what the slots hold now."""
    halves, counts, numbers, pair_at = _count_pairs(slots, lengths)
    cursors, kept, filled = np.full(len(counts), -1, np.int64), 0, 0
    for pair in range(len(counts)):
        if counts[pair] >= threshold:
            cursors[pair], kept, filled = filled, kept + 1, filled + numbers[pair]
    room, size = kept + 32 * len(lengths), 1024
    while size < 2 * room:
        size *= 2
    pairs = Pairs(
        np.empty((room, 2), np.int32), np.empty(room, np.int64), np.empty((room, 2), np.int64), places,
        np.zeros(size, np.int32), np.empty((room, 3), np.int64), np.zeros(3, np.int64),
    )  # fmt: skip
    for pair in range(len(counts)):
        if cursors[pair] >= 0:
            add(pairs, halves[pair, 0], halves[pair, 1], counts[pair], numbers[pair])
    _fill_places(pair_at, cursors, places)
    for pair in range(pairs.used[0]):
        push(pairs, pair, ties_first, spelling)
    return pairs


@lean
def _fill_places(pair_at: Any, cursors: Any, places: Any) -> None:
    for place in range(len(pair_at)):
        pair = np.int64(pair_at[place])
        if pair >= 0 and cursors[pair] >= 0:
            places[cursors[pair]] = place
            cursors[pair] += 1


@compiled
def _count_pairs(slots: Any, lengths: Any) -> Any:
    """Each pair, its weight, the number of its places; and by slot, the pair that begins there, or -1."""
    size, bytes_ = 1 << 17, 1 << 16  # the pairs of bytes come first, and need no table
    halves, table = np.empty((size, 2), np.int32), np.zeros(4 * size, np.int32)
    counts, numbers, found, place = np.zeros(size, np.int64), np.zeros(size, np.int64), bytes_, np.int64(0)
    for pair in range(bytes_):
        halves[pair, 0], halves[pair, 1] = pair >> 8, pair & 255
    pair_at = np.full(len(slots), -1, np.int32)
    while place < len(slots):
        found, place = _count_some(slots, lengths, place, halves, counts, numbers, table, found, pair_at)
        if found == len(counts):
            halves = np.concatenate((halves, halves))
            counts, numbers = np.concatenate((counts, counts * 0)), np.concatenate((numbers, numbers * 0))
            table = np.zeros(2 * len(table), np.int32)
            for i in range(bytes_, found):
                insert(table, halves, i)
    return halves[:found], counts[:found], numbers[:found], pair_at


@lean
def _count_some(
    slots: Any, lengths: Any, place: Any, halves: Any, counts: Any, numbers: Any, table: Any, found: Any, pair_at: Any
) -> Any:
    """Count from the token at a place on until the arrays are full; the pairs found and the token to go on from."""
    while found < len(counts):
        token = np.int64(slots[place, 0])
        following = place + lengths[token] if token >= 0 else place + 1
        if following >= len(slots):
            return found, np.int64(following)
        right = np.int64(slots[following, 0])
        if token >= 0 and right >= 0:
            pair = token << 8 | right if max(token, right) < 256 else find(table, halves, token, right)
            if pair < 0:
                pair, found = np.int64(found), found + 1
                halves[pair, 0], halves[pair, 1] = token, right
                insert(table, halves, pair)
            counts[pair] += slots[place, 1]
            numbers[pair] += 1
            pair_at[place] = pair
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
