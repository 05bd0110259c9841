"""Cells that pay for their bits: which to keep, which to fill in, and how finely to tell their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from pipeline.baselines import fill, levels, patterns
from pipeline.baselines.base import Integers, Reals
from pipeline.baselines.cell_bits import CellBits
from pipeline.baselines.coding import gaps
from pipeline.baselines.coding.exact import ExactCells, quick_length
from pipeline.baselines.fill import Fill, Groups
from pipeline.baselines.levels import Levels
from pipeline.core.settings import setting
from pipeline.errors import InputError, is_whole
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

AUTOMATIC_BITS = 0.8  # a non-zero, where no limit is given
STEPS = 12  # of the bisection of the price
ERROR_STEPS = 12  # of that which needs no code
LEAP = 16.0  # times the price, at most at once
ASIDE = 2  # prices on one side of the limit in a row, after which the middle is taken
ROUNDS = 5  # of choice and prices of cells
CLOSE = 0.98  # a code of this share of its limit is large enough
JUMP = 0.95  # a length or error below this share of its limit comes of levels that changed between two prices
JUMP_STEPS = 5  # of the bisection on either side of it
COARSER = 3.0  # times the price: another one of the levels, for codes that spend more on values than frequencies say
AIM = 0.99  # what the next price aims at
LEAST_FACTOR = 1.3  # between two prices while no code is known on one side of the limit
GROUP = 3.0  # patterns occur a multiple of so many times the cells that a bit is worth
FULL = 0.8  # a code of less than this share of its limit leaves room
FILLINGS = 3  # tries to use that room
MOST_RAISED = 4.0  # times the limit, at once
AIM_AGAIN = 0.97  # of the limit, in these tries
ROUNDING = 1e-16  # of the squared norm; errors below it are none
STEP_BYTES = 8  # of the step, which limits do not count
STEP_OF_PRICE = 2.9  # sqrt(6 / ln 2): the step at which a bit more a value lowers the error by the price


class Choice(NamedTuple):
    """Cells to code: coordinates, whole numbers of `levels` (or plain values, at step 1), squared error, the rest."""

    coords: Integers
    values: Reals
    levels: Levels
    error: float
    fill: Fill | None = None


T = TypeVar("T")
Chooser = Callable[[float], Choice]  # from the price of a bit


class Found(NamedTuple):
    """Bytes of a code, what it tells, and the last two prices of a bit tried."""

    bytes: float
    choice: Choice
    prices: tuple[float, float]


class RateDistortion(ExactCells):
    """The cells that lower the error by more than their bits cost, at a price that meets a size or an error.

    Several ways to choose are tried, and the best one is kept. *Cells*: a cell stays if it lowers the squared error by
    more than price x bits, where its bits follow from how often its indices, pairs of them and its value occur among
    the cells that stay, by either of two estimates (:mod:`pipeline.baselines.cell_bits`); values are rounded to a few
    levels and multiples of a step, of least squared error + price x bits (:mod:`pipeline.baselines.levels`).
    Cells that are not told are filled with means of groups (:mod:`pipeline.baselines.fill`). *Patterns*, for binary
    matrices in free orders: columns take one of few patterns (:mod:`pipeline.baselines.patterns`). Cells and prices are
    chosen in turn, the price by bisection on the length of the real code; where lengths or errors jump, since values
    fall into other levels, the levels on either side are kept and the price of cells alone is sought. Levels of three
    times the price are tried beside them and, where steps are one unit, values as they are. In the end all codes of
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

    levels_: Levels
    fill_: Fill | None = None  # of the cells that are not held
    _groups: Groups  # its groups

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
        choosers: list[Chooser] = [ByCells(X, self.orders, counted) for counted in (X.order == 2, X.order != 2)]
        if X.order == 2 and not self.orders and len(np.unique(X.values)) == 1:
            choosers.insert(0, by_patterns(X))
        if self.max_error is not None:
            self._keep(self._best(choosers, partial(self._within_error, X), lambda each: each.bytes)[0].choice)
        else:
            limit = max(1.0, AUTOMATIC_BITS * X.nnz / 8) if self.max_bytes is None else self.max_bytes
            self._within(X, choosers, limit)
        self._record(self._squared_error(X), kept=len(self.cells_.values), step=self.levels_.step, coded=self._prices)

    def _keep(self, choice: Choice) -> int:
        """Hold the cells by the shortest code; its length."""
        self.levels_ = choice.levels
        self._store(choice.coords, choice.values)
        self._take(choice.fill)
        return self._coded_bytes(self.labelled_.bytes if self.orders else self.free_bytes_, choice)

    def _take(self, chosen: Fill | None) -> None:
        """Fill cells that are not held."""
        self.fill_ = chosen
        if chosen is not None:
            self._groups = Groups(self.cells_.coords, self.inner_shape_, chosen.mode)

    def _within(self, X: SparseTensor, choosers: list[Chooser], limit: float) -> None:
        """Hold the cells of least error whose code is within the limit.

        Lengths of large codes are taken from one that is mostly the shortest. Where another one is much shorter, so
        that room is left, cells are chosen for a limit raised accordingly.
        """
        aim, best = limit, None
        for _ in range(FILLINGS):
            found, chooser = self._best(choosers, partial(self._within_bytes, X, aim), partial(_rank, aim))
            choice, choosers = found.choice, [chooser]
            length = self._keep(choice)
            held = choice
            if best is None or (length <= limit and choice.error < best.error):
                best = choice
            if FULL * limit <= length <= limit or choice.error == 0 or not self._in_time():
                break
            if length > limit and aim <= limit:
                break  # no code is as short
            aim *= AIM_AGAIN * min(limit / length, MOST_RAISED)
        if held is not best and best is not None:
            self._keep(best)

    def _length(self, choice: Choice) -> int:
        """Bytes of the code that counts, at most."""
        length = quick_length(choice.coords, choice.values, self.inner_shape_, self.orders)
        self._prices += 1
        return self._coded_bytes(length, choice)

    @staticmethod
    def _coded_bytes(length: int, choice: Choice) -> int:
        """What limits count: a code's length, the levels beside the step, and the table of what is filled in."""
        return length + choice.levels.table.nbytes - STEP_BYTES + _fill_bytes(choice.fill)

    def _in_time(self) -> bool:
        """Whether another price may be tried."""
        return self.max_seconds is None or self._fitted_for() < self.max_seconds

    def _in_turn(self, ways: list[T]) -> Iterator[T]:
        """The first, and the others as long as there is time."""
        for way in ways:
            if way is ways[0] or self._in_time():
                yield way

    def _best(
        self, choosers: list[Chooser], within: Callable[[Chooser, float | None], Found], rank: Callable[[Found], Any]
    ) -> tuple[Found, Chooser]:
        """The code of least rank by any chooser, or by the best one's cells with other levels; and its chooser."""
        found = [(within(each, None), each) for each in self._in_turn(choosers)]
        best, chooser = min(found, key=lambda each: rank(each[0]))
        others = chooser.others(best.choice.levels) if isinstance(chooser, ByCells) and best.choice.error else []
        found += [(within(each, best.prices[0]), each) for each in others if self._in_time()]
        return min(found, key=lambda each: rank(each[0]))

    def _within_bytes(self, X: SparseTensor, limit: float, chooser: Chooser, start: float | None) -> Found:
        """The least error of a code within the limit; the shortest code where none is."""
        tried = [self._priced(X, chooser, limit, start=start)]
        if isinstance(chooser, ByCells) and chooser.leveled and tried[0].bytes < JUMP * limit and tried[0].choice.error:
            at_levels = [chooser.at_levels_of(price) for price in tried[0].prices]
            tried += [self._priced(X, each, limit, JUMP_STEPS) for each in at_levels if self._in_time()]
        return min(tried, key=partial(_rank, limit))

    def _priced(
        self, X: SparseTensor, chooser: Chooser, limit: float, steps: int = STEPS, start: float | None = None
    ) -> Found:
        """A code within the limit of least error, by bisection of the price, if given from a first one on."""
        best: tuple[float, Choice] | None = None
        least: tuple[float, Choice] | None = None
        low, high = least_price, most_price = _prices(X)
        above = below = 0  # lengths of the codes at these ends, once they are known
        over, aside = False, 0  # on which side the last price was, and how many before it
        price = start or X.norm2 / (32 * limit)  # a fourth of what all of it is worth a bit
        for step in range(steps):
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
            aside = aside + 1 if over == (length > limit) else 0
            over = length > limit
            if over:
                low, above = price, length
            else:
                high, below = price, length
            if low == least_price or high == most_price or not above > below > 0:
                steep = min(max((length / limit) ** 2, 1 / LEAP), LEAP)  # only one side is known; codes have steps
                price *= max(steep, LEAST_FACTOR) if length > limit else min(steep, 1 / LEAST_FACTOR)
            elif aside >= ASIDE:  # it comes no nearer from one side
                price, aside = float(np.sqrt(low * high)), 0
            else:  # a power law between the two
                share = math.log(above / (AIM * limit)) / math.log(above / below)
                price = low * (high / low) ** min(max(share, 0.1), 0.9)
        if best is None:
            assert least is not None  # noqa: S101 - there is at least one step
            best = least
        return Found(*best, (low, high))

    def _within_error(self, X: SparseTensor, chooser: Chooser, _: float | None) -> Found:
        """The shortest code of those of the highest prices whose error is within the limit."""
        assert self.max_error is not None  # noqa: S101 - asked for by it alone
        limit = self.max_error * X.norm2
        found, prices = self._highest(X, chooser, limit)
        choices = [chooser(0.0) if found is None else found]
        if isinstance(chooser, ByCells) and chooser.leveled and choices[0].error < JUMP * limit:
            more = [self._highest(X, chooser.at_levels_of(price), limit)[0] for price in prices]
            choices += [choice for choice in more if choice is not None]
        coded = [Found(self._length(choice), choice, prices) for choice in self._in_turn(choices)]
        return min(coded, key=lambda each: each.bytes)

    def _highest(self, X: SparseTensor, chooser: Chooser, limit: float) -> tuple[Choice | None, tuple[float, float]]:
        """The choice of the highest price whose error is within the limit; and the last two prices."""
        best: Choice | None = None
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
        return best, (low, high)

    def _predict(self, index: Integers) -> Reals:
        numbers, place = self.cells_.look_up(index)
        return self.levels_.values(numbers) + self._filled(index, place)

    def _filled(self, index: Integers, place: Integers) -> Reals:
        """Values of cells that are not held, of place -1."""
        if self.fill_ is None:
            return np.zeros(len(index))
        return np.where(place < 0, np.append(self.fill_.means, 0.0)[self._groups.of(index)], 0.0)

    def held_cells(self) -> tuple[Integers, Reals]:
        """The cells that were coded or filled in: all that are not zero."""
        coords, values = self.cells_.coords, self.levels_.values(self.cells_.values)
        if self.fill_ is not None:
            more = self._groups.listed(self.fill_.means != 0)
            more = more[self.cells_.look_up(more)[1] < 0]
            coords = np.concatenate((coords, more))
            values = np.append(values, self.fill_.means[self._groups.of(more)])
        return self.frame_.outward(coords, values)

    def _squared_error(self, X: SparseTensor) -> float:
        numbers, place = self.cells_.look_up(X.coords)
        unmatched = np.ones(len(self.cells_.values), dtype=bool)
        unmatched[place[place >= 0]] = False
        more = np.sum(self.levels_.values(self.cells_.values[unmatched]) ** 2)
        filled = self._filled(X.coords, place)
        if self.fill_ is not None:
            cells = self._groups.cells()
            cells -= np.bincount(self._groups.of(self.cells_.coords), minlength=len(cells))
            more += max(0.0, float(np.sum(self.fill_.means**2 * cells) - np.sum(filled**2)))
        return float(np.sum((X.values - self.levels_.values(numbers) - filled) ** 2) + more)

    def _size(self) -> dict[str, int]:
        """The code, where values are rounded the step and levels, 8 bytes each, and the table of what is filled in."""
        table = self.levels_.table
        more = (0 if len(table) == 1 and table[0] == 1.0 else table.nbytes) + _fill_bytes(self.fill_)
        return {key: length + more for key, length in super()._size().items()}

    def _contents(self, orders: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        tensors, content = super()._contents(orders)
        if self.fill_ is not None:
            tensors, content = (
                tensors | {"fill": self.fill_.table},
                content | {"fill": [self.fill_.mode, self.fill_.unit]},
            )
        return tensors | {"step": self.levels_.table}, content

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = super()._from_contents(contents)
        try:
            model.levels_ = Levels.from_table(contents.reals("step", (None,)))
        except ValueError as error:
            raise InputError(str(error)) from error
        if "fill" in contents.tensors:
            model._take(model._stored_fill(contents))
        return model

    def _stored_fill(self, contents: Contents) -> Fill:
        """Of an artifact."""
        told = contents.entry("fill")
        mode, unit = told if isinstance(told, list) and len(told) == 2 else (-1, 0.0)
        if not is_whole(mode, 0) or mode >= len(self.shape_) or not isinstance(unit, float) or not 0 < unit < np.inf:
            raise InputError(f"fill={str(told)[:60]}: needs a mode and a unit above 0")
        if not Groups.able(self.shape_):
            raise InputError(f"fill of a tensor of shape {self.shape_}")
        groups = Groups(self.cells_.coords, self.shape_, mode)
        found = Fill(mode, unit, contents.array("fill", "i", groups.dims).astype(np.int8))
        contents.permitted(8 * (len(self.shape_) + 1) * float(groups.cells() @ (found.means != 0)), "cells filled in")
        return found


def _rank(limit: float, found: Found) -> tuple[bool, float]:
    """By error within a limit of bytes, by bytes beyond it."""
    return found.bytes > limit, found.bytes if found.bytes > limit else found.choice.error


def _fill_bytes(chosen: Fill | None) -> int:
    return 0 if chosen is None else chosen.table.nbytes


def _prices(X: SparseTensor) -> tuple[float, float]:
    """Prices at which next to all cells stay, and next to none."""
    return max(float(np.min(X.values**2)) * 1e-3, X.norm2 * ROUNDING), X.norm2 / 4


class ByCells:
    """Cells one by one: a function from the price of a bit to the choice.

    Attributes
    ----------
    leveled
        Whether values are rounded at a price.
    """

    def __init__(self, X: SparseTensor, orders: bool, counted: bool) -> None:
        self.X, self.sizes, self.bits = X, np.abs(X.values), CellBits(X, orders, counted)
        self.unit = levels.unit_of(self.sizes)
        self.leveled = len(np.unique(self.sizes)) > 1

    def others(self, found: Levels) -> list[Chooser]:
        """The same with levels of a higher price than the cells', and with none where multiples are of one unit."""
        if not self.leveled:
            return []
        coarser: Chooser = lambda price: self(price, COARSER * price)  # noqa: E731
        exact = [self.at_levels_of(0.0)] if len(found.magnitudes) and found.step == self.unit else []
        return [coarser, *exact]

    def at_levels_of(self, price: float) -> Chooser:
        """The same with the values rounded as at one price, whatever that of the cells is."""
        return lambda cells_price: self(cells_price, price)

    def __call__(self, price: float, levels_price: float | None = None) -> Choice:
        """The cells, at a price of the levels of its own where it is given."""
        X = self.X
        if not price:
            return Choice(X.coords, X.values, Levels(), 0.0)
        found, numbers = self._rounded(np.arange(X.nnz), price if levels_price is None else levels_price)
        kept = np.flatnonzero(numbers)
        modes: Sequence[int] = range(X.order)
        untold = X.values  # errors of cells, were they not told
        for _ in range(ROUNDS):
            errors = (X.values - found.values(numbers)) ** 2
            worth = untold**2 - errors - price * (self.bits.of(kept) + levels.bits(numbers, kept))
            chosen = np.flatnonzero((worth > 0) & (numbers != 0))
            if np.array_equal(chosen, kept) or len(chosen) == 0:
                kept = chosen
                break
            kept = chosen
            found, numbers = self._rounded(kept, price if levels_price is None else levels_price)
            filled = fill.best(X, kept, price, modes)
            modes = [] if filled is None else [filled.fill.mode]
            untold = X.values if filled is None else X.values - filled.values
        kept = kept[numbers[kept] != 0]
        if len(kept) == 0:  # the last cell left, told as it is
            kept = np.array([int(np.argmax(self.sizes))])
            return Choice(X.coords[kept], X.values[kept], Levels(), float(np.sum(np.delete(X.values, kept) ** 2)))
        told = np.zeros(X.nnz)
        told[kept] = found.values(numbers[kept])
        error = float(np.sum((X.values - told) ** 2))
        filled = fill.best(X, kept, price, modes)
        if filled is None:
            return Choice(X.coords[kept], numbers[kept], found, error)
        return Choice(X.coords[kept], numbers[kept], found, max(0.0, error - filled.gain), filled.fill)

    def _rounded(self, kept: Integers, price: float) -> tuple[Levels, Reals]:
        """Levels for the cells that are kept, and all cells' numbers."""
        if not self.leveled:
            return Levels(), self.X.values
        step = levels.multiple_of(self.unit, STEP_OF_PRICE * float(np.sqrt(price)))
        found = levels.cheapest(self.sizes[kept], price, step, self.unit)
        return found, found.numbers(self.X.values)


def by_patterns(X: SparseTensor) -> Chooser:
    """Patterns of a binary matrix's columns: a function from the price of a bit to the choice."""
    top = gaps.top_mode(X.shape)
    columns, which = patterns.distinct(X.coords[:, top], X.coords[:, 1 - top], X.shape[top])
    value = float(X.values[0])

    def choose(price: float) -> Choice:
        if not price:
            return Choice(X.coords, X.values, Levels(), 0.0)
        rows, start, pattern = patterns.quantised(columns, X.shape[1 - top], price / value**2)
        of_column = patterns.rounded(np.append(pattern, -1)[which], max(1, int(GROUP * price / value**2)))
        if not np.any(of_column >= 0):
            return Choice(X.coords[:1], X.values[:1], Levels(), X.norm2 - value**2)
        sizes = np.append(np.diff(start), 0)[of_column]
        coords = np.empty((int(sizes.sum()), 2), dtype=np.int64)
        coords[:, top] = np.repeat(np.arange(len(of_column)), sizes)
        coords[:, 1 - top] = rows[patterns.spread(start, of_column)]
        height = X.shape[1 - top]
        there = np.isin(coords[:, top] * height + coords[:, 1 - top], X.coords[:, top] * height + X.coords[:, 1 - top])
        hit = int(np.count_nonzero(there))
        return Choice(coords, np.full(len(coords), value), Levels(), value**2 * (X.nnz - hit + len(coords) - hit))

    return choose
