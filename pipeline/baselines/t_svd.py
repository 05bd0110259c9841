"""Truncated singular value decomposition of a sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.baselines.base import Reals, Sparse, at_least_one, automatic_rank, whole_or
from pipeline.baselines.kruskal import Kruskal
from pipeline.core.settings import setting
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error
from pipeline.sparse import SparseTensor


class TSVD(Kruskal):
    """The best rank-R approximation, X ~ U diag(s) V^T, by ``scipy.sparse.linalg.svds``.

    Its squared error is norm2(X) - sum s^2 (Eckart and Young, 1936). Size as published: 8 R (N + M + 1) bytes.

    Parameters
    ----------
    rank
        R, at most min(N, M). None: the rank whose factors of 4-byte reals take a fourth of the coordinate
        list of the non-zeros (8 bytes each), at least 1.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> model = TSVD(rank=1).fit(X)
    >>> round(model.error(X)["error"], 4), model.size()["bytes"]
    (9.0, 48)
    """

    name = "t-svd"
    matrices_only = True

    rank: int | None = setting(None, at_least=1)

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The rank that fits."""
        return at_least_one("rank", min(size / 4 // (sum(X.shape) + 1), min(X.shape)))

    def _fit(self, X: SparseTensor) -> None:
        rank = automatic_rank(X, min(X.shape)) if self.rank is None else self.rank
        left, sigma, right = decompose(X, rank)
        self._store(sigma, [left, right])
        self._record(clipped_error(X.norm2 - float(sigma @ sigma), X.norm2), rank=rank)

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """Factors and Lanczos vectors, or the whole matrix for its full decomposition."""
        rank = whole_or(self.rank, 1)
        if rank > min(shape):
            raise InputError(f"rank={rank}: a matrix of shape {shape} has rank {min(shape)} at most")
        whole = 3.0 * min(shape) * max(shape) if rank >= min(shape) else 0.0
        return 8 * (whole + 4.0 * rank * sum(shape) + 3 * nnz), "choose a smaller rank"

    def parameter_count(self) -> int:
        """R (N + M + 1): both factors and the singular values."""
        return self.rank_ * (sum(self.inner_shape_) + 1)


def decompose(X: SparseTensor, rank: int) -> tuple[Reals, Reals, Reals]:
    """Left vectors (N, R), singular values (R,) falling, right vectors (M, R)."""
    from scipy.sparse.linalg import svds

    if rank == min(X.shape):
        # All of it: Arnoldi iterations stop one short of that, and the factors outgrow the dense matrix anyway.
        left, sigma, right = np.linalg.svd(X.to_dense(), full_matrices=False)
    else:
        # The largest singular value as unit: ARPACK's tolerance is absolute for tiny matrices.
        scale = float(np.sqrt(X.norm2))
        start = np.random.default_rng(0).standard_normal(min(X.shape))
        left, sigma, right = svds(_rows(X, scale), k=rank, v0=start)
        sigma = sigma * scale
    falling = np.argsort(-sigma, kind="stable")
    return left[:, falling], sigma[falling], right[falling].T


def _rows(X: SparseTensor, scale: float) -> Sparse:
    """The matrix by rows, divided by `scale`; indices in the narrowest type, which makes products faster."""
    from scipy.sparse import csr_array

    starts = np.concatenate(([0], np.cumsum(np.bincount(X.coords[:, 0], minlength=X.shape[0]))))
    kind = np.int32 if max(*X.shape, X.nnz) < 2**31 else np.int64
    return csr_array(
        (X.values / scale, X.coords[:, 1].astype(kind), starts.astype(kind)), shape=(X.shape[0], X.shape[1])
    )
