"""Sums of outer products: predictions, inner products and norms without a dense array."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import BATCH, Baseline, Integers, Reals, as_stored, stored_type
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

    def predict(self, coords: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Approximate the cells at (n, D) `coords`; returns (n,) float64."""
        return evaluate(self.check_coords(coords), self.weights_, self.factors_)

    def _squared_error(self, X: SparseTensor) -> float:
        inner = float(X.values @ evaluate(X.coords, self.weights_, self.factors_))
        return max(0.0, X.norm2 - 2 * inner + norm2(self.weights_, self.factors_))

    def size(self) -> dict[str, int]:
        """Bytes: 8 a real as published, 4 a real equal; there are no orders to store."""
        reals = self.parameter_count()
        return {"bytes": 8 * reals, "bytes_equal": 4 * reals, "bytes_with_order": 4 * reals}

    def save(self, path: Any, orders: bool = True) -> None:
        """Write the artifact. It has no orders: with or without, it answers in the tensor's own indices."""
        from pipeline.runs.artifact import write_artifact

        tensors: dict[str, npt.NDArray[Any]] = {"weights": self.weights_}
        tensors |= {f"factor_{mode}": stored_type(factor) for mode, factor in enumerate(self.factors_)}
        write_artifact(path, self.name, tensors, {"shape": list(self.shape_), "rank": self.rank_})

    @classmethod
    def from_artifact(cls, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Self:
        """Rebuild the model; arrays that contradict the shape are refused."""
        model = cls(rank=metadata["rank"])  # type: ignore[call-arg]
        model.shape_ = tuple(int(size) for size in metadata["shape"])
        model.history_ = []
        model.rank_ = int(metadata["rank"])
        model.weights_ = tensors["weights"].astype(np.float64)
        model.factors_ = [tensors[f"factor_{mode}"].astype(np.float64) for mode in range(len(model.shape_))]
        found = [factor.shape for factor in model.factors_]
        expected = [(size, model.rank_) for size in model.shape_]
        if found != expected or model.weights_.shape != (model.rank_,):
            raise ValueError(f"factors of shapes {found} where {expected} belong")
        return model


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
