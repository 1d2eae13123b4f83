"""Products of narrow numbers, for processors that have instructions for them: 8-bit codes (VNNI), bfloat16 (BF16).

The vector x of a product is rounded to what the instruction takes. For weights in few bits it is 8 bits with a scale
for each 32 inputs, as llama.cpp has it (Q8_1), an error of at most 1/254 of the largest of them; beside weights in
bfloat16 it is bfloat16, as torch has it. A product with codes u is then one of integers for each group g of inputs:
sum_i (s_g u_i + m_g) x_i = sum_g s_g t_g (u . z)_g + sum_g m_g t_g sum(z)_g, with x = t_g z.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, extending, types
from numba.core import cgutils

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.lanes import LANES, load, multiply_add, prefetch, put, spread, total, zeros

intrinsic: Any = extending.intrinsic
_changed = [
    getattr(config, name, None) for name in ("CPU_NAME", "CPU_FEATURES")
]  # Numba is told to compile for another
_HOST = llvm.get_host_cpu_features() if getattr(config, "ENABLE_AVX", True) and not any(_changed) else {}
CODES, BFLOATS = (bool(_HOST.get(name)) and bool(_HOST.get("avx512bw")) for name in ("avx512vnni", "avx512bf16"))
"""Whether this processor multiplies 8-bit codes, and bfloat16."""
_BYTE, _INT, _FLOAT, _HALF = ir.IntType(8), ir.IntType(32), ir.FloatType(), ir.HalfType()
_INTS, _FLOATS = ir.VectorType(_INT, 16), ir.VectorType(_FLOAT, 16)


class _BFloat(ir.Type):
    """What llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_BFLOATS = ir.VectorType(_BFloat(), 32)


AHEAD = 4096  # bytes of weights that are on their way from memory


class Rounded(NamedTuple):
    """Where threads put vectors as products want them; of each array every thread has a share."""

    codes: Any
    """int8, or the bytes of bfloat16."""
    scales: Any
    """fp32, as often as an instruction has lanes for it."""
    sums: Any
    """fp32, what minima of groups are to be times."""
    panels: Any
    """fp32, vectors as they are, upright; see `kernels.panels`."""


def room_for_rounded(vectors: int, inputs: int) -> Rounded:
    """Arrays that are large enough for so many vectors, of all threads."""
    codes, scales, sums = sizes(inputs)
    kinds = (2 * codes, np.int8), (scales, np.float32), (sums, np.float32), (inputs, np.float32)
    return Rounded(*[np.zeros(vectors * size, kind) for size, kind in kinds])


@inlined
def sizes(inputs: Any) -> Any:
    """Codes, scales and sums of a vector in 8 bits: whole instructions."""
    return (inputs + 127) // 128 * 128, (inputs + 127) // 128 * 32, (inputs + 511) // 512 * 16


def _place(context: Any, builder: Any, kind: Any, where: Sequence[Any], wanted: Any) -> Any:
    """Where an element is (`where`: array and index), as a pointer to what is `wanted` there."""
    data = context.make_array(kind)(context, builder, where[0]).data
    return builder.bitcast(builder.gep(data, [where[1]]), wanted.as_pointer())


def _all(number: int) -> Any:
    return ir.Constant(_INTS, [number] * 16)


@intrinsic
def _largest(typing: Any, a: Any, b: Any) -> Any:
    """The largest absolute value in two times sixteen numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        absolute = [builder.and_(builder.bitcast(lanes, _INTS), _all(0x7FFFFFFF)) for lanes in arguments]
        vector = builder.select(builder.icmp_unsigned(">", *absolute), *absolute)  # their order is that of their bits
        kind = ir.FunctionType(_INT, [_INTS])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.vector.reduce.umax.v16i32")
        return builder.bitcast(builder.call(function, [vector]), _FLOAT)

    return types.float32(a, b), generate


@intrinsic
def _save_codes(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Round sixteen numbers into int8 codes; gives the rounded numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place, vector = arguments
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), "llvm.rint.v16f32"
        )
        rounded, bytes_ = builder.call(function, [vector]), ir.VectorType(_BYTE, 16)
        codes = builder.trunc(builder.fptosi(rounded, _INTS), bytes_)
        builder.store(codes, _place(context, builder, array, (values, place), bytes_), align=1)
        return rounded

    return LANES(array, at, lanes), generate


@intrinsic
def _save_bfloats(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Round sixteen numbers to bfloat16, ties to even, and put them at byte `at`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place, vector = arguments
        bits, shorts = builder.bitcast(vector, _INTS), ir.VectorType(ir.IntType(16), 16)
        odd = builder.and_(builder.lshr(bits, _all(16)), _all(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, _all(0x7FFF))), _all(16))
        target = _place(context, builder, array, (values, place), shorts)
        builder.store(builder.trunc(rounded, shorts), target, align=1)
        return context.get_dummy_value()

    return types.void(array, at, lanes), generate


def _multiplied(builder: Any, sums: Any, codes: Any, x: Any) -> Any:
    """Add four products of unsigned and signed bytes to each of sixteen sums."""
    kind = ir.FunctionType(_INTS, [_INTS] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpdpbusd.512")
    return builder.call(function, [sums, codes, x])


@intrinsic
def _group_sums(typing: Any, codes: Any, at: Any, x: Any, place: Any) -> Any:
    """64 bytes of codes by what belongs to them in x: 4 lanes a group in 4 bits, 8 lanes a group in 8 bits, as fp32."""
    four = codes.dtype == types.uint8

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        packed = builder.load(_place(context, builder, codes, arguments[:2], _INTS), align=1)
        if not four:
            unsigned = [builder.xor(packed, _all(-0x7F7F7F80))]  # 128 more
        else:
            unsigned = [builder.and_(part, _all(0x0F0F0F0F)) for part in (packed, builder.lshr(packed, _all(4)))]
        sums = _all(0)
        for number, part in enumerate(unsigned):
            start = builder.add(arguments[3], arguments[3].type(64 * number))
            sums = _multiplied(
                builder, sums, part, builder.load(_place(context, builder, x, (arguments[2], start), _INTS), align=1)
            )
        return builder.sitofp(sums, _FLOATS)

    return LANES(codes, at, x, place), generate


@intrinsic
def _group_scales(typing: Any, codes: Any, scale: Any, at: Any) -> Any:
    """The scales of these groups, in all of their lanes."""
    groups = 4 if codes.dtype == types.uint8 else 2

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wanted = ir.VectorType(_HALF, groups)
        halves = builder.load(_place(context, builder, scale, arguments[1:], wanted), align=2)
        few = builder.fpext(halves, ir.VectorType(_FLOAT, groups))
        return builder.shuffle_vector(few, few, ir.Constant(_INTS, [lane * groups // 16 for lane in range(16)]))

    return LANES(codes, scale, at), generate


@intrinsic
def _bfloat_sums(typing: Any, codes: Any, at: Any, x: Any, place: Any, sums: Any) -> Any:
    """Add the products of 32 weights with x from byte `place` on, two to each lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS, _BFLOATS, _BFLOATS])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        pair = [
            builder.load(_place(context, builder, array, where, _BFLOATS), align=1)
            for array, where in ((codes, arguments[:2]), (x, arguments[2:4]))
        ]
        return builder.call(function, [arguments[4], *pair])

    return LANES(codes, at, x, place, sums), generate


@inlined
def _round(four: Any, inputs: Any, x: Any, at: Any, to: Any, code: Any, scale: Any, sum_: Any) -> None:
    """A vector in 8 bits: where codes of weights have it, with as many scales, and what their minima are to be times.

    What is behind its end, up to a whole number of instructions, is 0.
    """
    groups, each = inputs // 32, 4 if four else 8
    apart = 64 if four else 16
    for g in range((inputs + 127) // 128 * 4):
        place = code + (g // 4 * 128 + g % 4 * 16 if four else g * 32)
        factor, sums = np.float32(0), np.float32(0)
        if g < groups:
            a, b = load(x, at + 32 * g), load(x, at + 32 * g + 16)
            largest = _largest(a, b)
            factor = largest / np.float32(127)
            back = spread(np.float32(127) / largest if largest > np.float32(1e-30) else np.float32(0))
            low = _save_codes(to.codes, place, multiply_add(a, back, zeros()))
            high = _save_codes(to.codes, place + apart, multiply_add(b, back, zeros()))
            sums = (total(low) + total(high)) * factor
        else:
            _save_codes(to.codes, place, zeros())
            _save_codes(to.codes, place + apart, zeros())
        for lane in range(each):
            to.scales[scale + g * each + lane] = factor
        to.sums[sum_ + g] = sums if four else np.float32(-128) * sums  # codes of 8 bits are taken as 128 more
    for g in range((inputs + 127) // 128 * 4, (inputs + 511) // 512 * 16):
        to.sums[sum_ + g] = np.float32(0)


@inlined
def _by_groups(matrix: Any, group: Any, block: Any, to: Any, n: Any, base: Any, before: Any) -> Any:
    """Add what a block of 64 bytes of codes, which begins with this group, and vector n give."""
    codes, scales, _ = sizes(matrix.inputs)
    vector, each = base + n, 64 // matrix.unit
    weights = _group_scales(matrix.codes, matrix.scale, group)
    factors = multiply_add(weights, load(to.scales, vector * scales + 16 * block), zeros())
    start = vector * codes + 32 * each * block
    return multiply_add(_group_sums(matrix.codes, group * matrix.unit, to.codes, start), factors, before)


@inlined
def _by_minima(matrix: Any, group: Any, to: Any, n: Any, base: Any, sums: Any) -> Any:
    """What the minima of a row give, and all of `sums`: the product."""
    start = (base + n) * sizes(matrix.inputs)[2]
    for g in range(0, matrix.inputs // 32, 16):
        sums = multiply_add(load(matrix.minimum, group + g), load(to.sums, start + g), sums)
    return total(sums)


@lean
def codes_product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """`products.product` with weights in few bits."""
    codes, scales, sums = sizes(matrix.inputs)
    for n in range(count):
        place = (base + n) * codes, (base + n) * scales, (base + n) * sums
        _round(matrix.unit == 16, matrix.inputs, x, at + n * matrix.inputs, to, place[0], place[1], place[2])
    groups, each, whole, rows = matrix.inputs // 32, 64 // matrix.unit, count // 4 * 4, matrix.rows
    for o in range(first, last, 2):
        group, other = (layer * rows + o) * groups, (layer * rows + min(o + 1, last - 1)) * groups
        for n in range(0, whole, 4):
            a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
            for block in range((groups + each - 1) // each):
                place_a, place_b = group + block * each, other + block * each
                a = _by_groups(matrix, place_a, block, to, n, base, a)
                b = _by_groups(matrix, place_a, block, to, n + 1, base, b)
                c = _by_groups(matrix, place_a, block, to, n + 2, base, c)
                d = _by_groups(matrix, place_a, block, to, n + 3, base, d)
                e = _by_groups(matrix, place_b, block, to, n, base, e)
                f = _by_groups(matrix, place_b, block, to, n + 1, base, f)
                g = _by_groups(matrix, place_b, block, to, n + 2, base, g)
                h = _by_groups(matrix, place_b, block, to, n + 3, base, h)
            four = (a, b, c, d), (e, f, g, h)
            for i in range(4):
                _put(matrix, y, n + i, layer, o, _by_minima(matrix, group, to, n + i, base, four[0][i]), added)
                if other > group:
                    _put(matrix, y, n + i, layer, o + 1, _by_minima(matrix, other, to, n + i, base, four[1][i]), added)
        for n in range(whole, count):
            a, b = zeros(), zeros()
            for block in range((groups + each - 1) // each):
                a = _by_groups(matrix, group + block * each, block, to, n, base, a)
                b = _by_groups(matrix, other + block * each, block, to, n, base, b)
                prefetch(matrix.codes, (group + block * each) * matrix.unit + AHEAD)
                prefetch(matrix.codes, (other + block * each) * matrix.unit + AHEAD)
            _put(matrix, y, n, layer, o, _by_minima(matrix, group, to, n, base, a), added)
            if other > group:
                _put(matrix, y, n, layer, o + 1, _by_minima(matrix, other, to, n, base, b), added)


@lean
def bfloat_product(
    matrix: Any, layer: Any, first: Any, last: Any, x: Any, at: Any, count: Any, y: Any, added: Any, to: Any, base: Any
) -> None:
    """`products.product` with weights in bfloat16."""
    inputs, whole, start, rows = matrix.inputs, count // 4 * 4, 2 * base * matrix.inputs, matrix.rows
    wide = 2 * inputs  # bytes of a vector
    for i in range(0, count * inputs, 16):
        _save_bfloats(to.codes, start + 2 * i, load(x, at + i))
    for o in range(first, last, 2):
        row, other = (layer * rows + o) * inputs, (layer * rows + min(o + 1, last - 1)) * inputs
        for n in range(0, whole, 4):
            a, b, c, d, e, f, g, h = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
            for i in range(0, inputs, 32):
                place = start + n * wide + 2 * i
                a = _bfloat_sums(matrix.codes, row + i, to.codes, place, a)
                b = _bfloat_sums(matrix.codes, row + i, to.codes, place + wide, b)
                c = _bfloat_sums(matrix.codes, row + i, to.codes, place + 2 * wide, c)
                d = _bfloat_sums(matrix.codes, row + i, to.codes, place + 3 * wide, d)
                e = _bfloat_sums(matrix.codes, other + i, to.codes, place, e)
                f = _bfloat_sums(matrix.codes, other + i, to.codes, place + wide, f)
                g = _bfloat_sums(matrix.codes, other + i, to.codes, place + 2 * wide, g)
                h = _bfloat_sums(matrix.codes, other + i, to.codes, place + 3 * wide, h)
            four = (a, b, c, d), (e, f, g, h)
            for i in range(4):
                _put(matrix, y, n + i, layer, o, total(four[0][i]), added)
                if other > row:
                    _put(matrix, y, n + i, layer, o + 1, total(four[1][i]), added)
        for n in range(whole, count):
            a, b, place = zeros(), zeros(), start + n * wide
            for i in range(0, inputs, 32):
                a = _bfloat_sums(matrix.codes, row + i, to.codes, place + 2 * i, a)
                b = _bfloat_sums(matrix.codes, other + i, to.codes, place + 2 * i, b)
                prefetch(matrix.codes, row + i + AHEAD // 2)
                prefetch(matrix.codes, other + i + AHEAD // 2)
            _put(matrix, y, n, layer, o, total(a), added)
            if other > row:
                _put(matrix, y, n, layer, o + 1, total(b), added)


@inlined
def _put(matrix: Any, y: Any, n: Any, layer: Any, o: Any, value: Any, added: Any) -> None:
    """Output o of vector n."""
    if len(matrix.bias):
        value += matrix.bias[layer * matrix.rows + o]
    put(y, n * matrix.rows + o, value, added)
