"""A code for matrices in which the orders of rows and columns are both free: counts of classes, and no identity twice.

Columns are sets of rows. Those of one size are coded as the prefix tree of their rising row names: at a node that n
columns share, n draws are told as counts, by halving the range of names, so that the columns' order costs nothing
(log2 n! bits at every node). Rows of many cells have names from the start, by falling number of cells; a rare row
gets the next name where it first appears, and until then all rows of k cells are alike: a column tells only that it
has one of them. So the names of rare rows cost nothing either. That is the structural code of graphs (Choi and
Szpankowski, 2012, Compression of Graphical Structures) made for two kinds of vertices and given a model that learns:

- what is open of a name (its cells less those told) makes draws those of the configuration model, exactly;
- what followed the prefix, its last two names, its last and first one before, and how often names met, are contexts,
  mixed in the logistic domain as in :mod:`pipeline.baselines.coding.mixed`;
- counts are beta-binomial around the mixed chance, of three concentrations weighed by how well they told.

The same model also codes columns one after the other, in the orders that the tensor has, each row by its index. Then
it also looks at the column before, and at the largest index so far, since rows are often numbered as they appear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps, mixed

CODE, KEPT = b"\x09", b"\x0a"  # first byte of such a code; of one that keeps the orders
LISTED_CODE = b"\x0e"  # of one that lists the numbers of cells that rows have, and how many rows have each
COARSE_CODE, COARSE_KEPT = b"\x06", b"\x07"  # of the first such codes, whose mixing weights have 16 bits
NUMBERED_KEPT = b"\x0f"  # of one that keeps the orders and tells the rows' cells by a mixture of contexts
RANKED_KEPT = b"\x12"  # as such a one, whose rows are named by falling number of cells
STEADY_CODE, STEADY_LISTED = b"\x13", b"\x14"  # as CODE and LISTED_CODE, whose weights do not move fast at the start
FREE_CODES = CODE, LISTED_CODE, STEADY_CODE, STEADY_LISTED, COARSE_CODE
KEPT_CODES = KEPT, NUMBERED_KEPT, RANKED_KEPT, COARSE_KEPT
TRIED_TWICE = 1 << 18  # cells of a matrix at most whose second kind of code is tried
# Speed of the mixing weights: in the end, how much more at the start, and decisions after which that more has halved.
BRISK, STEADY = (1.5, 32.0, float(1 << 17)), (3.0, 4.0, float(1 << 19))
FINE = 8  # more bits of the mixing weights
RAREST = 32  # rows of more cells have names from the start
ALIKE = 64  # rows of as many cells that make it worth to leave them without a name
NONE_FRESH = np.zeros(1, dtype=np.int64)
SLOTS = (12, 25)  # least and most bits of the table of contexts
BASE_WEIGHT, FIRST_WEIGHT = 26000, 3000  # of what is open, and of the contexts; of 65536


class Model(mixed.Model):
    """All that the code learns, and the range coder, for rows of given numbers of cells.

    Parameters
    ----------
    bits, code, room
        As of :class:`mixed.Model`.
    named
        Cells of every row that has a name from the start.
    fresh
        How many rows of 0, 1, 2.. cells have none; in the first place all their cells.
    largest
        Columns of the most frequent size.
    before
        Where the columns' order is kept: one more than the cells of the largest column.
    fine
        Bits of the mixing weights beyond 16.
    pace
        Their speed, BRISK or STEADY.
    """

    def __init__(
        self,
        bits: int,
        code: bytes | None,
        room: int,
        named: Integers,
        fresh: Integers,
        largest: int,
        before: int = 0,
        fine: int = FINE,
        pace: tuple[float, float, float] = BRISK,
    ) -> None:
        from pipeline.baselines.coding import unlabelled_loops

        super().__init__(bits, code, room)
        self._rows: Any = unlabelled_loops
        self.heavy, total = len(named), len(named) + int(fresh[1:].sum())
        depth = max(1, (total - 1).bit_length())
        weight = np.zeros(2 << depth, dtype=np.int64)
        weight[(1 << depth) : (1 << depth) + len(named)] = named
        for level in range(depth - 1, -1, -1):
            below = weight[2 << level : 4 << level]
            weight[1 << level : 2 << level] = below[::2] + below[1::2]
        mixing = np.zeros((unlabelled_loops.SETS, unlabelled_loops.INPUTS), dtype=np.int64)
        mixing[:, 0], mixing[:, 2:10], mixing[:, 12:] = BASE_WEIGHT, FIRST_WEIGHT, FIRST_WEIGHT
        mixing <<= fine
        trust = np.full((unlabelled_loops.TRUSTS, 3), 1 / 3)
        self.rows = unlabelled_loops.ColumnsCoding(
            self.coding,
            mixing,
            np.zeros((3, largest + 2)),
            np.zeros(largest + 2),
            trust,
            depth,
            weight,
            fresh,
            np.array([self.heavy, 0, 0]),
            np.zeros(unlabelled_loops.INPUTS, dtype=np.int64),
            np.zeros(unlabelled_loops.CONTEXTS + unlabelled_loops.KEPT, dtype=np.int64),
            np.zeros(total, dtype=np.int64),
            np.zeros(before, dtype=np.int64),
            fine,
            np.array(pace),
        )

    def columns(self, given: Integers, content: Integers, which: Integers, place: Integers, degree: Integers) -> None:
        """Code the (n, size) columns of a size; see ``unlabelled_loops.code_class``."""
        self._rows.code_class(self.rows, given, content, which, place, degree, self.heavy)

    def kept(self, sizes: Integers, given: Integers) -> Integers:
        """Code the rows of all cells, column after column, in the orders they have; returns them either way."""
        content = np.zeros(int(sizes.sum()), dtype=np.int64)
        self._rows.code_kept(self.rows, sizes, given, content)
        return content


def able(coords: Integers, shape: Sequence[int]) -> bool:
    """Whether a tensor is a matrix of modes not too long for this code."""
    return len(shape) == 2 and max(shape) <= mixed.LARGEST_MODE


def keeps(coords: Integers, shape: Sequence[int]) -> bool:
    """Whether a matrix can be coded in its own orders: no mode is much longer than its cells, since all are listed."""
    return able(coords, shape) and keeps_size(len(coords), shape)


def keeps_size(count: int, shape: Sequence[int]) -> bool:
    """Whether modes are short enough to be listed in a code of so many cells."""
    return max(shape) <= min(mixed.LARGEST_MODE, max(1 << 16, 8 * count))


def least_named(degrees: Integers) -> int:
    """Number of cells from which rows have names at the start: below it, so many rows are alike that naming costs."""
    alike = np.bincount(degrees[degrees <= RAREST], minlength=RAREST + 1)[1:] >= ALIKE
    return 1 + int(np.argmin(np.append(alike, False)))


def pack(coords: Integers, values: Reals, shape: Sequence[int]) -> tuple[bytes, dict[int, Integers]] | None:
    """Code a matrix; the columns are the larger mode. None where that takes more than 12 bytes a cell and index.

    Weights move fast at the start or, in matrices of up to :data:`TRIED_TWICE` cells, do not, whichever is shorter.

    Returns
    -------
    The code, and by mode the orders (position -> index) that it has chosen.
    """
    paces = (BRISK, STEADY) if len(coords) <= TRIED_TWICE else (BRISK,)
    codes = [_pack(coords, values, shape, pace) for pace in paces]
    return min((code for code in codes if code is not None), key=lambda code: len(code[0]), default=None)


def _pack(
    coords: Integers, values: Reals, shape: Sequence[int], pace: tuple[float, float, float]
) -> tuple[bytes, dict[int, Integers]] | None:
    """The same with weights of one pace."""
    top = gaps.top_mode(shape)
    degree = np.bincount(coords[:, 1 - top], minlength=shape[1 - top])
    sizes = np.bincount(coords[:, top], minlength=shape[top])
    used = np.sort(degree[degree > 0])
    limit = least_named(used)
    heavy_first = np.argsort(-degree, kind="stable")
    place = np.full(len(degree), -1, dtype=np.int64)
    heavy = heavy_first[: np.count_nonzero(degree >= limit)]
    place[heavy] = np.arange(len(heavy))
    sort_by = gaps.positions(heavy_first)[coords[:, 1 - top]]
    by_column = np.lexsort((sort_by, coords[:, top]))
    rows, start = coords[by_column, 1 - top], np.cumsum(sizes) - sizes
    bits = int(np.clip((len(coords) * 24).bit_length(), *SLOTS))
    distinct, times = np.unique(sizes[sizes > 0], return_counts=True)
    room = 1024 + 12 * (len(coords) + len(sizes))
    model = Model(bits, None, room, *_start(used, limit), int(times.max()), pace=pace)
    contents, order = [], []
    for size in distinct.tolist():
        members = np.flatnonzero(sizes == size)
        content, which = np.zeros((len(members), size), dtype=np.int64), np.arange(len(members))
        given = rows[start[members][:, None] + np.arange(size)]
        model.columns(given, content, which, place, degree)
        contents.append(content)
        order.append(members[which])
    row_order = np.full(len(degree), -1, dtype=np.int64)
    row_order[place[place >= 0]] = np.flatnonzero(place >= 0)
    row_order[len(used) :] = np.flatnonzero(degree == 0)
    column_order = np.concatenate([*order, np.flatnonzero(sizes == 0)])
    names, columns = _flat(contents)
    there = row_order[names], column_order[columns]
    cells = np.lexsort((coords[:, 1 - top], coords[:, top]))
    told = cells[gaps.positions(np.lexsort(there))]
    kind, constant, numbers = gaps.encode_values(values[told])
    if kind == gaps.WHOLE:
        kind, numbers = mixed.MIXED, numbers[:0]
        model.numbers(1, _value_contexts(names, columns), gaps.fold(values[told]))
    code = model.finished()
    if code is None:
        return None
    layout = np.stack((distinct, times), axis=1).reshape(-1)
    different, rows_each = np.unique(used, return_counts=True)
    listed: Integers = np.concatenate((np.diff(different, prepend=0), rows_each))
    first_bytes = (CODE, LISTED_CODE) if pace == BRISK else (STEADY_CODE, STEADY_LISTED)
    lists = [
        (first_bytes[0], gaps.squeeze(gaps.write_varints(np.diff(used, prepend=0)))),
        (first_bytes[1], gaps.squeeze(gaps.write_varints(listed))),
    ]
    first, stream = min(lists, key=lambda each: len(each[1][0]))
    streams = [gaps.squeeze(gaps.write_varints(layout)), stream, (code, 0), gaps.squeeze(numbers)]
    joined = gaps.joined(first, [*shape, limit, bits, kind], constant, streams)
    return joined, {1 - top: row_order, top: column_order}


def pack_kept(coords: Integers, values: Reals, shape: Sequence[int]) -> bytes | None:
    """Code a matrix in the orders it has; the columns are the larger mode. None where that takes too much room.

    Rows have their indices as names or, in matrices of up to :data:`TRIED_TWICE` cells, their ranks by number of
    cells, whichever is shorter.
    """
    top = gaps.top_mode(shape)
    told = coords[:, 1 - top], coords[:, top], values
    codes = [_pack_kept(*told, shape, ranked) for ranked in (False, True) if not ranked or len(values) <= TRIED_TWICE]
    return min((code for code in codes if code is not None), key=len, default=None)


def _pack_kept(rows: Integers, columns: Integers, values: Reals, shape: Sequence[int], ranked: bool) -> bytes | None:
    """The same with one kind of names."""
    top = gaps.top_mode(shape)
    degree = np.bincount(rows, minlength=shape[1 - top])
    sizes = np.bincount(columns, minlength=shape[top])
    order = np.argsort(-degree, kind="stable") if ranked else np.arange(len(degree))
    names = gaps.positions(order)[rows]
    by_name = np.lexsort((names, columns))
    names, columns, values = names[by_name], columns[by_name], values[by_name]
    bits = int(np.clip((len(rows) * 24).bit_length(), *SLOTS))
    room = 1024 + 12 * (len(rows) + len(sizes))
    model = Model(bits, None, room, degree[order], NONE_FRESH, 1, int(sizes.max()) + 1)
    model.numbers(2, _size_contexts(len(sizes)), sizes)
    model.kept(sizes, names)
    kind, constant, numbers = gaps.encode_values(values)
    if kind == gaps.WHOLE:
        kind, numbers = mixed.MIXED, numbers[:0]
        model.numbers(1, _value_contexts(names, columns), gaps.fold(values))
    code = model.finished()
    if code is None:
        return None
    few = int(np.clip((len(degree) * 8).bit_length(), *mixed.SLOTS))
    listing = mixed.Model(few, None, 1024 + 9 * len(degree))
    listing.numbers(1, _size_contexts(len(degree)), degree)
    lists = [(RANKED_KEPT if ranked else NUMBERED_KEPT, (listing.finished() or b"", few))]
    if not ranked:
        lists.append((KEPT, gaps.squeeze(gaps.write_varints(degree))))
    first, stream = min((each for each in lists if each[1][0]), key=lambda each: len(each[1][0]))
    return gaps.joined(first, [*shape, bits, kind], constant, [stream, (code, 0), gaps.squeeze(numbers)])


def _size_contexts(count: int) -> Integers:
    """What a column's size is predicted from, beside the two before: where it stands, roughly."""
    number = np.arange(count)
    nothing = np.zeros_like(number)
    return np.stack((number >> 12, number >> 9, number >> 6, nothing, nothing), axis=1)


def _start(degrees: Integers, limit: int) -> tuple[Integers, Integers]:
    """Cells of the rows that have names from the start, and how many rows of each number of cells have none."""
    fresh = np.bincount(degrees[degrees < limit], minlength=limit)
    fresh[0] = np.sum(degrees[degrees < limit])
    return degrees[degrees >= limit][::-1], fresh


def _flat(contents: list[Integers]) -> tuple[Integers, Integers]:
    """Row names of all cells, column after column, and the number of each cell's column."""
    sizes = np.concatenate([np.full(len(content), content.shape[1]) for content in contents])
    names = np.concatenate([content.reshape(-1) for content in contents])
    return names, np.repeat(np.arange(len(sizes)), sizes)


def _value_contexts(names: Integers, columns: Integers) -> Integers:
    """What a value is predicted from: its row, its column, the column's size, and these together."""
    size = np.bincount(columns)[columns]
    return np.stack((names, columns, names * (1 << 20) + np.minimum(size, 1 << 20), size, names >> 3), axis=1)


@gaps.decoder
def unpack(code: bytes) -> gaps.Cells:
    """Undo :func:`pack`."""
    head, at = gaps.read_varints(code, 13, 1)
    shape, limit, bits, kind = (int(head[0]), int(head[1])), int(head[2]), int(head[3]), int(head[4])
    constant, streams = gaps.read_streams(code, at, kind, head[5::2])
    layout, _ = gaps.read_varints(gaps.expand(streams[0], int(head[6])), -1, 0)
    told, _ = gaps.read_varints(gaps.expand(streams[1], int(head[8])), -1, 0)
    if code[:1] in (LISTED_CODE, STEADY_LISTED):
        different, rows_each = told.reshape(2, -1)
        if rows_each.sum() > max(shape):
            raise ValueError("more rows than there are")
        degrees = np.repeat(np.cumsum(different), rows_each)
    else:
        degrees = np.cumsum(told)
    distinct, times = layout.reshape(-1, 2).T
    top, count = gaps.top_mode(shape), int(degrees.sum())
    if int(np.sum(distinct * times)) != count or times.sum() > shape[top] or len(degrees) > shape[1 - top]:
        raise ValueError("its sizes and degrees contradict each other")
    if not (SLOTS[0] <= bits <= SLOTS[1] and 1 <= limit <= RAREST + 1 and degrees.min() > 0 and distinct.min() > 0):
        raise ValueError("no such model")
    fine, pace = 0 if code[:1] == COARSE_CODE else FINE, BRISK if code[:1] in (CODE, LISTED_CODE) else STEADY
    model = Model(bits, streams[2], 0, *_start(degrees, limit), int(times.max()), 0, fine, pace)
    nothing, contents = np.zeros(0, dtype=np.int64), []
    for size, number in zip(distinct.tolist(), times.tolist(), strict=True):
        content = np.zeros((number, size), dtype=np.int64)
        model.columns(np.zeros((0, 0), dtype=np.int64), content, nothing, nothing, nothing)
        contents.append(content)
    names, columns = _flat(contents)
    return _cells(model, shape, names, columns, kind, constant, gaps.expand(streams[3], int(head[12])))


def _cells(
    model: Model, shape: tuple[int, int], rows: Integers, columns: Integers, kind: int, constant: float, numbers: bytes
) -> gaps.Cells:
    """Coordinates, values and shape, once the rows and columns of all cells are known."""
    if kind == mixed.MIXED:
        folded = np.zeros(len(rows), dtype=np.int64)
        model.numbers(1, _value_contexts(rows, columns), folded)
        values = gaps.unfold(folded)
    else:
        values = gaps.decode_values(kind, constant, numbers, len(rows))
    coords = np.empty((len(rows), 2), dtype=np.int64)
    top = gaps.top_mode(shape)
    coords[:, top], coords[:, 1 - top] = columns, rows
    return coords, values, shape


@gaps.decoder
def unpack_kept(code: bytes) -> gaps.Cells:
    """Undo :func:`pack_kept`."""
    head, at = gaps.read_varints(code, 10, 1)
    shape, bits, kind = (int(head[0]), int(head[1])), int(head[2]), int(head[3])
    constant, streams = gaps.read_streams(code, at, kind, head[4::2])
    top = gaps.top_mode(shape)
    if code[:1] in (NUMBERED_KEPT, RANKED_KEPT):
        if not mixed.SLOTS[0] <= int(head[5]) <= mixed.SLOTS[1] or shape[1 - top] > mixed.LARGEST_MODE:
            raise ValueError("no such list")
        degree = np.zeros(shape[1 - top], dtype=np.int64)
        mixed.Model(int(head[5]), streams[0]).numbers(1, _size_contexts(len(degree)), degree)
    else:
        degree, _ = gaps.read_varints(gaps.expand(streams[0], int(head[5])), -1, 0)
    count = int(degree.sum())
    if len(degree) != shape[1 - top] or degree.max() > shape[top] or not SLOTS[0] <= bits <= SLOTS[1]:
        raise ValueError("its degrees and its shape contradict each other")
    order = np.argsort(-degree, kind="stable") if code[:1] == RANKED_KEPT else np.arange(len(degree))
    fine, pace = (0, STEADY) if code[:1] == COARSE_KEPT else (FINE, BRISK)
    model = Model(bits, streams[1], 0, degree[order], NONE_FRESH, 1, shape[1 - top] + 1, fine, pace)
    sizes = np.zeros(shape[top], dtype=np.int64)
    model.numbers(2, _size_contexts(len(sizes)), sizes)
    if sizes.max() > shape[1 - top] or int(sizes.sum()) != count:
        raise ValueError("its sizes and degrees contradict each other")
    names = model.kept(sizes, np.zeros(0, dtype=np.int64))
    columns = np.repeat(np.arange(shape[top]), sizes)
    coords, values, _ = _cells(model, shape, names, columns, kind, constant, gaps.expand(streams[2], int(head[9])))
    coords[:, 1 - top] = order[names]
    return coords, values, shape
