"""Small vector kernels for float32 on CPUs, written in LLVM's vector instructions through Numba.

They take addresses (integers, in bytes) and strides (in floats) and know no shapes beyond their own. LLVM maps
a vector of :data:`LANES` floats to what the CPU has.

They are not cached themselves but within the functions that call them, see :func:`cached`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from pipeline.kernels import compiling

LANES = 16 if {"avx512f", "avx512vl"} <= compiling.features() else 8
WIDTH = 2 * LANES  # columns of a product computed at once: two vectors
ROWS = 8 if LANES == 16 else 4  # rows of a product computed at once: as many sums as fit into registers
SPREAD = 4  # panels of `spread` at once
FLOAT = 4  # bytes

_f32, _i64, _i32 = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_vector = ir.VectorType(_f32, LANES)
CONTRACT = ("contract",)  # a product and a sum may become one fused instruction


def cached(*parts: ModuleType | str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: as ``numba.njit(cache=True, nogil=True, error_model="numpy", **options)``, and new with its parts.

    Numba looks only at the file a function is in before it takes compiled code from its cache. `parts` are the
    modules (or their files) whose functions are compiled into this one besides: with any change in them, or in
    this module, it is compiled again.
    """
    files = [__file__, *(part if isinstance(part, str) else str(part.__file__) for part in parts)]
    digest = hashlib.sha256(b"\0".join(Path(file).read_bytes() for file in files)).hexdigest()

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = compiling.compiled(error_model="numpy", **options)(function)
        file = dispatcher._cache._cache_file
        file._source_stamp = (file._source_stamp, digest)
        return dispatcher

    return decorate


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def vector_at(builder: Any, address: Any, vector: Any = _vector) -> Any:
    """Emit a pointer to a vector of floats from an address."""
    return builder.inttoptr(address, ir.PointerType(vector))


def load(builder: Any, address: Any, vector: Any = _vector) -> Any:
    """Emit the load of a vector of floats from an address."""
    return builder.load(vector_at(builder, address, vector), align=FLOAT)


def store(builder: Any, value: Any, address: Any) -> None:
    """Emit the store of a vector of floats to an address."""
    builder.store(value, vector_at(builder, address, value.type), align=FLOAT)


def _shifted(builder: Any, base: Any, stride: Any, count: int) -> Any:
    return builder.add(base, builder.mul(stride, _constant(count)))


def _broadcast(builder: Any, address: Any) -> Any:
    scalar = builder.load(builder.inttoptr(address, ir.PointerType(_f32)), align=FLOAT)
    first = builder.insert_element(ir.Constant(_vector, ir.Undefined), scalar, ir.Constant(_i32, 0))
    lanes = ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(_vector, ir.Undefined), lanes)


def multiply_add(builder: Any, x: Any, y: Any, total: Any) -> Any:
    """Emit x y + total, as one fused instruction where the CPU has it."""
    return builder.fadd(total, builder.fmul(x, y, flags=CONTRACT), flags=CONTRACT)


def _sum_loop(builder: Any, count: Any, sums: int, body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Emit ``for k in range(count): totals = body(k, totals)`` over vectors that start at 0; count >= 1."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_i64)
    totals = [builder.phi(_vector) for _ in range(sums)]
    new = body(k, totals)
    following = builder.add(k, _constant(1))
    k.add_incoming(_constant(0), before)
    k.add_incoming(following, loop)
    for total, value in zip(totals, new, strict=True):
        total.add_incoming(ir.Constant(_vector, [0.0] * LANES), before)
        total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return new


def _product_kernel(rows: int) -> Any:
    """Return C[i, :WIDTH] (+)= sum_k A[i, k] Z[k, :WIDTH] for i < `rows`.

    Arguments: address of A, its strides of i and k; address of Z, its stride of k; address of C, its stride
    of i; the number of k; whether to add to C. The last stride of Z and C is 1.
    """

    @intrinsic
    def kernel(_, a, a_row, a_k, z, z_k, c, c_row, count, add):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            a, a_row, a_k, z, z_k, c, c_row, count, add = arguments
            a_row, a_k, z_k, c_row = (builder.mul(s, _constant(FLOAT)) for s in (a_row, a_k, z_k, c_row))
            starts = [_shifted(builder, a, a_row, i) for i in range(rows)]
            halves = (0, LANES * FLOAT)

            def body(k: Any, totals: list[Any]) -> list[Any]:
                row = builder.add(z, builder.mul(k, z_k))
                vectors = [load(builder, builder.add(row, _constant(half))) for half in halves]
                column = builder.mul(k, a_k)
                new = []
                for i, start in enumerate(starts):
                    factor = _broadcast(builder, builder.add(start, column))
                    for half, vector in enumerate(vectors):
                        new.append(multiply_add(builder, factor, vector, totals[2 * i + half]))
                return new

            totals = _sum_loop(builder, count, 2 * rows, body)
            places = [
                builder.add(_shifted(builder, c, c_row, i), _constant(half)) for i in range(rows) for half in halves
            ]
            with builder.if_else(builder.icmp_signed("!=", add, _constant(0))) as (adding, storing):
                with adding:
                    for place, total in zip(places, totals, strict=True):
                        whole = builder.fadd(total, load(builder, place))
                        store(builder, whole, place)
                with storing:
                    for place, total in zip(places, totals, strict=True):
                        store(builder, total, place)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 9)), emit

    return kernel


def _inner_kernel(rows: int, columns: int) -> Any:
    """Return C[i, l] += sum_k sum_{t < WIDTH} P[k, i, t] Q[k, l, t] for i < `rows`, l < `columns`.

    Arguments: address of P, its strides of k and i; address of Q, its strides of k and l; address of C, its
    stride of i; the number of k. The last stride of each is 1.
    """

    @intrinsic
    def kernel(_, p, p_k, p_row, q, q_k, q_row, c, c_row, count):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            p, p_k, p_row, q, q_k, q_row, c, c_row, count = arguments
            p_k, p_row, q_k, q_row, c_row = (builder.mul(s, _constant(FLOAT)) for s in (p_k, p_row, q_k, q_row, c_row))

            def body(k: Any, totals: list[Any]) -> list[Any]:
                left = builder.add(p, builder.mul(k, p_k))
                right = builder.add(q, builder.mul(k, q_k))
                new = list(totals)
                for half in (0, LANES * FLOAT):
                    ps = [
                        load(builder, builder.add(_shifted(builder, left, p_row, i), _constant(half)))
                        for i in range(rows)
                    ]
                    for column in range(columns):
                        place = builder.add(_shifted(builder, right, q_row, column), _constant(half))
                        vector = load(builder, place)
                        for i in range(rows):
                            at = i * columns + column
                            new[at] = multiply_add(builder, ps[i], vector, new[at])
                return new

            totals = _sum_loop(builder, count, rows * columns, body)
            for i in range(rows):
                for column in range(columns):
                    place = builder.add(_shifted(builder, c, c_row, i), _constant(FLOAT * column))
                    pointer = builder.inttoptr(place, ir.PointerType(_f32))
                    total = _lane_sum(builder, totals[i * columns + column])
                    builder.store(builder.fadd(builder.load(pointer, align=FLOAT), total), pointer, align=FLOAT)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 9)), emit

    return kernel


def _gathered_kernel(rows: int) -> Any:
    """Return C[i, :WIDTH] = sum_k A[i, k] Z[at[k], :WIDTH] for i < `rows`.

    Arguments: address of A, its strides of i and k; address of `at` (int64, in rows of WIDTH); addresses of Z and C;
    C's stride of i; the number of k.
    """

    @intrinsic
    def kernel(_, a, a_row, a_k, at, z, c, c_row, count):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            a, a_row, a_k, at, z, c, c_row, count = arguments
            a_row, a_k, c_row = (builder.mul(s, _constant(FLOAT)) for s in (a_row, a_k, c_row))
            starts = [_shifted(builder, a, a_row, i) for i in range(rows)]
            halves = (0, LANES * FLOAT)

            def body(k: Any, totals: list[Any]) -> list[Any]:
                row = builder.add(z, builder.mul(_index(builder, at, k), _constant(WIDTH * FLOAT)))
                vectors = [load(builder, builder.add(row, _constant(half))) for half in halves]
                column = builder.mul(k, a_k)
                factors = [_broadcast(builder, builder.add(start, column)) for start in starts]
                pairs = [(factor, vector) for factor in factors for vector in vectors]
                return [multiply_add(builder, *pair, total) for pair, total in zip(pairs, totals, strict=True)]

            for i, total in enumerate(_sum_loop(builder, count, 2 * rows, body)):
                place = builder.add(_shifted(builder, c, c_row, i // 2), _constant(halves[i % 2]))
                store(builder, total, place)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 8)), emit

    return kernel


def _picked_kernel(rows: int, vectors: int) -> Any:
    """Return C[i, :] = bias + sum_k X[i, at[k]] Z[k, :] for i < `rows`, over columns in `vectors` whole vectors.

    Arguments: address of X, its stride of i; addresses of `at` (int64) and Z, its stride of k; addresses of the bias
    and C, its stride of i; the number of k.
    """

    @intrinsic
    def kernel(_, x, x_row, at, z, z_k, bias, c, c_row, count):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            x, x_row, at, z, z_k, bias, c, c_row, count = arguments
            x_row, z_k, c_row = (builder.mul(stride, _constant(FLOAT)) for stride in (x_row, z_k, c_row))
            starts = [_shifted(builder, x, x_row, i) for i in range(rows)]
            parts = [_constant(part * LANES * FLOAT) for part in range(vectors)]

            def body(k: Any, totals: list[Any]) -> list[Any]:
                row = builder.add(z, builder.mul(k, z_k))
                columns = [load(builder, builder.add(row, part)) for part in parts]
                column = builder.mul(_index(builder, at, k), _constant(FLOAT))
                factors = [_broadcast(builder, builder.add(start, column)) for start in starts]
                pairs = [(factor, vector) for factor in factors for vector in columns]
                return [multiply_add(builder, *pair, total) for pair, total in zip(pairs, totals, strict=True)]

            _store_sums(builder, bias, parts, c, c_row, _sum_loop(builder, count, rows * vectors, body))
            return context.get_dummy_value()

        return types.void(*([types.intp] * 9)), emit

    return kernel


def _spread_kernel(panels: int, vectors: int) -> Any:
    """Return C[j, :] = bias + sum_k s[k] Z[j, at[k], :] for j < `panels`, over columns in `vectors` whole vectors.

    Arguments: addresses of s and `at` (int64); address of Z, its strides of j and of at[k]; addresses of the bias
    and C, its stride of j; the number of k.
    """

    @intrinsic
    def kernel(_, s, at, z, z_panel, z_row, bias, c, c_row, count):  # type: ignore[no-untyped-def]
        def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            s, at, z, z_panel, z_row, bias, c, c_row, count = arguments
            z_panel, z_row, c_row = (builder.mul(stride, _constant(FLOAT)) for stride in (z_panel, z_row, c_row))
            parts = [_constant(part * LANES * FLOAT) for part in range(vectors)]

            def body(k: Any, totals: list[Any]) -> list[Any]:
                factor = _broadcast(builder, builder.add(s, builder.mul(k, _constant(FLOAT))))
                row = builder.add(z, builder.mul(_index(builder, at, k), z_row))
                places = [
                    builder.add(_shifted(builder, row, z_panel, j), part) for j in range(panels) for part in parts
                ]
                columns = [load(builder, place) for place in places]
                return [multiply_add(builder, factor, v, total) for v, total in zip(columns, totals, strict=True)]

            totals = _sum_loop(builder, count, vectors * panels, body)
            _store_sums(builder, bias, parts, c, c_row, totals)
            return context.get_dummy_value()

        return types.void(*([types.intp] * 9)), emit

    return kernel


def _index(builder: Any, at: Any, k: Any) -> Any:
    address = builder.add(at, builder.mul(k, _constant(8)))
    return builder.load(builder.inttoptr(address, ir.PointerType(_i64)), align=8)


def _store_sums(builder: Any, bias: Any, parts: list[Any], c: Any, c_row: Any, totals: list[Any]) -> None:
    """C[i] = bias + its totals, row after row; a row is in `parts`, a part a vector."""
    biases = [load(builder, builder.add(bias, part)) for part in parts]
    for i, total in enumerate(totals):
        row, part = divmod(i, len(parts))
        place = builder.add(_shifted(builder, c, c_row, row), parts[part])
        store(builder, builder.fadd(biases[part], total), place)


def _lane_sum(builder: Any, vector: Any) -> Any:
    """Sum of a vector's lanes, halving it again and again."""
    size = LANES
    while size > 1:
        size //= 2
        mask = ir.VectorType(_i32, size)
        low = builder.shuffle_vector(vector, vector, ir.Constant(mask, list(range(size))))
        high = builder.shuffle_vector(vector, vector, ir.Constant(mask, list(range(size, 2 * size))))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_i32, 0))


@intrinsic
def _transpose_kernel(_, source, source_row, target, target_row):  # type: ignore[no-untyped-def]
    """target[l, i] = source[i, l] for i, l < LANES; strides of rows, the last stride is 1."""

    def emit(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        source, source_row, target, target_row = arguments
        source_row, target_row = (builder.mul(s, _constant(FLOAT)) for s in (source_row, target_row))
        rows = [load(builder, _shifted(builder, source, source_row, i)) for i in range(LANES)]
        mask = ir.VectorType(_i32, LANES)
        # Interleaving row i with row i + LANES / 2, log2(LANES) times over, transposes a square.
        low = ir.Constant(mask, [i // 2 + (i % 2) * LANES for i in range(LANES)])
        high = ir.Constant(mask, [LANES // 2 + i // 2 + (i % 2) * LANES for i in range(LANES)])
        for _ in range(LANES.bit_length() - 1):
            half = LANES // 2
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [builder.shuffle_vector(x, y, side) for x, y in pairs for side in (low, high)]
        for i, row in enumerate(rows):
            store(builder, row, _shifted(builder, target, target_row, i))
        return context.get_dummy_value()

    return types.void(*([types.intp] * 4)), emit


_product_many, _product_one = _product_kernel(ROWS), _product_kernel(1)
_gathered_many, _gathered_one = _gathered_kernel(ROWS), _gathered_kernel(1)
_gathered_four = _gathered_kernel(4)
_inner_4x4, _inner_1x1 = _inner_kernel(4, 4), _inner_kernel(1, 1)


def _of_two_sizes(kernel: Callable[[int, int], Any], rows: int) -> Any:
    """One function of a kernel's forms for `rows` rows or one, WIDTH columns or LANES: the first two arguments."""
    many_wide, many_narrow, one_wide, one_narrow = (kernel(*size) for size in ((rows, 2), (rows, 1), (1, 2), (1, 1)))

    @njit(error_model="numpy", nogil=True)
    def part(many, wide, *arguments):  # type: ignore[no-untyped-def]
        if many and wide:
            many_wide(*arguments)
        elif many:
            many_narrow(*arguments)
        elif wide:
            one_wide(*arguments)
        else:
            one_narrow(*arguments)

    return part


_picked_part = _of_two_sizes(_picked_kernel, ROWS)
_spread_part = _of_two_sizes(_spread_kernel, SPREAD)


@njit(error_model="numpy", nogil=True)
def product(a, a_row, a_k, z, z_k, c, c_row, rows, count, add):  # type: ignore[no-untyped-def]
    """C[i, :WIDTH] (+)= sum_k A[i, k] Z[k, :WIDTH] for any number of rows."""
    whole = rows - rows % ROWS
    for i in range(0, whole, ROWS):
        _product_many(a + FLOAT * i * a_row, a_row, a_k, z, z_k, c + FLOAT * i * c_row, c_row, count, add)
    for i in range(whole, rows):
        _product_one(a + FLOAT * i * a_row, a_row, a_k, z, z_k, c + FLOAT * i * c_row, c_row, count, add)


@njit(error_model="numpy", nogil=True)
def inner(p, p_k, p_row, q, q_k, q_row, c, c_row, rows, columns, count):  # type: ignore[no-untyped-def]
    """C[i, l] += sum_k sum_t P[k, i, t] Q[k, l, t] over t < WIDTH, for any numbers of rows and columns."""
    whole_rows, whole_columns = rows - rows % 4, columns - columns % 4
    for i in range(rows):
        for column in range(columns):
            left, right = p + FLOAT * i * p_row, q + FLOAT * column * q_row
            place = c + FLOAT * (i * c_row + column)
            if i < whole_rows and column < whole_columns:
                if i % 4 == 0 and column % 4 == 0:
                    _inner_4x4(left, p_k, p_row, right, q_k, q_row, place, c_row, count)
            else:
                _inner_1x1(left, p_k, p_row, right, q_k, q_row, place, c_row, count)


@njit(error_model="numpy", nogil=True)
def gathered(a, a_row, a_k, at, z, c, c_row, rows, count):  # type: ignore[no-untyped-def]
    """C[i, :WIDTH] = sum_k A[i, k] Z[at[k], :WIDTH] for any number of rows of A with these strides; count >= 1."""
    whole = rows - rows % ROWS
    fours = rows - rows % 4
    for i in range(0, whole, ROWS):
        _gathered_many(a + FLOAT * i * a_row, a_row, a_k, at, z, c + FLOAT * i * c_row, c_row, count)
    for i in range(whole, fours, 4):
        _gathered_four(a + FLOAT * i * a_row, a_row, a_k, at, z, c + FLOAT * i * c_row, c_row, count)
    for i in range(fours, rows):
        _gathered_one(a + FLOAT * i * a_row, a_row, a_k, at, z, c + FLOAT * i * c_row, c_row, count)


@njit(error_model="numpy", nogil=True)
def picked(x, x_row, at, z, columns, bias, c, c_row, rows, count):  # type: ignore[no-untyped-def]
    """C[i, :columns] = bias + sum_k X[i, at[k]] Z[k, :columns] for any number of rows; columns in whole LANES.

    Z is (count, columns), contiguous.
    """
    whole = rows - rows % ROWS
    for first in range(0, columns, WIDTH):
        wide = first + WIDTH <= columns
        panel, own, place = z + FLOAT * first, bias + FLOAT * first, c + FLOAT * first
        i = 0
        while i < rows:
            many = i < whole
            source, target = x + FLOAT * i * x_row, place + FLOAT * i * c_row
            _picked_part(many, wide, source, x_row, at, panel, columns, own, target, c_row, count)
            i += ROWS if many else 1


@njit(error_model="numpy", nogil=True)
def spread(s, at, z, z_panel, z_row, columns, bias, c, c_row, panels, count):  # type: ignore[no-untyped-def]
    """C[j, :columns] = bias + sum_k s[k] Z[j, at[k], :columns] for any number of panels j; columns in whole LANES."""
    whole = panels - panels % SPREAD
    for first in range(0, columns, WIDTH):
        wide = first + WIDTH <= columns
        j = 0
        while j < panels:
            many = j < whole
            source, target = z + FLOAT * (first + j * z_panel), c + FLOAT * (first + j * c_row)
            _spread_part(many, wide, s, at, source, z_panel, z_row, bias + FLOAT * first, target, c_row, count)
            j += SPREAD if many else 1


@njit(error_model="numpy", nogil=True)
def transpose_squares(source, source_row, target, target_row, rows, columns):  # type: ignore[no-untyped-def]
    """target[l, i] = source[i, l] for the leading multiples of LANES of `rows` and `columns`."""
    for i in range(0, rows - rows % LANES, LANES):
        for column in range(0, columns - columns % LANES, LANES):
            _transpose_kernel(  # type: ignore[call-arg]
                source + FLOAT * (i * source_row + column),
                source_row,
                target + FLOAT * (column * target_row + i),
                target_row,
            )
