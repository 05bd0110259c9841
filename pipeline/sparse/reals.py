"""Whole numbers as 64-bit reals: which are exact, and the narrowest type of those that are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

TOO_SMALL = "is nearer to 0 than any 64-bit real (5e-324): it would be lost; scale the values"
EXACT_INTEGER = 2.0**53  # above this float64 skips integers


def as_float64(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Real numbers of any type as 64-bit reals; those beyond their range become infinite.

    Raises
    ------
    InputError
        One of a longer type would become 0.
    """
    with np.errstate(over="ignore", under="ignore"):
        reals: npt.NDArray[np.float64] = values.astype(np.float64)
    if values.dtype.kind == "f" and values.itemsize > reals.itemsize and (lost := (reals == 0) & (values != 0)).any():
        entry = int(np.argmax(lost))
        raise InputError(f"entry {entry}: value {values[entry]!s} {TOO_SMALL}")
    return reals


def beyond_whole_numbers(values: npt.NDArray[Any]) -> int:
    """How many values are of a size where 64-bit reals skip whole numbers."""
    return int(np.count_nonzero(np.abs(values.astype(np.float64, copy=False)) >= EXACT_INTEGER))


def in_reals(count: int) -> str:
    """A line about so many values; none about none."""
    return f"{count:,} values of size 2^53 or more: a whole number so large is kept as the nearest 64-bit real" * (
        count > 0
    )


def narrowest_exact_type(values: npt.NDArray[np.float64]) -> np.dtype[Any]:
    """Return the smallest integer type that holds all `values` exactly, else float64."""
    low, high = float(values.min()), float(values.max())
    whole = bool(np.all(values == np.rint(values))) and max(-low, high) <= EXACT_INTEGER
    if not whole:
        return np.dtype(np.float64)
    if low >= 0:
        return np.min_scalar_type(int(high))
    return np.promote_types(np.min_scalar_type(int(low)), np.min_scalar_type(-int(high) - 1 if high > 0 else -1))
