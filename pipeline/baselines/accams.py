"""ACCAMS: additive co-clustering of a sparse matrix."""

from __future__ import annotations

import numpy as np

from pipeline.baselines.base import Sparse, as_stored
from pipeline.baselines.stencils import (
    EXACT,
    Stencil,
    Stencils,
    assignment_costs,
    block_means,
    residual_sums,
    spectral_start,
)
from pipeline.sparse import SparseTensor

ALTERNATIONS = 20  # at most, when a stencil is fitted for the first time; 5 when it is fitted again
GAIN = 1e-4  # alternations end when the explained squares grow by less than this share


class ACCAMS(Stencils):
    """X ~ sum of s stencils, each a co-clustering into k x k blocks (Beutel, Ahmed and Smola, WWW 2015).

    Each stencil is fitted to the residual of those before: first clusters by k-means on singular vectors of the
    residual, then rows and columns take their best clusters and blocks their means in turn. After that,
    backfitting: every stencil is refitted to what the others leave. Size as published: entropy-coded assignments
    and 4 bytes a block value, s ((N + M) H + 32 k^2) / 8 bytes.

    Parameters
    ----------
    stencils
        s at most. None: as many as fit into a fourth of the coordinate list (8 bytes a non-zero), within 1..50.
    clusters
        k, for rows and for columns. None: 16, or the longer side where that is less.
    max_sweeps
        Sweeps over the stencils at most, the first fit included.
    tolerance
        Stop when a sweep changes the fit, 1 - sqrt(error / norm2), by less than this.
    seed
        Of k-means.
    """

    name = "accams"
    fits_to_meet_a_size = 4

    def _solve(self, X: SparseTensor, A: tuple[Sparse, Sparse], count: int, random: np.random.Generator) -> None:
        error = X.norm2
        for _ in range(count):
            if error <= EXACT * X.norm2:
                break
            start = spectral_start(A, self.stencils_, self.clusters_, random)
            self.stencils_.append(self._refit(A, self.stencils_, *start, ALTERNATIONS))
            error = self._squared_error(X)
        self._record(error, stencils=len(self.stencils_))
        for _ in range(self.max_sweeps - 1):
            for number, old in enumerate(self.stencils_):
                others = self.stencils_[:number] + self.stencils_[number + 1 :]
                self.stencils_[number] = self._refit(A, others, old.rows, old.columns, ALTERNATIONS // 4)
            before, error = error, self._squared_error(X)
            self._record(error, stencils=len(self.stencils_))
            if abs(np.sqrt(before) - np.sqrt(error)) < self.tolerance * np.sqrt(X.norm2):
                break

    def _refit(
        self, A: tuple[Sparse, Sparse], others: list[Stencil], rows: np.ndarray, columns: np.ndarray, limit: int
    ) -> Stencil:
        """Alternate rows, blocks and columns from the given clusters; no step raises the error."""
        transposed = [other.transposed for other in others]
        sums = residual_sums(A[0], others, columns, self.clusters_)
        blocks = block_means(sums, rows, columns)
        explained = 0.0
        for _ in range(limit):
            rows = np.argmin(assignment_costs(sums, blocks, columns), axis=1)
            blocks = block_means(sums, rows, columns)
            sums = residual_sums(A[1], transposed, rows, self.clusters_)
            columns = np.argmin(assignment_costs(sums, blocks.T, rows), axis=1)
            sums = residual_sums(A[0], others, columns, self.clusters_)
            blocks = block_means(sums, rows, columns)
            sizes = [np.bincount(part, minlength=self.clusters_) for part in (rows, columns)]
            before, explained = explained, float(sizes[0] @ blocks**2 @ sizes[1])
            if explained - before < GAIN * explained:
                break
        return Stencil(rows, columns, as_stored(blocks))
