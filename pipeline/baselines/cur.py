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
    whole_or,
)
from pipeline.core.settings import seed, setting
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

SINGULAR = 1e-12  # eigenvalues of a Gram matrix below this share of the largest count as zero
ROUNDING = 1e-6  # share of norm2 by which 4-byte reals may raise the error; else U stays in 8 bytes
PREDICT_BATCH = 1 << 12
MOST_DRAWS = 1 << 20  # with replacement, of a matrix however small
DRAWS_OF_EACH = 16  # or so many times the rows or columns there are


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
    fits_to_meet_a_size = 4
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

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The share of rows and columns that fits."""
        cells = math.prod(X.shape)
        share = (math.sqrt(X.nnz**2 + cells * size / 4) - X.nnz) / cells
        rows, columns = (max(1, round(share * side)) for side in X.shape)
        return {"rows": rows, "columns": columns} if share > 0 else None

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
        error = norm2 - 2 * float(np.sum(self.middle_ * cross)) + float(np.sum(self.middle_ * gram))
        return clipped_error(error, norm2)

    def _squared_error(self, X: SparseTensor) -> float:
        return self._error_from(X.norm2, (self.left_.T @ (X.to_scipy().tocsr() @ self.right_.T)).toarray())

    def _predict(self, index: Integers) -> Reals:
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

    def _size(self) -> dict[str, int]:
        """8 a real as published, 4 a real equal, and with the indices of all entries of C and R."""
        reals = self.parameter_count()
        in_columns, _, in_rows = self._stored_entries()
        bits = [math.log2(size) for size in self.inner_shape_]
        drawn = self._drawn()
        identities = in_columns * bits[0] + drawn[0] * bits[1] + in_rows * bits[1] + drawn[1] * bits[0]
        return {
            "bytes": 8 * reals,
            "bytes_equal": 4 * reals,
            "bytes_with_order": 4 * reals + math.ceil(identities / 8),
        }

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """The draws themselves, U and its Gram matrices, of distinct rows and columns, and C and R."""
        counts = whole_or(self.rows, 1), whole_or(self.columns, 1)
        for name, count, size in zip(("rows", "columns"), counts, shape, strict=True):
            most = max(MOST_DRAWS, DRAWS_OF_EACH * size)
            if count > most:
                raise InputError(f"{name}={count:,}: of {size:,} {name} at most {most:,} may be drawn")
        drawn = [min(count, size) for count, size in zip(counts, shape, strict=True)]
        draws = 3.0 * sum(counts)
        return 8 * (draws + 6.0 * max(drawn) ** 2 + 6 * nnz + 2 * sum(shape)), "choose fewer rows and columns"

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        """One row and one column with an entry each."""
        least = {"columns": 1, "rows": 1, "column_copies": 1, "row_copies": 1, "middle": 4}
        return least | {f"{name}_{part}": size for name in ("left", "right")
                        for part, size in (("values", 4), ("index", 1), ("start", 2))}  # fmt: skip

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Identities are part of C and R: with or without orders it answers in the matrix's own indices."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "columns": self.columns_, "rows": self.rows_,
            "column_copies": self.column_copies_, "row_copies": self.row_copies_,
            "middle": stored_type(self.middle_),
        }  # fmt: skip
        for name, matrix in (("left", self.left_.tocsc()), ("right", self.right_)):
            tensors |= {f"{name}_values": stored_type(matrix.data), f"{name}_index": matrix.indices}
            tensors[f"{name}_start"] = matrix.indptr
        return {key: _narrow(value) for key, value in tensors.items()}, {"shape": list(self.inner_shape_)}

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        from scipy.sparse import csc_array, csr_array

        model = cls()
        model.shape_ = contents.shape(order=2)
        drawn = [contents.indices(name, model.shape_[mode]) for name, mode in (("rows", 0), ("columns", 1))]
        (model.rows_, model.columns_), (rows, columns) = drawn, map(len, drawn)
        if not rows or not columns:
            raise InputError(f"{rows} rows and {columns} columns: needs one of each at least")
        model.row_copies_ = contents.counts("row_copies", rows, least=1)
        model.column_copies_ = contents.counts("column_copies", columns, least=1)
        model.middle_ = contents.reals("middle", (columns, rows))
        contents.permitted(8 * sum(model.shape_), f"pointers to the rows of a matrix of shape {model.shape_}")
        left = _compressed(contents, "left", model.shape_[0], columns)
        model.left_ = csc_array(left, shape=(model.shape_[0], columns)).tocsr()
        model.right_ = csr_array(_compressed(contents, "right", model.shape_[1], rows), shape=(rows, model.shape_[1]))
        return model


def _compressed(contents: Contents, name: str, size: int, runs: int) -> tuple[Reals, Integers, Integers]:
    """Values, indices within each run and pointers to the runs of a sparse matrix, each checked."""
    values = contents.reals(f"{name}_values", (None,))
    return (
        values,
        contents.indices(f"{name}_index", size, len(values)),
        contents.pointers(f"{name}_start", runs, len(values)),
    )


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
