"""y = x W^T for many rows x: sixteen vectors at a time stand upright, an input of all of them beside each other.

So a weight meets sixteen vectors in one instruction, and no sum goes over lanes. Six outputs are made at once: their
sums, the vectors and a weight are all registers that a processor with AVX2 has. Weights are widened before, once for
all vectors.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.lanes import load, multiply_add, prefetch, repeat, save, unpack, zeros

TOGETHER = 16
"""Vectors of a panel; room for panels is for a multiple of that, and once more for what else is kept."""
_TILE = 6


@lean
def panel_product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """See `products.product`; to.panels has room for `base` and, from there on, for this thread's vectors."""
    rows, inputs, biased = matrix.rows, matrix.inputs, len(matrix.bias) > 0
    room, panels, size = to.panels, base * inputs, TOGETHER * inputs
    weights = panels + (count + TOGETHER - 1) // TOGETHER * size
    sums = weights + _TILE * inputs
    _stand(x, at, count, inputs, room, panels)
    for o in range(first, last, _TILE):
        outputs = min(_TILE, last - o)
        for k in range(_TILE):
            _widen(matrix, layer * rows + o + min(k, outputs - 1), room, weights + k * inputs)
        for n in range(0, count, TOGETHER):
            _tile(room, weights, panels + n * inputs, inputs, sums)
            for k in range(outputs):
                bias = matrix.bias[layer * rows + o + k] if biased else np.float32(0)
                _lie(room, sums + k * TOGETHER, min(TOGETHER, count - n), bias, y, n * rows + o + k, rows, added)


@inlined
def _stand(x: Any, at: Any, count: Any, inputs: Any, room: Any, panels: Any) -> None:
    """Panel after panel: (inputs, 16)."""
    for n in range(count):
        place = panels + n // TOGETHER * TOGETHER * inputs + n % TOGETHER
        for i in range(inputs):
            room[place + i * TOGETHER] = x[at + n * inputs + i]


@inlined
def _lie(room: Any, sums: Any, count: Any, bias: Any, y: Any, at: Any, rows: Any, added: Any) -> None:
    """An output of one panel's vectors; as unsigned numbers, indices are not looked at for being negative."""
    for j in range(count):
        place = np.uint64(at + j * rows)
        value = room[np.uint64(sums + j)] + bias
        y[place] = y[place] + value if added else value


@inlined
def _widen(matrix: Any, row: Any, room: Any, at: Any) -> None:
    """A row of the matrix in fp32; that of the next tile begins to come from memory."""
    groups, steps, unit, apart = matrix.inputs // matrix.group, matrix.group // 32, matrix.unit, matrix.apart
    code, ahead = row * groups * steps * unit, _TILE * groups * steps * unit
    for group in range(row * groups, row * groups + groups):
        for _ in range(steps):
            prefetch(matrix.codes, code + ahead)
            prefetch(matrix.codes, code + ahead + unit // 2)
            low, high = unpack(matrix.codes, matrix.scale, matrix.minimum, code, group)
            save(room, at, low)
            save(room, at + apart, high)
            code, at = code + unit, at + unit
        at += matrix.group - steps * unit


@inlined
def _tile(room: Any, weights: Any, panel: Any, inputs: Any, sums: Any) -> None:
    """Six outputs of sixteen vectors, (6, 16)."""
    a, b, c, d, e, f = zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    b_at, c_at, d_at = weights + inputs, weights + 2 * inputs, weights + 3 * inputs
    e_at, f_at = weights + 4 * inputs, weights + 5 * inputs
    for i in range(inputs):
        vectors = load(room, panel + i * TOGETHER)
        a = multiply_add(repeat(room, weights + i), vectors, a)
        b = multiply_add(repeat(room, b_at + i), vectors, b)
        c = multiply_add(repeat(room, c_at + i), vectors, c)
        d = multiply_add(repeat(room, d_at + i), vectors, d)
        e = multiply_add(repeat(room, e_at + i), vectors, e)
        f = multiply_add(repeat(room, f_at + i), vectors, f)
    save(room, sums, a)
    save(room, sums + TOGETHER, b)
    save(room, sums + 2 * TOGETHER, c)
    save(room, sums + 3 * TOGETHER, d)
    save(room, sums + 4 * TOGETHER, e)
    save(room, sums + 5 * TOGETHER, f)
