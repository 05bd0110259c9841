"""A KPD layer's forward and backward on a CPU in one pass over the rows, float32.

A tile of WIDTH rows is transposed once, goes through both products inside the cache and is transposed
back, so that the only traffic to memory is the layer's input and output. The backward makes B_i x anew
from the input instead of keeping it: a step stores no more activations than a dense layer does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.kpd.microkernels import FLOAT, LANES, WIDTH, gathered, inner, product, spread, transpose_squares

Array = npt.NDArray[np.float32]
T = TypeVar("T")


def forward(x: Array, scaled: Array, B: Array, threads: int) -> Array:
    """Return y = x W^T, (N, m), for W = sum_i scaled_i kron B_i.

    Parameters
    ----------
    x
        (N, n) float32, C-contiguous.
    scaled
        (r, m1, n1): S * A_i.
    B
        (r, m2, n2).
    threads
        Rows are shared among that many threads.
    """
    y = np.empty((len(x), scaled.shape[1] * B.shape[1]), dtype=np.float32)
    outer = _outer(scaled)
    blocks = np.ascontiguousarray(B)
    _share(len(x), threads, lambda start, stop: _forward_rows(x, outer, blocks, y, start, stop))
    return y


def backward(dy: Array, x: Array, scaled: Array, B: Array, threads: int, needs_dx: bool) -> tuple[Array, Array, Array]:
    """Return the gradients of x (empty unless `needs_dx`), `scaled` and `B` from that of y.

    The sums over rows are made thread by thread, then in thread order: the same for the same `threads`.
    """
    r, m1, n1 = scaled.shape
    dx = np.empty(x.shape if needs_dx else (0, x.shape[1]), dtype=np.float32)
    outer_t, blocks = np.ascontiguousarray(_outer(scaled).T), np.ascontiguousarray(B)
    lanes = -(-r * n1 // WIDTH) * WIDTH
    parts: list[tuple[Array, Array]] = []

    def rows(start: int, stop: int) -> tuple[Array, Array]:
        d_outer, d_blocks = np.zeros((m1, lanes), dtype=np.float32), np.zeros(B.shape, dtype=np.float32)
        _backward_rows(dy, x, outer_t, blocks, dx, d_outer, d_blocks, start, stop)
        return d_outer, d_blocks

    parts = _share(len(x), threads, rows)
    d_outer = sum((part[0] for part in parts[1:]), start=parts[0][0])
    d_blocks = sum((part[1] for part in parts[1:]), start=parts[0][1])
    return dx, d_outer[:, : r * n1].reshape(m1, r, n1).transpose(1, 0, 2), d_blocks


def block_rows(
    x: Array, values: Array, at: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], m2: int, threads: int
) -> Array:
    """Return x W^T for a block-sparse W without its zero blocks.

    Parameters
    ----------
    x
        (N, n) float32, C-contiguous.
    values
        Flat: block row after block row, each (m2, its used columns) in C order.
    at
        The used columns of W, block row after block row.
    starts
        (m1 + 1,): where each block row's columns start in `at`.
    m2
        Rows of a block.
    threads
        Rows of x are shared among that many threads.
    """
    y = np.empty((len(x), (len(starts) - 1) * m2), dtype=np.float32)
    _share(len(x), threads, lambda start, stop: _block_rows(x, values, at, starts, m2, y, start, stop))
    return y


def factored(
    x: Array,
    coefficients: Array,
    at: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    B: Array,
    used: npt.NDArray[np.int64],
    threads: int,
) -> Array:
    """Return x W^T for W = sum_i scaled_i kron B_i, B_i first and then the non-zeros of scaled.

    Parameters
    ----------
    x
        (N, n) float32, C-contiguous.
    coefficients
        Flat: the non-zeros of scaled, row after row.
    at
        For each coefficient the row i n1 + b of the inner product it multiplies.
    starts
        (m1 + 1,): where each row's coefficients start.
    B
        (r, m2, n2), C-contiguous.
    used
        Columns b of blocks that are used at all.
    threads
        Rows of x are shared among that many threads.
    """
    y = np.empty((len(x), (len(starts) - 1) * B.shape[1]), dtype=np.float32)
    _share(len(x), threads, lambda start, stop: _factored(x, coefficients, at, starts, B, used, y, start, stop))
    return y


def _outer(scaled: Array) -> Array:
    """(m1, r n1): the terms side by side, so that one product sums over them."""
    r, m1, n1 = scaled.shape
    return np.ascontiguousarray(scaled.transpose(1, 0, 2)).reshape(m1, r * n1)


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _share(rows: int, threads: int, work: Callable[[int, int], T]) -> list[T]:
    """Call `work(start, stop)` on equal shares of the rows, whole tiles each, and return what it returned."""
    tiles = -(-rows // WIDTH)
    count = max(1, min(threads, tiles))
    edges = [min(rows, WIDTH * (tiles * part // count)) for part in range(count + 1)]
    pairs = list(pairwise(edges))
    if count == 1:
        return [work(*pairs[0])]
    key = (os.getpid(), count)  # a fork inherits the pool but not its threads
    pool = _pools.get(key) or _pools.setdefault(key, ThreadPoolExecutor(count - 1))
    others = [pool.submit(work, *pair) for pair in pairs[1:]]
    return [work(*pairs[0]), *(other.result() for other in others)]


@njit(error_model="numpy", nogil=True, cache=True)
def _to_lanes(source, first, rows, target):  # type: ignore[no-untyped-def]
    """target[f, t] = source[first + t, f], (features, WIDTH); rows beyond `rows` become zero."""
    features = source.shape[1]
    done_t, done_f = rows - rows % LANES, features - features % LANES
    address = source.ctypes.data + FLOAT * first * features
    transpose_squares(address, features, target.ctypes.data, WIDTH, rows, features)
    for t in range(done_t):
        for f in range(done_f, features):
            target[f, t] = source[first + t, f]
    for t in range(done_t, WIDTH):
        if t < rows:
            for f in range(features):
                target[f, t] = source[first + t, f]
        else:
            target[:features, t] = 0.0


@njit(error_model="numpy", nogil=True, cache=True)
def _from_lanes(source, target, first, rows):  # type: ignore[no-untyped-def]
    """target[first + t, f] = source[f, t] for t < rows."""
    features = target.shape[1]
    done_t, done_f = rows - rows % LANES, features - features % LANES
    address = target.ctypes.data + FLOAT * first * features
    transpose_squares(source.ctypes.data, WIDTH, address, features, features, rows)
    for t in range(done_t):
        for f in range(done_f, features):
            target[first + t, f] = source[f, t]
    for t in range(done_t, rows):
        for f in range(features):
            target[first + t, f] = source[f, t]


@njit(error_model="numpy", nogil=True, cache=True)
def _inner_products(xt, B, z):  # type: ignore[no-untyped-def]
    """z[j, i n1 + b, t] = sum_k B[i, j, k] x[b n2 + k, t]."""
    r, m2, n2 = B.shape
    K = z.shape[1]
    n1 = K // r
    for i in range(r):
        factors = B.ctypes.data + FLOAT * i * m2 * n2
        for b in range(n1):
            source = xt.ctypes.data + FLOAT * b * n2 * WIDTH
            target = z.ctypes.data + FLOAT * (i * n1 + b) * WIDTH
            product(factors, n2, 1, source, WIDTH, target, K * WIDTH, m2, n2, 0)


@njit(error_model="numpy", nogil=True, cache=True)
def _forward_rows(x, outer, B, y, start, stop):  # type: ignore[no-untyped-def]
    """Rows start..stop of y."""
    m1, K = outer.shape
    m2 = B.shape[1]
    xt = np.empty((x.shape[1], WIDTH), dtype=np.float32)
    z = np.empty((m2, K, WIDTH), dtype=np.float32)
    yt = np.empty((m1 * m2, WIDTH), dtype=np.float32)
    for first in range(start, stop, WIDTH):
        rows = min(WIDTH, stop - first)
        _to_lanes(x, first, rows, xt)
        _inner_products(xt, B, z)
        for j in range(m2):
            source = z.ctypes.data + FLOAT * j * K * WIDTH
            target = yt.ctypes.data + FLOAT * j * WIDTH
            product(outer.ctypes.data, K, 1, source, WIDTH, target, m2 * WIDTH, m1, K, 0)
        _from_lanes(yt, y, first, rows)


@njit(error_model="numpy", nogil=True, cache=True)
def _add_outer_gradient(dyt, z, z_rows, d_outer):  # type: ignore[no-untyped-def]
    """d_outer[a, l] += sum_{j, t} dy[a m2 + j, t] z[j, l, t]; z_rows is room for z with l last, in panels of WIDTH."""
    m2, K, _ = z.shape
    m1, lanes = d_outer.shape
    for panel in range(lanes // WIDTH):
        first = panel * WIDTH
        columns = min(WIDTH, K - first)
        for j in range(m2):
            source = z.ctypes.data + FLOAT * (j * K + first) * WIDTH
            target = z_rows.ctypes.data + FLOAT * (panel * m2 + j) * WIDTH * WIDTH
            transpose_squares(source, WIDTH, target, WIDTH, columns, WIDTH)
            for column in range(columns - columns % LANES, columns):
                for t in range(WIDTH):
                    z_rows[panel, j * WIDTH + t, column] = z[j, first + column, t]
        source = z_rows.ctypes.data + FLOAT * panel * m2 * WIDTH * WIDTH
        target = d_outer.ctypes.data + FLOAT * first
        product(dyt.ctypes.data, m2 * WIDTH, 1, source, WIDTH, target, lanes, m1, m2 * WIDTH, 1)


@njit(error_model="numpy", nogil=True, cache=True)
def _backward_rows(dy, x, outer_t, B, dx, d_outer, d_blocks, start, stop):  # type: ignore[no-untyped-def]
    """Add the gradients that rows start..stop give; fill those rows of dx unless it is empty."""
    K, m1 = outer_t.shape
    r, m2, n2 = B.shape
    n1, lanes = K // r, d_outer.shape[1]
    xt = np.empty((x.shape[1], WIDTH), dtype=np.float32)
    dyt = np.empty((m1 * m2, WIDTH), dtype=np.float32)
    z = np.empty((m2, K, WIDTH), dtype=np.float32)
    z_rows = np.zeros((lanes // WIDTH, m2 * WIDTH, WIDTH), dtype=np.float32)
    dxt = np.empty((x.shape[1], WIDTH), dtype=np.float32)
    for first in range(start, stop, WIDTH):
        rows = min(WIDTH, stop - first)
        _to_lanes(x, first, rows, xt)
        _to_lanes(dy, first, rows, dyt)
        _inner_products(xt, B, z)
        _add_outer_gradient(dyt, z, z_rows, d_outer)
        for j in range(m2):  # from here on z holds its own gradient
            source = dyt.ctypes.data + FLOAT * j * WIDTH
            target = z.ctypes.data + FLOAT * j * K * WIDTH
            product(outer_t.ctypes.data, m1, 1, source, m2 * WIDTH, target, WIDTH, K, m1, 0)
        for i in range(r):
            dz = z.ctypes.data + FLOAT * i * n1 * WIDTH
            target = d_blocks.ctypes.data + FLOAT * i * m2 * n2
            inner(dz, WIDTH, K * WIDTH, xt.ctypes.data, n2 * WIDTH, WIDTH, target, n2, m2, n2, n1)
        if len(dx) == 0:
            continue
        for i in range(r):
            factors = B.ctypes.data + FLOAT * i * m2 * n2
            for b in range(n1):
                source = z.ctypes.data + FLOAT * (i * n1 + b) * WIDTH
                target = dxt.ctypes.data + FLOAT * b * n2 * WIDTH
                product(factors, 1, n2, source, K * WIDTH, target, WIDTH, n2, m2, int(i > 0))
        _from_lanes(dxt, dx, first, rows)


@njit(error_model="numpy", nogil=True, cache=True)
def _block_rows(x, values, at, starts, m2, y, start, stop):  # type: ignore[no-untyped-def]
    """Rows start..stop of :func:`block_rows`."""
    xt = np.empty((x.shape[1], WIDTH), dtype=np.float32)
    yt = np.empty((y.shape[1], WIDTH), dtype=np.float32)
    for first in range(start, stop, WIDTH):
        rows = min(WIDTH, stop - first)
        _to_lanes(x, first, rows, xt)
        for a in range(len(starts) - 1):
            low, count = starts[a], starts[a + 1] - starts[a]
            if count == 0:
                yt[a * m2 : (a + 1) * m2] = 0.0
                continue
            source, columns = values.ctypes.data + FLOAT * low * m2, at.ctypes.data + 8 * low
            gathered(source, columns, xt.ctypes.data, yt.ctypes.data + FLOAT * a * m2 * WIDTH, WIDTH, m2, count)
        _from_lanes(yt, y, first, rows)


@njit(error_model="numpy", nogil=True, cache=True)
def _factored(x, coefficients, at, starts, B, used, y, start, stop):  # type: ignore[no-untyped-def]
    """Rows start..stop of :func:`factored`."""
    r, m2, n2 = B.shape
    n1 = x.shape[1] // n2
    K = r * n1
    xt = np.empty((x.shape[1], WIDTH), dtype=np.float32)
    z = np.empty((m2, K, WIDTH), dtype=np.float32)
    yt = np.empty((y.shape[1], WIDTH), dtype=np.float32)
    for first in range(start, stop, WIDTH):
        rows = min(WIDTH, stop - first)
        _to_lanes(x, first, rows, xt)
        for i in range(r):
            factors = B.ctypes.data + FLOAT * i * m2 * n2
            for b in used:
                source = xt.ctypes.data + FLOAT * b * n2 * WIDTH
                target = z.ctypes.data + FLOAT * (i * n1 + b) * WIDTH
                product(factors, n2, 1, source, WIDTH, target, K * WIDTH, m2, n2, 0)
        for a in range(len(starts) - 1):
            low, count = starts[a], starts[a + 1] - starts[a]
            if count == 0:
                yt[a * m2 : (a + 1) * m2] = 0.0
                continue
            values, rows_of_z = coefficients.ctypes.data + FLOAT * low, at.ctypes.data + 8 * low
            target = yt.ctypes.data + FLOAT * a * m2 * WIDTH
            spread(values, rows_of_z, z.ctypes.data, K * WIDTH, target, WIDTH, m2, count)
        _from_lanes(yt, y, first, rows)
