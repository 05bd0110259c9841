"""Cells that pay for their bits: which to keep, which to fill in, and how finely to tell their values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from pipeline.baselines import patterns
from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.coding import gaps
from pipeline.baselines.coding.exact import ExactCells, quick_length
from pipeline.core.settings import setting
from pipeline.errors import InputError
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

AUTOMATIC_BITS = 0.8  # a non-zero, where no limit is given
STEPS = 12  # of the bisection of the price
ERROR_STEPS = 12  # of that which needs no code
ROUNDS = 5  # of choice and prices of cells
CLOSE = 0.98  # a code of this share of its limit is large enough
AIM = 0.99  # what the next price aims at
LEAST_FACTOR = 1.3  # between two prices while no code is known on one side of the limit
GROUP = 3.0  # patterns occur a multiple of so many times the cells that a bit is worth
STEP_OF_PRICE = 2.9  # sqrt(6 / ln 2): the step at which a bit more a value lowers the error by the price


class Choice(NamedTuple):
    """Cells to code: coordinates, whole multiples of `step` (or plain values, at step 1), and the squared error."""

    coords: Integers
    values: Reals
    step: float
    error: float


class RateDistortion(ExactCells):
    """The cells that lower the error by more than their bits cost, at a price that meets a size or an error.

    Two ways to choose are tried, and the better one is kept. *Cells*: a cell stays if it lowers the squared error by
    more than price x bits, where its bits follow from how often its indices and its value occur among the cells that
    stay; values are whole multiples of one step that the price decides. *Patterns*, for binary matrices in free
    orders: columns take one of few patterns, :mod:`pipeline.baselines.patterns`. Cells and prices are chosen in turn,
    the price by bisection on the length of the real code; in the end all codes of
    :class:`~pipeline.baselines.lossless.Lossless` are tried. ``history_`` says how many choices were coded.

    Parameters
    ----------
    max_bytes
        Bytes of the code at most, its artifact's header not counted. None and no error: 0.8 bits a non-zero.
    max_error
        Squared error over squared norm at most.
    orders
        Whether the size counts what gives the tensor's own indices.
    max_seconds
        After so many no further price is tried; None: as many as are wanted. It makes results depend on the machine.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> RateDistortion(max_error=0.0).fit(X).error(X)["error"]
    0.0
    """

    name = "rate-distortion"
    fits_to_meet_a_size = 2

    max_bytes: float | None = setting(None, at_least=1)
    max_error: float | None = setting(None, at_least=0, at_most=1)
    orders: bool = setting(False)
    max_seconds: float | None = setting(None, above=0, is_setting=False)

    step_: float

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The size itself."""
        return {"max_bytes": size, "orders": orders} if size >= 1 else None

    @classmethod
    def settings_for_error(cls, X: SparseTensor, error: float, orders: bool) -> dict[str, Any] | None:
        """The error itself."""
        return {"max_error": error, "orders": orders}

    def _fit(self, X: SparseTensor) -> None:
        if self.max_bytes is not None and self.max_error is not None:
            raise InputError("rate-distortion: max_bytes and max_error are given; give one of them")
        self._prices = 0
        choosers = [by_cells(X, self.orders)]
        if X.order == 2 and not self.orders and len(np.unique(X.values)) == 1:
            choosers.insert(0, by_patterns(X))
        if self.max_error is not None:
            found = [self._within_error(X, chooser) for chooser in choosers]
            found.sort(key=lambda each: each[0])
        else:
            limit = max(1.0, AUTOMATIC_BITS * X.nnz / 8) if self.max_bytes is None else self.max_bytes
            found = [self._within_bytes(X, chooser, limit) for chooser in choosers]
            found.sort(key=lambda each: (each[0] > limit, each[1].error))
        choice = found[0][1]
        self.step_ = choice.step
        self._store(choice.coords, choice.values)
        self._record(self._squared_error(X), kept=len(choice.values), step=choice.step, coded=self._prices)

    def _length(self, choice: Choice) -> int:
        """Bytes of the code that counts, at most."""
        length = quick_length(choice.coords, choice.values, self.inner_shape_, self.orders)
        self._prices += 1
        return length

    def _in_time(self) -> bool:
        """Whether another price may be tried."""
        return self.max_seconds is None or time.perf_counter() - self._started < self.max_seconds

    def _within_bytes(self, X: SparseTensor, chooser: Callable[[float], Choice], limit: float) -> tuple[float, Choice]:
        """The least error of a code within the limit; the shortest code where none is."""
        best: tuple[float, Choice] | None = None
        least: tuple[float, Choice] | None = None
        low, high = least_price, most_price = _prices(X)
        above = below = 0  # lengths of the codes at these ends, once they are known
        price = X.norm2 / (32 * limit)  # a fourth of what all of it is worth a bit
        for step in range(STEPS):
            if step and not self._in_time():
                break
            price = price if low < price < high else float(np.sqrt(low * high))
            exact = price < 2 * least_price  # as cheap as it gets: perhaps all of it fits
            choice = chooser(0.0 if exact else price)
            length = self._length(choice)
            if least is None or length < least[0]:
                least = (length, choice)
            if length <= limit and (best is None or choice.error < best[1].error):
                best = (length, choice)
            if length <= limit and (choice.error == 0 or length >= CLOSE * limit):
                break
            if length > limit:
                low, above = price, length
            else:
                high, below = price, length
            if low == least_price or high == most_price or not above > below > 0:
                steep = (length / limit) ** 2  # only one side is known; codes of few cells have steps
                price *= max(steep, LEAST_FACTOR) if length > limit else min(steep, 1 / LEAST_FACTOR)
            else:  # a power law between the two
                share = math.log(above / (AIM * limit)) / math.log(above / below)
                price = low * (high / low) ** min(max(share, 0.1), 0.9)
        if best is None:
            assert least is not None  # noqa: S101 - there is at least one step
            return least
        return best

    def _within_error(self, X: SparseTensor, chooser: Callable[[float], Choice]) -> tuple[float, Choice]:
        """The code of the highest price whose error is within the limit."""
        assert self.max_error is not None  # noqa: S101 - asked for by it alone
        limit = self.max_error * X.norm2
        best = chooser(0.0)
        low, high = _prices(X)
        for _ in range(ERROR_STEPS if limit > 0 else 0):
            if not self._in_time():
                break
            price = float(np.sqrt(low * high))
            choice = chooser(price)
            if choice.error <= limit:
                best, low = choice, price
            else:
                high = price
        return self._length(best), best

    def _predict(self, index: Integers) -> Reals:
        return self.step_ * super()._predict(index)

    def held_cells(self) -> tuple[Integers, Reals]:
        """The cells that were coded: all that are not zero."""
        return self.frame_.outward(self.cells_.coords, self.step_ * self.cells_.values)

    def _squared_error(self, X: SparseTensor) -> float:
        values, place = self.cells_.look_up(X.coords)
        filled = np.ones(len(self.cells_.values), dtype=bool)
        filled[place[place >= 0]] = False
        more = np.sum((self.step_ * self.cells_.values[filled]) ** 2)
        return float(np.sum((X.values - self.step_ * values) ** 2) + more)

    def _size(self) -> dict[str, int]:
        """The code, and 8 bytes of the step where values are rounded."""
        step = 0 if self.step_ == 1.0 else 8
        return {key: length + step for key, length in super()._size().items()}

    def _contents(self, orders: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, content = super()._contents(orders)
        return tensors | {"step": np.array([self.step_])}, content

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = super()._from_contents(contents)
        model.step_ = float(contents.reals("step", (1,))[0])
        if model.step_ <= 0:
            raise InputError(f"step={model.step_}: needs a number above 0")
        return model


def _prices(X: SparseTensor) -> tuple[float, float]:
    """Prices at which next to all cells stay, and next to none."""
    squares = X.values**2
    return max(float(squares.min()) * 1e-3, X.norm2 * 1e-12), X.norm2 / 4


def by_cells(X: SparseTensor, orders: bool) -> Callable[[float], Choice]:
    """Cells one by one: a function from the price of a bit to the choice."""
    whole = bool(np.all(X.values == np.rint(X.values)))
    constant = len(np.unique(np.abs(X.values))) == 1

    def choose(price: float) -> Choice:
        step = STEP_OF_PRICE * float(np.sqrt(price))
        step = 1.0 if constant or price == 0 or (whole and step < 2) else step
        if whole:
            step = float(np.floor(step))
        plain = step == 1.0
        values = X.values if plain else np.rint(X.values / step)
        kept = np.flatnonzero(values != 0)
        for _ in range(ROUNDS if price else 0):
            bits = cell_bits(X, values, kept, orders)
            worth = X.values**2 - (X.values - step * values) ** 2 - price * bits
            chosen = np.flatnonzero((worth > 0) & (values != 0))
            if np.array_equal(chosen, kept):
                break
            kept = chosen
            if len(kept) == 0:
                break
        if len(kept) == 0 or not price:
            kept = np.arange(X.nnz) if not price else np.array([int(np.argmax(np.abs(X.values)))])
        told = X.values[kept] if plain else values[kept]
        if np.any(told == 0):  # the last cell left at a step too large for it
            told, step = X.values[kept], 1.0
        error = X.norm2 - float(np.sum(X.values[kept] ** 2)) + float(np.sum((X.values[kept] - step * told) ** 2))
        return Choice(X.coords[kept], told, step, max(error, 0.0) if len(kept) < X.nnz or step != 1.0 else 0.0)

    return choose


def cell_bits(X: SparseTensor, values: Reals, kept: Integers, orders: bool) -> Reals:
    """About the bits of each cell, were it coded with those that are kept.

    Indices as draws by their frequency, less the order of the cells; an index that is stored costs its number, which
    its cells share; a value by its frequency.
    """
    count = len(kept) + 1.0
    bits = np.full(X.nnz, -np.log2(count))
    for mode, size in enumerate(X.shape):
        degree = np.bincount(X.coords[kept, mode], minlength=size)[X.coords[:, mode]]
        bits += np.log2(count / (degree + 0.5))
        bits += np.log2(size) / (degree + 0.5) if orders else 0.0
    distinct, number = np.unique(values, return_inverse=True)
    times = np.bincount(number[kept], minlength=len(distinct))
    values_bits: Reals = np.log2((count + len(distinct)) / (times + 0.5))[number]
    total: Reals = np.maximum(bits, 0.5) + values_bits
    return total


def by_patterns(X: SparseTensor) -> Callable[[float], Choice]:
    """Patterns of a binary matrix's columns: a function from the price of a bit to the choice."""
    top = gaps.top_mode(X.shape)
    columns, which = patterns.distinct(X.coords[:, top], X.coords[:, 1 - top], X.shape[top])
    value = float(X.values[0])

    def choose(price: float) -> Choice:
        if not price:
            return Choice(X.coords, X.values, 1.0, 0.0)
        rows, start, pattern = patterns.quantised(columns, X.shape[1 - top], price / value**2)
        of_column = patterns.rounded(np.append(pattern, -1)[which], max(1, int(GROUP * price / value**2)))
        if not np.any(of_column >= 0):
            return Choice(X.coords[:1], X.values[:1], 1.0, X.norm2 - value**2)
        sizes = np.append(np.diff(start), 0)[of_column]
        coords = np.empty((int(sizes.sum()), 2), dtype=np.int64)
        coords[:, top] = np.repeat(np.arange(len(of_column)), sizes)
        coords[:, 1 - top] = rows[patterns.spread(start, of_column)]
        height = X.shape[1 - top]
        there = np.isin(coords[:, top] * height + coords[:, 1 - top], X.coords[:, top] * height + X.coords[:, 1 - top])
        hit = int(np.count_nonzero(there))
        return Choice(coords, np.full(len(coords), value), 1.0, value**2 * (X.nnz - hit + len(coords) - hit))

    return choose
