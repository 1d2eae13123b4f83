"""One step of a plain decoder for a few tokens, compiled as a whole: what `Transformer` does in hundreds of calls.

Each token is a row, at a place of its own sequence, whose keys and values are in pages. All threads run `decode` and
share the work of each part: outputs of products, heads of attention; where one part needs all of the part before it,
they meet. Arrays of several dimensions come as one. Its plain reference is `inference.paged.run_spans`.

Dimensions: R rows, D width, H heads, K key/value heads, C head width, F feed-forward width.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fromzero.kernels.compiling import inlined, lean, loose
from fromzero.kernels.lanes import exponential, load, meet, multiply_add, save, save_number, spread, total, zeros
from fromzero.kernels.products import product

_SILU, _GELU, _GELU_TANH, _RELU, _SQUARED = range(5)
ACTIVATIONS = {"swiglu": _SILU, "geglu": _GELU, "geglu_tanh": _GELU_TANH, "gelu": _GELU, "gelu_tanh": _GELU_TANH}
ACTIVATIONS |= {"silu": _SILU, "relu": _RELU, "relu_squared": _SQUARED}


class Shape(NamedTuple):
    """What a model is like, as numbers."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    gated: bool
    activation: int
    """One of ACTIVATIONS."""
    rms: bool
    eps: float
    scale: float
    """Of attention's scores."""
    rotary: bool
    head_norms: bool
    page: int
    """Tokens of a page."""
    slots: int
    """Tokens that the pages of a layer hold."""


class Weights(NamedTuple):
    """Of all layers; norms are fp32 (layers x width), scale and shift, of which the latter may be empty."""

    qkv: Any
    output: Any
    up: Any
    """With a gate, its rows come first."""
    down: Any
    head: Any
    attention_norm: Any
    feed_forward_norm: Any
    final_norm: Any
    query_norm: Any
    key_norm: Any
    windows: Any
    """By layer (int64): how many tokens are seen, or 0 for all."""


class Step(NamedTuple):
    """The rows."""

    positions: Any
    """Of each (int64)."""
    pages: Any
    """(R, most), int64: pages of its sequence."""
    angles: Any
    """cos and sin, (2, R, C / 2), in layers without a window and in those with one: two arrays."""
    wanted: Any
    """Rows whose logits are wanted, int64."""


class Room(NamedTuple):
    """Where threads put what they make, fp32."""

    x: Any
    """(R, D): the residual stream, which begins as embeddings."""
    normed: Any
    """(threads, R, D)."""
    qkv: Any
    """(R, (H + 2 K) C)."""
    mixed: Any
    """(R, H C)."""
    raw: Any
    """(R, F), or (R, 2 F) with a gate: before the non-linearity ..."""
    hidden: Any
    """... and after it, (R, F)."""
    scores: Any
    """(threads, longest sequence)."""
    logits: Any
    """(wanted, V)."""
    rounded: Any
    """A `narrow.Rounded` for (threads, R) vectors."""


@lean
def decode(
    thread: Any, threads: Any, gate: Any, shape: Any, weights: Any, step: Any, room: Any, keys: Any, values: Any
) -> None:
    """Fill room.logits, and the keys and values of the rows; to be called by all threads at once.

    gate: where they meet, int64, one array for all steps. keys, values: (layers, slots, K, C), fp32 or bfloat16.
    """
    rows, own, scores = len(step.positions), thread * len(room.x), thread * (len(room.scores) // threads)
    base = thread * (len(room.x) // shape.width)  # of rounded vectors
    for layer in range(shape.layers):
        _norm(shape, weights.attention_norm, layer, room.x, 0, rows, room.normed, own)
        _heads(
            _share(shape.heads + 2 * shape.kv_heads, thread, threads),
            layer,
            shape,
            weights,
            step,
            room,
            own,
            base,
            keys,
            values,
        )
        meet(gate, threads)
        window = weights.windows[layer]
        for unit in range(*_share(rows * shape.heads, thread, threads)):
            _attend(unit // shape.heads, unit % shape.heads, layer, window, scores, shape, step, room, keys, values)
        meet(gate, threads)
        first, last = _share(shape.width, thread, threads)
        product(weights.output, layer, first, last, room.mixed, 0, rows, room.x, True, room.rounded, base)
        meet(gate, threads)
        _norm(shape, weights.feed_forward_norm, layer, room.x, 0, rows, room.normed, own)
        _feed(_share(shape.hidden, thread, threads), layer, shape, weights.up, rows, room, own, base)
        meet(gate, threads)
        product(weights.down, layer, first, last, room.hidden, 0, rows, room.x, True, room.rounded, base)
        meet(gate, threads)
    for place in range(len(step.wanted)):
        _norm(
            shape,
            weights.final_norm,
            0,
            room.x,
            step.wanted[place] * shape.width,
            1,
            room.normed,
            own + place * shape.width,
        )
    first, last = _share(weights.head.rows, thread, threads)
    product(weights.head, 0, first, last, room.normed, own, len(step.wanted), room.logits, False, room.rounded, base)
    meet(gate, threads)


@inlined
def _share(units: Any, thread: Any, threads: Any) -> Any:
    """Which of so many units are this thread's: from, to."""
    return units * thread // threads, units * (thread + 1) // threads


@loose
def _norm(shape: Any, norm: Any, layer: Any, x: Any, at: Any, rows: Any, to: Any, put: Any) -> None:
    """RMSNorm or LayerNorm of rows of x from `at` on."""
    width = shape.width
    scale, shift = norm
    for row in range(rows):
        start, end, mean, square = at + row * width, put + row * width, np.float32(0), np.float32(0)
        if not shape.rms:
            for i in range(width):
                mean += x[start + i]
            mean /= np.float32(width)
        for i in range(width):
            square += (x[start + i] - mean) * (x[start + i] - mean)
        factor = np.float32(1) / np.float32(math.sqrt(square / np.float32(width) + np.float32(shape.eps)))
        for i in range(width):
            to[end + i] = (x[start + i] - mean) * factor * scale[layer * width + i]
        if len(shift):
            for i in range(width):
                to[end + i] += shift[layer * width + i]


@inlined
def _heads(
    share: Any, layer: Any, shape: Any, weights: Any, step: Any, room: Any, own: Any, base: Any, keys: Any, values: Any
) -> None:
    """Queries, keys and values of some heads, normed and turned; keys and values go to their pages."""
    width, heads, rows = shape.head_width, shape.heads, len(step.positions)
    product(
        weights.qkv,
        layer,
        share[0] * width,
        share[1] * width,
        room.normed,
        own,
        rows,
        room.qkv,
        False,
        room.rounded,
        base,
    )
    angles = step.angles[1] if weights.windows[layer] else step.angles[0]
    for row in range(rows):
        slot = layer * shape.slots + _slot(step, shape, row, step.positions[row])
        for head in range(share[0], share[1]):
            at = (row * (heads + 2 * shape.kv_heads) + head) * width
            if head < heads + shape.kv_heads:
                if shape.head_norms:
                    _head_norm(
                        room.qkv, at, width, weights.query_norm if head < heads else weights.key_norm, layer, shape
                    )
                if shape.rotary:
                    _turn(room.qkv, at, width // 2, angles, row, rows)
            if head >= heads:
                store, place = (
                    (keys, head - heads) if head < heads + shape.kv_heads else (values, head - heads - shape.kv_heads)
                )
                for i in range(width):
                    save_number(store, (slot * shape.kv_heads + place) * width + i, room.qkv[at + i])


@inlined
def _slot(step: Any, shape: Any, row: Any, position: Any) -> Any:
    most = len(step.pages) // len(step.positions)
    return step.pages[row * most + position // shape.page] * shape.page + position % shape.page


@loose
def _head_norm(x: Any, at: Any, width: Any, scale: Any, layer: Any, shape: Any) -> None:
    """RMSNorm of one head, in its place."""
    square = np.float32(0)
    for i in range(at, at + width):
        square += x[i] * x[i]
    factor = np.float32(1) / np.float32(math.sqrt(square / np.float32(width) + np.float32(shape.eps)))
    for i in range(width):
        x[at + i] = x[at + i] * factor * scale[layer * width + i]


@loose
def _turn(x: Any, at: Any, half: Any, angles: Any, row: Any, rows: Any) -> None:
    """Rotary positions of one head, in its place: pairs are i and i + C / 2."""
    for i in range(half):
        cos, sin = angles[row * half + i], angles[(rows + row) * half + i]
        first, second = x[at + i], x[at + half + i]
        x[at + i], x[at + half + i] = first * cos - second * sin, second * cos + first * sin


@inlined
def _attend(
    row: Any, head: Any, layer: Any, window: Any, scores: Any, shape: Any, step: Any, room: Any, keys: Any, values: Any
) -> None:
    """One head of one row over its sequence, page after page."""
    width, page, last = shape.head_width, shape.page, step.positions[row] + 1
    first = max(0, last - window) if window else 0
    query = (row * (shape.heads + 2 * shape.kv_heads) + head) * width
    table, apart = row * (len(step.pages) // len(step.positions)), shape.kv_heads * width
    base = (layer * shape.slots * shape.kv_heads + head // (shape.heads // shape.kv_heads)) * width
    top = np.float32(-np.inf)
    for start in range(first // page * page, last, page):
        at = base + (step.pages[table + start // page] * page - start) * apart
        for s in range(max(first, start), min(last, start + page)):
            sum_ = zeros()
            for i in range(0, width, 16):
                sum_ = multiply_add(load(room.qkv, query + i), load(keys, at + s * apart + i), sum_)
            score = total(sum_) * np.float32(shape.scale)
            room.scores[scores + s] = score
            top = max(top, score)
    share = np.float32(1) / _soften(room.scores, scores + first, scores + last, top)
    for i in range(0, width, 16):
        sum_ = zeros()
        for start in range(first // page * page, last, page):
            at = base + (step.pages[table + start // page] * page - start) * apart + i
            for s in range(max(first, start), min(last, start + page)):
                sum_ = multiply_add(spread(room.scores[scores + s] * share), load(values, at + s * apart), sum_)
        save(room.mixed, (row * shape.heads + head) * width + i, sum_)


@loose
def _soften(scores: Any, first: Any, last: Any, top: Any) -> Any:
    """exp(score - top), and their sum."""
    sum_ = np.float32(0)
    for s in range(first, last):
        scores[s] = exponential(scores[s] - top)
        sum_ += scores[s]
    return sum_


@inlined
def _feed(share: Any, layer: Any, shape: Any, up: Any, rows: Any, room: Any, own: Any, base: Any) -> None:
    """What goes into the last product of the feed-forward layer, of some of its channels."""
    product(up, layer, share[0], share[1], room.normed, own, rows, room.raw, False, room.rounded, base)
    if shape.gated:
        product(
            up,
            layer,
            shape.hidden + share[0],
            shape.hidden + share[1],
            room.normed,
            own,
            rows,
            room.raw,
            False,
            room.rounded,
            base,
        )
    for row in range(rows):
        _activate(shape, room.raw, row * up.rows, share[0], share[1], room.hidden, row * shape.hidden)


@loose
def _activate(shape: Any, x: Any, at: Any, first: Any, last: Any, to: Any, put: Any) -> None:
    """The non-linearity of x[at + first : at + last], times what is F behind it when there is a gate."""
    for i in range(first, last):
        z = x[at + i]
        if shape.activation == _SILU:
            y = z / (np.float32(1) + exponential(-z))
        elif shape.activation == _GELU_TANH:
            u = np.float32(2 * math.sqrt(2 / math.pi)) * (z + np.float32(0.044715) * z * z * z)
            y = z / (np.float32(1) + exponential(-u))
        elif shape.activation == _GELU:
            y = z * np.float32(0.5) * (np.float32(1) + np.float32(math.erf(z * np.float32(math.sqrt(0.5)))))
        else:
            y = max(z, np.float32(0))
            y = y if shape.activation == _RELU else y * y
        to[put + i] = y * x[at + shape.hidden + i] if shape.gated else y
