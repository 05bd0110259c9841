"""CUR decomposition of a sparse matrix from sampled columns and rows."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import (
    AUTOMATIC_SHARE,
    COORDINATE_BYTES,
    Baseline,
    Integers,
    Reals,
    Sparse,
    as_stored,
    stored_type,
)
from pipeline.core.settings import seed, setting
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

SINGULAR = 1e-12  # eigenvalues of a Gram matrix below this share of the largest count as zero
ROUNDING = 1e-6  # share of norm2 by which 4-byte reals may raise the error; else U stays in 8 bytes
PREDICT_BATCH = 1 << 12


class CUR(Baseline):
    """X ~ C U R, with C and R sampled from the matrix itself (Drineas, Kannan and Mahoney, 2006).

    Columns and rows are drawn with probability proportional to their squared norms, or to their leverage, and
    weighted by its inverse square root; U = C+ X R+ is the best for the draw, from the small Gram matrices C'C, R R'
    and C'X R'. Size as published: 8 bytes for each non-zero of C and R and each entry of U, drawn
    twice counted twice. In memory and in the artifact equal columns are merged, which changes no prediction.

    Parameters
    ----------
    rows, columns
        How many to draw. None: the share of both at which the model in 4-byte reals takes about a
        fourth of the coordinate list of the non-zeros (8 bytes each).
    rank
        Pseudo-inverses keep this many singular values. None: all that are not zero.
    leverage
        Draw by leverage scores, the squared norms of the rows of so many leading singular vectors (Drineas, Mahoney
        and Muthukrishnan, 2008), and each column and row once at most: closer to the whole matrix than by norms.
        None: by norms, with replacement.
    seed
        Of the draw.

    Attributes after ``fit``
    ------------------------
    columns_, rows_
        Distinct indices drawn, rising; `column_copies_`, `row_copies_` say how often.
    middle_
        U: (distinct columns, distinct rows) float64; the weights of the draw are in it.
    left_, right_
        C (N, columns) and R (rows, M): the matrix's own entries.
    """

    name = "cur"
    stochastic = True
    matrices_only = True

    rows: int | None = setting(None, at_least=1)
    columns: int | None = setting(None, at_least=1)
    rank: int | None = setting(None, at_least=1)
    leverage: int | None = setting(None, at_least=1)
    seed: int = seed()

    columns_: Integers
    rows_: Integers
    column_copies_: Integers
    row_copies_: Integers
    middle_: Reals
    left_: Sparse
    right_: Sparse

    def _fit(self, X: SparseTensor) -> None:
        share = _automatic_share(X)
        rows = max(1, round(share * X.shape[0])) if self.rows is None else self.rows
        columns = max(1, round(share * X.shape[1])) if self.columns is None else self.columns
        A = X.to_scipy().tocsr()
        random = np.random.default_rng(self.seed)
        often = self.leverage is None
        chances = _norms(X) if self.leverage is None else _leverage(X, self.leverage)
        self.columns_, self.column_copies_, column_weights = _draw(chances[1], columns, often, random)
        self.rows_, self.row_copies_, row_weights = _draw(chances[0], rows, often, random)
        self.left_, self.right_ = A.tocsc()[:, self.columns_].tocsr(), A[self.rows_].tocsr()
        cross = (self.left_.T @ (A @ self.right_.T)).toarray()
        left = column_weights[:, None] * _whitening(self.left_ * column_weights, self.rank)
        right = row_weights[:, None] * _whitening(self.right_.T.tocsr() * row_weights, self.rank)
        core = left.T @ cross @ right
        exact = left @ core @ right.T
        self._keep(X, exact, cross)
        self._record(self._squared_error(X), columns=len(self.columns_), rows=len(self.rows_))

    def _keep(self, X: SparseTensor, exact: Reals, cross: Reals) -> None:
        """Keep U in 4-byte reals, unless it is so ill-conditioned that this costs precision."""
        self.middle_ = exact
        best = self._error_from(X.norm2, cross)
        self.middle_ = as_stored(exact)
        if self._error_from(X.norm2, cross) > best + ROUNDING * X.norm2:
            self.middle_ = exact

    def _error_from(self, norm2: float, cross: Reals) -> float:
        gram = (self.left_.T @ self.left_) @ self.middle_ @ (self.right_ @ self.right_.T).toarray()
        return max(0.0, norm2 - 2 * float(np.sum(self.middle_ * cross)) + float(np.sum(self.middle_ * gram)))

    def _squared_error(self, X: SparseTensor) -> float:
        return self._error_from(X.norm2, (self.left_.T @ (X.to_scipy().tocsr() @ self.right_.T)).toarray())

    def predict(self, coords: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Approximate the cells at (n, 2) `coords`; returns (n,) float64."""
        index = self.check_coords(coords)
        values = np.empty(len(index))
        right = self.right_.T.tocsr()
        for start in range(0, len(index), PREDICT_BATCH):
            part = index[start : start + PREDICT_BATCH]
            product = right[part[:, 1]].multiply(self.left_[part[:, 0]] @ self.middle_)
            values[start : start + PREDICT_BATCH] = product.sum(axis=1)
        return values

    def _stored_entries(self) -> tuple[int, int, int]:
        """Entries of C, U and R that the publication charges: every draw."""
        in_columns = int(np.diff(self.left_.tocsc().indptr) @ self.column_copies_)
        in_rows = int(np.diff(self.right_.indptr) @ self.row_copies_)
        return in_columns, int(self.column_copies_.sum()) * int(self.row_copies_.sum()), in_rows

    def _drawn(self) -> tuple[int, int]:
        """Columns and rows whose identities the model needs."""
        return int(self.column_copies_.sum()), int(self.row_copies_.sum())

    def parameter_count(self) -> int:
        """Non-zeros of C and R and entries of U."""
        return sum(self._stored_entries())

    def size(self) -> dict[str, int]:
        """Bytes: 8 a real as published, 4 a real equal, and with the indices of all entries of C and R."""
        reals = self.parameter_count()
        in_columns, _, in_rows = self._stored_entries()
        bits = [math.log2(size) for size in self.shape_]
        drawn = self._drawn()
        identities = in_columns * bits[0] + drawn[0] * bits[1] + in_rows * bits[1] + drawn[1] * bits[0]
        return {
            "bytes": 8 * reals,
            "bytes_equal": 4 * reals,
            "bytes_with_order": 4 * reals + math.ceil(identities / 8),
        }

    def save(self, path: Any, orders: bool = True) -> None:
        """Write the artifact. Identities are part of C and R: with or without orders it answers in own indices."""
        from pipeline.runs.artifact import write_artifact

        tensors: dict[str, npt.NDArray[Any]] = {
            "columns": self.columns_, "rows": self.rows_,
            "column_copies": self.column_copies_, "row_copies": self.row_copies_,
            "middle": stored_type(self.middle_),
        }  # fmt: skip
        for name, matrix in (("left", self.left_.tocsc()), ("right", self.right_)):
            tensors |= {f"{name}_values": stored_type(matrix.data), f"{name}_index": matrix.indices}
            tensors[f"{name}_start"] = matrix.indptr
        narrow = {key: _narrow(value) for key, value in tensors.items()}
        write_artifact(path, self.name, narrow, {"shape": list(self.shape_)})

    @classmethod
    def from_artifact(cls, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Self:
        """Rebuild the model; arrays that contradict the shape are refused."""
        from scipy.sparse import csc_array, csr_array

        model = cls()
        model.shape_ = tuple(int(size) for size in metadata["shape"])
        model.history_ = []
        for name in ("columns", "rows", "column_copies", "row_copies"):
            setattr(model, f"{name}_", tensors[name].astype(np.int64))
        model.middle_ = tensors["middle"].astype(np.float64)
        parts: dict[str, Any] = {
            name: tuple(tensors[f"{name}_{part}"].astype(kind) for part, kind in _PARTS) for name in ("left", "right")
        }
        model.left_ = csc_array(parts["left"], shape=(model.shape_[0], len(model.columns_))).tocsr()
        model.right_ = csr_array(parts["right"], shape=(len(model.rows_), model.shape_[1]))
        for matrix in (model.left_, model.right_):
            matrix.check_format()
        if model.middle_.shape != (len(model.columns_), len(model.rows_)):
            raise ValueError(f"U of shape {model.middle_.shape} between C and R")
        return model


_PARTS = (("values", np.float64), ("index", np.int64), ("start", np.int64))


def _automatic_share(X: SparseTensor) -> float:
    """Share s of rows and columns with s^2 N M + 2 s nnz reals in the budget."""
    budget = X.nnz * COORDINATE_BYTES / AUTOMATIC_SHARE / 4
    cells = math.prod(X.shape)
    return (math.sqrt(X.nnz**2 + cells * budget) - X.nnz) / cells


def _norms(X: SparseTensor) -> list[Reals]:
    """Share of every row and of every column in norm2."""
    squares = X.values**2 / X.norm2
    sums = [np.bincount(X.coords[:, mode], weights=squares, minlength=X.shape[mode]) for mode in (0, 1)]
    return [np.asarray(one, dtype=np.float64) for one in sums]


def _leverage(X: SparseTensor, rank: int) -> list[Reals]:
    """Share of every row and of every column in the squared entries of the leading singular vectors."""
    from pipeline.baselines.t_svd import decompose

    if rank > min(X.shape):
        raise InputError(f"leverage={rank}: a matrix of shape {X.shape} has {min(X.shape)} singular vectors")
    left, sigma, right = decompose(X, rank)
    kept = sigma > SINGULAR * sigma[0]
    return [np.sum(vectors[:, kept] ** 2, axis=1) / np.count_nonzero(kept) for vectors in (left, right)]


def _draw(chances: Reals, count: int, often: bool, random: np.random.Generator) -> tuple[Integers, Integers, Reals]:
    """Distinct indices drawn, copies of each, and the weight sqrt(copies / (count p)) of each.

    If not `often`, each is drawn once at most, and no more than have a chance.
    """
    count = count if often else min(count, int(np.count_nonzero(chances)))
    drawn = random.choice(len(chances), size=count, p=chances / chances.sum(), replace=often)
    index, copies = np.unique(drawn, return_counts=True)
    return index.astype(np.int64), copies.astype(np.int64), np.sqrt(copies / (count * chances[index]))


def _whitening(matrix: Sparse, rank: int | None) -> Reals:
    """T (c, k) that makes ``matrix @ T`` orthonormal and span the k leading left singular vectors."""
    tall = matrix.shape[0] >= matrix.shape[1]
    gram = (matrix.T @ matrix if tall else matrix @ matrix.T).toarray()
    eigenvalues, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(eigenvalues > SINGULAR * eigenvalues[-1])
    kept = kept if rank is None else kept[-rank:]
    if tall:
        return np.asarray(vectors[:, kept] / np.sqrt(eigenvalues[kept]))
    return np.asarray(matrix.T @ (vectors[:, kept] / eigenvalues[kept]))


def _narrow(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Indices in the smallest unsigned type that holds them."""
    if array.dtype.kind != "i":
        return array
    return array.astype(np.min_scalar_type(int(array.max(initial=0))))
