"""Sums of co-clusterings ("stencils") of a sparse matrix, fitted without ever forming the residual.

A stencil gives every row and every column one of k clusters and every pair of clusters a value. All that an
update needs of the residual X - sum of the other stencils are its sums over column clusters: those of X
come from the non-zeros, those of a stencil from the k x k table that counts columns by both clusterings.
A sweep costs O(s nnz + (N + M) s^2 k + (N + M) s k^2) operations.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import (
    AUTOMATIC_SHARE,
    BATCH,
    COORDINATE_BYTES,
    Baseline,
    Integers,
    Reals,
    Sparse,
    stored_type,
    whole_or,
)
from pipeline.core.settings import seed, setting
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error
from pipeline.runs.contents import Contents
from pipeline.runs.entropy_coder import Decoder, Encoder
from pipeline.sparse import SparseTensor

AUTOMATIC_CLUSTERS = 16
LARGEST_AUTOMATIC_STENCILS = 50
EMBEDDING = 8  # singular vectors of the residual in which first clusters are sought
KMEANS_SWEEPS = 15
LARGEST_CLUSTERS = 1 << 16
EXACT = 1e-12  # a residual below this share of norm2 needs no further stencil


class Stencil(NamedTuple):
    """Row clusters (N,), column clusters (M,) and block values (k, k)."""

    rows: Integers
    columns: Integers
    blocks: Reals

    @property
    def transposed(self) -> Stencil:
        """The same stencil of the transposed matrix."""
        return Stencil(self.columns, self.rows, self.blocks.T)


class Stencils(Baseline):
    """Base of ACCAMS and bACCAMS: the additive model, its exact error, its size, its artifact.

    Attributes after ``fit``
    ------------------------
    stencils_
        Up to `stencils` of them; fewer where the residual vanishes before.
    clusters_
        k.
    """

    matrices_only = True
    stochastic = True

    stencils: int | None = setting(None, at_least=1)
    clusters: int | None = setting(None, at_least=1, at_most=LARGEST_CLUSTERS)
    max_sweeps: int = setting(20, at_least=1)
    tolerance: float = setting(1.0e-4, at_least=0, at_most=1)
    seed: int = seed()

    stencils_: list[Stencil]
    clusters_: int

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The most clusters that leave room for five stencils, else for one."""
        usable = (k for k in (2, 4, 8, 16, 32, 48, 64) if k <= max(X.shape))
        each = {k: sum(X.shape) * math.log2(k) / 8 + 4 * k * k for k in usable}
        for least in (5, 1):
            fitting = [k for k, cost in each.items() if least * cost <= size]
            if fitting:
                clusters = max(fitting)
                return {"stencils": int(min(50, size // each[clusters])), "clusters": clusters}
        return None

    def _trial(self) -> Stencils:
        """Two stencils, since the second is fitted to what the first leaves."""
        return type(self)(stencils=2, clusters=1, max_sweeps=1)

    def _fit(self, X: SparseTensor) -> None:
        self.clusters_ = min(AUTOMATIC_CLUSTERS, max(X.shape)) if self.clusters is None else self.clusters
        count = _automatic_stencils(X, self.clusters_) if self.stencils is None else self.stencils
        by_row: Sparse = X.to_scipy().tocsr()
        self.stencils_ = []
        self._solve(X, (by_row, by_row.T.tocsr()), count, np.random.default_rng(self.seed))

    @abstractmethod
    def _solve(self, X: SparseTensor, A: tuple[Sparse, Sparse], count: int, random: np.random.Generator) -> None:
        """Fill ``stencils_``, recording every sweep; `A` is the matrix by rows and its transpose by rows."""

    def _predict(self, index: Integers) -> Reals:
        values = np.zeros(len(index))
        for start in range(0, len(index), BATCH):
            row, column = index[start : start + BATCH].T
            for stencil in self.stencils_:
                values[start : start + BATCH] += stencil.blocks[stencil.rows[row], stencil.columns[column]]
        return values

    def _squared_error(self, X: SparseTensor) -> float:
        inner = float(X.values @ self._predict(X.coords))
        return clipped_error(X.norm2 - 2 * inner + self._norm2(), X.norm2)

    def _norm2(self) -> float:
        """Squared norm of the sum of stencils, from tables that count rows and columns by two clusterings."""
        total = 0.0
        for position, first in enumerate(self.stencils_):
            for second in self.stencils_[position:]:
                rows = contingency(first.rows, second.rows, self.clusters_)
                columns = contingency(first.columns, second.columns, self.clusters_)
                inner = float(np.sum(rows * (first.blocks @ columns @ second.blocks.T)))
                total += inner if first is second else 2 * inner
        return total

    def _size(self) -> dict[str, int]:
        """Entropy-coded assignments and 4 bytes a block value, as published; they hold the identities too."""
        bits = sum(entropy_bits(part, self.clusters_) for stencil in self.stencils_ for part in stencil[:2])
        total = math.ceil(bits / 8) + 4 * self.parameter_count()
        return {"bytes": total, "bytes_equal": total, "bytes_with_order": total}

    def parameter_count(self) -> int:
        """s k^2 block values."""
        return len(self.stencils_) * self.clusters_**2

    def _working_bytes(self, shape: tuple[int, ...], nnz: int) -> tuple[float, str]:
        """Sums by cluster and distances to them for every row and column, blocks and clusters of all stencils."""
        clusters, count = whole_or(self.clusters, AUTOMATIC_CLUSTERS), whole_or(self.stencils, 1)
        if self.clusters is not None and clusters > max(shape):
            raise InputError(f"clusters={clusters:,}: of {shape[0]:,} rows and {shape[1]:,} columns, at most so many")
        reals = 3.0 * clusters * max(shape) + 2.0 * count * (sum(shape) + clusters**2) + 4 * nnz
        return 8 * reals, "choose fewer clusters or stencils"

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        """One stencil of one cluster."""
        return {"rows_counts_0": 4, "columns_counts_0": 4, "rows_0": 0, "columns_0": 0, "blocks_0": 4}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Assignments are by index: with or without orders it answers in the tensor's own."""
        tensors: dict[str, npt.NDArray[Any]] = {}
        for number, stencil in enumerate(self.stencils_):
            for name, clusters in (("rows", stencil.rows), ("columns", stencil.columns)):
                counts = np.bincount(clusters, minlength=self.clusters_)
                tensors[f"{name}_counts_{number}"] = counts.astype(np.uint32)
                tensors[f"{name}_{number}"] = encode_clusters(clusters, counts)
            tensors[f"blocks_{number}"] = stored_type(stencil.blocks)
        content = {"shape": list(self.inner_shape_), "clusters": self.clusters_, "stencils": len(self.stencils_)}
        return tensors, content

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = cls()
        model.shape_ = contents.shape(order=2)
        count = contents.whole("stencils", 1, len(contents.tensors))
        model.clusters_ = contents.whole("clusters", 1, most=LARGEST_CLUSTERS)
        contents.permitted(8 * count * (sum(model.shape_) + model.clusters_**2), f"{count:,} stencils")
        model.stencils_ = []
        for number in range(count):
            parts = []
            for name, size in zip(("rows", "columns"), model.shape_, strict=True):
                counts = contents.counts(f"{name}_counts_{number}", model.clusters_, total=size)
                code = contents.array(f"{name}_{number}", "u", (None,))
                parts.append(decode_clusters(code, counts))
            blocks = contents.array(f"blocks_{number}", "f")
            square = (model.clusters_, model.clusters_)
            contents.reals(f"blocks_{number}", square if blocks.ndim == 2 else (model.clusters_**2,))
            model.stencils_.append(Stencil(parts[0], parts[1], blocks.astype(np.float64).reshape(square)))
        return model


def _automatic_stencils(X: SparseTensor, clusters: int) -> int:
    """As many stencils as fit into a fourth of the coordinate list, within 1..50."""
    each = sum(X.shape) * math.log2(max(clusters, 2)) / 8 + 4 * clusters**2
    return int(np.clip(X.nnz * COORDINATE_BYTES / AUTOMATIC_SHARE / each, 1, LARGEST_AUTOMATIC_STENCILS))


def residual_sums(A: Sparse, others: list[Stencil], columns: Integers, clusters: int) -> Reals:
    """Sums of the residual X - sum(others) over column clusters: (N, k).

    `A` is the matrix by rows; give the transpose and transposed stencils for sums over row clusters.
    """
    from pipeline.baselines.stencil_loops import subtract_rows

    sums: Reals = (A @ indicator(columns, clusters)).toarray()
    if others:
        tables = np.stack([other.blocks @ contingency(other.columns, columns, clusters) for other in others])
        subtract_rows(tables, np.stack([other.rows for other in others], axis=1), sums)
    return sums


def block_sums(sums: Reals, rows: Integers) -> Reals:
    """Sums of the residual over blocks, (k, k), from its sums over column clusters."""
    return np.asarray(indicator(rows, sums.shape[1]).T @ sums)


def block_means(sums: Reals, rows: Integers, columns: Integers) -> Reals:
    """Means of the residual over blocks: the best values for given clusters; 0 for an empty block."""
    clusters = sums.shape[1]
    cells = np.outer(np.bincount(rows, minlength=clusters), np.bincount(columns, minlength=clusters))
    return block_sums(sums, rows) / np.maximum(cells, 1)


def assignment_costs(sums: Reals, blocks: Reals, columns: Integers) -> Reals:
    """Squared error of each row under each cluster, less its own squared norm: (N, k)."""
    sizes = np.bincount(columns, minlength=blocks.shape[1])
    costs: Reals = sums @ (-2 * blocks.T)
    costs += (blocks**2 @ sizes)[None, :]
    return costs


def spectral_start(
    A: tuple[Sparse, Sparse], others: list[Stencil], clusters: int, random: np.random.Generator
) -> tuple[Integers, Integers]:
    """Row and column clusters by k-means on the leading singular vectors of the residual."""
    from scipy.sparse.linalg import LinearOperator, svds

    shape = A[0].shape
    rank = min(EMBEDDING, min(shape) - 1)
    if rank < 1:
        return random.integers(0, clusters, shape[0]), random.integers(0, clusters, shape[1])
    operator = LinearOperator(
        shape,
        matvec=_multiplier(A[0], others),
        rmatvec=_multiplier(A[1], [other.transposed for other in others]),
        dtype=np.float64,
    )
    left, sigma, right = svds(operator, k=rank, v0=random.standard_normal(min(shape)))
    return kmeans(left * sigma, clusters, random), kmeans(right.T * sigma, clusters, random)


def _multiplier(A: Sparse, others: list[Stencil]) -> Callable[[Reals], Reals]:
    """The residual's product with a vector."""
    from pipeline.baselines.stencil_loops import cluster_sums, subtract_rows

    if not others:
        return lambda vector: A @ vector.ravel()
    rows = np.stack([other.rows for other in others], axis=1)
    columns = np.stack([other.columns for other in others], axis=1)
    blocks = np.stack([other.blocks for other in others])

    def multiply(vector: Reals) -> Reals:
        sums = np.zeros((len(others), blocks.shape[1]))
        cluster_sums(vector.ravel(), columns, sums)
        product: Reals = A @ vector.reshape(-1, 1)
        subtract_rows(blocks @ sums[:, :, None], rows, product)
        return product

    return multiply


def kmeans(points: Reals, clusters: int, random: np.random.Generator) -> Integers:
    """Cluster of each of (n, d) points: SciPy's k-means++ and Lloyd's sweeps, of at most as many as differ."""
    from scipy.cluster.vq import kmeans2

    count = min(clusters, len(np.unique(points, axis=0)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        _, nearest = kmeans2(points, count, iter=KMEANS_SWEEPS, minit="++", rng=random)
    return np.asarray(nearest, dtype=np.int64)


def indicator(clusters: Integers, count: int) -> Sparse:
    """(n, k) sparse matrix with a 1 at each element's cluster."""
    from scipy.sparse import csr_array

    start = np.arange(len(clusters) + 1)
    return csr_array((np.ones(len(clusters)), clusters, start), shape=(len(clusters), count))


def contingency(first: Integers, second: Integers, clusters: int) -> Reals:
    """(k, k) counts of elements by two clusterings."""
    pairs = np.bincount(first * clusters + second, minlength=clusters * clusters)
    return pairs.reshape(clusters, clusters).astype(np.float64)


def entropy_bits(clusters: Integers, count: int) -> float:
    """Bits of an entropy-coded assignment: n times the entropy of the cluster sizes."""
    sizes = np.bincount(clusters, minlength=count)
    sizes = sizes[sizes > 0]
    return float(np.sum(sizes * np.log2(len(clusters) / sizes)))


def encode_clusters(clusters: Integers, counts: Integers) -> npt.NDArray[np.uint32]:
    """Range-code an assignment with the cluster sizes as model."""
    coder = Encoder()
    if len(counts) > 1:
        coder.repeat(_shares(counts), clusters)
    return coder.words()


def decode_clusters(code: npt.NDArray[np.uint32], counts: Integers) -> Integers:
    """Undo :func:`encode_clusters`."""
    if len(counts) == 1:
        return np.zeros(int(counts[0]), dtype=np.int64)
    return Decoder(code.astype("<u4").tobytes()).repeat(_shares(counts), np.zeros(int(counts.sum()), dtype=np.int64))


def _shares(counts: Integers) -> npt.NDArray[np.float32]:
    return counts.astype(np.float32) / np.float32(counts.sum())
