"""Values as whole numbers, which every code tells well: multiples of a unit, or places among few distinct values.

Prices, half stars, percentages or measured decimals are n times a whole factor over a power of ten. Values that are
not, but few, are numbered as they rise. What is left of eight bytes a value is then what such numbers cost.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.baselines.base import Reals
from pipeline.baselines.coding import gaps
from pipeline.sparse.reals import EXACT_INTEGER

CODE = b"\x16"  # first byte of a code of such numbers, before that of the cells
DIGITS = 9  # most decimals
SMALL = 1 << 16  # multiples up to this are not listed
LARGE = 1 << 31  # multiples beyond this are no shorter than the values
REPEATED = 16  # values for each one that is listed, where they have a unit
REPEATED_REALS = 2  # where they have none


class Scale(NamedTuple):
    """What numbers stand for: n factor / divisor, or the n-th entry of a table, from 1 on.

    Attributes
    ----------
    single
        Whether quotients are rounded to single precision.
    table
        (K,) rising; none where numbers are multiples.
    """

    factor: int
    divisor: int
    single: bool
    table: Reals

    def numbers(self, values: Reals) -> Reals:
        """Of values that the scale has."""
        if len(self.table):
            return np.asarray(np.searchsorted(self.table, values) + 1, dtype=np.float64)
        return np.asarray(np.rint(values * self.divisor) / self.factor)

    def values(self, numbers: Reals) -> Reals:
        """Undo :meth:`numbers`; ValueError where a number is none of the table's."""
        if not len(self.table):
            return _rounded(numbers * self.factor / self.divisor, self.single)
        place = numbers.astype(np.int64) - 1
        if np.any(place != numbers - 1) or place.min() < 0 or place.max() >= len(self.table):
            raise ValueError("a value that the table does not have")
        return self.table[place]


def find(values: Reals) -> Scale | None:
    """The scale that makes (n,) values other than 0 small whole numbers; None where they are that, or none does."""
    distinct = np.unique(values)
    if len(distinct) == 1:
        return None
    multiples = _multiples(distinct)
    largest = np.inf if multiples is None else float(np.max(np.abs(multiples.numbers(distinct))))
    if largest > SMALL and len(distinct) * (REPEATED if largest <= LARGE else REPEATED_REALS) <= len(values):
        return Scale(1, 1, False, distinct)
    told = multiples is None or largest > LARGE or (multiples.factor, multiples.divisor) == (1, 1)
    return None if told else multiples


def doubtful(scale: Scale, values: Reals) -> bool:
    """Whether (n,) values may be shorter as they are, which repeat in some places alone, say."""
    return len(scale.table) * REPEATED > len(values)


def _multiples(distinct: Reals) -> Scale | None:
    single = bool(np.array_equal(_rounded(distinct, True), distinct))
    for digits in range(DIGITS + 1):
        whole = np.rint(distinct * 10**digits)
        if np.max(np.abs(whole)) > EXACT_INTEGER:
            return None
        for rounded in {False, single}:
            if np.array_equal(_rounded(whole / 10**digits, rounded), distinct):
                return Scale(int(np.gcd.reduce(whole.astype(np.int64))), 10**digits, rounded, np.zeros(0))
    return None


def _rounded(values: Reals, single: bool) -> Reals:
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64) if single else np.asarray(values)


def wrapped(scale: Scale, code: bytes) -> bytes:
    """A code of numbers with what they stand for."""
    kind, table = gaps.ONES, (b"", 0)
    if len(scale.table):
        kind, _, numbers = gaps.encode_values(scale.table)
        table = gaps.squeeze(numbers)
    head = [scale.factor, scale.divisor, int(scale.single), len(scale.table), kind, len(table[0]), table[1]]
    return CODE + gaps.write_varints(np.array(head, dtype=np.int64)).tobytes() + table[0] + code


def unwrapped(code: bytes) -> tuple[Scale, bytes]:
    """Undo :func:`wrapped`; ValueError where it makes no sense."""
    head, at = gaps.read_varints(code, 7, 1)
    factor, divisor, single, count, kind, length, setting = head.tolist()
    if not (0 < factor <= EXACT_INTEGER and 0 < divisor <= 10**DIGITS and single < 2):
        raise ValueError(f"multiples of {factor}/{divisor}")
    table: Reals = np.zeros(0)
    if count:
        table = gaps.decode_values(kind, 1.0, gaps.expand(code[at : at + length], setting), count)
        if len(table) != count or not np.all(np.isfinite(table)) or np.any(np.diff(table) <= 0):
            raise ValueError("a table of values that do not rise")
    return Scale(factor, divisor, bool(single), table), code[at + length :]
