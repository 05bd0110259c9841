"""Whole numbers as 64-bit reals: which are exact, and the narrowest type of those that are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

EXACT_INTEGER = 2.0**53  # above this float64 skips integers


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
