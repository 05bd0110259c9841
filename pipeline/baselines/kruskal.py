"""Sums of outer products: predictions, inner products and norms without a dense array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import BATCH, Baseline, Integers, Reals, as_stored, stored_type
from pipeline.runs.compressor import clipped_error
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor


class Kruskal(Baseline):
    """A model sum_r w_r a_r(1) o ... o a_r(D).

    Attributes after ``fit``
    ------------------------
    weights_
        (R,) float64.
    factors_
        D arrays (N_d, R) float64, rounded to 4-byte reals.
    rank_
        R.
    """

    weights_: Reals
    factors_: list[Reals]
    rank_: int

    def _store(self, weights: Reals, factors: list[Reals]) -> None:
        self.weights_ = weights
        self.factors_ = [as_stored(factor) for factor in factors]
        self.rank_ = len(weights)

    def _predict(self, index: Integers) -> Reals:
        return evaluate(index, self.weights_, self.factors_)

    def _squared_error(self, X: SparseTensor) -> float:
        inner = float(X.values @ evaluate(X.coords, self.weights_, self.factors_))
        return clipped_error(X.norm2 - 2 * inner + norm2(self.weights_, self.factors_), X.norm2)

    def _size(self) -> dict[str, int]:
        """8 a real as published, 4 a real equal; there are no orders to store."""
        reals = self.parameter_count()
        return {"bytes": 8 * reals, "bytes_equal": 4 * reals, "bytes_with_order": 4 * reals}

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        return {"weights": 8} | {f"factor_{mode}": 4 * size for mode, size in enumerate(shape)}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """It has no orders: with or without, it answers in the tensor's own indices."""
        tensors: dict[str, npt.NDArray[Any]] = {"weights": self.weights_}
        tensors |= {f"factor_{mode}": stored_type(factor) for mode, factor in enumerate(self.factors_)}
        return tensors, {"shape": list(self.inner_shape_), "rank": self.rank_}

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = cls(rank=contents.whole("rank", 1))
        model.shape_, model.rank_ = contents.shape(), contents.whole("rank", 1)
        model.weights_ = contents.reals("weights", (model.rank_,))
        model._take_factors(contents)
        return model

    def _take_factors(self, contents: Contents) -> None:
        """Set ``factors_`` of the shape and rank that have been read."""
        self.factors_ = [contents.reals(f"factor_{mode}", (size, self.rank_)) for mode, size in enumerate(self.shape_)]


def evaluate(coords: Integers, weights: Reals, factors: list[Reals]) -> Reals:
    """Values of sum_r w_r a_r(1) o ... o a_r(D) at (n, D) `coords`: (n,)."""
    values = np.empty(len(coords))
    for start in range(0, len(coords), BATCH):
        batch = coords[start : start + BATCH]
        product = factors[0][batch[:, 0]] * weights
        for mode in range(1, len(factors)):
            product *= factors[mode][batch[:, mode]]
        values[start : start + BATCH] = product.sum(axis=1)
    return values


def norm2(weights: Reals, factors: list[Reals]) -> float:
    """Squared norm of the whole model from the R x R Gram matrices of its factors."""
    gram = np.outer(weights, weights)
    for factor in factors:
        gram *= factor.T @ factor
    return float(gram.sum())


def largest_rank(shape: Sequence[int], nnz: int) -> int:
    """No tensor of this shape needs more rank-one terms: one a non-zero, or one a fibre of the longest mode.

    >>> largest_rank((8, 9), 30), largest_rank((8, 9, 10), 30)
    (8, 30)
    """
    return min(nnz, math.prod(shape) // max(shape))
