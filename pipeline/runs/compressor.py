"""The one shape of every method that compresses a sparse tensor: fit, predict, error, size, save."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.settings import Configured
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def cells_within(ranges: Sequence[range]) -> npt.NDArray[np.int64]:
    """Indices (n, D) of all cells of a block, the last mode fastest."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=1)


class Compressor(Configured, ABC):
    """Base of NeuKron and of every baseline.

    A subclass sets `name` (its key in ``METHODS``, in paths and in artifacts) and, if another seed
    gives another result, `stochastic`. Its arguments are declared by :func:`~pipeline.core.settings.setting`.

    Attributes after ``fit``
    ------------------------
    shape_
        Sizes of the fitted tensor's modes.
    history_
        One dict a sweep or epoch: ``epoch``, ``error``, ``seconds`` and what the method adds.
    """

    name: ClassVar[str]
    stochastic: ClassVar[bool] = False
    matrices_only: ClassVar[bool] = False

    shape_: tuple[int, ...]
    history_: list[dict[str, Any]]

    @abstractmethod
    def fit(self, X: SparseTensor) -> Self:
        """Fit to a sparse tensor and return self."""

    @abstractmethod
    def predict(self, coords: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Approximate the cells at (n, D) integer `coords`; returns (n,) float64."""

    @abstractmethod
    def error(self, X: SparseTensor) -> dict[str, Any]:
        """Squared Frobenius error against `X` over its real cells, under the key ``error``."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """Bytes: ``bytes`` (as published), ``bytes_equal`` (4 a real), ``bytes_with_order`` (equal, orders stored)."""

    @abstractmethod
    def parameter_count(self) -> int:
        """Number of reals the fitted model holds (0 for a purely combinatorial code)."""

    @abstractmethod
    def save(self, path: str | Path, orders: bool = True) -> None:
        """Write the artifact; with `orders` it answers in the tensor's own indices."""

    @classmethod
    @abstractmethod
    def from_artifact(cls, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Self:
        """Rebuild a fitted model from an artifact's arrays and metadata."""

    def check_order(self, X: SparseTensor) -> None:
        """Refuse a tensor that is no matrix where the method knows matrices only."""
        if self.matrices_only and X.order != 2:
            raise InputError(f"{self.name} needs a matrix; this tensor has {X.order} modes: use cp or neukron")

    def check_coords(self, coords: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return `coords` as (n, D) int64 within the fitted shape, or say which one is not."""
        index = np.asarray(coords)
        if index.ndim != 2 or index.shape[1] != len(self.shape_) or index.dtype.kind not in "iu":
            raise InputError(
                f"coords of shape {index.shape} and type {index.dtype}: needs (n, {len(self.shape_)}) integers"
            )
        outside = (index < 0) | (index >= np.asarray(self.shape_))
        if outside.any():
            row, mode = np.argwhere(outside)[0]
            raise InputError(
                f"index {index[row, mode]} in mode {mode} is outside 0..{self.shape_[mode] - 1}; indices are 0-based"
            )
        return index.astype(np.int64, copy=False)


# Told after each sweep or epoch what was just appended to ``history_``.
Progress = Callable[[dict[str, Any]], None]


def order_bytes(shape: Sequence[int]) -> int:
    """Bytes to store an order of every mode: sum of N log2 N bits, rounded up.

    >>> order_bytes((4, 8))
    4
    """
    return math.ceil(sum(size * math.log2(size) for size in shape) / 8)
