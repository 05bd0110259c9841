"""Exact codes of a sparse tensor: index order as given, gaps between sorted indices, an entropy coder at the end.

A code is a byte string of its own: it holds everything (shape, indices, values), and :func:`decode`
gives the tensor back. Orders of the modes are chosen before, by :func:`free_orders`.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals
from pipeline.errors import InputError
from pipeline.sparse.reals import EXACT_INTEGER

Bytes = npt.NDArray[np.uint8]
Cells = tuple[Integers, Reals, tuple[int, ...]]  # coordinates (n, D), values (n,) and shape

KIND = b"\x00"  # first byte of a code of gaps
ONES, CONSTANT, WHOLE, REAL = range(4)  # kinds of values; reals by their bytes of one place, and ..
RECORDS = 8  # .. by 8 bytes each, which repeat where values do; other modules have those between
DAMAGE = (lzma.LZMAError, ValueError, IndexError, OverflowError, MemoryError, struct.error, EOFError)
_LITERAL_BITS = (0, 3, 4)  # LZMA's literal context bits worth trying


def top_mode(shape: Sequence[int]) -> int:
    """The mode whose slices are coded one after the other: the largest."""
    return int(np.argmax(shape))


def free_orders(coords: Integers, shape: Sequence[int]) -> list[Integers]:
    """Orders of all modes that make the tensor cheap to code.

    Every mode but the top one by falling number of non-zeros; the top mode's slices then sorted
    lexicographically by their contents, so that neighbours share their beginnings.

    Returns
    -------
    D int64 arrays; ``orders[d][position]`` is the index that stands there.
    """
    orders = [by_degree(coords[:, mode], size) for mode, size in enumerate(shape)]
    top = top_mode(shape)
    others = [mode for mode in range(len(shape)) if mode != top]
    if others:
        moved = np.stack([positions(orders[mode])[coords[:, mode]] for mode in others], axis=1)
        orders[top] = _by_content(coords[:, top], moved, shape[top])
    return orders


def by_degree(index: Integers, size: int) -> Integers:
    """Indices of a mode by falling number of non-zeros, then by number."""
    return np.argsort(-np.bincount(index, minlength=size), kind="stable").astype(np.int64)


def positions(order: Integers) -> Integers:
    """Inverse of an order: where each index stands."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _by_content(slices: Integers, contents: Integers, size: int) -> Integers:
    """Slices in lexicographic order of their sorted contents; empty ones last, equal ones by number."""
    by_slice = np.lexsort((*contents.T[::-1], slices))
    rank = _dense_ranks(contents)[by_slice]
    blob = rank.astype(">u4" if len(rank) < 2**32 else ">u8").tobytes()
    width = 4 if len(rank) < 2**32 else 8
    ends = np.cumsum(np.bincount(slices, minlength=size)) * width
    starts = np.concatenate(([0], ends[:-1]))
    keys = [(start == end, blob[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return np.array(sorted(range(size), key=keys.__getitem__), dtype=np.int64)


def _dense_ranks(rows: Integers) -> Integers:
    """Rank of each row among the distinct rows in lexicographic order."""
    order = np.lexsort(rows.T[::-1])
    new = np.concatenate(([0], np.cumsum(np.any(rows[order][1:] != rows[order][:-1], axis=1))))
    ranks = np.empty(len(rows), dtype=np.int64)
    ranks[order] = new
    return ranks


def encode(coords: Integers, values: Reals, shape: Sequence[int]) -> bytes:
    """Code a sparse tensor in the order of its indices.

    Parameters
    ----------
    coords, values
        (nnz, D) and (nnz,), distinct cells in any sequence.
    shape
        Sizes of the D modes.
    """
    modes = _mode_sequence(shape)
    sequence = np.lexsort(coords[:, modes].T[::-1])
    rows = coords[sequence][:, modes]
    top = rows[np.flatnonzero(_levels(rows) == 0), 0]
    gaps = np.diff(top, prepend=-1)
    streams = [np.zeros(0, dtype=np.uint8) if np.all(gaps == 1) else write_varints(gaps)]
    streams.append(write_varints(to_tokens(rows)))
    kind, constant, numbers = encode_values(values[sequence])
    streams.append(numbers)
    header = [len(shape), *shape, len(values), len(top), kind]
    return joined(KIND, header, constant, [squeeze(stream) for stream in streams])


def joined(kind: bytes, header: list[int], constant: bytes, streams: list[tuple[bytes, int]]) -> bytes:
    """A code of its first byte, a header that goes on with each stream's length and setting, and the contents."""
    lengths = [number for content, setting in streams for number in (len(content), setting)]
    head = write_varints(np.array(header + lengths, dtype=np.int64)).tobytes()
    return b"".join([kind, head, constant, *(content for content, _ in streams)])


def decoder(read: Callable[[bytes], Cells]) -> Callable[[bytes], Cells]:
    """Make of the reader of a kind of code one that sorts the cells, and refuses a damaged code by InputError."""

    @wraps(read)
    def decode(code: bytes) -> Cells:
        with undamaged(code):
            coords, values, shape = read(code)
            sequence = np.lexsort(coords.T[::-1])
            return coords[sequence], values[sequence], shape

    return decode


@contextmanager
def undamaged(code: bytes) -> Iterator[None]:
    """Say it in one line where what reads a code stumbles."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"a damaged code of {len(code)} bytes ({error}); fetch or make it again") from error


@decoder
def decode(code: bytes) -> Cells:
    """Undo :func:`encode`."""
    if code[:1] != KIND:
        raise ValueError("not of this kind")
    (order,), at = read_varints(code, 1, 1)
    (*sizes, count, slices, kind), at = read_varints(code, int(order) + 3, at)
    shape = tuple(int(size) for size in sizes)
    constant, streams = read_expanded(code, at, int(kind), 3)
    gaps = read_varints(streams[0], -1, 0)[0] if streams[0] else np.ones(slices, dtype=np.int64)
    rows = from_tokens(read_varints(streams[1], -1, 0)[0], gaps, len(shape))
    if len(rows) != count:
        raise ValueError(f"{len(rows)} non-zeros where {count} belong")
    values = decode_values(int(kind), constant, streams[2], int(count))
    coords = np.empty_like(rows)
    coords[:, _mode_sequence(shape)] = rows
    if np.any(coords < 0) or np.any(coords >= np.array(shape)):
        raise ValueError("an index outside the shape")
    return coords, values, shape


def read_expanded(code: bytes, at: int, kind: int, count: int) -> tuple[float, list[bytes]]:
    """The constant as of :func:`read_streams`, and the contents; `at` is where their lengths and settings begin."""
    lengths, at = read_varints(code, 2 * count, at)
    constant, packed = read_streams(code, at, kind, lengths[::2])
    return constant, [expand(stream, setting) for stream, setting in zip(packed, lengths[1::2].tolist(), strict=True)]


def read_streams(code: bytes, at: int, kind: int, lengths: Integers) -> tuple[float, list[bytes]]:
    """The constant, if the values are of that kind (else 1), and the streams that follow it, from byte `at`."""
    constant = 1.0
    if kind == CONSTANT:
        (constant,) = struct.unpack_from("<d", code, at)
        at += 8
    streams = []
    for length in lengths.tolist():
        streams.append(code[at : at + length])
        at += length
    return constant, streams


def _mode_sequence(shape: Sequence[int]) -> list[int]:
    """The top mode, then the others as they come."""
    top = top_mode(shape)
    return [top] + [mode for mode in range(len(shape)) if mode != top]


def to_tokens(rows: Integers) -> Integers:
    """Walk through the prefix tree of lexicographically sorted distinct rows, below its outermost level.

    Entering a node writes its index plus one if it is the first child, else its distance from the child
    before; leaving the last child of a node writes 0. The end of the walk writes nothing.
    """
    depth = rows.shape[1]
    level = _levels(rows)
    pieces = []  # (row, place within the row's tokens, token)
    for position in range(1, depth):
        jump = rows[:, position] + 1
        same = np.flatnonzero(level == position)
        jump[same] = rows[same, position] - rows[same - 1, position]
        entered = np.flatnonzero(level <= position)
        closed = np.flatnonzero(level < position)[1:]
        pieces.append((entered, np.full(len(entered), depth + position), jump[entered]))
        pieces.append((closed, np.full(len(closed), position), np.zeros(len(closed), dtype=np.int64)))
    if not pieces:
        return np.zeros(0, dtype=np.int64)
    row, place, token = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return np.asarray(token[np.lexsort((place, row))])


def _levels(rows: Integers) -> Integers:
    """First position at which each row differs from the one before; 0 for the first row."""
    level = np.zeros(len(rows), dtype=np.int64)
    level[1:] = np.argmax(rows[1:] != rows[:-1], axis=1)
    return level


def from_tokens(tokens: Integers, top_gaps: Integers, depth: int) -> Integers:
    """Undo :func:`to_tokens`: the rows, given the outermost index as gaps."""
    if depth == 1:
        return np.cumsum(top_gaps)[:, None] - 1
    walk = np.concatenate((np.zeros(depth - 1, dtype=np.int64), tokens))
    at = np.flatnonzero(walk)
    zeros = np.diff(at, prepend=-1) - 1  # closed levels before each written index
    runs = np.flatnonzero(zeros)
    run = np.cumsum(zeros > 0) - 1
    offset = np.arange(len(at)) - runs[run]
    outermost = depth - 1 - zeros[runs][run]  # level at which the run's first row differs
    in_first = offset < depth - np.maximum(outermost, 1)
    starts = (offset == 0) | ~in_first
    row = np.cumsum(starts) - 1
    level = np.where(in_first, outermost, depth - 1)[starts]
    position = np.where(in_first, np.maximum(outermost, 1) + offset, depth - 1)
    rows = np.empty((len(level), depth), dtype=np.int64)
    if np.count_nonzero(level == 0) != len(top_gaps) or level.min() < 0:
        raise ValueError(f"{np.count_nonzero(level == 0)} outer slices where {len(top_gaps)} belong")
    rows[:, 0] = np.cumsum(top_gaps)[np.cumsum(level == 0) - 1] - 1
    for current in range(1, depth):
        mine = position == current
        step = np.zeros(len(level), dtype=np.int64)
        step[row[mine]] = walk[at[mine]]
        fresh = np.flatnonzero(level < current)
        total = np.cumsum(step)
        base = (total - step)[fresh] + 1  # the first child's token is its index plus one
        rows[:, current] = total - np.repeat(base, np.diff(np.append(fresh, len(level))))
    return rows


def encode_values(values: Reals) -> tuple[int, bytes, Bytes]:
    """Kind of the values, the constant if they are all equal, and their bytes if not."""
    if np.all(values == 1.0):
        return ONES, b"", np.zeros(0, dtype=np.uint8)
    if np.all(values == values[0]):
        return CONSTANT, struct.pack("<d", values[0]), np.zeros(0, dtype=np.uint8)
    if np.all(values == np.rint(values)) and np.max(np.abs(values)) <= EXACT_INTEGER:
        return WHOLE, b"", write_varints(fold(values))
    records = values.astype("<f8").view(np.uint8)
    planes = np.ascontiguousarray(records.reshape(-1, 8).T).reshape(-1)  # alike bytes side by side
    if len(zlib.compress(records.tobytes(), 6)) < len(zlib.compress(planes.tobytes(), 6)):
        return RECORDS, b"", records
    return REAL, b"", planes


def decode_values(kind: int, constant: float, numbers: bytes, count: int) -> Reals:
    """Undo :func:`encode_values`."""
    if kind in (ONES, CONSTANT):
        return np.full(count, constant)
    if kind == RECORDS:
        if len(numbers) != 8 * count:
            raise ValueError(f"{len(numbers)} bytes of {count} values")
        return np.frombuffer(numbers, dtype="<f8").astype(np.float64)
    if kind == REAL:
        planes = np.frombuffer(numbers, dtype=np.uint8).reshape(8, count)
        return np.ascontiguousarray(planes.T).reshape(-1).view("<f8").astype(np.float64)
    return unfold(read_varints(numbers, count, 0)[0])


def fold(values: Reals) -> Integers:
    """Whole non-zero values as whole numbers of at least 0: 1, -1, 2, -2 .. as 0, 1, 2, 3 .."""
    numbers = values.astype(np.int64)
    return np.where(numbers < 0, -2 * numbers - 1, 2 * numbers - 2)


def unfold(folded: Integers) -> Reals:
    """Undo :func:`fold`."""
    return np.where(folded % 2 == 1, -(folded // 2) - 1, folded // 2 + 1).astype(np.float64)


def zigzag(numbers: Integers) -> Integers:
    """Whole numbers as such of at least 0: 0, -1, 1, -2 .. as 0, 1, 2, 3 .."""
    return np.where(numbers < 0, -2 * numbers - 1, 2 * numbers)


def unzigzag(folded: Integers) -> Integers:
    """Undo :func:`zigzag`."""
    return np.where(folded & 1, -(folded >> 1) - 1, folded >> 1)


def squeeze(content: Bytes) -> tuple[bytes, int]:
    """Raw LZMA with the best number of literal context bits; also the settings that undo it, as one number."""
    plain = content.tobytes()
    if not plain:
        return b"", 0
    window = max(12, (len(plain) - 1).bit_length())
    coded = [
        (lzma.compress(plain, format=lzma.FORMAT_RAW, filters=[_filter(window, bits)]), window * 8 + bits)
        for bits in _LITERAL_BITS
    ]
    return min(coded, key=lambda pair: len(pair[0]))


def expand(coded: bytes, setting: int) -> bytes:
    """Undo :func:`squeeze`; nothing for nothing."""
    if not coded:
        return b""
    if setting // 8 > 32:
        raise ValueError(f"a window of 2^{setting // 8} bytes")
    return lzma.decompress(coded, format=lzma.FORMAT_RAW, filters=[_filter(*divmod(setting, 8))])


def _filter(window: int, literal_context_bits: int) -> dict[str, int]:
    return {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << window,
        "lc": literal_context_bits,
        "lp": 0,
        "pb": 0,
    }


def write_varints(numbers: Integers) -> Bytes:
    """Non-negative integers in bytes of 7 bits each, lowest first; the last byte of each is below 128.

    >>> write_varints(np.array([5, 300])).tolist()
    [5, 172, 2]
    """
    lengths = np.ones(len(numbers), dtype=np.int64)
    rest = numbers >> 7
    while rest.any():
        lengths += rest > 0
        rest = rest >> 7
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    septets = (np.repeat(numbers, lengths) >> (7 * place)) & 127
    return np.asarray(septets | np.where(place < np.repeat(lengths, lengths) - 1, 128, 0)).astype(np.uint8)


def read_varints(content: bytes, count: int, at: int) -> tuple[Integers, int]:
    """Read `count` integers (all of them if negative) from byte `at`; returns them and where they end."""
    window = content[at:] if count < 0 else content[at : at + 10 * count]
    octets = np.frombuffer(window, dtype=np.uint8).astype(np.int64)
    ends = np.flatnonzero(octets < 128)
    ends = ends if count < 0 else ends[:count]
    if len(ends) < count or (count < 0 and len(octets) and octets[-1] >= 128):
        raise ValueError("it ends too early")
    if len(ends) == 0:
        return np.zeros(0, dtype=np.int64), at
    starts = np.concatenate(([0], ends[:-1] + 1))
    octets = octets[: ends[-1] + 1]
    place = np.arange(len(octets)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((octets & 127) << (7 * place), starts), at + int(ends[-1]) + 1
