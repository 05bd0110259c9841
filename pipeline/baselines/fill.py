"""Values for cells that are not told: the mean of those beside which as many cells are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals
from pipeline.sparse import SparseTensor

MOST_FILLED = 8  # times the non-zeros
MORE_BYTES = 120  # of the table's name and description in a file
LARGEST = 127  # in the table
LARGEST_KEY = 1 << 62


class Fill(NamedTuple):
    """Means of the cells that are not told, by group (:class:`Groups`).

    Attributes
    ----------
    mode
        Whose indices are one side of the groups.
    unit
        Of the table.
    table
        (b_1, b_2) int8, a number of units for each group.
    """

    mode: int
    unit: float
    table: npt.NDArray[np.int8]

    @property
    def means(self) -> Reals:
        """(b_1 b_2,) values by group."""
        return self.unit * self.table.ravel().astype(np.float64)


class Groups:
    """Cells by how many cells are told at their index of a mode, and at their indices of all other modes.

    Numbers of one size in bits are one group: 1, 2 to 3, 4 to 7 .. Cells beside which none is told, on either side,
    are in none. The groups follow from the told cells alone, and are the same in any order of the indices.

    Attributes
    ----------
    dims
        (b_1, b_2), groups on each side.
    """

    def __init__(self, told: Integers, shape: Sequence[int], mode: int) -> None:
        self.shape = tuple(shape)
        others = [other for other in range(len(shape)) if other != mode]
        self.sides: list[tuple[list[int], Integers, Integers]] = []
        for modes in ([mode], others):
            keys, times = np.unique(self._keys(told, modes), return_counts=True)
            self.sides.append((modes, keys, np.frexp(times)[1].astype(np.int64) - 1))
        self.dims = (int(self.sides[0][2].max()) + 1, int(self.sides[1][2].max()) + 1)

    @staticmethod
    def able(shape: Sequence[int]) -> bool:
        """Whether a tensor's cells have numbers of 62 bits."""
        return len(shape) > 1 and math.prod(shape) < LARGEST_KEY

    def _keys(self, index: Integers, modes: list[int]) -> Integers:
        keys: Integers = np.ravel_multi_index(tuple(index[:, modes].T), tuple(self.shape[mode] for mode in modes))
        return keys

    def of(self, index: Integers) -> Integers:
        """(n,) numbers of the groups of (n, D) cells, b_1 b_2 for those in none."""
        number, known = np.zeros(len(index), dtype=np.int64), np.ones(len(index), dtype=bool)
        for (modes, keys, groups), width in zip(self.sides, self.dims, strict=True):
            mine = self._keys(index, modes)
            place = np.minimum(np.searchsorted(keys, mine), len(keys) - 1)
            known &= keys[place] == mine
            number = number * width + groups[place]
        return np.where(known, number, math.prod(self.dims))

    def cells(self) -> Reals:
        """(b_1 b_2,) cells of each group, told ones among them."""
        sides = [
            np.bincount(groups, minlength=width) for (_, _, groups), width in zip(self.sides, self.dims, strict=True)
        ]
        return np.outer(*sides).ravel().astype(np.float64)

    def listed(self, wanted: npt.NDArray[np.bool_]) -> Integers:
        """(n, D) cells of the groups for which (b_1 b_2,) `wanted` is true."""
        found = [np.zeros((0, len(self.shape)), dtype=np.int64)]
        for number in np.flatnonzero(wanted).tolist():
            one, other = (
                keys[groups == group]
                for (_, keys, groups), group in zip(self.sides, divmod(number, self.dims[1]), strict=True)
            )
            pair = np.repeat(one, len(other)), np.tile(other, len(one))
            cells = np.empty((len(pair[0]), len(self.shape)), dtype=np.int64)
            for (modes, _, _), keys in zip(self.sides, pair, strict=True):
                cells[:, modes] = np.stack(np.unravel_index(keys, tuple(self.shape[mode] for mode in modes)), axis=1)
            found.append(cells)
        return np.concatenate(found)


class Filled(NamedTuple):
    """A fill, (nnz,) what it says of each non-zero were it not told, and by how much it lowers the squared error."""

    fill: Fill
    values: Reals
    gain: float


def best(X: SparseTensor, kept: Integers, price: float, modes: Sequence[int]) -> Filled | None:
    """The fill of the least squared error + price x bits; None where none is worth its bits.

    The mean f of a group of n cells that are not told, whose values sum to s, lowers the squared error by
    2 f s - n f^2. Groups of the largest means are filled, up to 8 times as many cells as there are non-zeros.

    Parameters
    ----------
    kept
        Numbers of the non-zeros that are told.
    price
        Squared error that a bit is worth.
    modes
        Those to try as one side.
    """
    if len(kept) == 0 or not Groups.able(X.shape):
        return None
    found: Filled | None = None
    told = np.zeros(X.nnz, dtype=bool)
    told[kept] = True
    least = 0.0
    for mode in modes:
        groups = Groups(X.coords[kept], X.shape, mode)
        number, count = groups.of(X.coords), math.prod(groups.dims)
        cells = groups.cells() - np.bincount(number[kept], minlength=count)
        sums = np.bincount(number, np.where(told, 0.0, X.values), minlength=count + 1)[:count]
        means = sums / np.maximum(cells, 1.0)
        falling = np.argsort(-np.abs(means), kind="stable")
        means[falling[np.cumsum(cells[falling]) > MOST_FILLED * X.nnz]] = 0.0
        largest = float(np.max(np.abs(means)))
        if largest == 0:
            continue
        unit = float(f"{largest / LARGEST:.3g}")
        fill = Fill(mode, unit, np.clip(np.rint(means / unit), -LARGEST, LARGEST).astype(np.int8).reshape(groups.dims))
        means = fill.means
        gain = float(np.sum(2 * means * sums - means**2 * cells))
        worth = gain - price * 8 * (count + MORE_BYTES)
        if worth > least:
            least = worth
            found = Filled(fill, np.append(means, 0.0)[number], gain)
    return found
