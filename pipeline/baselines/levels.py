"""Values that cells are rounded to: a few levels where most values lie, multiples of a step above them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.baselines.base import Integers, Reals

BINS_A_STEP = 8  # of magnitudes, between which levels end
MOST_BINS = 256  # below which there may be levels
LEVEL_BITS = 64.0  # that the file spends on one
NO_LEVELS: Reals = np.zeros(0)


@dataclass(frozen=True)
class Levels:
    """Whole numbers for values: 1 .. J are levels of their own, J + k the (start + k)-th multiple of the step.

    A negative value has its magnitude's number, negative.

    Attributes
    ----------
    step
        Width of the multiples; 1 where whole values are told as they are.
    start
        Multiples up to which levels stand instead.
    magnitudes
        (J,) what the levels stand for, rising.
    ends
        (J,) magnitudes at which each level ends; known to who codes alone.
    """

    step: float = 1.0
    start: int = 0
    magnitudes: Reals = field(default_factory=lambda: NO_LEVELS)
    ends: Reals = field(default_factory=lambda: NO_LEVELS)

    def numbers(self, values: Reals) -> Reals:
        """Of every value its number; at least 1 in magnitude where there are levels."""
        if not len(self.magnitudes):
            return np.asarray(np.rint(values / self.step))
        size, count = np.abs(values), len(self.magnitudes)
        number = count + np.maximum(np.rint(size / self.step) - self.start, 1.0)
        low = size <= self.ends[-1]
        number[low] = np.searchsorted(self.ends, size[low]) + 1.0
        return np.asarray(np.copysign(number, values))

    def values(self, numbers: Reals) -> Reals:
        """What numbers stand for; 0 for 0."""
        count = len(self.magnitudes)
        if not count:
            return np.asarray(self.step * numbers)
        size = np.abs(numbers)
        told = self.step * (size - count + self.start)
        low = size <= count
        told[low] = np.append(0.0, self.magnitudes)[size[low].astype(np.int64)]
        return np.asarray(np.copysign(told, numbers))

    @property
    def table(self) -> Reals:
        """As a file has it: the step, and with levels the start and their magnitudes."""
        return np.concatenate(([self.step], [float(self.start), *self.magnitudes] if len(self.magnitudes) else []))

    @classmethod
    def from_table(cls, table: Reals) -> Levels:
        """Of a file's table.

        Raises
        ------
        ValueError
            A number is not above 0, or levels do not rise.
        """
        if len(table) in (0, 2) or not 0 < table[0] < np.inf:
            raise ValueError(f"step={table[:1].tolist()}: needs a number above 0, alone or with levels")
        start = table[1] if len(table) > 1 else 0.0
        rising = np.all(np.diff(table[2:], prepend=0.0) > 0) and np.all(np.isfinite(table[2:]))
        if not rising or not 0 <= start <= 2 * MOST_BINS or start != np.rint(start):
            raise ValueError("its levels are not finite, above 0 and rising")
        return cls(float(table[0]), int(start), table[2:])


def unit_of(sizes: Reals) -> float:
    """The largest number of which all are multiples, for (n,) magnitudes; 0 where they have no such one in 53 bits.

    Of values times a power of two it is that times the power, so that the scale of data changes no choice.
    """
    parts, exponents = np.frexp(sizes)
    whole = np.ldexp(parts, 53).astype(np.int64)
    lowest = int(np.min(exponents - 53 + np.frexp((whole & -whole).astype(np.float64))[1] - 1))
    if int(np.max(exponents)) - lowest > 53:
        return 0.0
    return float(np.ldexp(float(np.gcd.reduce(np.ldexp(sizes, -lowest).astype(np.int64))), lowest))


def cheapest(sizes: Reals, price: float, step: float, unit: float) -> Levels:
    """Levels of the least squared error + price x bits, for cells that are kept.

    The bits of a level are those of its frequency, and of its own entry in the file. Levels hold neighbouring bins of
    an eighth of a step, or one unit, so that the best ones follow by dynamic programming; from some multiple
    on, plain multiples of the step are cheaper. A level stands for the mean of what it holds.

    Parameters
    ----------
    sizes
        (n,) magnitudes.
    price
        Squared error that a bit is worth.
    unit
        Of which all magnitudes are multiples, or 0.
    """
    width = multiple_of(unit, step / BINS_A_STEP)
    number = np.rint(np.minimum(sizes / width, MOST_BINS + 1.0)).astype(np.int64)
    head = number <= MOST_BINS
    used, place = np.unique(number[head], return_inverse=True)
    count = np.bincount(place, minlength=len(used)).astype(float)
    first, second = (np.bincount(place, sizes[head] ** power, minlength=len(used)) for power in (1, 2))
    sums = [np.concatenate(([0.0], np.cumsum(each))) for each in (count, first, second)]
    best, back = np.zeros(len(used) + 1), np.zeros(len(used) + 1, dtype=np.int64)
    for end in range(1, len(best)):
        held, total, squares = (each[end] - each[:end] for each in sums)
        spread = np.maximum(squares - total**2 / held, 0.0)
        cost = best[:end] + spread + price * (held * np.log2(len(sizes) / held) + LEVEL_BITS)
        back[end] = np.argmin(cost)
        best[end] = cost[back[end]]
    edges = np.concatenate(([0.0], (used + 0.5) * width))  # where the levels end, by how many bins they hold
    costs = [
        best[end] + _multiples_cost(sizes[sizes > edge], price, step, float(np.floor(edge / step)), len(sizes))
        for end, edge in enumerate(edges)
    ]
    end, cuts = int(np.argmin(costs)), list[int]()
    while end:
        cuts.insert(0, end)
        end = int(back[end])
    if not cuts:
        return Levels(step)
    begins = [0, *cuts[:-1]]
    means = (sums[1][cuts] - sums[1][begins]) / (sums[0][cuts] - sums[0][begins])
    return Levels(step, int(np.floor(edges[cuts[-1]] / step)), means, edges[cuts])


def multiple_of(unit: float, width: float) -> float:
    """The largest multiple of a unit up to a width, at least the unit; the width itself where there is no unit."""
    return max(unit, unit * float(np.floor(width / unit))) if unit else width


def _multiples_cost(sizes: Reals, price: float, step: float, start: float, among: int) -> float:
    """Squared error + price x bits of magnitudes that are rounded to multiples beyond the first `start`."""
    multiple = start + np.maximum(np.rint(sizes / step) - start, 1.0)
    times = np.unique(multiple, return_counts=True)[1]
    return float(np.sum((sizes - step * multiple) ** 2)) + price * float(np.sum(times * np.log2(among / times)))


def bits(numbers: Reals, kept: Integers) -> Reals:
    """Of every cell the bits of its number, by how often it occurs among those kept."""
    distinct, place = np.unique(numbers, return_inverse=True)
    times = np.bincount(place[kept], minlength=len(distinct))
    of_number: Reals = np.log2((len(kept) + 1.0 + len(distinct)) / (times + 0.5))
    return of_number[place]
