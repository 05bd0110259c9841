"""Codes for symmetric matrices, undirected graphs among them: each pair of cells is told once.

With the orders free one order serves both modes. A sparse graph is then a hypergraph of edges, columns of two rows (of
one on the diagonal), which :mod:`pipeline.baselines.coding.unlabelled` codes: neither the edges' order nor the names of
the vertices are told. A dense one is shorter as the upper triangle in the order of the vertices' degrees, where each
vertex's set of neighbours teaches the model about the next. With the orders kept any code tells the upper triangle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps, mixed, unlabelled

FREE, MIRRORED = b"\x0c", b"\x0d"  # first byte of such codes


def able(coords: Integers, values: Reals, shape: Sequence[int]) -> bool:
    """Whether a tensor is a symmetric matrix, with cells off the diagonal, of a size that the code without names takes.

    ``coords`` need not be sorted.
    """
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] > mixed.LARGEST_MODE or len(coords) > mixed.LARGEST_MODE:
        return False
    one, other = np.lexsort(coords.T), np.lexsort(coords.T[::-1])
    alike = np.array_equal(coords[one], coords[other][:, ::-1]) and np.array_equal(values[one], values[other])
    return alike and bool(np.any(coords[:, 0] != coords[:, 1]))


def upper(coords: Integers) -> Integers:
    """Which cells are on or above the diagonal."""
    return np.flatnonzero(coords[:, 0] <= coords[:, 1])


def mirrored(code: bytes) -> bytes:
    """The code of a symmetric matrix, given that of its upper triangle."""
    return MIRRORED + code


def both(coords: Integers, values: Reals) -> tuple[Integers, Reals]:
    """All cells, given those of one triangle."""
    off = coords[:, 0] != coords[:, 1]
    return np.concatenate((coords, coords[off][:, ::-1])), np.concatenate((values, values[off]))


def pack(coords: Integers, values: Reals, shape: Sequence[int]) -> tuple[bytes, Integers] | None:
    """Code a symmetric matrix in an order of the code's own choice; None where that takes too much room.

    Returns
    -------
    The code, and the order of both modes (position -> index).
    """
    packed = [edges_code(coords, values, shape)]
    one = upper(coords)
    degree = np.bincount(coords[:, 0], minlength=shape[0])
    for sign in (-1, 1) if unlabelled.keeps(coords[one], shape) else ():
        order = np.argsort(sign * degree, kind="stable")
        triangle = np.sort(gaps.positions(order)[coords[one]], axis=1)
        cells = np.lexsort(triangle.T[::-1])
        code = unlabelled.pack_kept(triangle[cells], values[one][cells], shape)
        packed.append(None if code is None else (mirrored(code), order))
    return min((each for each in packed if each is not None), key=lambda each: len(each[0]), default=None)


def edges_code(coords: Integers, values: Reals, shape: Sequence[int]) -> tuple[bytes, Integers] | None:
    """The same as a hypergraph of edges."""
    one = upper(coords)
    ends, values = coords[one], values[one]
    pairs = ends[:, 0] != ends[:, 1]
    edge = np.arange(len(ends))
    cells = np.stack((np.append(ends[:, 0], ends[pairs, 1]), np.append(edge, edge[pairs])), axis=1)
    columns = max(len(ends), shape[0] + 1)  # more than rows
    packed = unlabelled.pack(cells, np.ones(len(cells)), (shape[0], columns))
    if packed is None:
        return None
    code, orders = packed
    told = orders[1][: len(ends)]
    kind, constant, numbers = gaps.encode_values(values[told])
    stream = gaps.squeeze(numbers)
    if kind == gaps.WHOLE:
        place = gaps.positions(orders[0])[ends[told]]
        bits = int(np.clip((len(told) * 24).bit_length(), *mixed.SLOTS))
        model = mixed.Model(bits, None, 1024 + 12 * len(told))
        model.numbers(1, _contexts(np.sort(place, axis=1)), gaps.fold(values[told]))
        content = model.finished()
        if content is None:
            return None
        kind, stream = mixed.MIXED, (content, bits)
    return gaps.joined(FREE, [shape[0], len(ends), kind], constant, [(code, 0), stream]), orders[0]


def _contexts(ends: Integers) -> Integers:
    """What an edge's value is predicted from: either end, both coarsely, and which end it is that is rare."""
    low, high = ends.T
    nothing = np.zeros_like(low)
    return np.stack((low, high, (low >> 3) * (1 << 27) + (high >> 3), low >> 4, nothing), axis=1)


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`edges_code`."""
    head, at = gaps.read_varints(code, 7, 1)
    size, count, kind = int(head[0]), int(head[1]), int(head[2])
    constant, streams = gaps.read_streams(code, at, kind, head[3::2])
    if streams[0][:1] not in unlabelled.FREE_CODES:
        raise ValueError("edges in another code")
    cells, _, (rows, columns) = unlabelled.unpack(streams[0])
    times = np.bincount(cells[:, 1], minlength=columns)
    if rows != size or columns <= size or not np.all((times[:count] > 0) & (times[:count] < 3)) or times[count:].any():
        raise ValueError("no edges")
    cells = cells[np.lexsort(cells.T)]
    last = np.cumsum(times[:count]) - 1
    ends = np.stack((cells[last - times[:count] + 1, 0], cells[last, 0]), axis=1)
    if kind == mixed.MIXED:
        folded, bits = np.zeros(count, dtype=np.int64), int(head[6])
        if not mixed.SLOTS[0] <= bits <= mixed.SLOTS[1]:
            raise ValueError(f"a table of 2^{bits} contexts")
        mixed.Model(bits, streams[1]).numbers(1, _contexts(ends), folded)
        values = gaps.unfold(folded)
    else:
        values = gaps.decode_values(kind, constant, gaps.expand(streams[1], int(head[6])), count)
    return *both(ends, values), (size, size)
