"""bACCAMS: additive co-clustering of a sparse matrix by Gibbs sampling."""

from __future__ import annotations

import math

import numpy as np

from pipeline.baselines.base import Integers, Reals, Sparse, as_stored
from pipeline.baselines.stencils import (
    EXACT,
    Stencil,
    Stencils,
    assignment_costs,
    block_means,
    block_sums,
    residual_sums,
    spectral_start,
)
from pipeline.sparse import SparseTensor

CONCENTRATION = 1.0  # of the Chinese-restaurant prior on clusters


class BACCAMS(Stencils):
    """X ~ sum of s stencils with Chinese-restaurant clusters and normal values (Beutel, Ahmed and Smola, 2015).

    The generative model of ACCAMS: clusters of rows and columns from a Chinese-restaurant process, block values
    normal with the variance of a non-zero, normal noise. Blocked Gibbs sampling, with the process cut at k
    clusters (Ishwaran and James, 2001), so that all rows can be drawn at once: cluster weights, assignments,
    block values and the noise in turn. The sample with the least error is kept and its blocks set to their
    means. Sizes as for ACCAMS.

    Parameters
    ----------
    stencils
        s at most. None: as many as fit into a fourth of the coordinate list (8 bytes a non-zero), within 1..50.
    clusters
        k at most, for rows and for columns. None: 16, or the longer side where that is less.
    max_sweeps
        Gibbs sweeps over the stencils, the first fit included.
    tolerance
        Stop when a sweep changes the fit, 1 - sqrt(error / norm2), by less than this.
    seed
        Of the sampler.
    """

    name = "baccams"
    fits_to_meet_a_size = 3

    def _solve(self, X: SparseTensor, A: tuple[Sparse, Sparse], count: int, random: np.random.Generator) -> None:
        cells = math.prod(X.shape)
        prior = X.norm2 / X.nnz
        error = X.norm2
        for _ in range(count):
            if error <= EXACT * X.norm2:
                break
            start = spectral_start(A, self.stencils_, self.clusters_, random)
            sampler = _Sampler(self.clusters_, error / cells, prior, random)
            self.stencils_.append(sampler.draw(A, self.stencils_, *start))
            error = self._squared_error(X)
        self._record(error, stencils=len(self.stencils_))
        best, kept = error, list(self.stencils_)
        for _ in range(self.max_sweeps - 1):
            noise = error / 2 / random.gamma(cells / 2)  # inverse gamma, flat prior
            sampler = _Sampler(self.clusters_, noise, prior, random)
            for number, old in enumerate(self.stencils_):
                others = self.stencils_[:number] + self.stencils_[number + 1 :]
                self.stencils_[number] = sampler.draw(A, others, old.rows, old.columns)
            before, error = error, self._squared_error(X)
            self._record(error, stencils=len(self.stencils_))
            if error < best:
                best, kept = error, list(self.stencils_)
            if abs(np.sqrt(before) - np.sqrt(error)) < self.tolerance * np.sqrt(X.norm2):
                break
        self.stencils_ = kept
        self._settle(A)
        self._record(self._squared_error(X), stencils=len(self.stencils_))

    def _settle(self, A: tuple[Sparse, Sparse]) -> None:
        """Set every stencil's blocks to their means, given all clusters."""
        for number, old in enumerate(self.stencils_):
            others = self.stencils_[:number] + self.stencils_[number + 1 :]
            sums = residual_sums(A[0], others, old.columns, self.clusters_)
            self.stencils_[number] = old._replace(blocks=as_stored(block_means(sums, old.rows, old.columns)))


class _Sampler:
    """Conditional draws of one stencil, given the noise and the prior variance of a block value."""

    def __init__(self, clusters: int, noise: float, prior: float, random: np.random.Generator) -> None:
        self.clusters, self.noise, self.prior, self.random = clusters, noise, prior, random

    def draw(self, A: tuple[Sparse, Sparse], others: list[Stencil], rows: Integers, columns: Integers) -> Stencil:
        """Draw rows, blocks, columns and blocks again."""
        sums = residual_sums(A[0], others, columns, self.clusters)
        blocks = self._blocks(sums, rows, columns)
        rows = self._assign(assignment_costs(sums, blocks, columns), rows)
        blocks = self._blocks(sums, rows, columns)
        sums = residual_sums(A[1], [other.transposed for other in others], rows, self.clusters)
        columns = self._assign(assignment_costs(sums, blocks.T, rows), columns)
        return Stencil(rows, columns, as_stored(self._blocks(sums, columns, rows).T))

    def _assign(self, costs: Reals, before: Integers) -> Integers:
        """Clusters from their conditional: weights from the cut Chinese restaurant, times the likelihood."""
        sizes = np.bincount(before, minlength=self.clusters)
        weights = self.random.dirichlet(sizes + CONCENTRATION / self.clusters)
        with np.errstate(divide="ignore"):
            scores = np.log(weights) - costs / (2 * self.noise)
        return np.asarray(np.argmax(scores + self.random.gumbel(size=scores.shape), axis=1))

    def _blocks(self, sums: Reals, rows: Integers, columns: Integers) -> Reals:
        """Block values from their normal posterior."""
        sizes = [np.bincount(part, minlength=self.clusters) for part in (rows, columns)]
        precision = np.outer(*sizes) + self.noise / self.prior
        mean = block_sums(sums, rows) / precision
        return np.asarray(mean + np.sqrt(self.noise / precision) * self.random.standard_normal(mean.shape))
