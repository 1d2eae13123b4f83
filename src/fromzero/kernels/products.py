"""y = x W^T for few rows x: each weight is read once from memory, widened in registers, and used for all rows.

The weights of all layers lie behind each other in one array, so that a whole step needs few arguments.
"""

from typing import Any, NamedTuple

import numpy as np

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.lanes import load, multiply_add, total, unpack, zeros


class Matrix(NamedTuple):
    """Matrices (rows, inputs) of all layers: fp32, bfloat16 (as uint16), 8 bits (int8) or 4 bits (uint8)."""

    codes: Any
    """One-dimensional."""
    scale: Any
    """float16 (as uint16) of each group of inputs, in 4 and 8 bits."""
    minimum: Any
    """The same in 4 bits."""
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
def dot(matrix: Any, row: Any, x: Any, at: Any) -> Any:
    """A row of the matrix by the vector that begins at x[at]."""
    first, second = zeros(), zeros()
    code, group = row * (matrix.inputs // 32) * matrix.unit, row * (matrix.inputs // matrix.group)
    for start in range(at, at + matrix.inputs, matrix.group):
        for i in range(start, start + matrix.group // 32 * matrix.unit, matrix.unit):
            low, high = unpack(matrix.codes, matrix.scale, matrix.minimum, code, group)
            first = multiply_add(low, load(x, i), first)
            second = multiply_add(high, load(x, i + matrix.apart), second)
            code += matrix.unit
        group += 1
    return total(first) + total(second)


@inlined
def four_dots(matrix: Any, row: Any, x: Any, at: Any) -> Any:
    """A row of the matrix by four vectors that lie behind each other."""
    a, b, c, d = zeros(), zeros(), zeros(), zeros()
    code, group, width = row * (matrix.inputs // 32) * matrix.unit, row * (matrix.inputs // matrix.group), matrix.inputs
    for start in range(at, at + width, matrix.group):
        for i in range(start, start + matrix.group // 32 * matrix.unit, matrix.unit):
            low, high = unpack(matrix.codes, matrix.scale, matrix.minimum, code, group)
            j = i + matrix.apart
            a = multiply_add(high, load(x, j), multiply_add(low, load(x, i), a))
            b = multiply_add(high, load(x, j + width), multiply_add(low, load(x, i + width), b))
            c = multiply_add(high, load(x, j + 2 * width), multiply_add(low, load(x, i + 2 * width), c))
            d = multiply_add(high, load(x, j + 3 * width), multiply_add(low, load(x, i + 3 * width), d))
            code += matrix.unit
        group += 1
    return total(a), total(b), total(c), total(d)


@lean
def product(matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any) -> Any:
    """y[n, o] = W[o] x[n] + b[o] for outputs first <= o < last of one layer, or y[n, o] += ... when `added`.

    x: (count, inputs) from `at` on; y: (count, rows); both as one dimension.
    """
    rows, whole = matrix.rows, count // 4 * 4
    for o in range(first, last):
        row = layer * rows + o
        bias = matrix.bias[row] if len(matrix.bias) else np.float32(0)
        for n in range(0, whole, 4):
            sums = four_dots(matrix, row, x, at + n * matrix.inputs)
            for i in range(4):
                _set(y, (n + i) * rows + o, sums[i] + bias, added)
        for n in range(whole, count):
            _set(y, n * rows + o, dot(matrix, row, x, at + n * matrix.inputs) + bias, added)


@inlined
def _set(y: Any, at: Any, value: Any, added: Any) -> None:
    y[at] = y[at] + value if added else value
