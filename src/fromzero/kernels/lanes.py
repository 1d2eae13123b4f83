"""Sixteen fp32 numbers at once, as compiled code has them in a register (or in two, or four, as the machine is).

The compiler finds vectors in simple loops by itself; the inner loops of products are written with these, because it
does not see through weights in few bits. A number of them is of Numba's type `LANES`; arrays are one-dimensional.
"""

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils
from numba.core.imputils import impl_ret_untracked
from numba.extending import models, register_model

from fromzero.kernels.compiling import inlined

intrinsic: Any = extending.intrinsic
WIDTH = 16
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, WIDTH), ir.VectorType(_INT, WIDTH)


class _Lanes(types.Type):
    """Numba's name for them."""

    def __init__(self) -> None:
        super().__init__("lanes")


LANES = _Lanes()


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _read(context: Any, builder: Any, kind: Any, array: Any, at: Any, count: int = WIDTH) -> Any:
    """`count` elements of an array as a vector, wherever they begin."""
    element = context.get_data_type(kind.dtype)
    data = context.make_array(kind)(context, builder, array).data
    wanted = ir.VectorType(element, count) if count > 1 else element
    place = builder.bitcast(builder.gep(data, [at]), wanted.as_pointer())
    return builder.load(place, align=kind.dtype.bitwidth // 8)


def _widened(builder: Any, kind: Any, vector: Any) -> Any:
    """Sixteen numbers as fp32: bfloat16 comes as uint16, and is the upper half of an fp32 number; float16 as int16."""
    if kind.dtype == types.float32:
        return vector
    if kind.dtype == types.int16:
        return builder.fpext(builder.bitcast(vector, ir.VectorType(ir.HalfType(), WIDTH)), _FLOATS)
    if kind.dtype == types.uint16:
        return builder.bitcast(builder.shl(builder.zext(vector, _INTS), _all(16)), _FLOATS)
    return builder.sitofp(builder.sext(vector, _INTS), _FLOATS)


def _all(number: int) -> Any:
    return ir.Constant(_INTS, [number] * WIDTH)


def _spread(builder: Any, value: Any) -> Any:
    """A number in all lanes."""
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, _INT(0))
    return builder.shuffle_vector(first, ir.Constant(_FLOATS, ir.Undefined), _all(0))


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v16f32"), [a, b, c])


def _half(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """An element of an array of float16 (as int16), as fp32."""
    return builder.fpext(builder.bitcast(_read(context, builder, kind, array, at, 1), ir.HalfType()), _FLOAT)


@intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
    """Sixteen elements from `at` on: of fp32, bfloat16 (as uint16), float16 (as int16), or int8."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _widened(builder, array, _read(context, builder, array, *arguments))

    return LANES(array, at), generate


@intrinsic
def unpack(typing: Any, codes: Any, scale: Any, minimum: Any, at: Any, group: Any) -> Any:
    """Twice sixteen weights of 32 that lie together from `at` on in `codes`, by the scale and minimum of their group.

    Those after the first sixteen, or in 4 bits (uint8) those of the high halves.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes_value, scale_value, minimum_value, start, number = arguments
        if codes.dtype == types.uint8:
            packed = builder.zext(_read(context, builder, codes, codes_value, start), _INTS)
            factor, base = (
                _spread(builder, _half(context, builder, kind, value, number))
                for kind, value in ((scale, scale_value), (minimum, minimum_value))
            )
            halves = (builder.and_(packed, _all(15)), builder.lshr(packed, _all(4)))
            pair = [_fused(builder, builder.sitofp(half, _FLOATS), factor, base) for half in halves]
        else:
            starts = (start, builder.add(start, start.type(WIDTH)))
            pair = [_widened(builder, codes, _read(context, builder, codes, codes_value, s)) for s in starts]
            if codes.dtype == types.int8:
                factor = _spread(builder, _half(context, builder, scale, scale_value, number))
                pair = [builder.fmul(half, factor) for half in pair]
        made = context.make_tuple(builder, signature.return_type, pair)
        return impl_ret_untracked(context, builder, signature.return_type, made)

    return types.UniTuple(LANES, 2)(codes, scale, minimum, at, group), generate


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Begin to bring what is there into the cache; it may be behind the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, _INT(0), _INT(3), _INT(1)])
        return context.get_dummy_value()

    return types.void(array, at), generate


@intrinsic
def zeros(typing: Any) -> Any:
    """Nothing in all lanes."""
    return LANES(), lambda context, builder, signature, arguments: ir.Constant(_FLOATS, [0.0] * WIDTH)


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c in each lane."""
    return LANES(a, b, c), lambda context, builder, signature, arguments: _fused(builder, *arguments)


@intrinsic
def total(typing: Any, lanes: Any) -> Any:
    """The sum of all lanes, always in the same order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, width = arguments[0], WIDTH
        while width > 1:
            width //= 2
            low, high = (
                builder.shuffle_vector(
                    vector, vector, ir.Constant(ir.VectorType(_INT, width), list(range(first, first + width)))
                )
                for first in (0, width)
            )
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, _INT(0))

    return types.float32(lanes), generate


@intrinsic
def spread(typing: Any, number: Any) -> Any:
    """A number in all lanes."""
    return LANES(types.float32), lambda context, builder, signature, arguments: _spread(builder, arguments[0])


@intrinsic
def repeat(typing: Any, array: Any, at: Any) -> Any:
    """An element of an array of fp32 in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place = arguments
        return _spread(builder, _read(context, builder, array, values, place, 1))

    return LANES(array, at), generate


@intrinsic
def save(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Put sixteen numbers into an array of fp32, from `at` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(array)(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.bitcast(builder.gep(data, [arguments[1]]), _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, at, lanes), generate


@intrinsic
def save_number(typing: Any, array: Any, at: Any, number: Any) -> Any:
    """Put a number into an array of fp32, or rounded into one of bfloat16 (as uint16)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, place, value = arguments
        if array.dtype == types.uint16:
            bits = builder.bitcast(value, _INT)
            odd = builder.and_(builder.lshr(bits, _INT(16)), _INT(1))  # ties go to even
            rounded = builder.add(bits, builder.add(odd, _INT(0x7FFF)))
            value = builder.trunc(builder.lshr(rounded, _INT(16)), ir.IntType(16))
        data = context.make_array(array)(context, builder, values).data
        builder.store(value, builder.gep(data, [place]))
        return context.get_dummy_value()

    return types.void(array, at, types.float32), generate


@intrinsic
def from_half(typing: Any, array: Any, at: Any) -> Any:
    """An element of an array of float16 (as int16) as fp32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _half(context, builder, array, *arguments)

    return types.float32(array, at), generate


@intrinsic
def as_float(typing: Any, bits: Any) -> Any:
    """The fp32 number that has these bits (int32)."""
    return types.float32(types.int32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], _FLOAT
    )


@intrinsic
def as_integer(typing: Any, number: Any) -> Any:
    """The bits (int32) of an fp32 number."""
    return types.int32(types.float32), lambda context, builder, signature, arguments: builder.bitcast(
        arguments[0], _INT
    )


@intrinsic
def _arrive(typing: Any, gate: Any) -> Any:
    """Add 1 to the first element of `gate` (int64) as one of several threads; what it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(gate)(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, ir.IntType(64)(1), "acq_rel")

    return types.int64(gate), generate


@intrinsic
def _arrived(typing: Any, gate: Any) -> Any:
    """The first element of `gate` as other threads have made it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(gate)(context, builder, arguments[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(gate), generate


_YIELDS = sys.platform != "win32"
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@inlined
def meet(gate: Any, threads: Any) -> Any:
    """Go on when all threads are here. They wait in a loop, as they meet again within microseconds; a thread whose
    partner has lost its core to something else gives up its own meanwhile."""
    goal = (_arrive(gate) // threads + 1) * threads
    spins = 0
    while _arrived(gate) < goal:
        spins += 1
        if _YIELDS and spins > 2000:
            _sched_yield()


@inlined
def put(y: Any, at: Any, value: Any, added: Any) -> None:
    """y[at] = value, or += when `added`."""
    y[at] = y[at] + value if added else value


@inlined
def exponential(x: Any) -> Any:
    """exp(x) in fp32 to its last bit or two, in a form that the compiler makes vectors of (Cephes' expf)."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.int32(x * np.float32(1.44269504) + np.float32(128.5)) - np.int32(128)
    f = np.float32(n)
    x = x - f * np.float32(0.693359375) + f * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4) * x + np.float32(1.3981999507e-3)
    for factor in (8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        y = y * x + np.float32(factor)
    return (y * x * x + x + np.float32(1)) * as_float((n + np.int32(127)) << np.int32(23))
