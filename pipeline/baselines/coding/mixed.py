"""A code that predicts sets of children by mixing contexts: kept orders, tensors of any order, integers only.

The non-zeros are a tree: the root has a set of indices of the first mode, each of those a set of the second, and
so on, in a sequence of modes that the code tells. A set of n members among N indices is coded by halving the
range: of r members still to be placed at a node, does the next one (they rise) lie in the lower half? If p is the
chance that one member does, the answer is yes with q = 1 - (1 - p)^r; telling counts and not a sequence leaves
log2(n!) bits of the set's order out of the code.

p is learned at every node of the halving in several contexts: none (at three rates of forgetting), the members of
the set found before, the indices on the path (back-off as in n-grams), what the set before has there. The contexts'
q are mixed in the logistic domain, stretch(q) = ln(q / (1 - q)), with weights that follow the gradient of the code
length (Mahoney, 2005, Adaptive Weighing of Context Models for Lossless Data Compression). Numbers (sizes of sets,
whole values) are coded the same way by the bits of their magnitude.

All of this is whole numbers of at most 63 bits, and the two tables of logarithms come from exactly rounded
decimals, so that every machine decodes alike.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps

CODE = b"\x05"  # first byte of such a code
LARGEST_MODE = 1 << 27
MOST_LEVELS = 8
MIXED = 4  # kind of values, beside those of `gaps`: whole, mixed from contexts
ALONG = 6  # as such, less the value of the cell before
DOWN = 7  # less that of the one before which differs in the first index alone
SMOOTH = 0.8  # of the magnitudes' bits, below which differences are tried
UNIT = 1 << 16  # a chance of one
STEPS = 256  # of the logistic domain, to one natural logarithm
REACH = 12 * STEPS
SLOTS = (12, 24)  # least and most bits of the table of contexts


class Tables(NamedTuple):
    """``squash[x + REACH]`` is the chance at x; ``stretch[q >> 4]`` its inverse."""

    squash: Integers
    stretch: Integers


@cache
def tables() -> Tables:
    """The logistic function and its inverse in whole numbers, the same on every machine."""
    with decimal.localcontext(decimal.Context(prec=30)):
        steps = [decimal.Decimal(x) / STEPS for x in range(-REACH, REACH + 1)]
        chances = [int((UNIT / (1 + (-x).exp())).to_integral_value()) for x in steps]
    squash = np.clip(np.array(chances, dtype=np.int64), 1, UNIT - 1)
    middles = np.arange(UNIT >> 4, dtype=np.int64) * 16 + 8
    return Tables(squash, np.clip(np.searchsorted(squash, middles), 0, 2 * REACH) - REACH)


class Model:
    """All that a code learns, and the range coder: the same steps in either direction.

    Parameters
    ----------
    bits
        Of the table of contexts.
    code
        To decode; None to encode.
    room
        Bytes that an encoder may write.
    weights
        First weights of the mixing, where they are not those of this module's own codes.
    """

    def __init__(self, bits: int, code: bytes | None, room: int = 0, weights: Integers | None = None) -> None:
        from pipeline.baselines.coding import mixed_loops

        if weights is None:
            shape = mixed_loops.SETS, mixed_loops.INPUTS
            weights = np.full(shape, mixed_loops.FIRST_WEIGHT, dtype=np.int64)

        self._loops: Any = mixed_loops
        content = np.zeros(room + 8, dtype=np.uint8) if code is None else np.frombuffer(code + bytes(8), np.uint8)
        self.coding = mixed_loops.Coding(
            np.full(1 << bits, mixed_loops.FRESH, dtype=np.uint32),
            weights,
            np.array([0, (1 << 32) - 1, 0, 0], dtype=np.int64),
            content.copy(),
            code is not None,
            *tables(),
        )
        if code is not None:
            self.coding.state[2:] = int.from_bytes(code[:4].ljust(4, b"\0"), "big"), 4

    def sets(self, level: int, width: int, path: Integers, sizes: Integers, children: Integers) -> None:
        """Code the sets of a level, filled into `children` when decoding."""
        self._loops.code_sets(self.coding, level, width, path, sizes, children)

    def numbers(self, level: int, contexts: Integers, numbers: Integers) -> None:
        """Code (n,) whole numbers of at least 0 with (n, 5) contexts, filled in when decoding."""
        self._loops.code_numbers(self.coding, level, contexts, numbers)

    def finished(self) -> bytes | None:
        """The code; None if it did not fit."""
        end, buffer = int(self.coding.state[3]), self.coding.buffer
        if end + 4 > len(buffer):
            return None
        return buffer[:end].tobytes() + int(self.coding.state[1]).to_bytes(4, "big")


def able(shape: Sequence[int]) -> bool:
    """Whether a tensor has at least two modes, none of them too long for this code."""
    return 2 <= len(shape) <= MOST_LEVELS and max(shape) <= LARGEST_MODE


def sequences(shape: Sequence[int]) -> list[list[int]]:
    """Sequences of modes worth trying: the largest first for matrices; as they come and by falling size for tensors."""
    falling = sorted(range(len(shape)), key=lambda mode: -shape[mode])
    plain = list(range(len(shape)))
    return [falling] if len(shape) == 2 or falling == plain else [plain, falling]


def pack(coords: Integers, values: Reals, shape: Sequence[int]) -> bytes | None:
    """Code a tensor in the orders its modes have; None where it is not :func:`able` or that takes too much room.

    Too much is 12 bytes a cell and mode.
    """
    if not able(shape):
        return None
    codes = [
        _pack(coords, values, shape, modes, kind)
        for modes in sequences(shape)
        for kind in _kinds(coords, values, modes)
    ]
    return min((code for code in codes if code is not None), key=len, default=None)


def _sorted(coords: Integers, modes: list[int]) -> tuple[Integers, Integers]:
    """Cells in a sequence of modes, and which these are."""
    by_row = np.lexsort(coords[:, modes[::-1]].T)
    return coords[by_row][:, modes], by_row


def _kinds(coords: Integers, values: Reals, modes: list[int]) -> list[int]:
    """Kinds of whole values worth trying."""
    if gaps.encode_values(values)[0] != gaps.WHOLE:
        return [MIXED]
    rows, by_row = _sorted(coords, modes)
    whole = values[by_row].astype(np.int64)
    bits = {kind: float(np.sum(np.log2(1 + np.abs(_apart(rows, whole, kind))))) for kind in (ALONG, DOWN)}
    best = min(bits, key=bits.__getitem__)
    return [MIXED, best] if bits[best] < SMOOTH * float(np.sum(np.log2(1 + np.abs(whole)))) else [MIXED]


def _earlier(rows: Integers, kind: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Cells in the sequence in which each is told less the one before, and whether it is one that has none before."""
    if kind == ALONG:
        return np.arange(len(rows)), np.arange(len(rows)) == 0
    line = np.lexsort(rows[:, :0:-1].T)
    return line, np.append(True, np.any(np.diff(rows[line, 1:], axis=0) != 0, axis=1))


def _apart(rows: Integers, whole: Integers, kind: int) -> Integers:
    """Values less the one before that the kind says."""
    line, first = _earlier(rows, kind)
    apart = np.empty_like(whole)
    apart[line] = whole[line] - np.where(first, 0, np.append(0, whole[line][:-1]))
    return apart


def _together(rows: Integers, apart: Integers, kind: int) -> Integers:
    """Undo :func:`_apart`."""
    line, first = _earlier(rows, kind)
    total = np.cumsum(apart[line])
    begins = np.flatnonzero(first)
    base = total[begins] - apart[line][begins]
    whole = np.empty_like(apart)
    whole[line] = total - np.repeat(base, np.diff(np.append(begins, len(line))))
    return whole


def _pack(coords: Integers, values: Reals, shape: Sequence[int], modes: list[int], whole: int) -> bytes | None:
    """By one sequence of modes; `whole` is the kind of values where they are whole."""
    rows, by_row = _sorted(coords, modes)
    bits = int(np.clip((len(rows) * len(shape) * 24).bit_length(), *SLOTS))
    model = Model(bits, None, 1024 + 12 * rows.size)
    path = np.zeros((1, 0), dtype=np.int64)
    differs = np.ones(len(rows), dtype=np.int64) * len(modes)
    differs[1:] = np.argmax(rows[1:] != rows[:-1], axis=1)
    differs[0] = 0
    for level, mode in enumerate(modes):
        mine = rows[differs <= level]
        sizes = np.array([len(mine)])
        if level:
            starts = np.flatnonzero(differs[differs <= level] < level)
            sizes = np.diff(np.append(starts, len(mine)))
            model.numbers(level, _size_contexts(path), sizes - 1)
        model.sets(level, shape[mode], path, sizes, mine[:, level].copy())
        path = mine[:, : level + 1]
    kind, constant, content = gaps.encode_values(values[by_row])
    if kind == gaps.WHOLE:
        kind, content = whole, content[:0]
        numbers = values[by_row].astype(np.int64)
        folded = gaps.fold(values[by_row]) if kind == MIXED else gaps.zigzag(_apart(rows, numbers, kind))
        model.numbers(len(modes), _value_contexts(rows), folded)
    code = model.finished()
    if code is None:
        return None
    head = [len(shape), *shape, len(values), int(np.count_nonzero(differs == 0)), *modes, bits, kind]
    return gaps.joined(CODE, head, constant, [(code, 0), gaps.squeeze(content)])


def _size_contexts(path: Integers) -> Integers:
    """What the size of a node's set is predicted from: the last two indices of its path, each and together."""
    last = path[:, -1]
    before = path[:, -2] if path.shape[1] > 1 else np.full(len(path), -1)
    return np.stack((last, before, last * (1 << 27) + before, last >> 4, last >> 9), axis=1)


def _value_contexts(rows: Integers) -> Integers:
    last, before = rows[:, -1], rows[:, -2]
    first = rows[:, 0]
    return np.stack((last, before, last * (1 << 27) + before, first, first * (1 << 27) + before), axis=1)


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    (order,), at = gaps.read_varints(code, 1, 1)
    head, at = gaps.read_varints(code, 2 * int(order) + 4, at)
    shape = tuple(int(size) for size in head[:order])
    count, first, bits, kind = (int(head[place]) for place in (order, order + 1, -2, -1))
    modes = [int(mode) for mode in head[order + 2 : -2]]
    if sorted(modes) != list(range(len(shape))) or not able(shape):
        raise ValueError("not a sequence of its modes")
    if not SLOTS[0] <= bits <= SLOTS[1]:
        raise ValueError(f"a table of 2^{bits} contexts")
    lengths, at = gaps.read_varints(code, 4, at)
    constant, streams = gaps.read_streams(code, at, kind, lengths[::2])
    model = Model(bits, streams[0])
    path, sizes = np.zeros((1, 0), dtype=np.int64), np.array([first])
    for level, mode in enumerate(modes):
        if level:
            sizes = np.zeros(len(path), dtype=np.int64)
            model.numbers(level, _size_contexts(path), sizes)
            sizes += 1
        if sizes.max() > shape[mode] or sizes.min() < 1 or sizes.sum() > count:
            raise ValueError(f"{sizes.sum()} children where there is room for {count}")
        children = np.zeros(int(sizes.sum()), dtype=np.int64)
        model.sets(level, shape[mode], path, sizes, children)
        path = np.concatenate((np.repeat(path, sizes, axis=0), children[:, None]), axis=1)
    if len(path) != count:
        raise ValueError(f"{len(path)} non-zeros where {count} belong")
    if kind in (MIXED, ALONG, DOWN):
        folded = np.zeros(count, dtype=np.int64)
        model.numbers(len(modes), _value_contexts(path), folded)
        if kind == MIXED:
            values = gaps.unfold(folded)
        else:
            values = _together(path, gaps.unzigzag(folded), kind).astype(np.float64)
    else:
        values = gaps.decode_values(kind, constant, gaps.expand(streams[1], int(lengths[3])), count)
    coords = np.empty_like(path)
    coords[:, modes] = path
    return coords, values, shape
