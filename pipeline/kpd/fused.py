"""A KPD layer's forward and backward on a CPU in one pass over the rows, float32.

A tile of WIDTH rows is transposed once, goes through both products inside the cache and is transposed
back, so that the only traffic to memory is the layer's input and output. The backward makes B_i x anew
from the input instead of keeping it: a step stores no more activations than a dense layer does.

Threads draw tiles, or where sums are made over the rows chunks of some, as they become free, so that one held up
by other work delays nobody. The chunks depend on the sizes alone and sums over them are made in their order: the
same bits for any number of threads.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import InputError
from pipeline.kernels.vector import (
    FLOAT,
    LANES,
    ROWS,
    WIDTH,
    cached,
    gathered,
    inner,
    picked,
    product,
    spread,
    transpose_squares,
)
from pipeline.kpd import activation, team
from pipeline.kpd.activation import ONE, gelu, gelu_and_slope, relu, relu_and_slope
from pipeline.kpd.team import drawn, on_threads

compiled = cached(activation, team)

Array = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

TILE = 2 * ROWS  # rows done together without transposition
CHUNKS = 16  # pieces at most that the rows are cut into where sums are made over them ..
CHUNK_TILES = 3  # .. of at least so many tiles
PARTIAL_BYTES = 1 << 26  # bound of what the pieces' gradients may take together

NO_BIAS = np.empty(0, dtype=np.float32)


class Factors(NamedTuple):
    """A layer of n inputs and m outputs in training, W = sum_i scaled_i kron B_i; all contiguous.

    Attributes
    ----------
    outer
        (m1, r n1): the r terms of `scaled`, S * A_i, side by side, so that one product sums over them.
    B
        (r, m2, n2).
    bias
        (m,), or of no entries.
    """

    outer: Array
    B: Array
    bias: Array

    @property
    def features(self) -> int:
        """n."""
        (r, _, n2), K = self.B.shape, self.outer.shape[1]
        return int(K // r * n2)

    @property
    def outputs(self) -> int:
        """m."""
        return int(len(self.outer) * self.B.shape[1])

    @property
    def between(self) -> tuple[int, int, int]:
        """Shape of B_i x of a tile of rows: (m2, r n1, WIDTH)."""
        return self.B.shape[1], self.outer.shape[1], WIDTH

    @property
    def panels(self) -> tuple[int, int, int]:
        """Shape of B_i x of a tile with the place in it first, in panels of WIDTH."""
        return -(-self.outer.shape[1] // WIDTH), self.B.shape[1] * WIDTH, WIDTH

    @property
    def sums(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of a chunk's sums of gradients: `outer` in whole panels, `B`, the bias."""
        return (len(self.outer), self.panels[0] * WIDTH), self.B.shape, self.bias.shape


class Gradients(NamedTuple):
    """Those of `scaled`, `B` and the bias of a layer, in their shapes."""

    scaled: Array
    B: Array
    bias: Array


def factors(scaled: Array, B: Array, bias: Array = NO_BIAS) -> Factors:
    """What the kernels need of a layer in training, see :class:`Factors`; `scaled` is (r, m1, n1)."""
    r, m1, n1 = scaled.shape
    outer = np.ascontiguousarray(scaled.transpose(1, 0, 2)).reshape(m1, r * n1)
    return Factors(outer, np.ascontiguousarray(B), bias)


def forward(x: Array, layers: Sequence[Factors], threads: int) -> list[Array]:
    """Return y = x W^T + bias, (N, m), of each layer, x being read once.

    Parameters
    ----------
    x
        (N, n) float32, C-contiguous.
    layers
        Of n inputs each.
    threads
        Rows are shared among that many threads.
    """
    ys = [_empty((len(x), layer.outputs)) for layer in layers]

    shapes = ((x.shape[1], WIDTH), *(own.between for own in layers), *((own.outputs, WIDTH) for own in layers))
    count, shares = len(layers), _tiles(x)
    with _scratch(min(threads, shares), *shapes) as (xt, *own):
        parts = tuple(own[:count]), tuple(own[count:])
        team.run(_forward, shares, threads, x, tuple(layers), tuple(ys), xt, *parts)
    return ys


def backward(
    dys: Sequence[Array], x: Array, layers: Sequence[Factors], threads: int, needs_dx: bool
) -> tuple[Array, list[Gradients]]:
    """Return the gradients of x (empty unless `needs_dx`) and of each layer from those of the ys.

    The sums over rows are made chunk by chunk, then in the chunks' order.
    """
    dx = _empty(x.shape if needs_dx else (0, x.shape[1]))

    of_each = [((own.outputs, WIDTH), own.between, own.panels, (len(own.bias), LANES)) for own in layers]
    shapes = (
        (x.shape[1], WIDTH),
        (x.shape[1], WIDTH),
        *(shape for parts in zip(*of_each, strict=True) for shape in parts),
    )
    count, edges = len(layers), _chunks(len(x), layers)
    shares = len(edges) - 1
    with _scratch(min(threads, shares), *shapes) as (xt, dxt, *own), _sums(shares, layers) as sums:
        parts = [tuple(own[first : first + count]) for first in range(0, len(own), count)]
        team.run(_backward, shares, threads, tuple(dys), x, tuple(layers), dx, sums, edges, xt, dxt, *parts)
        return dx, _added(layers, sums)


def forward_both(x: Array, first: Factors, second: Factors, is_gelu: bool, threads: int) -> Array:
    """Return y = second(a(first(x))), (N, m), a being GELU (by the error function) or else ReLU.

    What lies between the layers stays in the cache, tile by tile, and is not kept.
    """
    y = _empty((len(x), second.outputs))
    shapes = (
        (x.shape[1], WIDTH), first.between, (second.features, WIDTH), second.between, (second.outputs, WIDTH)
    )  # fmt: skip

    shares = _tiles(x)
    with _scratch(min(threads, shares), *shapes) as arrays:
        team.run(_forward_both, shares, threads, x, first, second, is_gelu, y, *arrays)
    return y


def backward_both(
    dy: Array, x: Array, first: Factors, second: Factors, is_gelu: bool, threads: int, needs_dx: bool
) -> tuple[Array, list[Gradients]]:
    """Return the gradients of x (empty unless `needs_dx`) and of both layers of :func:`forward_both` from that of y."""
    dx = _empty(x.shape if needs_dx else (0, x.shape[1]))
    width = second.features
    shapes = (
        (x.shape[1], WIDTH), first.between, first.panels, (width, WIDTH), (width, WIDTH), (width, WIDTH),
        second.between, second.panels, (second.outputs, WIDTH), (x.shape[1], WIDTH), (len(first.bias), LANES),
        (len(second.bias), LANES),
    )  # fmt: skip
    layers = first, second
    edges = _chunks(len(x), layers)
    shares = len(edges) - 1
    with _scratch(min(threads, shares), *shapes) as arrays, _sums(shares, layers) as sums:
        team.run(_backward_both, shares, threads, dy, x, first, second, is_gelu, dx, *sums, edges, *arrays)
        return dx, _added(layers, sums)


def _chunks(rows: int, layers: Sequence[Factors]) -> Places:
    """Where the chunks begin and end over which gradients are summed, whatever the threads."""
    tiles = -(-rows // WIDTH)
    room = sum(FLOAT * len(layer.outer) * layer.panels[0] * WIDTH for layer in layers)
    count = max(1, min(max(4, min(CHUNKS, PARTIAL_BYTES // room)), -(-tiles // CHUNK_TILES)))
    return np.minimum(rows, WIDTH * (tiles * np.arange(count + 1) // count))


@contextmanager
def _sums(chunks: int, layers: Sequence[Factors]) -> Iterator[tuple[Factors, ...]]:
    """Lend room for each chunk's sums, uninitialised."""
    with _scratch(chunks, *(shape for layer in layers for shape in layer.sums)) as arrays:
        yield tuple(Factors(*arrays[first : first + 3]) for first in range(0, len(arrays), 3))


def _added(layers: Sequence[Factors], sums: tuple[Factors, ...]) -> list[Gradients]:
    """The gradients of the layers from the sums of all chunks."""
    gradients = []
    for layer, own in zip(layers, sums, strict=True):
        (m1, K), r = layer.outer.shape, len(layer.B)
        scaled = own.outer.sum(axis=0)[:, :K].reshape(m1, r, K // r).transpose(1, 0, 2)
        gradients.append(Gradients(scaled, own.B.sum(axis=0), own.bias.sum(axis=0)))
    return gradients


class Operands(NamedTuple):
    """What the kernels need of a layer without its zero blocks, of n inputs and m outputs; all contiguous.

    Attributes
    ----------
    B
        (r, m2, n2) of a layer that goes through its factors; (0, m2, n2), r being none, where `values` are W's own.
    values
        Without terms: (used columns of all block rows, m2), flat: the column of W within its block row, block row
        after block row. With: the non-zeros of `scaled` (r, m1, n1), block row after block row.
    at
        The used columns of x; with terms for each value the row i n1 + b of the inner product it multiplies.
    starts
        (m1 + 1,): where each block row's start in `at`.
    bias
        (m,).
    """

    B: Array
    values: Array
    at: Places
    starts: Places
    bias: Array

    def check(self, n: int) -> None:
        """Refuse places outside of n inputs, and starts that do not rise from 0 to the number of places."""
        terms, _, n2 = self.B.shape
        limit = terms * (n // n2) if terms else n
        if not _are_places(self.at, self.starts, limit):
            raise InputError(
                f"buffers 'columns' and 'starts': columns must lie in 0 .. {limit - 1}, and starts rise from 0 to "
                f"{len(self.at)}; load the state of a deployed network into it"
            )

    def room(self, n: int) -> int:
        """Floats of scratch that a tile of rows takes."""
        (terms, m2, n2), m = self.B.shape, len(self.bias)
        between: int = terms * (n // n2) * m2
        return TILE * between if m2 % LANES == 0 else WIDTH * (n + between + m)


def products(x: Array, layers: Sequence[Operands], outputs: Sequence[Array], threads: int) -> None:
    """Fill each y (N, m) of `outputs` with x W^T + bias of its layer for x (N, n); threads share the rows.

    Where a block has whole vectors of outputs, each output vector of a row is a sum over the used columns or the
    inner products. With lower blocks a tile of WIDTH rows is transposed and a vector holds one output for all of them.
    """
    for layer in layers:
        layer.check(x.shape[1])
    size = max(layer.room(x.shape[1]) for layer in layers)
    shares = _tiles(x)
    with _scratch(min(threads, shares), (size,)) as rooms:
        team.run(_products, shares, threads, x, tuple(layers), tuple(outputs), *rooms)


def feed_forward(x: Array, first: Operands, second: Operands, y: Array, is_gelu: bool, threads: int) -> None:
    """Fill y (N, m) with second(a(first(x))), a being GELU (by the error function) or else ReLU.

    What lies between the layers stays in the cache, tile by tile.
    """
    width = len(first.bias)
    first.check(x.shape[1])
    second.check(width)
    size = max(first.room(x.shape[1]), second.room(width))

    shares = _tiles(x)
    with _scratch(min(threads, shares), (WIDTH, width), (size,)) as rooms:
        team.run(_feed_forward, shares, threads, x, first, second, y, is_gelu, *rooms)


@compiled
def one_term_squares(S, A, square, support, squares):  # type: ignore[no-untyped-def]
    """squares[a, b] = (S_ab A_ab)^2 ||B||^2 on the support, else zero, for ||B||^2 = `square`; all (m1, n1)."""
    for a in range(len(S)):
        for b in range(S.shape[1]):
            value = A[a, b] * S[a, b] if support[a, b] else np.float32(0.0)
            squares[a, b] = value * square * value


@compiled
def shrink(factors, scores, wanted, threshold):  # type: ignore[no-untyped-def]
    """The adaptive proximal step on one layer, in place; return how many blocks it leaves at zero.

    `factors` is (terms, m1, n1), what is scaled, and `scores` (m1, n1), which become the shares that are kept. With q
    the score that `wanted` others are not above, a score s loses (q / s)^4, at most 1, of the threshold; one that is
    q or more keeps some.
    """
    flat = scores.reshape(-1)
    q = _ranked(flat, wanted)
    limit = min(_below(q), threshold)
    gone = 0
    for i in range(len(flat)):
        s = flat[i]
        weight = q / s
        weight = weight if weight < ONE else ONE
        weight *= weight
        weight *= weight
        lost = weight * limit
        gone += s <= lost
        flat[i] = ONE - lost / s if s > lost else np.float32(0.0)
    for term in range(len(factors)):
        own = factors[term].reshape(-1)
        for i in range(len(flat)):
            own[i] *= flat[i]
    return gone


@compiled
def _below(q):  # type: ignore[no-untyped-def]
    """The next smaller number than q > 0; 0 for 0."""
    bits = np.array([q]).view(np.int32)
    bits[0] -= bits[0] > 0
    return bits.view(np.float32)[0]


@compiled
def _ranked(values, rank):  # type: ignore[no-untyped-def]
    """The one of float32 `values`, none negative, that `rank` others are not above; NaN is the largest.

    Such numbers are in the order of their bits: it is found by eleven, ten and ten of them.
    """
    left = values.view(np.int32) & 0x7FFFFFFF
    count = len(left)
    for shift, size in ((20, 2048), (10, 1024), (0, 1024)):
        counts = np.zeros(size, dtype=np.int64)
        for i in range(count):
            counts[(left[i] >> shift) & (size - 1)] += 1
        digit = 0
        while rank >= counts[digit]:
            rank -= counts[digit]
            digit += 1
        kept = 0
        for i in range(count):
            value = left[i]
            left[kept] = value
            kept += ((value >> shift) & (size - 1)) == digit
        count = kept
    return left[:1].view(np.float32)[0]


@compiled
def _are_places(at, starts, limit):  # type: ignore[no-untyped-def]
    good = starts[0] == 0 and starts[-1] == len(at)
    for a in range(len(starts) - 1):
        good &= starts[a] <= starts[a + 1]
    for place in at:
        good &= 0 <= place < limit
    return good


@compiled
def _used(at, n1):  # type: ignore[no-untyped-def]
    """The columns b of blocks that occur in places i n1 + b, rising."""
    occurs = np.zeros(n1, dtype=np.bool_)
    for place in at:
        occurs[place % n1] = True
    return np.flatnonzero(occurs)


def _empty(shape: tuple[int, ...]) -> Array:
    """Uninitialised room that starts at a cache line, from the allocator that torch's other tensors share."""
    room: Array = torch.empty(shape, dtype=torch.float32).numpy()
    return room


_rooms: deque[Array] = deque()  # that nobody uses now


@contextmanager
def _scratch(count: int, *shapes: tuple[int, ...]) -> Iterator[list[Array]]:
    """Lend `count` uninitialised arrays of each shape as one, from a cache line on, in room that is used again."""
    shapes = tuple((max(1, count), *shape) for shape in shapes)
    _, size = _places(shapes)
    try:
        room = _rooms.pop()
    except IndexError:
        room = _empty((0,))
    if len(room) < size:
        room = _empty((size,))
    yield _arrays(room, shapes)
    _rooms.append(room)


@lru_cache(1 << 10)
def _places(shapes: tuple[tuple[int, ...], ...]) -> tuple[list[slice], int]:
    """Where arrays of these shapes lie in one room, each from a cache line on, and its size."""
    counts = [math.prod(shape) for shape in shapes]
    *starts, size = accumulate((-(-count // LANES) * LANES for count in counts), initial=0)
    return [slice(start, start + count) for start, count in zip(starts, counts, strict=True)], size


def _arrays(room: Array, shapes: tuple[tuple[int, ...], ...]) -> list[Array]:
    return [room[place].reshape(shape) for place, shape in zip(_places(shapes)[0], shapes, strict=True)]


def _tiles(x: Array) -> int:
    """In how many tiles the rows go."""
    return -(-len(x) // WIDTH)


@compiled
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


@compiled
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


@compiled
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


@compiled
def _layer(xt, layer, z, yt):  # type: ignore[no-untyped-def]
    """yt = W xt + bias for a tile of rows, features first; z is left with B_i x."""
    outer, B, bias = layer
    (m1, K), m2 = outer.shape, B.shape[1]
    _inner_products(xt, B, z)
    for j in range(m2):
        source = z.ctypes.data + FLOAT * j * K * WIDTH
        target = yt.ctypes.data + FLOAT * j * WIDTH
        product(outer.ctypes.data, K, 1, source, WIDTH, target, m2 * WIDTH, m1, K, 0)
    for f in range(len(bias)):
        for t in range(WIDTH):
            yt[f, t] += bias[f]


@compiled
def _forward_tiles(turns, x, layers, ys, xts, zs, yts):  # type: ignore[no-untyped-def]
    """Tiles of the ys as they are drawn; the last three are scratch."""
    first = WIDTH * drawn(turns, 0)
    if first < len(x):
        me = drawn(turns, 1)
    while first < len(x):
        rows = min(WIDTH, len(x) - first)
        _to_lanes(x, first, rows, xts[me])
        for i in range(len(layers)):
            _layer(xts[me], layers[i], zs[i][me], yts[i][me])
            _from_lanes(yts[i][me], ys[i], first, rows)
        first = WIDTH * drawn(turns, 0)


@compiled
def _forward(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_forward_tiles, arguments, parallel, threads)


@compiled
def _forward_both_tiles(  # type: ignore[no-untyped-def]
    turns, x, one, two, is_gelu, y, xts, zs, hiddens, zs_two, yts
):
    """Tiles of y as they are drawn; from xts on scratch."""
    first = WIDTH * drawn(turns, 0)
    if first < len(x):
        me = drawn(turns, 1)
        xt, z, hidden, z_two, yt = xts[me], zs[me], hiddens[me], zs_two[me], yts[me]
    while first < len(x):
        rows = min(WIDTH, len(x) - first)
        _to_lanes(x, first, rows, xt)
        _layer(xt, one, z, hidden)
        if is_gelu:
            gelu(hidden.reshape(-1))
        else:
            relu(hidden.reshape(-1))
        _layer(hidden, two, z_two, yt)
        _from_lanes(yt, y, first, rows)
        first = WIDTH * drawn(turns, 0)


@compiled
def _forward_both(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_forward_both_tiles, arguments, parallel, threads)


@compiled
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


@compiled
def _begin_sums(sums, chunk, lanes):  # type: ignore[no-untyped-def]
    """A chunk's sums for a layer, at zero; those of the bias are made in `lanes`."""
    own = (sums.outer[chunk], sums.B[chunk], lanes)
    own[0][:] = np.float32(0.0)
    own[1][:] = np.float32(0.0)
    lanes[:] = np.float32(0.0)
    return own


@compiled
def _end_sums(sums, chunk, lanes):  # type: ignore[no-untyped-def]
    """Add up the lanes of the bias."""
    for f in range(len(lanes)):
        sums.bias[chunk, f] = lanes[f].sum()


@compiled
def _layer_gradients(dyt, xt, z, layer, sums, z_rows):  # type: ignore[no-untyped-def]
    """Add to `sums` what a tile of rows gives; z is B_i x and is left with its own gradient."""
    outer, B, _ = layer
    d_outer, d_blocks, d_bias = sums
    m1, K = outer.shape
    r, m2, n2 = B.shape
    n1 = K // r
    for f in range(len(d_bias)):
        for t in range(LANES):
            d_bias[f, t] += dyt[f, t] + dyt[f, LANES + t]
    z_rows[-1] = 0.0  # lanes beyond K
    _add_outer_gradient(dyt, z, z_rows, d_outer)
    for j in range(m2):
        source = dyt.ctypes.data + FLOAT * j * WIDTH
        target = z.ctypes.data + FLOAT * j * K * WIDTH
        product(outer.ctypes.data, 1, K, source, m2 * WIDTH, target, WIDTH, K, m1, 0)
    for i in range(r):
        dz = z.ctypes.data + FLOAT * i * n1 * WIDTH
        target = d_blocks.ctypes.data + FLOAT * i * m2 * n2
        inner(dz, WIDTH, K * WIDTH, xt.ctypes.data, n2 * WIDTH, WIDTH, target, n2, m2, n2, n1)


@compiled
def _input_gradient(z, layer, dxt, add):  # type: ignore[no-untyped-def]
    """dxt (+)= the gradient of a tile of inputs from that of B_i x."""
    B = layer.B
    r, m2, n2 = B.shape
    K = z.shape[1]
    n1 = K // r
    for i in range(r):
        factors = B.ctypes.data + FLOAT * i * m2 * n2
        for b in range(n1):
            source = z.ctypes.data + FLOAT * (i * n1 + b) * WIDTH
            target = dxt.ctypes.data + FLOAT * b * n2 * WIDTH
            product(factors, 1, n2, source, K * WIDTH, target, WIDTH, n2, m2, int(i > 0 or add))


@compiled
def _backward_chunks(  # type: ignore[no-untyped-def]
    turns, dys, x, layers, dx, sums, edges, xts, dxts, dyts, zs, z_rows, lanes
):
    """Add the gradients of chunks, as they are drawn, to their sums; fill those rows of dx unless it is empty.

    From xts on scratch.
    """
    chunk = drawn(turns, 0)
    if chunk < len(edges) - 1:
        me = drawn(turns, 1)
        xt, dxt = xts[me], dxts[me]
    while chunk < len(edges) - 1:
        for i in range(len(layers)):
            _begin_sums(sums[i], chunk, lanes[i][me])
        for first in range(edges[chunk], edges[chunk + 1], WIDTH):
            rows = min(WIDTH, len(x) - first)
            _to_lanes(x, first, rows, xt)
            for i in range(len(layers)):
                dyt, z = dyts[i][me], zs[i][me]
                _to_lanes(dys[i], first, rows, dyt)
                _inner_products(xt, layers[i].B, z)
                own = (sums[i].outer[chunk], sums[i].B[chunk], lanes[i][me])
                _layer_gradients(dyt, xt, z, layers[i], own, z_rows[i][me])
                if len(dx) > 0:
                    _input_gradient(z, layers[i], dxt, i > 0)
            if len(dx) > 0:
                _from_lanes(dxt, dx, first, rows)
        for i in range(len(layers)):
            _end_sums(sums[i], chunk, lanes[i][me])
        chunk = drawn(turns, 0)


@compiled
def _backward(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_backward_chunks, arguments, parallel, threads)


@compiled
def _backward_both_chunks(  # type: ignore[no-untyped-def]
    turns, dy, x, one, two, is_gelu, dx, sums, sums_two, edges, xts, zs, all_z_rows, hiddens, all_slopes, dhts, zs_two,
    all_z_rows_two, dyts, dxts, all_lanes, all_lanes_two,
):  # fmt: skip
    """As :func:`_backward_chunks` for two layers with an activation between them; from xts on scratch."""
    chunk = drawn(turns, 0)
    if chunk < len(edges) - 1:
        me = drawn(turns, 1)
        xt, z, z_rows, hidden, slopes = xts[me], zs[me], all_z_rows[me], hiddens[me], all_slopes[me]
        dht, z_two, z_rows_two, dyt, dxt = dhts[me], zs_two[me], all_z_rows_two[me], dyts[me], dxts[me]
    while chunk < len(edges) - 1:
        own = _begin_sums(sums, chunk, all_lanes[me])
        own_two = _begin_sums(sums_two, chunk, all_lanes_two[me])
        for first in range(edges[chunk], edges[chunk + 1], WIDTH):
            rows = min(WIDTH, len(x) - first)
            _to_lanes(x, first, rows, xt)
            _to_lanes(dy, first, rows, dyt)
            _layer(xt, one, z, hidden)
            if is_gelu:
                gelu_and_slope(hidden.reshape(-1), slopes.reshape(-1))
            else:
                relu_and_slope(hidden.reshape(-1), slopes.reshape(-1))
            _inner_products(hidden, two.B, z_two)
            _layer_gradients(dyt, hidden, z_two, two, own_two, z_rows_two)
            _input_gradient(z_two, two, dht, 0)
            for f in range(len(dht)):
                for t in range(WIDTH):
                    dht[f, t] *= slopes[f, t]
            _layer_gradients(dht, xt, z, one, own, z_rows)
            if len(dx) > 0:
                _input_gradient(z, one, dxt, 0)
                _from_lanes(dxt, dx, first, rows)
        _end_sums(sums, chunk, all_lanes[me])
        _end_sums(sums_two, chunk, all_lanes_two[me])
        chunk = drawn(turns, 0)


@compiled
def _backward_both(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_backward_both_chunks, arguments, parallel, threads)


@compiled
def _plan(layer, n):  # type: ignore[no-untyped-def]
    """What all tiles of a layer share: used columns of blocks, columns within a block, factors as wanted, zeros."""
    B, _, at, _, _ = layer
    terms, m2, n2 = B.shape
    used = _used(at, n // n2) if terms > 0 else at[:0]
    if m2 % LANES == 0:
        factors = np.empty((terms, n2, m2), dtype=np.float32)
        for i in range(terms):
            for j in range(m2):
                for k in range(n2):
                    factors[i, k, j] = B[i, j, k]
    else:
        factors = B
    return used, np.arange(n2), factors, np.zeros(max(m2, WIDTH), dtype=np.float32)


@compiled
def _tile(x, layer, plan, room, y):  # type: ignore[no-untyped-def]
    """y = x W^T + bias for the few rows of x and y."""
    B, values, at, starts, bias = layer
    used, every, factors, zeros = plan
    terms, m2, n2 = B.shape
    n, m = x.shape[1], y.shape[1]
    K = terms * (n // n2)
    if m2 % LANES == 0:
        if terms > 0:
            z = room[: K * TILE * m2].reshape(K, TILE, m2)
            _factored_along_outputs(x, values, at, starts, factors, used, every, bias, zeros, m2, n2, y, z)
        else:
            _block_rows_along_outputs(x, values.reshape(-1, m2), at, starts, bias, y)
        return
    xt = room[: n * WIDTH].reshape(n, WIDTH)
    yt = room[n * WIDTH : (n + m) * WIDTH].reshape(m, WIDTH)
    if terms > 0:
        z = room[(n + m) * WIDTH : (n + m + K * m2) * WIDTH].reshape(m2, K, WIDTH)
        _factored(x, values, at, starts, factors, used, bias, zeros, m2, n2, y, xt, z, yt)
    else:
        _block_rows(x, values.reshape(-1, m2), at, starts, bias, y, xt, yt)


@compiled
def _products_tiles(turns, x, layers, outputs, rooms):  # type: ignore[no-untyped-def]
    """Tiles of :func:`products` as they are drawn; `rooms` are scratch."""
    first = WIDTH * drawn(turns, 0)
    if first < len(x):
        me = drawn(turns, 1)
        plans = [_plan(layer, x.shape[1]) for layer in layers]
    while first < len(x):
        last = min(first + WIDTH, len(x))
        for i in range(len(layers)):
            _tile(x[first:last], layers[i], plans[i], rooms[me], outputs[i][first:last])
        first = WIDTH * drawn(turns, 0)


@compiled
def _products(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_products_tiles, arguments, parallel, threads)


@compiled
def _feed_forward_tiles(turns, x, first, second, y, is_gelu, betweens, rooms):  # type: ignore[no-untyped-def]
    """Tiles of :func:`feed_forward` as they are drawn; the last two are scratch."""
    low = WIDTH * drawn(turns, 0)
    if low < len(x):
        me = drawn(turns, 1)
        between, room = betweens[me], rooms[me]
        first_plan, second_plan = _plan(first, x.shape[1]), _plan(second, between.shape[1])
    while low < len(x):
        high = min(low + WIDTH, len(x))
        hidden = between[: high - low]
        _tile(x[low:high], first, first_plan, room, hidden)
        if is_gelu:
            gelu(hidden.reshape(-1))
        else:
            relu(hidden.reshape(-1))
        _tile(hidden, second, second_plan, room, y[low:high])
        low = WIDTH * drawn(turns, 0)


@compiled
def _feed_forward(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_feed_forward_tiles, arguments, parallel, threads)


@compiled
def _block_rows(x, values, at, starts, bias, y, xt, yt):  # type: ignore[no-untyped-def]
    """Without factors by transposed tiles; the last two are scratch."""
    m2 = values.shape[1]
    for first in range(0, len(x), WIDTH):
        rows = min(WIDTH, len(x) - first)
        _to_lanes(x, first, rows, xt)
        for a in range(len(starts) - 1):
            low, count = starts[a], starts[a + 1] - starts[a]
            source, columns = values.ctypes.data + FLOAT * low * m2, at.ctypes.data + 8 * low
            target = yt[a * m2 : (a + 1) * m2]
            if count > 0:
                gathered(source, 1, m2, columns, xt.ctypes.data, target.ctypes.data, WIDTH, m2, count)
            else:
                target[:] = np.float32(0.0)
            for i in range(m2):
                for t in range(WIDTH):
                    target[i, t] += bias[a * m2 + i]
        _from_lanes(yt, y, first, rows)


@compiled
def _block_rows_along_outputs(x, values, at, starts, bias, y):  # type: ignore[no-untyped-def]
    """Without factors, a vector being outputs of one row."""
    n, m, m2 = x.shape[1], y.shape[1], values.shape[1]
    for first in range(0, len(x), TILE):
        rows = min(TILE, len(x) - first)
        source, target = x.ctypes.data + FLOAT * first * n, y.ctypes.data + FLOAT * first * m
        for a in range(len(starts) - 1):
            low, count = starts[a], starts[a + 1] - starts[a]
            own, place = bias.ctypes.data + FLOAT * a * m2, target + FLOAT * a * m2
            if count > 0:
                panels = values.ctypes.data + FLOAT * low * m2
                picked(source, n, at.ctypes.data + 8 * low, panels, m2, own, place, m, rows, count)
            else:
                y[first : first + rows, a * m2 : (a + 1) * m2] = bias[a * m2 : (a + 1) * m2]


@compiled
def _factored(  # type: ignore[no-untyped-def]
    x, coefficients, at, starts, B, used, bias, zeros, m2, n2, y, xt, z, yt
):
    """By factors and transposed tiles; the last three are scratch."""
    n1 = x.shape[1] // n2
    K = z.shape[1]
    for first in range(0, len(x), WIDTH):
        rows = min(WIDTH, len(x) - first)
        _to_lanes(x, first, rows, xt)
        for i in range(K // n1):
            factors = B.ctypes.data + FLOAT * i * m2 * n2
            for b in used:
                source = xt.ctypes.data + FLOAT * b * n2 * WIDTH
                target = z.ctypes.data + FLOAT * (i * n1 + b) * WIDTH
                product(factors, n2, 1, source, WIDTH, target, K * WIDTH, m2, n2, 0)
        for a in range(len(starts) - 1):
            low, count = starts[a], starts[a + 1] - starts[a]
            if count > 0:
                values, rows_of_z = coefficients.ctypes.data + FLOAT * low, at.ctypes.data + 8 * low
                target = yt.ctypes.data + FLOAT * a * m2 * WIDTH
                spread(values, rows_of_z, z.ctypes.data, K * WIDTH, WIDTH, WIDTH, zeros.ctypes.data, target, WIDTH,
                       m2, count)  # fmt: skip
            else:
                yt[a * m2 : (a + 1) * m2] = 0.0
        for f in range(len(bias)):
            for t in range(WIDTH):
                yt[f, t] += bias[f]
        _from_lanes(yt, y, first, rows)


@compiled
def _factored_along_outputs(  # type: ignore[no-untyped-def]
    x, coefficients, at, starts, B, used, every, bias, zeros, m2, n2, y, z
):
    """By factors, a vector being outputs of one row; the last is scratch."""
    n, m = x.shape[1], y.shape[1]
    n1 = n // n2
    for first in range(0, len(x), TILE):
        rows = min(TILE, len(x) - first)
        source, target = x.ctypes.data + FLOAT * first * n, y.ctypes.data + FLOAT * first * m
        for i in range(len(z) // n1):
            factors = B.ctypes.data + FLOAT * i * m2 * n2
            for b in used:
                place = z.ctypes.data + FLOAT * (i * n1 + b) * TILE * m2
                picked(source + FLOAT * b * n2, n, every.ctypes.data, factors, m2, zeros.ctypes.data, place, m2, rows,
                       n2)  # fmt: skip
        for a in range(len(starts) - 1):
            low, count = starts[a], starts[a + 1] - starts[a]
            if count > 0:
                values, rows_of_z = coefficients.ctypes.data + FLOAT * low, at.ctypes.data + 8 * low
                own, place = bias.ctypes.data + FLOAT * a * m2, target + FLOAT * a * m2
                spread(values, rows_of_z, z.ctypes.data, m2, TILE * m2, m2, own, place, m, rows, count)
            else:
                y[first : first + rows, a * m2 : (a + 1) * m2] = bias[a * m2 : (a + 1) * m2]
