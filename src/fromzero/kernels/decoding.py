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
from fromzero.kernels.lanes import (
    exponential,
    load,
    meet,
    multiply_add,
    prefetch,
    save,
    save_number,
    spread,
    total,
    zeros,
)
from fromzero.kernels.products import product

_SILU, _GELU, _GELU_TANH, _RELU, _SQUARED = range(5)
ACTIVATIONS = {"swiglu": _SILU, "geglu": _GELU, "geglu_tanh": _GELU_TANH, "gelu": _GELU, "gelu_tanh": _GELU_TANH}
ACTIVATIONS |= {"silu": _SILU, "relu": _RELU, "relu_squared": _SQUARED}

_AHEAD = 2  # tokens whose keys or values are on their way from memory


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
    """(threads, H, longest sequence)."""
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
    rows, own, longest = len(step.positions), thread * len(room.x), len(room.scores) // (threads * shape.heads)
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
        begin, end = _share(rows * shape.heads, thread, threads)
        for row in range(begin // shape.heads, -(-end // shape.heads)):
            own_heads = max(begin - row * shape.heads, 0), min(end - row * shape.heads, shape.heads)
            _attend(row, own_heads, layer, window, thread * shape.heads, longest, shape, step, room, keys, values)
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
                    save_number(store, (slot * shape.kv_heads + place) * width + i, room.qkv[np.uint64(at + i)])


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
    cos, sin = angles[row * half : (row + 1) * half], angles[(rows + row) * half : (rows + row + 1) * half]
    low, high = x[at : at + half], x[at + half : at + 2 * half]
    for i in range(half):
        first, second = low[i], high[i]
        low[i], high[i] = first * cos[i] - second * sin[i], second * cos[i] + first * sin[i]


@inlined
def _attend(
    row: Any,
    own: Any,
    layer: Any,
    window: Any,
    scores: Any,
    longest: Any,
    shape: Any,
    step: Any,
    room: Any,
    keys: Any,
    values: Any,
) -> None:
    """Some heads (own: from, to) of one row over its sequence, page after page: each token is read once for all."""
    width, heads, page, last = shape.head_width, shape.heads, shape.page, step.positions[row] + 1
    first, group = max(0, last - window) if window else 0, heads // shape.kv_heads
    query, mixed = row * (heads + 2 * shape.kv_heads) * width, row * heads * width
    table, apart = row * (len(step.pages) // len(step.positions)), shape.kv_heads * width
    for start in range(first // page * page, last, page):
        base = (layer * shape.slots + step.pages[table + start // page] * page - start) * apart
        for s in range(max(first, start), min(last, start + page)):
            for head in range(own[0], own[1]):
                at, sum_ = base + s * apart + head // group * width, zeros()
                for i in range(0, width, 16):
                    prefetch(keys, at + _AHEAD * apart + i)
                    sum_ = multiply_add(load(room.qkv, query + head * width + i), load(keys, at + i), sum_)
                room.scores[(scores + head) * longest + s] = total(sum_) * np.float32(shape.scale)
    for head in range(own[0], own[1]):
        _soften(room.scores[(scores + head) * longest + first : (scores + head) * longest + last])
        for i in range(0, width, 16):
            save(room.mixed, mixed + head * width + i, zeros())
    for start in range(first // page * page, last, page):
        base = (layer * shape.slots + step.pages[table + start // page] * page - start) * apart
        for s in range(max(first, start), min(last, start + page)):
            for head in range(own[0], own[1]):
                at, to = base + s * apart + head // group * width, mixed + head * width
                weight = spread(room.scores[(scores + head) * longest + s])
                for i in range(0, width, 16):
                    prefetch(values, at + _AHEAD * apart + i)
                    save(room.mixed, to + i, multiply_add(weight, load(values, at + i), load(room.mixed, to + i)))


@loose
def _soften(scores: Any) -> None:
    """Softmax, in its place."""
    top, sum_ = scores[0], np.float32(0)
    for score in scores:
        top = score if score > top else top
    for s in range(len(scores)):
        scores[s] = exponential(scores[s] - top)
        sum_ += scores[s]
    for s in range(len(scores)):
        scores[s] /= sum_


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


@inlined
def _activate(shape: Any, x: Any, at: Any, first: Any, last: Any, to: Any, put: Any) -> None:
    """The non-linearity of x[at + first : at + last], times what is F behind it when there is a gate."""
    z, y = x[at + first : at + last], to[put + first : put + last]
    if shape.activation == _SILU:
        _silu(z, y)
    elif shape.activation == _GELU_TANH:
        _gelu_tanh(z, y)
    elif shape.activation == _GELU:
        _gelu(z, y)
    else:
        _relu(z, y, shape.activation == _SQUARED)
    if shape.gated:
        _times(y, x[at + shape.hidden + first : at + shape.hidden + last])


@loose
def _silu(z: Any, y: Any) -> None:
    for i in range(len(y)):
        y[i] = z[i] / (np.float32(1) + exponential(-z[i]))


@loose
def _gelu_tanh(z: Any, y: Any) -> None:
    for i in range(len(y)):
        u = np.float32(2 * math.sqrt(2 / math.pi)) * (z[i] + np.float32(0.044715) * z[i] * z[i] * z[i])
        y[i] = z[i] / (np.float32(1) + exponential(-u))


@loose
def _gelu(z: Any, y: Any) -> None:
    for i in range(len(y)):
        y[i] = z[i] * np.float32(0.5) * (np.float32(1) + np.float32(math.erf(z[i] * np.float32(math.sqrt(0.5)))))


@loose
def _relu(z: Any, y: Any, squared: Any) -> None:
    for i in range(len(y)):
        kept = max(z[i], np.float32(0))
        y[i] = kept * kept if squared else kept


@loose
def _times(y: Any, gate: Any) -> None:
    for i in range(len(y)):
        y[i] *= gate[i]
