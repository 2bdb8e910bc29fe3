"""Operations of vector registers for compiled loops, which LLVM does not find by itself: rows of memory as columns, and choosing lanes.

A particle is a row of four numbers. A loop over pairs wants the x of sixteen particles in one register, and so on; read one by one
that costs a load and a shuffle per number, or a slow gather instruction. Sixteen rows are sixteen loads and a transposition.

What the functions do is written here in numpy; :func:`compile_lanes` tells numba how to do it in vector instructions of any width.
Numba's cache on disk knows the file of a loop but not this one: whoever changes it has to touch the files of its callers.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

LANES = 16  # rows that are taken together
_ROW = 4  # numbers in a row


def take_rows(source: NDArray[Any], which: NDArray[Any], first: int, columns: NDArray[Any]) -> None:
    """columns[:4, l] = source[which[first + l]] for all lanes l; source (N, 4), which unsigned integers, columns (4 or more, LANES).

    All arrays in compiled code must be contiguous, and nothing checks their bounds there.
    """
    columns[:_ROW] = source[which[first : first + LANES]].T


def subtract_from_rows(target: NDArray[Any], which: NDArray[Any], first: int, columns: NDArray[Any]) -> None:
    """target[which[first + l], :3] -= columns[:3, l] for all lanes l, one after another; target (N, 4)."""
    for lane, row in enumerate(which[first : first + LANES]):
        target[row, :3] -= columns[:3, lane]


def add_to_row(target: NDArray[Any], row: int, columns: NDArray[Any]) -> None:
    """target[row] += sum over lanes of columns[:4]; target (N, 4)."""
    target[row] += columns[:_ROW].sum(1)


def keep_below(values: NDArray[Any], first: int, limit: float, number: int, out: NDArray[Any], place: int) -> int:
    """out[place:] = number + l for the lanes l with values[first + l] < limit, one after another; returns how many these are.

    Compiled, it writes ``LANES`` numbers, of which the last mean nothing. For NaN no lane is kept. out holds unsigned 32-bit integers.
    """
    kept = np.flatnonzero(values[first : first + LANES] < limit)
    out[place : place + len(kept)] = number + kept
    return len(kept)


def shifted_right(bits: np.uint32, by: np.uint32) -> np.uint32:
    """bits >> by in 32 bits, by < 32; numba's own operator computes in 64, half as many to a register."""
    return np.uint32(bits >> by)


@functools.cache
def compile_lanes() -> None:
    """Make these functions known to numba; called before anything is compiled."""
    from llvmlite import ir
    from numba import types
    from numba.extending import lower_builtin, type_callable

    index = ir.IntType(64)

    def integers(values: list[int]) -> Any:
        return ir.Constant(ir.VectorType(ir.IntType(32), len(values)), values)

    def pointers(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
        """The data of arrays, and integers as they are."""
        return [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else context.cast(builder, value, kind, types.int64)
            for kind, value in zip(sig.args, args)
        ]

    def at(builder: Any, base: Any, offset: Any, many: int) -> Any:
        """Pointer to ``many`` numbers from ``offset`` on."""
        start = builder.gep(base, [offset if isinstance(offset, ir.Value) else ir.Constant(index, offset)])
        return builder.bitcast(start, ir.VectorType(base.type.pointee, many).as_pointer())

    def rows(builder: Any, base: Any, which: Any, first: Any) -> list[Any]:
        """Pointers to the rows that the lanes name."""
        numbers = [builder.load(builder.gep(which, [builder.add(first, ir.Constant(index, lane))])) for lane in range(LANES)]
        return [at(builder, base, builder.mul(builder.zext(k, index), ir.Constant(index, _ROW)), _ROW) for k in numbers]

    def transposed(builder: Any, four: list[Any]) -> list[Any]:
        """Four vectors seen as 4 x 4 blocks one after another, every block transposed: its own inverse."""

        def mix(u: Any, v: Any, pattern: tuple[int, ...]) -> Any:
            return builder.shuffle_vector(
                u, v, integers([block + e % 4 + (LANES if e >= 4 else 0) for block in range(0, LANES, 4) for e in pattern])
            )

        a, b, c, d = four
        low, high, low_, high_ = mix(a, b, (0, 4, 1, 5)), mix(a, b, (2, 6, 3, 7)), mix(c, d, (0, 4, 1, 5)), mix(c, d, (2, 6, 3, 7))
        first, second = (0, 1, 4, 5), (2, 3, 6, 7)
        return [mix(low, low_, first), mix(low, low_, second), mix(high, high_, first), mix(high, high_, second)]

    def joined(builder: Any, parts: list[Any]) -> Any:
        """Vectors one after another as one."""
        while len(parts) > 1:
            width = 2 * parts[0].type.count
            parts = [builder.shuffle_vector(a, b, integers(list(range(width)))) for a, b in zip(parts[::2], parts[1::2])]
        return parts[0]

    def columns_of(builder: Any, base: Any, align: int) -> list[Any]:
        return [builder.load(at(builder, base, column * LANES, LANES), align=align) for column in range(_ROW)]

    def take(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, which, first, out = pointers(context, builder, sig, args)
        align = sig.args[0].dtype.bitwidth // 8
        found = [builder.load(p, align=align) for p in rows(builder, base, which, first)]
        for column, values in enumerate(transposed(builder, [joined(builder, found[m::4]) for m in range(4)])):
            builder.store(values, at(builder, out, column * LANES, LANES), align=align)
        return context.get_dummy_value()

    def subtract(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, which, first, columns = pointers(context, builder, sig, args)
        align = sig.args[0].dtype.bitwidth // 8
        three = columns_of(builder, columns, align)[:3]
        groups = transposed(builder, [*three, ir.Constant(three[0].type, None)])  # group m holds the rows m, m + 4, ...
        for lane, p in enumerate(rows(builder, base, which, first)):
            own = integers([lane // 4 * 4 + e for e in range(_ROW)])
            row = builder.shuffle_vector(groups[lane % 4], groups[lane % 4], own)
            builder.store(builder.fsub(builder.load(p, align=align), row), p, align=align)
        return context.get_dummy_value()

    def add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, row, columns = pointers(context, builder, sig, args)
        align = sig.args[0].dtype.bitwidth // 8
        a, b, c, d = transposed(builder, columns_of(builder, columns, align))
        total, width = builder.fadd(builder.fadd(a, b), builder.fadd(c, d)), LANES
        while width > _ROW:
            width //= 2
            halves = [integers(list(range(start, start + width))) for start in (0, width)]
            total = builder.fadd(*(builder.shuffle_vector(total, total, half) for half in halves))
        p = at(builder, base, builder.mul(row, ir.Constant(index, _ROW)), _ROW)
        builder.store(builder.fadd(builder.load(p, align=align), total), p, align=align)
        return context.get_dummy_value()

    def keep(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, first, limit, number, _, place = args
        data, target = (context.make_array(sig.args[k])(context, builder, args[k]).data for k in (0, 4))
        first, number, place = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (1, 3, 5))
        limit = context.cast(builder, limit, sig.args[2], sig.args[0].dtype)
        many = builder.load(at(builder, data, first, LANES), align=sig.args[0].dtype.bitwidth // 8)
        small = builder.fcmp_ordered("<", many, _spread(builder, limit, LANES))
        numbers = builder.add(_spread(builder, builder.trunc(number, ir.IntType(32)), LANES), integers(list(range(LANES))))
        compress = builder.module.declare_intrinsic(
            f"llvm.experimental.vector.compress.v{LANES}i32",
            fnty=ir.FunctionType(numbers.type, [numbers.type, small.type, numbers.type]),
        )
        kept = builder.call(compress, [numbers, small, ir.Constant(numbers.type, ir.Undefined)])
        builder.store(kept, at(builder, target, place, LANES), align=4)
        return builder.zext(builder.ctpop(builder.bitcast(small, ir.IntType(LANES))), index)

    def shift(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.lshr(*args)

    def with_two(context: Any) -> Any:
        return lambda bits, by: types.uint32

    def with_six(context: Any) -> Any:
        return lambda values, first, limit, number, out, place: types.int64

    def with_four(context: Any) -> Any:
        return lambda rows, which, first, columns: types.void

    def with_three(context: Any) -> Any:
        return lambda rows, row, columns: types.void

    array, integer = types.Array, types.Integer
    type_callable(shifted_right)(with_two)
    type_callable(keep_below)(with_six)
    lower_builtin(shifted_right, types.uint32, types.uint32)(shift)
    lower_builtin(keep_below, array, integer, types.Float, integer, array, integer)(keep)
    type_callable(take_rows)(with_four)
    type_callable(subtract_from_rows)(with_four)
    type_callable(add_to_row)(with_three)
    lower_builtin(take_rows, array, array, integer, array)(take)
    lower_builtin(subtract_from_rows, array, array, integer, array)(subtract)
    lower_builtin(add_to_row, array, integer, array)(add)


def _spread(builder: Any, value: Any, many: int) -> Any:
    """A number in every lane."""
    from llvmlite import ir

    vector = ir.VectorType(value.type, many)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), many), [0] * many))
