"""Few patterns in the place of many columns: which cells of a binary matrix pay for the bits that they take.

A column of the matrix is a set of rows. Columns that begin alike (rows by falling weight) share the nodes of a
prefix tree, and a node that n columns share lowers the error by n cells and costs the bits of one row and of one
count. The tree is pruned from its leaves so that error + price * bits is least (as trees of vector quantisers are;
Chou, Lookabaugh and Gray, 1989), rows are weighed again by what is left, and so on until it stands still. Then
every column takes that pattern of the tree's which fits it best, with cells filled in where that pays. All of this
is for columns in free order: which column has which pattern costs nothing then but the pattern's count.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps

DEPTH = 64  # rows of a pattern at most
ROUNDS = 4  # prunings of the tree
COUNT_BITS = 2.0  # that tell how many columns share a node
WORK = 1e8  # products of rows that columns and patterns share, beyond which columns keep their own prefix
BATCH = 1 << 22  # of these products at once


class Columns(NamedTuple):
    """Distinct columns: (cells,) rows one column after the other, each column's start, and how often it occurs."""

    rows: Integers
    start: Integers
    times: Integers


def distinct(columns: Integers, rows: Integers, count: int) -> tuple[Columns, Integers]:
    """Distinct columns of a binary matrix, and which of them each of its `count` columns is (-1: empty)."""
    sequence = np.lexsort((rows, columns))
    rows, sizes = rows[sequence], np.bincount(columns, minlength=count)
    start = np.concatenate(([0], np.cumsum(sizes)))
    blob = rows.astype("<i8").tobytes()
    number: dict[bytes, int] = {}
    which = np.full(count, -1, dtype=np.int64)
    for column in np.flatnonzero(sizes).tolist():
        which[column] = number.setdefault(blob[8 * start[column] : 8 * start[column + 1]], len(number))
    ends = np.cumsum([len(key) // 8 for key in number], dtype=np.int64)
    flat = np.frombuffer(b"".join(number), dtype="<i8").astype(np.int64)
    return Columns(flat, np.concatenate(([0], ends)), np.bincount(which[which >= 0], minlength=len(number))), which


def quantised(columns: Columns, height: int, price: float) -> tuple[Integers, Integers, Integers]:
    """Patterns for the columns at a `price` of a bit in cells.

    Returns
    -------
    Rows of all patterns one after the other, each pattern's start, and the pattern of every column (-1: none).
    """
    weight: Any = np.bincount(columns.rows, np.repeat(columns.times, np.diff(columns.start)), minlength=height)
    rows, start, which = columns.rows, columns.start, np.full(len(columns.times), -1)
    for _ in range(ROUNDS):
        before = weight
        rows, start, which = _pruned(columns, weight, price)
        sizes = np.append(np.diff(start), 0)[which]
        cells = spread(start, which)
        weight = np.bincount(rows[cells], np.repeat(columns.times, sizes), minlength=height)
        if not len(rows) or np.array_equal(before > 0, weight > 0):
            break
    return _assigned(columns, rows, start, which, height) if len(rows) else (rows, start, which)


def rounded(pattern: Integers, each: int) -> Integers:
    """The pattern of every column (-1: none) once each occurs a multiple of `each` times, the nearest one.

    Columns lose their pattern for that, or one without gets it, as long as there are any.
    """
    if each < 2:
        return pattern
    pattern = pattern.copy()
    by_pattern = np.argsort(pattern, kind="stable")
    edges = np.searchsorted(pattern[by_pattern], np.arange(int(pattern.max(initial=-1)) + 2))
    free = by_pattern[: edges[0]]
    for number, (start, end) in enumerate(pairwise(edges.tolist())):
        wanted = (end - start + each // 2) // each * each
        missing = wanted - (end - start)
        if missing > len(free):
            wanted, missing = wanted - each, missing - each
        if missing > 0:
            pattern[free[:missing]] = number
            free = free[missing:]
        else:
            pattern[by_pattern[start + wanted : end]] = -1
    return pattern


def spread(start: Integers, which: Integers) -> Integers:
    """Places of the cells of the chosen sets, one set after the other; -1 is the empty set."""
    sizes = np.append(np.diff(start), 0)[which]
    places: Integers = (
        np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(start[which], sizes)
    )
    return places


def _pruned(columns: Columns, weight: Reals, price: float) -> tuple[Integers, Integers, Integers]:
    """The pruned prefix tree of the columns, rows without weight left out; as :func:`quantised` returns it."""
    owner = np.repeat(np.arange(len(columns.times)), np.diff(columns.start))
    used = weight[columns.rows] > 0
    place = gaps.positions(np.argsort(-weight, kind="stable"))
    owner, rows = owner[used], columns.rows[used]
    sequence = np.lexsort((place[rows], owner))
    owner, rows = owner[sequence], rows[sequence]
    sizes = np.bincount(owner, minlength=len(columns.times))
    begin = np.cumsum(sizes) - sizes
    cost = COUNT_BITS + np.log2(max(weight.sum(), 2.0) / np.maximum(weight, 1.0))
    node = np.zeros(len(sizes), dtype=np.int64)  # of each column, on the present level
    levels: list[tuple[Integers, Integers, Integers, Integers]] = []
    for depth in range(min(DEPTH, int(sizes.max(initial=0)))):
        alive = np.flatnonzero(sizes > depth)
        row = rows[begin[alive] + depth]
        keys, number = np.unique(node[alive] * len(weight) + row, return_inverse=True)
        levels.append((alive, number, keys // len(weight), keys % len(weight)))
        node[alive] = number
    stays: list[Any] = []
    below: Any = np.zeros(0)
    for alive, number, parents, row in reversed(levels):
        gain = np.bincount(number, columns.times[alive], minlength=len(row)) - price * cost[row]
        gain[: len(below)] += below
        stays.append(gain > 0)
        below = np.bincount(parents, np.maximum(gain, 0.0))
    kept = np.zeros(len(sizes), dtype=np.int64)
    going = np.ones(len(sizes), dtype=bool)
    for (alive, number, _, _), stay in zip(levels, reversed(stays), strict=True):
        going[alive] &= stay[number]
        kept[alive[going[alive]]] += 1
    offset = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    chosen = rows[np.repeat(begin, kept) + offset]
    patterns, which = distinct(np.repeat(np.arange(len(kept)), kept), chosen, len(kept))
    return patterns.rows, patterns.start, which


def _assigned(
    columns: Columns, rows: Integers, start: Integers, which: Integers, height: int
) -> tuple[Integers, Integers, Integers]:
    """Every column to its best pattern; patterns that no column takes are dropped."""
    from scipy.sparse import csr_array

    sizes = np.diff(start)
    products = np.bincount(rows, minlength=height)[columns.rows]
    reach = np.add.reduceat(products, columns.start[:-1])
    if reach.sum() > WORK:
        return rows, start, which
    book = csr_array((np.full(len(rows), 2.0), rows, start), shape=(len(sizes), height)).T.tocsr()
    best = np.full(len(columns.times), -1)
    gain: Any = np.zeros(len(columns.times))
    edges = np.searchsorted(np.cumsum(reach), np.arange(BATCH, reach.sum() + BATCH, BATCH), side="right") + 1
    first = 0
    for end in np.unique(np.minimum(np.append(edges, len(reach)), len(reach))).tolist():
        part = slice(int(columns.start[first]), int(columns.start[end]))
        some = csr_array(
            (np.ones(part.stop - part.start), columns.rows[part], columns.start[first : end + 1] - part.start),
            shape=(end - first, height),
        )
        shared = (some @ book).tocsr()
        owner = np.repeat(np.arange(first, end), np.diff(shared.indptr))
        worth = shared.data - sizes[shared.indices]
        ranked = np.lexsort((shared.indices, worth, owner))
        last = ranked[np.flatnonzero(np.append(np.diff(owner[ranked]) > 0, True))] if len(ranked) else ranked
        better = worth[last] > gain[owner[last]]
        gain[owner[last[better]]], best[owner[last[better]]] = worth[last[better]], shared.indices[last[better]]
        first = end
    kept = np.unique(best[best >= 0])
    return (
        rows[spread(start, kept)],
        np.concatenate(([0], np.cumsum(sizes[kept]))),
        np.where(best >= 0, np.searchsorted(kept, best), -1),
    )
