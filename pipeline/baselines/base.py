"""What all baselines share: the course of a fit, its history, checks of settings, exact squared errors."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import is_whole
from pipeline.runs.compressor import Compressor, Progress, clipped_error
from pipeline.runs.times import Times, compiling_seconds
from pipeline.sparse import SparseTensor

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Sparse = Any  # a SciPy sparse array; its stubs cannot follow slices and products

BATCH = 1 << 16  # cells evaluated at a time, so that predictions need little memory beside their result
AUTOMATIC_SHARE = 4  # an automatic size takes a fourth of the bytes of the coordinate list
COORDINATE_BYTES = 8  # a non-zero in a plain coordinate list: about 8 bytes, whatever its order


class Baseline(Compressor):
    """A compressor that is fitted in sweeps on the CPU."""

    def fit(self, X: SparseTensor, progress: Progress | None = None) -> Self:
        """Fit to a sparse tensor.

        Parameters
        ----------
        X
            The tensor, or a SciPy sparse or NumPy array; zeros are never visited.
        progress
            Called with each new entry of ``history_``.

        Returns
        -------
        self

        Raises
        ------
        InputError
            A setting is out of range for this tensor, or the method knows matrices only.
        """
        self.check_settings()
        inner = self._taken(X)
        self.history_ = []
        self._progress = progress
        self.times_ = Times()
        with self.times_.setting_up():
            self.warm_up(inner.order)
        self._started, self._compiled = time.perf_counter(), compiling_seconds()
        with self.times_.fitting():
            self._fit(inner)
        self._progress = None
        return self

    @abstractmethod
    def _fit(self, X: SparseTensor) -> None:
        """Set the learned attributes and call ``_record`` at least once."""

    def _error(self, X: SparseTensor) -> dict[str, Any]:
        return {"error": self._squared_error(X)}

    @abstractmethod
    def _squared_error(self, X: SparseTensor) -> float: ...

    def _fitted_for(self) -> float:
        """Seconds since the fit began, less what was compiled on the way, once; what a limit of time counts."""
        return time.perf_counter() - self._started - (compiling_seconds() - self._compiled)

    def _record(self, error: float, **more: float) -> None:
        """Append a sweep to the history; `seconds` counts from the start of the fit."""
        row = {
            "epoch": len(self.history_) + 1,
            "error": self.frame_.squares(clipped_error(error, self.about_.norm2 or 0.0)),
            "seconds": time.perf_counter() - self._started,
            **more,
        }
        self.history_.append(row)
        if self._progress is not None:
            self._progress(row)


def whole_or(value: object, otherwise: int, least: int = 1) -> int:
    """A setting where it is a whole number of at least `least`, else what stands for it."""
    return value if isinstance(value, int) and is_whole(value, least) else otherwise


def at_least_one(name: str, value: float) -> dict[str, Any] | None:
    """A setting of `value`, rounded down; None where that is below 1."""
    return {name: int(value)} if value >= 1 else None


def automatic_rank(X: SparseTensor, limit: int) -> int:
    """Rank at which factor matrices of 4-byte reals take a fourth of the coordinate list, within 1..limit."""
    budget = X.nnz * COORDINATE_BYTES / AUTOMATIC_SHARE
    return int(np.clip(budget / (4 * sum(X.shape)), 1, limit))


def as_stored(array: Reals) -> Reals:
    """Round to what 4-byte reals hold, so that an artifact answers like the model in memory.

    An array whose scale 4-byte reals cannot hold stays as it is (and is stored in 8 bytes).
    """
    return array.astype(np.float32).astype(np.float64) if _fits_float32(array) else array


def stored_type(array: Reals) -> npt.NDArray[Any]:
    """Return `array` in 4-byte reals if it loses nothing by that, as after :func:`as_stored`."""
    return array.astype(np.float32) if _fits_float32(array) and np.array_equal(as_stored(array), array) else array


def _fits_float32(array: Reals) -> bool:
    largest = float(np.max(np.abs(array), initial=0.0))
    return largest == 0.0 or 1e-30 < largest < 1e38
