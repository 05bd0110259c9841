"""Tucker decomposition of a sparse tensor by higher-order orthogonal iteration."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.alternating import Alternating
from pipeline.baselines.base import (
    AUTOMATIC_SHARE,
    COORDINATE_BYTES,
    Integers,
    Reals,
    as_stored,
    stored_type,
    whole_or,
)
from pipeline.baselines.mode_views import ModeView
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

LARGEST_AUTOMATIC_RANK = 32
WORKING_REALS = 1 << 22  # doubles that a batch of predictions may take


class Tucker(Alternating):
    """X ~ G x_1 U_1 ... x_D U_D with orthonormal factors, by HOOI (De Lathauwer et al., 2000).

    A sweep takes for each mode the leading left singular vectors of X times all other factors (TTMc), an
    N_d x R^(D-1) matrix summed from the non-zeros; first factors from a random Khatri-Rao sketch. Its squared
    error is norm2(X) - norm2(G). Size as published: 8 (R sum N_d + R^D) bytes.

    Parameters
    ----------
    rank
        R, side of the core; a mode shorter than that takes its own size. None: the largest R whose model
        of 4-byte reals takes a fourth of the coordinate list of the non-zeros (8 bytes each), within 1..32.
    seed
        Of the sketch.

    Attributes after ``fit``
    ------------------------
    core_
        (R_1, ..., R_D) float64.
    factors_
        D arrays (N_d, R_d) float64, rounded like the core to 4-byte reals.
    """

    name = "tucker"

    core_: Reals
    factors_: list[Reals]

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The rank that fits, up to 64."""
        fitting = [r for r in range(1, 65) if r * sum(X.shape) + r**X.order <= size / 4]
        return {"rank": fitting[-1]} if fitting else None

    def _fit(self, X: SparseTensor) -> None:
        rank = _automatic_rank(X) if self.rank is None else self.rank
        views = [ModeView(X, mode) for mode in range(X.order)]
        factors = _sketch(X, views, ranks_within(X.shape, rank), self.seed)
        core = np.zeros(0)

        def sweep() -> float:
            nonlocal core
            for mode, view in enumerate(views):
                product = view.ttmc(factors)
                factors[mode] = _leading(product, factors[mode].shape[1])
            core = views[-1].to_tensor(factors[-1].T @ product, factors)
            return X.norm2 - float(np.sum(core * core))

        self._alternate(X.norm2, sweep)
        self.core_ = as_stored(core)
        self.factors_ = [as_stored(factor) for factor in factors]

    def _predict(self, index: Integers) -> Reals:
        values = np.empty(len(index))
        batch = max(1, WORKING_REALS // (self.core_.size // self.core_.shape[0]))
        for start in range(0, len(index), batch):
            part = index[start : start + batch]
            values[start : start + batch] = _contract(self.core_, [f[part[:, d]] for d, f in enumerate(self.factors_)])
        return values

    def _squared_error(self, X: SparseTensor) -> float:
        view = ModeView(X, X.order - 1)
        projected = view.to_tensor(self.factors_[-1].T @ view.ttmc(self.factors_), self.factors_)
        model = self.core_
        for factor in self.factors_:  # each product moves its mode to the end: after D of them all are in place
            model = np.tensordot(model, factor.T @ factor, axes=(0, 0))
        inner, norm2 = float(np.sum(self.core_ * projected)), float(np.sum(self.core_ * model))
        return clipped_error(X.norm2 - 2 * inner + norm2, X.norm2)

    def _size(self) -> dict[str, int]:
        """8 a real as published, 4 a real equal; there are no orders to store."""
        reals = self.parameter_count()
        return {"bytes": 8 * reals, "bytes_equal": 4 * reals, "bytes_with_order": 4 * reals}

    def parameter_count(self) -> int:
        """sum N_d R_d + prod R_d."""
        return sum(factor.size for factor in self.factors_) + self.core_.size

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """The tensor times all factors but one, for the mode where that is largest; and views of it by mode."""
        ranks = ranks_within(shape, whole_or(self.rank, 1))
        product = max(size * math.prod(ranks) // rank for size, rank in zip(shape, ranks, strict=True))
        return 8.0 * (3 * product + 4 * len(shape) * nnz), "choose a smaller rank"

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        return {"core": 4} | {f"factor_{mode}": 4 * size for mode, size in enumerate(shape)}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """It has no orders: with or without, it answers in the tensor's own indices."""
        tensors = {"core": stored_type(self.core_)}
        tensors |= {f"factor_{mode}": stored_type(factor) for mode, factor in enumerate(self.factors_)}
        return tensors, {"shape": list(self.inner_shape_)}

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = cls()
        model.shape_ = contents.shape()
        model.core_ = contents.reals("core", (None,) * len(model.shape_))
        if not model.core_.size:
            raise InputError("an empty core")
        model.factors_ = [
            contents.reals(f"factor_{mode}", (size, rank))
            for mode, (size, rank) in enumerate(zip(model.shape_, model.core_.shape, strict=True))
        ]
        return model


def ranks_within(shape: tuple[int, ...], rank: int) -> list[int]:
    """Core sides: `rank`, but at most a mode's size and at most the product of the other sides."""
    sides = [min(rank, size) for size in shape]
    for mode in range(len(sides)):
        sides[mode] = min(sides[mode], math.prod(side for other, side in enumerate(sides) if other != mode))
    return sides


def _automatic_rank(X: SparseTensor) -> int:
    budget = X.nnz * COORDINATE_BYTES / AUTOMATIC_SHARE / 4
    fitting = [r for r in range(1, LARGEST_AUTOMATIC_RANK + 1) if r * sum(X.shape) + r**X.order <= budget]
    return max(fitting, default=1)


def _sketch(X: SparseTensor, views: list[ModeView], ranks: list[int], seed: int) -> list[Reals]:
    """Orthonormal first factors: ranges of the matricised tensor times random Khatri-Rao matrices."""
    random = np.random.default_rng(seed)
    noise = [random.standard_normal((size, max(ranks))) for size in X.shape]
    return [np.linalg.qr(view.mttkrp(noise)[:, :rank])[0] for view, rank in zip(views, ranks, strict=True)]


def _leading(matrix: Reals, rank: int) -> Reals:
    """Leading left singular vectors of a tall (or wide) matrix from the smaller of its Gram matrices."""
    if matrix.shape[0] <= matrix.shape[1]:
        vectors: Reals = np.linalg.eigh(matrix @ matrix.T)[1]
        return vectors[:, : -rank - 1 : -1]
    right = np.linalg.eigh(matrix.T @ matrix)[1][:, : -rank - 1 : -1]
    return np.linalg.qr(matrix @ right)[0]


def _contract(core: Reals, rows: list[Reals]) -> Reals:
    """Core times one row of each factor, for n cells at once: (n,)."""
    result = (rows[0] @ core.reshape(core.shape[0], -1)).reshape(-1, *core.shape[1:])
    for row in rows[1:]:
        result = np.einsum("nr...,nr->n...", result, row)
    return result
