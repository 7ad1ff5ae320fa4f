"""Two vector instructions that numba does not offer, as LLVM vectors: they become whatever the processor has.

numba vectorises simple loops by itself, but it keeps no tile of sums in registers and moves a transposed tile number by
number. Both are what the sparse products spend their time on (pipeline.kernels.sparse).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

TILE = 64  # numbers summed side by side: eight registers of AVX2, four of AVX-512
BLOCK = 8  # rows and columns of a block that is transposed at once
EPS = float(np.finfo(np.float32).eps)  # what RMSNorm adds to the mean square: torch's own default

BITS = np.float32(np.log2(np.e))  # in a nat
ROUNDER = 1.5 * 2**23  # a float32 with no room for a fraction: what is added to it is rounded to whole numbers
_INT = ir.IntType(64)


@intrinsic
def add_rows(
    typing: Any, out: Any, at: Any, rows: Any, stride: Any, offset: Any,
    index: Any, index_at: Any, scale: Any, scale_at: Any, n: Any,
) -> Any:  # fmt: skip
    """``out[at:][:TILE] += scale[scale_at + p] * rows[index[index_at + p] * stride + offset:][:TILE]``, p in range(n).

    ``out``, ``rows``, ``scale`` are flat float32 arrays, ``index`` int32. The sums stay in registers from first to
    last.
    """
    signature = types.void(out, at, rows, stride, offset, index, index_at, scale, scale_at, n)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out, at, rows, stride, offset, index, index_at, scale, scale_at, n = _values(context, b, signature, args)
        index, scale = b.gep(index, [index_at]), b.gep(scale, [scale_at])
        target = _vector_at(b, out, at, TILE)
        before = _load(b, target)
        entry, loop, done = b.block, b.append_basic_block("row"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", _INT(0), n), loop, done)
        b.position_at_end(loop)
        p, total = b.phi(_INT), b.phi(before.type)
        row = b.mul(b.sext(b.load(b.gep(index, [p])), _INT), stride)
        values = _load(b, _vector_at(b, rows, b.add(row, offset), TILE))
        product = b.fmul(_splat(b, b.load(b.gep(scale, [p])), TILE), values, flags=["contract"])
        after, following = b.fadd(total, product, flags=["contract"]), b.add(p, _INT(1))
        b.cbranch(b.icmp_signed("<", following, n), loop, done)
        for phi, first, later in ((p, _INT(0), following), (total, before, after)):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        b.position_at_end(done)
        result = b.phi(before.type)
        result.add_incoming(before, entry)
        result.add_incoming(after, loop)
        b.store(result, target).align = 4
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_to_rows(
    typing: Any, out: Any, row: Any, row_at: Any, index: Any, index_at: Any, scale: Any, scale_at: Any, n: Any
) -> Any:
    """``out[index[index_at + p] * TILE:][:TILE] += scale[scale_at + p] * row[row_at:][:TILE]``, p in range(n).

    ``out``, ``row``, ``scale`` are flat float32 arrays, ``index`` int32. The row stays in registers.
    """
    signature = types.void(out, row, row_at, index, index_at, scale, scale_at, n)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out, row, row_at, index, index_at, scale, scale_at, n = _values(context, b, signature, args)
        index, scale = b.gep(index, [index_at]), b.gep(scale, [scale_at])
        values = _load(b, _vector_at(b, row, row_at, TILE))
        entry, loop, done = b.block, b.append_basic_block("place"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", _INT(0), n), loop, done)
        b.position_at_end(loop)
        p = b.phi(_INT)
        target = _vector_at(b, out, b.mul(b.sext(b.load(b.gep(index, [p])), _INT), _INT(TILE)), TILE)
        product = b.fmul(_splat(b, b.load(b.gep(scale, [p])), TILE), values, flags=["contract"])
        b.store(b.fadd(_load(b, target), product, flags=["contract"]), target).align = 4
        following = b.add(p, _INT(1))
        b.cbranch(b.icmp_signed("<", following, n), loop, done)
        p.add_incoming(_INT(0), entry)
        p.add_incoming(following, loop)
        b.position_at_end(done)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot_rows(typing: Any, one: Any, at: Any, other: Any, other_at: Any) -> Any:
    """The product of ``one[at:][:TILE]`` with ``other[other_at:][:TILE]``, float32, summed in halves: in one order."""
    signature = types.float32(one, at, other, other_at)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        one, at, other, other_at = _values(context, b, signature, args)
        total = b.fmul(_load(b, _vector_at(b, one, at, TILE)), _load(b, _vector_at(b, other, other_at, TILE)))
        n = TILE // 2
        while n:
            low, high = (_shuffle(b, total, total, tuple(range(first, first + n))) for first in (0, n))
            total, n = b.fadd(low, high), n // 2
        return b.extract_element(total, ir.IntType(32)(0))

    return signature, codegen


@intrinsic
def transpose_block(typing: Any, source: Any, at: Any, stride: Any, out: Any, to: Any, out_stride: Any) -> Any:
    """Write the BLOCK × BLOCK numbers (float32, int16) from ``source[at]``, rows ``stride`` apart, transposed to
    ``out[to]``."""
    signature = types.void(source, at, stride, out, to, out_stride)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        source, at, stride, out, to, out_stride = _values(context, b, signature, args)
        rows = [_load(b, _vector_at(b, source, b.add(at, b.mul(_INT(i), stride)), BLOCK)) for i in range(BLOCK)]
        for i, column in enumerate((_transposed if source.type.pointee == ir.FloatType() else _dealt)(b, rows)):
            b.store(column, _vector_at(b, out, b.add(to, b.mul(_INT(i), out_stride)), BLOCK)).align = 2
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def raise_to(typing: Any, out: Any, values: Any, at: Any) -> Any:
    """``out[:TILE] = maximum(out[:TILE], values[at:][:TILE])``, float32."""
    signature = types.void(out, values, at)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        out, values, at = _values(context, b, signature, args)
        target = _vector_at(b, out, _INT(0), TILE)
        old, new = _load(b, target), _load(b, _vector_at(b, values, at, TILE))
        b.store(b.select(b.fcmp_ordered(">", new, old), new, old), target).align = 4
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def multiply_differences(typing: Any, values: Any, at: Any, less: Any, factors: Any) -> Any:
    """``values[at:][:TILE] = (values[at:][:TILE] - less[:TILE]) * factors[at:][:TILE]``, float32."""
    signature = types.void(values, at, less, factors)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        values, at, less, factors = _values(context, b, signature, args)
        target = _vector_at(b, values, at, TILE)
        difference = b.fsub(_load(b, target), _load(b, _vector_at(b, less, _INT(0), TILE)))
        b.store(b.fmul(difference, _load(b, _vector_at(b, factors, at, TILE))), target).align = 4
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def exp2_differences(typing: Any, values: Any, at: Any, less: Any) -> Any:
    """``values[at:][:TILE] = 2 ** (values[at:][:TILE] - less[:TILE])``, float32, within 3e-7; 0 under 2**-126."""
    signature = types.void(values, at, less)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        values, at, less = _values(context, b, signature, args)
        for i in range(0, TILE, 2 * BLOCK):  # few enough at a time that all of it stays in registers
            target = _vector_at(b, values, b.add(at, _INT(i)), 2 * BLOCK)
            difference = b.fsub(_load(b, target), _load(b, _vector_at(b, less, _INT(i), 2 * BLOCK)))
            b.store(_exp2(b, difference), target).align = 4
        return context.get_dummy_value()

    return signature, codegen


def _exp2(b: Any, x: Any) -> Any:
    """2ˣ = 2ⁿ · 2ᶠ with n whole and |f| ≤ 1/2; 2ᶠ by its series, whose terms past the sixth are below rounding.

    ROUNDER has no room for a fraction: with x added, its lowest bits are n, which are shifted into the exponent.
    """

    def constant(value: float) -> Any:
        return ir.Constant(x.type, [value] * x.type.count)

    whole = ir.VectorType(ir.IntType(32), x.type.count)
    rounded = b.fadd(x, constant(ROUNDER))
    f = b.fsub(x, b.fsub(rounded, constant(ROUNDER)))
    series = constant(math.log(2) ** 6 / math.factorial(6))
    for i in range(5, -1, -1):
        term = constant(math.log(2) ** i / math.factorial(i))
        series = b.fadd(b.fmul(series, f, flags=["contract"]), term, flags=["contract"])
    n = b.shl(b.bitcast(rounded, whole), ir.Constant(whole, [23] * x.type.count))
    power = b.bitcast(b.add(b.bitcast(series, whole), n), x.type)
    return b.select(b.fcmp_ordered(">=", x, constant(-126.0)), power, constant(0.0))


@intrinsic
def nonzero_bits(typing: Any, values: Any, at: Any) -> Any:
    """A bit for each of the TILE numbers (float32, uint8) from ``values[at]``, the first the lowest: 1 if not zero."""
    signature = types.int64(values, at)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        pointer, at = _values(context, b, signature, args)
        vector = _load(b, _vector_at(b, pointer, at, TILE))
        differs = b.fcmp_unordered if signature.args[0].dtype == types.float32 else b.icmp_unsigned
        return b.bitcast(differs("!=", vector, ir.Constant(vector.type, None)), _INT)

    return signature, codegen


@intrinsic
def bits_at_least(typing: Any, values: Any, at: Any, bound: Any) -> Any:
    """A bit for each of the TILE magnitudes from ``values[at]``, the first the lowest: 1 if not below ``bound``.

    Both are bit patterns of float32 (int32).
    """
    signature = types.int64(values, at, bound)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        pointer, at, bound = _values(context, b, signature, args)
        vector = _load(b, _vector_at(b, pointer, at, TILE))
        magnitude = b.and_(vector, ir.Constant(vector.type, [0x7FFFFFFF] * TILE))
        least = b.insert_element(ir.Constant(vector.type, ir.Undefined), b.trunc(bound, ir.IntType(32)), _INT(0))
        return b.bitcast(b.icmp_signed(">=", magnitude, _shuffle(b, least, least, (0,) * TILE)), _INT)

    return signature, codegen


@intrinsic
def keep_by_bits(typing: Any, values: Any, at: Any, bits: Any, out: Any) -> Any:
    """``out[at:][:TILE] = values[at:][:TILE]`` where the number's bit of the int64 ``bits`` is 1, else 0."""
    signature = types.void(values, at, bits, out)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        values, at, bits, out = _values(context, b, signature, args)
        vector = _load(b, _vector_at(b, values, at, TILE))
        keep = b.bitcast(bits, ir.VectorType(ir.IntType(1), TILE))
        b.store(b.select(keep, vector, ir.Constant(vector.type, None)), _vector_at(b, out, at, TILE)).align = 1
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def lowest_bit(typing: Any, bits: Any) -> Any:
    """The place of the lowest 1 of ``bits``, an int64 that is not 0."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), codegen


def _transposed(b: Any, r: list[Any]) -> list[Any]:
    """Eight rows of eight → eight columns, in three rounds of shuffles that stay in 128-bit halves until the last."""
    low, high = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
    t = [_shuffle(b, r[i], r[i + 1], order) for i in (0, 2, 4, 6) for order in (low, high)]
    low, high = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
    u = [_shuffle(b, t[i], t[i + 2], order) for i in (0, 1, 4, 5) for order in (low, high)]
    low, high = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)
    return [_shuffle(b, u[i], u[i + 4], order) for order in (low, high) for i in range(4)]


def _dealt(b: Any, r: list[Any]) -> list[Any]:
    """The same of 16-bit numbers, whose rows are 128 bits: three rounds in which a row of the lower half and one of the
    upper are dealt into two."""
    low, high = (0, 8, 1, 9, 2, 10, 3, 11), (4, 12, 5, 13, 6, 14, 7, 15)
    for _ in range(3):
        r = [_shuffle(b, r[i], r[i + 4], order) for i in range(4) for order in (low, high)]
    return r


def _values(context: Any, b: Any, signature: Any, args: Any) -> list[Any]:
    """Pointers of the arrays among the arguments, and the numbers as 64-bit integers."""
    return [
        context.make_array(kind)(context, b, value).data
        if isinstance(kind, types.Array)
        else context.cast(b, value, kind, types.int64)
        for kind, value in zip(signature.args, args, strict=True)
    ]


def _vector_at(b: Any, pointer: Any, index: Any, n: int) -> Any:
    return b.bitcast(b.gep(pointer, [index]), ir.VectorType(pointer.type.pointee, n).as_pointer())


def _load(b: Any, pointer: Any) -> Any:
    vector = b.load(pointer)
    vector.align = 1
    return vector


def _shuffle(b: Any, x: Any, y: Any, order: tuple[int, ...]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order)))


def _splat(b: Any, number: Any, n: int) -> Any:
    empty = ir.Constant(ir.VectorType(ir.FloatType(), n), ir.Undefined)
    return _shuffle(b, b.insert_element(empty, number, ir.IntType(32)(0)), empty, (0,) * n)
