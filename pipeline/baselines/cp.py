"""CP decomposition of a sparse tensor by alternating least squares."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.baselines.alternating import Alternating
from pipeline.baselines.base import Reals, at_least_one, automatic_rank, whole_or
from pipeline.baselines.kruskal import Kruskal, largest_rank
from pipeline.baselines.mode_views import ModeView
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

LARGEST_AUTOMATIC_RANK = 64
SINGULAR = 1e-13  # eigenvalues of a Gram matrix below this share of the largest count as zero


class CP(Alternating, Kruskal):
    """X ~ sum_r a_r(1) o ... o a_r(D) by alternating least squares (Kolda and Bader, 2009, section 3.4).

    A sweep solves for each mode in turn; the sparse product with the other factors (MTTKRP) is all the work
    that grows with the non-zeros. Size as published: 8 R sum N_d bytes (the weights go into the factors).

    Parameters
    ----------
    rank
        R. None: the rank whose factors of 4-byte reals take a fourth of the coordinate list of the
        non-zeros (8 bytes each), within 1..64.
    seed
        Of the random first factors, uniform on [0, 1).

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0, 0], [0, 1, 0], [2, 0, 0]], [1.0, 2.0, 3.0], (3, 2, 2))
    >>> model = CP(rank=1).fit(X)
    >>> model.size()["bytes"], model.error(X)["error"] < X.norm2
    (56, True)
    """

    name = "cp"

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The rank that fits, up to 256 and what the tensor can use."""
        return at_least_one("rank", min(size / 4 // sum(X.shape), 256, largest_rank(X.shape, X.nnz)))

    def _fit(self, X: SparseTensor) -> None:
        most = min(LARGEST_AUTOMATIC_RANK, largest_rank(X.shape, X.nnz))
        rank = automatic_rank(X, most) if self.rank is None else self.rank
        random = np.random.default_rng(self.seed)
        self._solve(X, [random.uniform(size=(size, rank)) for size in X.shape])

    def _solve(self, X: SparseTensor, factors: list[Reals]) -> None:
        """Alternate from the given first factors until the fit stands still."""
        views = [ModeView(X, mode) for mode in range(X.order)]
        weights = np.ones(factors[0].shape[1])
        grams = [factor.T @ factor for factor in factors]
        norm2 = X.norm2

        def sweep() -> float:
            nonlocal weights
            for mode, view in enumerate(views):
                product = view.mttkrp(factors)
                others = np.prod([gram for other, gram in enumerate(grams) if other != mode], axis=0)
                solution = product @ np.linalg.pinv(others, rcond=SINGULAR, hermitian=True)
                weights = np.linalg.norm(solution, axis=0)
                factors[mode] = solution / np.where(weights > 0, weights, 1.0)
                grams[mode] = factors[mode].T @ factors[mode]
            inner = float(np.sum(product * solution))
            model = float(weights @ np.prod(grams, axis=0) @ weights)
            return norm2 - 2 * inner + model

        self._alternate(norm2, sweep)
        shares = weights ** (1.0 / X.order)  # every factor takes an equal part, so that none leaves its range
        self._store(np.ones_like(weights), [factor * shares for factor in factors])

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """Factors, their products and views of the tensor by mode."""
        rank, most = whole_or(self.rank, 1), largest_rank(shape, nnz)
        if rank > most:
            raise InputError(f"rank={rank}: a tensor of shape {shape} with {nnz:,} non-zeros has rank {most:,} at most")
        reals = 3.0 * rank * sum(shape) + (len(shape) + 3.0) * rank**2 + 4 * len(shape) * nnz
        return 8 * reals, "choose a smaller rank"

    def parameter_count(self) -> int:
        """R sum N_d."""
        return self.rank_ * sum(self.inner_shape_)
