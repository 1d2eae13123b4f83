"""Lattices: all the ways to put a text together from pieces, the best of them, and how often each piece is expected.

Characters are code points, int32. A trie of the pieces is a hash table: its key is a node and the character that leads
on from there, its value the next node; node 0 is the root. `best_path` has its plain reference in `tokenizer.unigram`.
"""

from typing import Any, NamedTuple

import numpy as np

from fromzero.kernels.compiling import compiled, inlined, lean

_CHARACTERS = 0x110000
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: spreads keys that follow each other
_FREE = -1


class Trie(NamedTuple):
    """Pieces by their characters."""

    keys: Any
    """int64, node * _CHARACTERS + character, or _FREE."""
    nodes: Any
    """int32, beside each key."""
    pieces: Any
    """int32, for each node the piece that ends there, or -1."""


def build_trie(text: Any, begins: Any, lengths: Any) -> Trie:
    """The trie of the pieces text[begin : begin + length], numbered in their order. All int32 or int64, 1-D."""
    bits = max(4, int(2 * len(begins)).bit_length())
    while True:
        keys, nodes = np.full(1 << bits, _FREE, np.int64), np.zeros(1 << bits, np.int32)
        pieces = np.full(1 << bits, -1, np.int32)
        if (count := _insert(text, begins, lengths, keys, nodes, pieces)) > 0:
            return Trie(keys, nodes, pieces[:count].copy())
        bits += 1


@inlined
def _slot(keys: Any, key: Any) -> Any:
    """Where a key is, or would be."""
    mask = np.uint64(len(keys) - 1)
    slot = (np.uint64(key) * _MIX >> np.uint64(32)) & mask
    while keys[slot] != key and keys[slot] != _FREE:
        slot = (slot + np.uint64(1)) & mask
    return slot


@lean
def _insert(text: Any, begins: Any, lengths: Any, keys: Any, nodes: Any, pieces: Any) -> Any:
    """The number of nodes, or 0 when the table is three quarters full."""
    count = 1
    for piece in range(len(begins)):
        node = np.int64(0)
        for at in range(begins[piece], begins[piece] + lengths[piece]):
            key = node * _CHARACTERS + text[at]
            slot = _slot(keys, key)
            if keys[slot] == _FREE:
                if 4 * count > 3 * len(keys):
                    return 0
                keys[slot], nodes[slot] = key, count
                count += 1
            node = np.int64(nodes[slot])
        pieces[node] = piece
    return count


@inlined
def _step(trie: Any, node: Any, character: Any) -> Any:
    """The next node, or -1."""
    key = node * _CHARACTERS + character
    slot = _slot(trie.keys, key)
    return np.int64(trie.nodes[slot]) if trie.keys[slot] == key else np.int64(-1)


@lean
def _search(
    text: Any, begin: Any, size: Any, trie: Any, scores: Any, unknown: Any, barrier: Any, banned: Any, to: Any
) -> Any:
    """Fill `to`: by place in text[begin : begin + size], the best score, the place before it, and the piece between."""
    best, before, by = to
    best[: size + 1] = -np.inf
    best[0] = 0.0
    for start in range(size):
        if text[begin + start] == barrier:
            best[start] = 0.0
        node, single = np.int64(0), False
        for at in range(start, size):
            character = np.int64(text[begin + at])
            if character == barrier and at > start:
                break
            node = _step(trie, node, character)
            if node < 0:
                break
            piece = trie.pieces[node]
            if piece >= 0 and piece != banned:
                single = single or at == start
                if best[start] + scores[piece] > best[at + 1]:
                    best[at + 1], before[at + 1], by[at + 1] = best[start] + scores[piece], start, piece
        if not single and best[start] + unknown > best[start + 1]:
            best[start + 1], before[start + 1], by[start + 1] = best[start] + unknown, start, -1


@compiled
def _room(size: Any, scores: Any) -> Any:
    return np.empty(size + 1, scores.dtype), np.empty(size + 1, np.int64), np.empty(size + 1, np.int32)


@compiled
def best_path(text: Any, trie: Any, scores: Any, unknown: Any, barrier: Any) -> Any:
    """The pieces of highest total score that make up a text, and where each of them ends.

    scores: float64 or float32 by piece, as are their sums. unknown: the score, in the same type, of a character that is
    no piece; a run of them is one piece, -1.
    barrier: a character that no piece holds but at its beginning, so that what it begins stands alone; or -1.
    Of equal paths, that with the shorter piece at the end. Returns int32 and int64.
    """
    best, before, by = _room(len(text), scores)
    _search(text, 0, len(text), trie, scores, unknown, barrier, -1, (best, before, by))
    pieces, stops = np.empty(len(text), np.int32), np.empty(len(text), np.int64)
    at, count = len(text), len(text)
    while at > 0:
        joins = count < len(text) and by[at] < 0 and pieces[count] < 0 and text[at] != barrier
        if not joins:
            count -= 1
            pieces[count], stops[count] = by[at], at
        at = before[at]
    return pieces[count:], stops[count:]


@compiled
def best_counts(text: Any, begins: Any, lengths: Any, weights: Any, trie: Any, scores: Any) -> Any:
    """How often each piece is in the best path of the units text[begin : begin + length], by their weights."""
    counts = np.zeros(len(scores))
    best, before, by = _room(lengths.max(), scores)
    for unit in range(len(begins)):
        _search(text, begins[unit], lengths[unit], trie, scores, -np.inf, -1, -1, (best, before, by))
        at = lengths[unit]
        while at > 0:
            counts[by[at]] += weights[unit]
            at = before[at]
    return counts


@compiled
def losses(text: Any, begins: Any, lengths: Any, counts: Any, trie: Any, scores: Any) -> Any:
    """By piece, the log likelihood that is lost without it, when its best split takes over its counts.

    Infinite for single characters; -1 for pieces that are not in use, or less likely than their own split.
    """
    total = counts.sum()
    result = np.full(len(scores), -1.0)
    best, before, by = _room(lengths.max(), scores)
    for piece in range(len(scores)):
        if lengths[piece] == 1:
            result[piece] = np.inf
            continue
        _search(text, begins[piece], lengths[piece], trie, scores, -np.inf, -1, piece, (best, before, by))
        if counts[piece] == 0 or best[lengths[piece]] > scores[piece]:
            continue
        at, parts, split = lengths[piece], 0, 0.0
        while at > 0:
            split += np.log(counts[by[at]] + counts[piece])
            parts += 1
            at = before[at]
        split -= parts * np.log(total + counts[piece] * (parts - 1))
        result[piece] = counts[piece] * (np.log(counts[piece]) - np.log(total) - split)
    return result


@compiled
def expected_counts(text: Any, begins: Any, lengths: Any, weights: Any, trie: Any, scores: Any, reach: Any) -> Any:
    """How often each piece is expected in the units, over all paths by their probability; and the log likelihood.

    The forward-backward algorithm. reach: the length of the longest piece. Every character has to be a piece.
    """
    counts, likelihood = np.zeros(len(scores)), 0.0
    size = lengths.max()
    top, rest, alpha, beta = np.empty(size + 1), np.empty(size + 1), np.empty(size + 1), np.empty(size + 1)
    first = np.empty(size + 2, np.int64)
    stops, pieces = np.empty(size * reach, np.int64), np.empty(size * reach, np.int32)
    for unit in range(len(begins)):
        begin, size, edges = begins[unit], lengths[unit], 0
        top[: size + 1] = -np.inf
        rest[: size + 1] = 0.0
        top[0], rest[0] = 0.0, 1.0
        for start in range(size):  # forward: top + log(rest) is the log of the sum over all paths to a place
            alpha[start], first[start], node = top[start] + np.log(rest[start]), edges, np.int64(0)
            for at in range(start, size):
                node = _step(trie, node, np.int64(text[begin + at]))
                if node < 0:
                    break
                piece = trie.pieces[node]
                if piece >= 0:
                    stops[edges], pieces[edges] = at + 1, piece
                    edges += 1
                    value = alpha[start] + scores[piece]
                    if value <= top[at + 1]:
                        rest[at + 1] += np.exp(value - top[at + 1])
                    else:
                        rest[at + 1] = rest[at + 1] * np.exp(top[at + 1] - value) + 1.0
                        top[at + 1] = value
        first[size], beta[size] = edges, 0.0
        whole = top[size] + np.log(rest[size])
        likelihood += weights[unit] * whole
        for start in range(size - 1, -1, -1):
            total = 0.0
            for edge in range(first[start], first[start + 1]):  # shares of the whole sum to the share of the place
                value = np.exp(alpha[start] + scores[pieces[edge]] + beta[stops[edge]] - whole)
                counts[pieces[edge]] += weights[unit] * value
                total += value
            beta[start] = np.log(total) + whole - alpha[start] if total > 0 else -np.inf
    return counts, likelihood
