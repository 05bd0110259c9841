"""A code of differences between sorted cells: what goes on regularly, in any orders that the tensor has.

Bands, diagonals, blocks, strides and full grids are the same few steps from one cell to the next, again and again,
which no model of sets of indices says. Cells are sorted with each mode first in turn; a mode's steps, and the values or
their steps, go through raw LZMA. Whether that may pay is found by a quick compressor first.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps

CODE = b"\x15"  # first byte of such a code
STEPPED = 5  # kind of values, beside those of `gaps`: whole, as differences
LARGEST_MODE = 1 << 61
HOPEFUL, MORE = 2, 1024  # times the wanted length, and bytes, by the quick compressor up to which LZMA is tried


def pack(coords: Integers, values: Reals, shape: Sequence[int], most: int) -> bytes | None:
    """Code a tensor in the orders its modes have; None where that is hardly shorter than `most` bytes."""
    if max(shape) > LARGEST_MODE:
        return None
    tried = [_streams(coords, values, first) for first in range(len(shape))]
    lengths = [sum(len(zlib.compress(stream.tobytes(), 6)) for stream in each) for _, _, each in tried]
    first = int(np.argmin(lengths))
    if lengths[first] > HOPEFUL * most + MORE:
        return None
    kind, constant, streams = tried[first]
    head = [len(shape), *shape, len(values), first, kind]
    return gaps.joined(CODE, head, constant, [gaps.squeeze(stream) for stream in streams])


def _streams(coords: Integers, values: Reals, first: int) -> tuple[int, bytes, list[gaps.Bytes]]:
    """Of the cells sorted with one mode first: the kind of the values, the constant, and bytes of steps and values."""
    others = [coords[:, mode] for mode in range(coords.shape[1]) if mode != first]
    by_row = np.lexsort((*others[::-1], coords[:, first]))
    kind, constant, numbers = gaps.encode_values(values[by_row])
    streams = [gaps.write_varints(_steps(coords[by_row, mode])) for mode in range(coords.shape[1])]
    if kind == gaps.WHOLE:
        stepped = gaps.write_varints(_steps(values[by_row].astype(np.int64)))
        if len(zlib.compress(stepped.tobytes(), 6)) < len(zlib.compress(numbers.tobytes(), 6)):
            return STEPPED, constant, [*streams, stepped]
    return kind, constant, [*streams, numbers]


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    (order,), at = gaps.read_varints(code, 1, 1)
    head, at = gaps.read_varints(code, int(order) + 3, at)
    shape, (count, first, kind) = tuple(head[:order].tolist()), head[order:].tolist()
    if not (shape and 0 <= first < len(shape) and 0 < max(shape) <= LARGEST_MODE):
        raise ValueError("not a sequence of its modes")
    constant, streams = gaps.read_expanded(code, at, kind, int(order) + 1)
    coords = np.stack([_from_steps(gaps.read_varints(stream, count, 0)[0]) for stream in streams[:-1]], axis=1)
    if np.any(coords < 0) or np.any(coords >= np.array(shape)):
        raise ValueError("an index outside the shape")
    if kind == STEPPED:
        values = _from_steps(gaps.read_varints(streams[-1], count, 0)[0]).astype(np.float64)
    else:
        values = gaps.decode_values(kind, constant, streams[-1], count)
    return coords, values, shape


def _steps(numbers: Integers) -> Integers:
    """Differences from the number before, as numbers of at least 0."""
    return gaps.zigzag(numbers - np.append(0, numbers[:-1]))


def _from_steps(folded: Integers) -> Integers:
    """Undo :func:`_steps`."""
    return np.cumsum(gaps.unzigzag(folded))
