"""The LSTM cell on the nodes of one depth of a prefix tree, in vector instructions: forward, kept, backward.

A node's gates lie side by side, (nodes, 4 width) float32 in the order input, forget, cell, output; states are
(nodes, width). The width is a multiple of :data:`UNIT`; units that only pad stay exactly zero. Numba runs the
loops over nodes, the arithmetic on a vector of units is emitted here: what its vectoriser makes of the same
formulas takes three times as long.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pipeline.kernels.vector import CONTRACT, FLOAT, LANES, load, multiply_add, store

Array = Any  # numpy arrays: numba infers the types
UNIT = 8  # hidden units are padded to a multiple of this: float32 in a 256-bit register
LIMIT = 25.0  # exponents are clamped to this, so that products of three powers stay finite
# 2^f = 1 + f (...) for |f| <= 1/2, the least relative error (1e-7) among polynomials that are 1 at 0.
_POWER_OF_TWO = (0.6931469775987168, 0.24022242084634776, 0.05550733743574546, 0.009671512688175565, 0.00132647272)
_FACTORS = (-1.0, -1.0, -2.0, -1.0)  # of a gate in its exponent: 1 / (1 + e^-x), and tanh's (1 - e^-2x) / (1 + e^-2x)
_ROUND = 1.5 * 2.0**23  # added to a float below 2^22, leaves its nearest integer in the low bits

_declared: Any = cgutils.get_or_insert_function
inline: Any = numba.njit(inline="always")
_f32, _i32, _i16, _i8 = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(8)


# Numba marks every instruction without flags as free to be reordered, which would undo the rounding in _power.
def _fadd(builder: Any, x: Any, y: Any) -> Any:
    return builder.fadd(x, y, flags=CONTRACT)


def _fsub(builder: Any, x: Any, y: Any) -> Any:
    return builder.fsub(x, y, flags=CONTRACT)


def _fmul(builder: Any, x: Any, y: Any) -> Any:
    return builder.fmul(x, y, flags=CONTRACT)


def _fdiv(builder: Any, x: Any, y: Any) -> Any:
    return builder.fdiv(x, y, flags=CONTRACT)


def _like(value: Any, number: float) -> ir.Constant:
    """`number` as a constant of the type of `value`, a float or a vector of them."""
    kind = value.type
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _power(builder: Any, x: Any, factor: float, limit: float) -> Any:
    """Emit e^(factor x), the exponent clamped to +-`limit` <= 80; exactly 1 at 0, NaN stays NaN."""
    most = limit * math.log2(math.e)
    z = _fmul(builder, x, _like(x, factor * math.log2(math.e)))
    high, low = _like(x, most), _like(x, -most)
    z = builder.select(builder.fcmp_ordered(">", z, high, flags=CONTRACT), high, z)
    z = builder.select(builder.fcmp_ordered("<", z, low, flags=CONTRACT), low, z)
    shifted = _fadd(builder, z, _like(x, _ROUND))
    f = _fsub(builder, z, _fsub(builder, shifted, _like(x, _ROUND)))
    p = _like(x, _POWER_OF_TWO[-1])
    for coefficient in (*_POWER_OF_TWO[-2::-1], 1.0):
        p = multiply_add(builder, p, f, _like(x, coefficient))
    integers = ir.VectorType(_i32, x.type.count) if isinstance(x.type, ir.VectorType) else _i32
    bits = [23] * x.type.count if isinstance(x.type, ir.VectorType) else 23
    exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, bits))
    return builder.bitcast(builder.add(builder.bitcast(p, integers), exponent), x.type)


def _reciprocal(builder: Any, x: Any) -> Any:
    """Emit 1 / x: the CPU's estimate and a step of Newton's where there is one of 14 bits, else a division."""
    one = _like(x, 1.0)
    if LANES == UNIT:
        return _fdiv(builder, one, x)
    kind, mask = x.type, _i16 if x.type.count == 16 else _i8
    name = f"llvm.x86.avx512.rcp14.ps.{32 * kind.count}"
    function = _declared(builder.module, ir.FunctionType(kind, [kind, kind, mask]), name)
    estimate = builder.call(function, [x, _like(x, 0.0), ir.Constant(mask, -1)])
    off = multiply_add(builder, builder.fneg(x), estimate, one)
    return multiply_add(builder, off, estimate, estimate)


def _at_gate(builder: Any, place: Any, stride: Any, gate: int) -> Any:
    return builder.add(place, builder.mul(stride, ir.Constant(stride.type, gate)))


def _gates(builder: Any, above: Any, row: Any, stride: Any, vector: Any) -> list[Any]:
    """Emit the four gates: what comes from the parent's state plus what comes from the token."""
    places = [[_at_gate(builder, place, stride, gate) for place in (above, row)] for gate in range(4)]
    return [_fadd(builder, *(load(builder, place, vector) for place in pair)) for pair in places]


def _ascending(builder: Any, e: Any) -> Any:
    return _fadd(builder, e, _like(e, 1.0))


def _descending(builder: Any, e: Any) -> Any:
    return _fsub(builder, _like(e, 1.0), e)


def _step_kernel(lanes: int) -> Any:
    """Step one vector of units, keeping only the states after.

    Arguments, all addresses but the third: the parent's recurrent product, the token's row, bytes from gate to
    gate, the cell state before and after, the hidden state after.
    """

    @intrinsic
    def kernel(_, above, row, stride, before, after, hidden):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            above, row, stride, before, after, hidden = arguments
            vector = ir.VectorType(_f32, lanes)
            gate_i, gate_f, gate_g, gate_o = _gates(builder, above, row, stride, vector)
            i, f, o = (_ascending(builder, _power(builder, gate, -1.0, LIMIT)) for gate in (gate_i, gate_f, gate_o))
            e = _power(builder, gate_g, -2.0, LIMIT)
            ig = _fmul(builder, i, _ascending(builder, e))
            # f c + i g over a common denominator, and so the hidden state: two reciprocals instead of five
            over = _fmul(builder, load(builder, before, vector), ig)
            over = multiply_add(builder, _descending(builder, e), f, over)
            cell = _fmul(builder, over, _reciprocal(builder, _fmul(builder, ig, f)))
            e = _power(builder, cell, -2.0, LIMIT)
            under = _reciprocal(builder, _fmul(builder, o, _ascending(builder, e)))
            store(builder, cell, after)
            store(builder, _fmul(builder, _descending(builder, e), under), hidden)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 6)), emit

    return kernel


def _step_kept_kernel(lanes: int) -> Any:
    """As :func:`_step_kernel`, keeping what the way back needs.

    Two more addresses: where the four activations go, with the same bytes from gate to gate, and tanh of the
    cell state.
    """

    @intrinsic
    def kernel(_, above, row, stride, before, after, hidden, kept, tanh):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            above, row, stride, before, after, hidden, kept, tanh = arguments
            vector = ir.VectorType(_f32, lanes)
            gates = _gates(builder, above, row, stride, vector)
            powers = [_power(builder, gate, factor, LIMIT) for gate, factor in zip(gates, _FACTORS, strict=True)]
            activations = [_reciprocal(builder, _ascending(builder, e)) for e in powers]
            activations[2] = _fmul(builder, _descending(builder, powers[2]), activations[2])
            i, f, g, o = activations
            cell = multiply_add(builder, f, load(builder, before, vector), _fmul(builder, i, g))
            e = _power(builder, cell, -2.0, LIMIT)
            t = _fmul(builder, _descending(builder, e), _reciprocal(builder, _ascending(builder, e)))
            for gate, activation in enumerate(activations):
                store(builder, activation, _at_gate(builder, kept, stride, gate))
            store(builder, cell, after)
            store(builder, t, tanh)
            store(builder, _fmul(builder, o, t), hidden)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 8)), emit

    return kernel


def _back_kernel(lanes: int) -> Any:
    """Gradients by one vector of units' gates and by the cell state before, added to the token's and the parent's.

    Arguments: the node's activations, bytes from gate to gate, the cell state before, tanh of that after, the
    gradients by the hidden and by the cell state after; the token's sums (gates), the parent's sums (gates and
    cell state), and whether the node is its parent's first child: the parent's sums are then set, not added to.
    """

    @intrinsic
    def kernel(_, kept, stride, before, tanh, by_hidden, by_cell, row, above, by_before, new):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            kept, stride, before, tanh, by_hidden, by_cell, row, above, by_before, new = arguments
            vector = ir.VectorType(_f32, lanes)
            i, f, g, o = (load(builder, _at_gate(builder, kept, stride, gate), vector) for gate in range(4))
            t, dh = load(builder, tanh, vector), load(builder, by_hidden, vector)
            fresh = builder.icmp_signed("!=", new, ir.Constant(new.type, 0))

            def product(*factors: Any) -> Any:
                return functools.reduce(functools.partial(_fmul, builder), factors)

            def without_square(x: Any) -> Any:
                return multiply_add(builder, builder.fneg(x), x, _like(x, 1.0))

            def add(value: Any, place: Any) -> None:
                store(builder, _fadd(builder, load(builder, place, vector), value), place)

            def put_or_add(value: Any, place: Any) -> None:
                known = builder.select(fresh, _like(value, 0.0), load(builder, place, vector))
                store(builder, _fadd(builder, known, value), place)

            dc = multiply_add(builder, product(dh, o), without_square(t), load(builder, by_cell, vector))
            gradients = (
                product(dc, g, i, _descending(builder, i)),
                product(dc, load(builder, before, vector), f, _descending(builder, f)),
                product(dc, i, without_square(g)),
                product(dh, t, o, _descending(builder, o)),
            )
            for gate, gradient in enumerate(gradients):
                add(gradient, _at_gate(builder, row, stride, gate))
                put_or_add(gradient, _at_gate(builder, above, stride, gate))
            put_or_add(_fmul(builder, dc, f), by_before)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 10)), emit

    return kernel


@intrinsic
def _exp_minus(_, x):  # type: ignore[no-untyped-def]
    """e^-x of one float32, the exponent clamped to +-80; relative error below 3e-7."""

    def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return _power(builder, arguments[0], -1.0, 80.0)

    return types.float32(types.float32), emit


exp_minus: Any = _exp_minus
_step_wide, _step_narrow = _step_kernel(LANES), _step_kernel(UNIT)
_kept_wide, _kept_narrow = _step_kept_kernel(LANES), _step_kept_kernel(UNIT)
_back_wide, _back_narrow = _back_kernel(LANES), _back_kernel(UNIT)


@inline
def _places(
    gates: Array, table: Array, parent: Array, token: Array, cell_above: Array, cell: Array, hidden: Array, i: int
) -> tuple[int, int, int, int, int]:
    """Addresses of what :func:`step` reads and writes at node i, in the kernel's order."""
    stride = FLOAT * cell.shape[1]
    above, row = gates.ctypes.data + 4 * stride * parent[i], table.ctypes.data + 4 * stride * token[i]
    before, after = cell_above.ctypes.data + stride * parent[i], cell.ctypes.data + stride * i
    return above, row, before, after, hidden.ctypes.data + stride * i


@inline
def step(
    gates: Array, table: Array, parent: Array, token: Array, cell_above: Array, cell: Array, hidden: Array
) -> None:
    """Step the cell at every node, from the parent's recurrent product and state and the token's row.

    `gates` is (parents, 4 width), `table` (tokens of the level, 4 width), `cell_above` (parents, width);
    `cell` and `hidden` (nodes, width) receive the states. `parent` and `token` are (nodes,).
    """
    width = cell.shape[1]
    stride = FLOAT * width
    whole = FLOAT * (width - width % LANES)
    for i in range(len(parent)):
        above, row, before, after, out = _places(gates, table, parent, token, cell_above, cell, hidden, i)
        for j in range(0, whole, FLOAT * LANES):
            _step_wide(above + j, row + j, stride, before + j, after + j, out + j)
        for j in range(whole, stride, FLOAT * UNIT):
            _step_narrow(above + j, row + j, stride, before + j, after + j, out + j)


@inline
def step_kept(
    gates: Array,
    table: Array,
    parent: Array,
    token: Array,
    cell_above: Array,
    kept: Array,
    cell: Array,
    tanh: Array,
    hidden: Array,
) -> None:
    """As :func:`step`; `kept` (nodes, 4 width) receives the activations and `tanh` (nodes, width) the state's tanh."""
    width = cell.shape[1]
    stride = FLOAT * width
    whole = FLOAT * (width - width % LANES)
    for i in range(len(parent)):
        above, row, before, after, out = _places(gates, table, parent, token, cell_above, cell, hidden, i)
        all_four, t = kept.ctypes.data + 4 * stride * i, tanh.ctypes.data + stride * i
        for j in range(0, whole, FLOAT * LANES):
            _kept_wide(above + j, row + j, stride, before + j, after + j, out + j, all_four + j, t + j)
        for j in range(whole, stride, FLOAT * UNIT):
            _kept_narrow(above + j, row + j, stride, before + j, after + j, out + j, all_four + j, t + j)


@inline
def step_back(
    kept: Array,
    parent: Array,
    token: Array,
    cell_above: Array,
    tanh: Array,
    by_hidden: Array,
    by_cell: Array,
    by_table: Array,
    by_gates: Array,
    by_cell_above: Array,
) -> None:
    """Undo :func:`step_kept`: from the gradients by the states after to those by table, recurrent product and states.

    `by_hidden` (nodes, at least width) and `by_cell` (nodes, width) are read; `by_table` (tokens, 4 width) is added
    to; `by_gates` (parents, 4 width) and `by_cell_above` (parents, width) are overwritten. Nodes of one parent
    must be neighbours.
    """
    width = tanh.shape[1]
    stride = FLOAT * width
    whole = FLOAT * (width - width % LANES)
    last = -1
    for i in range(len(parent)):
        new = np.intp(parent[i] != last)
        last = parent[i]
        four, before = kept.ctypes.data + 4 * stride * i, cell_above.ctypes.data + stride * last
        t, dh = tanh.ctypes.data + stride * i, by_hidden.ctypes.data + FLOAT * by_hidden.shape[1] * i
        dc, row = by_cell.ctypes.data + stride * i, by_table.ctypes.data + 4 * stride * token[i]
        above, upper = by_gates.ctypes.data + 4 * stride * last, by_cell_above.ctypes.data + stride * last
        for j in range(0, whole, FLOAT * LANES):
            _back_wide(four + j, stride, before + j, t + j, dh + j, dc + j, row + j, above + j, upper + j, new)
        for j in range(whole, stride, FLOAT * UNIT):
            _back_narrow(four + j, stride, before + j, t + j, dh + j, dc + j, row + j, above + j, upper + j, new)
