"""Means and standard errors over seeds, frontiers and slopes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

FEWEST_SIZES = 5  # below which no exponent is judged
CELL = ["dataset", "method", "setting"]


def student_quantile(freedom: float) -> float:
    """How many standard errors half of a 95 % interval has: the 0.975 quantile of Student's t.

    >>> round(student_quantile(2), 3)
    4.303
    """
    return float(stdtrit(freedom, 0.975))


def welch_halfwidth(one: tuple[float, int], other: tuple[float, int]) -> float:
    """Half the 95 % interval of a difference of two means, each a standard error and a number of seeds (Welch).

    >>> round(welch_halfwidth((1.0, 3), (1.0, 3)), 3), welch_halfwidth((math.nan, 1), (1.0, 3))
    (3.926, inf)
    """
    if min(one[1], other[1]) < 2:
        return math.inf
    variances = [(error**2, count - 1) for error, count in (one, other)]
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / free for variance, free in variances)
    return student_quantile(freedom) * math.sqrt(total)


def over_seeds(runs: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """One row a data set, method and setting: ``seeds``, the mean of each quantity and its ``<quantity>_stderr``.

    The rows keep the order in which the cells first appear. The standard error of the mean, s / sqrt(n) with the
    sample deviation s, is NaN where there is one seed. A quantity that a seed lacks has no mean.
    """
    names = list(quantities)
    groups = runs[CELL].join(runs[names].astype(np.float64)).groupby(CELL, sort=False)
    means, errors = groups[names].mean(skipna=False), groups[names].sem(skipna=False).add_suffix("_stderr")
    cells = groups.size().rename("seeds").to_frame().join([means, errors]).reset_index()
    return cells[[*CELL, "seeds", *(column for name in names for column in (name, f"{name}_stderr"))]]


def frontier(sizes: Sequence[float], errors: Sequence[float]) -> list[bool]:
    """Whether each point is on the lower envelope: none that is at most as large is as accurate.

    >>> frontier([10, 20, 20, 30], [0.5, 0.6, 0.2, 0.2])
    [True, False, True, False]
    """
    best = math.inf
    on = [False] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: (sizes[i], errors[i])):
        if errors[index] < best:
            on[index], best = True, errors[index]
    return on


class PowerLaw(NamedTuple):
    """``y = scale * x ** slope``, with half the width of the slope's 95 % interval and the number of different x.

    `halfwidth` is infinite where two points fix the line.
    """

    slope: float
    scale: float
    halfwidth: float
    sizes: int

    @property
    def verdict(self) -> str:
        """How y grows in x, as far as the points tell."""
        if self.sizes < FEWEST_SIZES:
            return "too few sizes to tell"
        if self.slope - self.halfwidth > 1:
            return "more than linear"
        return "less than linear" if self.slope + self.halfwidth < 1 else "linear within the interval"

    def __str__(self) -> str:
        """The slope with its interval."""
        if not math.isfinite(self.halfwidth):
            return f"{self.slope:.2f} (no interval)"
        return f"{self.slope:.2f} \N{PLUS-MINUS SIGN} {self.halfwidth:.2f}"


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw | None:
    """Least-squares line through ``(log x, log y)``; None for fewer than two different x.

    >>> law = fit_power_law([1, 10, 100, 1000], [2, 21, 190, 2050])
    >>> print(law, law.verdict, sep=": ")
    1.00 \N{PLUS-MINUS SIGN} 0.04: too few sizes to tell
    >>> law = fit_power_law([1, 10, 100, 1000, 10000], [3, 3, 3, 3, 3])
    >>> print(law, law.verdict, sep=": ")
    0.00 \N{PLUS-MINUS SIGN} 0.00: less than linear
    """
    sizes = len(set(x))
    if sizes < 2:
        return None
    from scipy.stats import linregress  # half of all that a report imports, and few have enough sizes

    line = linregress(np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64)))
    free = len(x) - 2
    stderr = line.stderr if len(set(y)) > 1 else 0.0  # not a number where all y are the same
    halfwidth = float(student_quantile(free) * stderr) if free > 0 else math.inf
    return PowerLaw(float(line.slope), math.exp(float(line.intercept)), halfwidth, sizes)
