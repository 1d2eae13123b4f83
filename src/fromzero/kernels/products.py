"""y = x W^T for few rows x: each weight is read once from memory, widened in registers, and used for all rows.

The weights of all layers lie behind each other in one array, so that a whole step needs few arguments. What is here
runs on any processor and in fp32; `kernels.panels` is faster for many vectors, `kernels.narrow` where there are
instructions for narrow numbers.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import extending, types

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.lanes import from_half, load, multiply_add, prefetch, put, save_number, total, unpack, zeros
from fromzero.kernels.narrow import BFLOATS, CODES, bfloat_product, codes_product
from fromzero.kernels.panels import panel_product

MANY = 8  # vectors, from which on it is worth while to turn them
AHEAD = 4096  # elements of a matrix that are on their way from memory: by itself the machine fetches too few


class Matrix(NamedTuple):
    """Matrices (rows, inputs) of all layers: fp32, bfloat16 (as uint16), 8 bits (int8) or 4 bits (uint8)."""

    codes: Any
    """One-dimensional; in few bits with 64 bytes behind the end."""
    scale: Any
    """float16 (as int16), of each group of inputs, in 4 and 8 bits; with 16 elements behind the end."""
    minimum: Any
    """The same in 4 bits; in 8 bits `scale` again."""
    bias: Any
    """fp32, (layers x rows) or none."""
    rows: int
    inputs: int
    """A multiple of `group`."""
    group: int
    """Inputs that share a scale, a multiple of 32."""
    unit: int
    """Elements of `codes` that 32 inputs take."""
    apart: int
    """How far the second sixteen of these inputs are from the first."""


@inlined
def _two_rows(matrix: Any, row: Any, other: Any, x: Any, at: Any) -> Any:
    """Two rows of the matrix by the vector that begins at x[at]: more sums at once, as each waits for itself."""
    groups, steps, unit, apart = matrix.inputs // matrix.group, matrix.group // 32, matrix.unit, matrix.apart
    code, far, a, b, c, d = row * groups * steps * unit, (other - row) * groups, zeros(), zeros(), zeros(), zeros()
    for group in range(row * groups, row * groups + groups):
        for _ in range(steps):
            low, high = unpack(matrix.codes, matrix.scale, matrix.minimum, code, group)
            low2, high2 = unpack(matrix.codes, matrix.scale, matrix.minimum, code + far * steps * unit, group + far)
            a, b = multiply_add(low, load(x, at), a), multiply_add(high, load(x, at + apart), b)
            c, d = multiply_add(low2, load(x, at), c), multiply_add(high2, load(x, at + apart), d)
            prefetch(matrix.codes, code + AHEAD)
            prefetch(matrix.codes, code + far * steps * unit + AHEAD)
            code, at = code + unit, at + unit
        at += matrix.group - steps * unit
    return total(a) + total(b), total(c) + total(d)


@inlined
def _four_vectors(matrix: Any, row: Any, x: Any, at: Any) -> Any:
    """A row of the matrix by four vectors that lie behind each other."""
    groups, steps, unit, apart = matrix.inputs // matrix.group, matrix.group // 32, matrix.unit, matrix.apart
    code, a, b, c, d = row * groups * steps * unit, zeros(), zeros(), zeros(), zeros()
    at2, at3, at4 = at + matrix.inputs, at + 2 * matrix.inputs, at + 3 * matrix.inputs
    i = 0
    for group in range(row * groups, row * groups + groups):
        for _ in range(steps):
            low, high = unpack(matrix.codes, matrix.scale, matrix.minimum, code, group)
            a = multiply_add(high, load(x, at + i + apart), multiply_add(low, load(x, at + i), a))
            b = multiply_add(high, load(x, at2 + i + apart), multiply_add(low, load(x, at2 + i), b))
            c = multiply_add(high, load(x, at3 + i + apart), multiply_add(low, load(x, at3 + i), c))
            d = multiply_add(high, load(x, at4 + i + apart), multiply_add(low, load(x, at4 + i), d))
            code, i = code + unit, i + unit
        i += matrix.group - steps * unit
    return total(a), total(b), total(c), total(d)


@lean
def plain_product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """`product` in fp32; nothing is rounded."""
    rows, whole, biased = matrix.rows, count // 4 * 4, len(matrix.bias) > 0
    for o in range(first, last):
        row = layer * rows + o
        bias = matrix.bias[row] if biased else np.float32(0)
        for n in range(0, whole, 4):
            sums = _four_vectors(matrix, row, x, at + n * matrix.inputs)
            for i in range(4):
                put(y, (n + i) * rows + o, sums[i] + bias, added)
    for o in range(first, last, 2):
        row, other = layer * rows + o, layer * rows + min(o + 1, last - 1)
        for n in range(whole, count):
            one, two = _two_rows(matrix, row, other, x, at + n * matrix.inputs)
            put(y, n * rows + o, one + matrix.bias[row] if biased else one, added)
            if other > row:
                put(y, n * rows + o + 1, two + matrix.bias[other] if biased else two, added)


@lean
def _float_product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """`product` in fp32, whatever the weights are in."""
    if count >= MANY:
        panel_product(matrix, layer, first, last, x, at, count, y, added, to, base)
    else:
        plain_product(matrix, layer, first, last, x, at, count, y, added, to, base)


@lean
def _few_bits_product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """`product` where there are instructions for codes, in groups of 32."""
    if matrix.group == 32:
        codes_product(matrix, layer, first, last, x, at, count, y, added, to, base)
    else:
        _float_product(matrix, layer, first, last, x, at, count, y, added, to, base)


def _fastest(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """`product` as this processor is fastest at."""


_options: Any = {"nogil": True, "_nrt": False}
_ways: Any = bfloat_product, _few_bits_product, _float_product


@extending.overload(_fastest, jit_options=_options)
def _choose(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> Any:
    kind, (by_bfloats, by_codes, by_floats) = matrix[0].dtype, (way.py_func for way in _ways)
    if kind in (types.uint8, types.int8):
        return by_codes if CODES else by_floats
    return by_bfloats if kind == types.uint16 and BFLOATS else by_floats


@lean
def product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """y[n, o] = W[o] x[n] + b[o] for outputs first <= o < last of one layer, or y[n, o] += ... when `added`.

    x: (count, inputs) from `at` on; y: (count, rows); both as one dimension. to: a `narrow.Rounded`, of which this
    thread may use what is for vectors base, base + 1, ...
    """
    _fastest(matrix, layer, first, last, x, at, count, y, added, to, base)


@lean
def widen_rows(thread: Any, threads: Any, gate: Any, matrix: Any, first: Any, count: Any, to: Any) -> None:
    """Write rows of a matrix in few bits as numbers, (count, inputs), fp32 or bfloat16; for all threads at once."""
    size, half = matrix.group, matrix.group // 2
    groups = matrix.inputs // size
    for row in range(count * thread // threads, count * (thread + 1) // threads):
        for group in range(groups):
            source, at = (first + row) * groups + group, (row * groups + group) * size
            scale = from_half(matrix.scale, source)
            if matrix.unit == 32:
                for i in range(size):
                    save_number(to, at + i, np.float32(matrix.codes[source * size + i]) * scale)
            else:
                minimum = from_half(matrix.minimum, source)
                for i in range(half):
                    code = matrix.codes[source * half + i]
                    save_number(to, at + i, np.float32(code & 15) * scale + minimum)
                    save_number(to, at + half + i, np.float32(code >> 4 & 15) * scale + minimum)
