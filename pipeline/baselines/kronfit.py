"""KronFit, extended to rectangular matrices: one small seed, its Kronecker power, and the orders that fit it."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import BATCH, Baseline, Integers, Reals, as_stored, stored_type, whole_or
from pipeline.baselines.coding import gaps
from pipeline.core.settings import seed, setting
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error, order_bytes
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor
from pipeline.sparse.grid import LARGEST_SIZE
from pipeline.sparse.orders import accept, matched_swaps, pack_integers, shingles, unpack_integers

ROUNDS = 2  # of {reorder rows, reorder columns} in a sweep
STEPS = 5  # gradient steps in a sweep
RATES = tuple(10.0**-exponent for exponent in range(9))  # learning rates tried, largest first
WAIT = 20  # sweeps over which the fit must gain `tolerance`
LARGEST_AUTOMATIC_SIDE = 8
LARGEST_POWER = 62
FLOOR = 1e-9  # smallest seed entry, as a share of the largest


class Grid(NamedTuple):
    """A power grid: seed sides (a, b) and power k; positions are read as k digits, most significant first."""

    sides: tuple[int, int]
    power: int

    @property
    def shape(self) -> tuple[int, int]:
        """a^k rows and b^k columns."""
        return self.sides[0] ** self.power, self.sides[1] ** self.power


class KronFit(Baseline):
    """X ~ K o K o ... o K (Kronecker power k of an a x b seed) under free orders (Leskovec et al., 2010).

    a = ceil(N^(1/k)), b = ceil(M^(1/k)); the matrix is padded with zeros to a^k x b^k. A sweep reorders rows and
    columns twice by NeuKron's swaps (accepted when u < exp(-gamma Delta)) and then takes gradient steps on
    the seed's direction, each with the largest rate of 1, 0.1, ..., 1e-8 that lowers the loss; the seed's
    scale is exact. Since the squares of a Kronecker power sum to (sum K^2)^k whatever the orders,
    the loss is norm2 - 2 sum x x~ + (sum K^2)^k and never touches a zero. Size as published: 8 a b bytes.

    Parameters
    ----------
    seed_power
        k; a power of 1 would store the matrix itself. None: the smallest k whose seed has at most 8 rows.
    gamma
        Inverse temperature of the order search; infinity: swaps that lower the loss only.
    max_sweeps
        Sweeps at most.
    tolerance
        Stop when 20 sweeps gain less than this in fit, 1 - sqrt(error / norm2).
    seed
        Of the order search.

    Attributes after ``fit``
    ------------------------
    seed_
        K, (a, b) float64, rounded to 4-byte reals.
    positions_
        For rows and for columns the position of every index: (N,) and (M,) int64; None: its own.
    """

    name = "kronfit"
    stochastic = True
    matrices_only = True
    answers_negative = False  # the seed's entries are above 0

    seed_power: int | None = setting(None, at_least=2)
    gamma: float = setting(10.0, at_least=0)
    max_sweeps: int = setting(100, at_least=1)
    tolerance: float = setting(1.0e-4, at_least=0, at_most=1)
    seed: int = seed()

    seed_: Reals
    grid_: Grid
    positions_: list[Integers | None]

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The least power whose seed fits beside the orders."""
        left = size - (order_bytes(X.shape) if orders else 0)
        for power in range(2, max(2, max(X.shape).bit_length()) + 1):
            if 4 * root(X.shape[0], power) * root(X.shape[1], power) <= left:
                return {"seed_power": power}
        return None

    def _fit(self, X: SparseTensor) -> None:
        power = _automatic_power(X.shape) if self.seed_power is None else self.seed_power
        self.grid_ = Grid((root(X.shape[0], power), root(X.shape[1], power)), power)
        search = Search(X, self.grid_, self.gamma, np.random.default_rng(self.seed))
        best = np.inf
        fits: list[float] = []
        for _ in range(self.max_sweeps):
            with self.times_.ordering():
                search.reorder()
            loss = search.improve_seed()
            if loss < best:
                best = loss
                self.seed_ = as_stored(search.seed)
                self.positions_ = [order[:size].copy() for order, size in zip(search.orders, X.shape, strict=True)]
            fits.append(1.0 - float(np.sqrt(clipped_error(best, X.norm2) / X.norm2)))
            self._record(clipped_error(loss, X.norm2), fit=fits[-1])
            if len(fits) > WAIT and fits[-1] - fits[-1 - WAIT] < self.tolerance:
                break

    def _predict(self, index: Integers) -> Reals:
        """Without orders in the artifact, indices are positions in the padded grid."""
        values = np.empty(len(index))
        for start in range(0, len(index), BATCH):
            row, column = (
                digits(self.grid_, mode, places if (order := self.positions_[mode]) is None else order[places])
                for mode, places in enumerate(index[start : start + BATCH].T)
            )
            values[start : start + BATCH] = np.prod(self.seed_.ravel()[row + column], axis=1)
        return values

    def _error(self, X: SparseTensor) -> dict[str, Any]:
        """Over the real cells under ``error``, over the padded grid under ``error_padded``."""
        unpadded = X.norm2 - 2 * float(X.values @ self._predict(X.coords))
        padded = float(np.sum(self.seed_**2)) ** self.grid_.power
        real = padded if not self.own_indices_ else self._real_mass()
        return {
            "error": clipped_error(unpadded + real, X.norm2),
            "error_padded": clipped_error(unpadded + padded, X.norm2),
        }

    def _squared_error(self, X: SparseTensor) -> float:
        return float(self._error(X)["error"])

    def _real_mass(self) -> float:
        """Sum of the squared model over real cells: the squared seed's Kronecker power between two indicators."""
        real = [np.zeros(size) for size in self.grid_.shape]
        for flags, position in zip(real, self.positions_, strict=True):
            flags[slice(None) if position is None else position] = 1.0
        moved = real[1].reshape((self.grid_.sides[1],) * self.grid_.power)
        for _ in range(self.grid_.power):  # each product takes the first axis and adds its result at the end
            moved = np.tensordot(moved, self.seed_**2, axes=(0, 1))
        return float(moved.reshape(-1) @ real[0])

    def parameter_count(self) -> int:
        """Entries of the seed, a b."""
        return self.seed_.size

    def _size(self) -> dict[str, int]:
        """8 a real as published, 4 a real equal, and with both orders stored."""
        reals = self.seed_.size
        with_order = 4 * reals + order_bytes(self.inner_shape_)
        return {"bytes": 8 * reals, "bytes_equal": 4 * reals, "bytes_with_order": with_order}

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """Cells of every non-zero by level; digits, orders and shingles of the padded rows and columns."""
        power = whole_or(self.seed_power, _automatic_power(shape), least=2)
        if power > LARGEST_POWER:
            raise InputError(f"seed_power={power}: a power beyond {LARGEST_POWER} has more rows than 64 bits count")
        sides = (root(shape[0], power), root(shape[1], power))
        padded = sum(side**power for side in sides)
        return 8.0 * ((power + 6) * padded + (3 * power + 4) * nnz), "choose a seed_power that pads less"

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        """A seed of one entry, and orders over what is least padded."""
        packed = {f"positions_{mode}": (size * _bits(size) + 7) // 8 for mode, size in enumerate(shape)}
        return {"seed": 4} | (packed if orders else {})

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Without `orders` it answers over the padded grid, in positions."""
        tensors = {"seed": stored_type(self.seed_)}
        stored = orders and self.own_indices_
        for mode, position in enumerate(self.positions_):
            if stored and position is not None:
                tensors[f"positions_{mode}"] = pack_integers(position, _bits(self.grid_.shape[mode]))
        shape = self.inner_shape_ if stored else self.grid_.shape
        return tensors, {"shape": list(shape), "power": self.grid_.power, "orders": stored}

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = cls()
        model.shape_ = contents.shape(order=2)
        model.seed_ = contents.reals("seed", (None, None))
        power = contents.whole("power", 1, most=LARGEST_POWER)
        rows, columns = model.seed_.shape
        model.grid_ = Grid((rows, columns), power)
        for size, side in zip(model.shape_, model.grid_.sides, strict=True):
            if not (side - 1) ** power < size <= side**power < LARGEST_SIZE:
                raise InputError(f"{size} rows or columns do not belong to a seed of side {side} and power {power}")
        model.own_indices_ = contents.flag("orders")
        model.positions_ = [None, None]
        for mode, (size, padded) in enumerate(zip(model.shape_, model.grid_.shape, strict=True)):
            if model.own_indices_:
                contents.permitted(8 * size, f"positions of {size:,} indices")
                packed = np.frombuffer(contents.code(f"positions_{mode}"), dtype=np.uint8)
                position = unpack_integers(packed, _bits(padded), size)
                if position.max() >= padded or len(np.unique(position)) < size:
                    raise InputError(f"positions of mode {mode}: one is outside of 0..{padded - 1}, or is given twice")
                model.positions_[mode] = position
            elif size != padded:
                raise InputError(f"{size} rows or columns without orders of a grid of {padded}")
        return model


class Search:
    """A seed of squared norm 1 times a scale, and orders of the padded rows and columns, under improvement."""

    def __init__(self, X: SparseTensor, grid: Grid, gamma: float, random: np.random.Generator) -> None:
        self.X, self.grid, self.gamma, self.random = X, grid, gamma, random
        by_degree = [gaps.positions(order) for order in (gaps.by_degree(X.coords[:, d], X.shape[d]) for d in (0, 1))]
        self.orders = [
            np.concatenate((order, np.arange(len(order), size)))
            for order, size in zip(by_degree, grid.shape, strict=True)
        ]
        self.digits = [digits(grid, mode, np.arange(grid.shape[mode])) for mode in (0, 1)]
        self.direction = np.full(grid.sides, 1.0 / np.sqrt(np.prod(grid.sides)))
        self.products = self.evaluate(self.orders, self.direction)

    @property
    def scale(self) -> float:
        """Best factor of the unit-norm model, <X, model> but not below 0; the loss is norm2 - scale^2."""
        return max(0.0, float(self.X.values @ self.products))

    @property
    def seed(self) -> Reals:
        """The seed with its scale."""
        return np.asarray(self.direction * self.scale ** (1.0 / self.grid.power))

    def cells(self, orders: list[Integers]) -> Integers:
        """Seed cell of every non-zero at every level, (nnz, k)."""
        rows, columns = (self.digits[mode][orders[mode]][self.X.coords[:, mode]] for mode in (0, 1))
        return np.asarray(rows + columns)

    def evaluate(self, orders: list[Integers], direction: Reals) -> Reals:
        """The unit-norm model at every non-zero, (nnz,)."""
        return np.asarray(np.prod(direction.ravel()[self.cells(orders)], axis=1))

    def reorder(self) -> None:
        """Two rounds of swaps of rows and of columns."""
        for _ in range(ROUNDS):
            for mode in (0, 1):
                self._reorder_mode(mode)

    def _reorder_mode(self, mode: int) -> None:
        likeness = shingles(mode, self.grid.shape, self.X.coords, self.random)
        chosen, mate = digit_pairs(self.orders[mode], self.grid.sides[mode], self.grid.power, self.random)
        proposal = matched_swaps(self.orders[mode], chosen, mate, likeness[chosen], self.random)
        proposed = [proposal.position if other == mode else order for other, order in enumerate(self.orders)]
        after = self.evaluate(proposed, self.direction)
        change = 2 * self.scale * self.X.values * (self.products - after)
        index = self.X.coords[:, mode]
        self.orders[mode], taken = accept(proposal, self.orders[mode], index, change, self.gamma, self.random)
        self.products = np.where(taken, after, self.products)

    def improve_seed(self) -> float:
        """Gradient steps on the seed's direction; returns the loss over the padded grid after them."""
        cells = self.cells(self.orders)
        for _ in range(STEPS):
            gradient = self.gradient_of(cells)
            length = float(np.linalg.norm(gradient))
            before = self.scale
            for rate in RATES:
                direction = (1 - rate) * self.direction + rate * gradient / length if length else self.direction
                direction = np.maximum(direction, FLOOR * direction.max())
                direction /= np.linalg.norm(direction)
                products = np.prod(direction.ravel()[cells], axis=1)
                if self.X.values @ products > before:
                    self.direction, self.products = direction, products
                    break
            else:
                break
        return self.X.norm2 - self.scale**2

    def gradient_of(self, cells: Integers) -> Reals:
        """Derivative of <X, model> by the entries of the unit-norm seed."""
        share = self.X.values * self.products
        counts = np.zeros(self.direction.size)
        for level in range(self.grid.power):
            counts += np.bincount(cells[:, level], weights=share, minlength=len(counts))
        return np.asarray(np.maximum(counts, 0.0).reshape(self.direction.shape) / self.direction)


def root(size: int, power: int) -> int:
    """The smallest whole number whose `power`-th power is at least `size`.

    >>> root(1005, 10), root(25919, 10), root(1000, 3)
    (2, 3, 10)
    """
    guess = max(1, int(size ** (1.0 / power)) - 1)
    while guess**power < size:
        guess += 1
    return guess


def digits(grid: Grid, mode: int, position: Integers) -> Integers:
    """Digits of (n,) positions of a mode, most significant first: (n, k).

    Those of rows are multiplied by the seed's width, so that a row's and a column's add up to a flat seed cell.
    """
    result = np.empty((len(position), grid.power), dtype=np.int64)
    for level in range(grid.power - 1, -1, -1):
        position, result[:, level] = np.divmod(position, grid.sides[mode])
    return result if mode else result * grid.sides[1]


def digit_pairs(position: Integers, side: int, power: int, random: np.random.Generator) -> tuple[Integers, Integers]:
    """Disjoint pairs of indices whose positions differ in one digit, one of each pair chosen at random.

    The digit is drawn as NeuKron draws a bit, P = 2^-(d+1) from the least significant; its values are paired at random.

    Returns
    -------
    The chosen index of every pair, and its mate.
    """
    stride = side ** min(int(random.geometric(0.5)) - 1, power - 1)
    values = random.permutation(side)
    low, high = values[0 : side - side % 2 : 2], values[1::2]
    places = np.arange(side**power)
    partner = np.full(side, -1)
    partner[low] = high
    digit = places // stride % side
    first = places[partner[digit] >= 0]
    second = first + (partner[digit[first]] - digit[first]) * stride
    turned = random.integers(0, 2, len(first)).astype(bool)
    at = gaps.positions(position)
    return at[np.where(turned, second, first)], at[np.where(turned, first, second)]


def _automatic_power(shape: tuple[int, ...]) -> int:
    power = 2
    while root(min(shape), power) > LARGEST_AUTOMATIC_SIDE:
        power += 1
    return power


def _bits(size: int) -> int:
    return int(size - 1).bit_length()
