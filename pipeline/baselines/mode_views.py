"""Sparse tensor kernels: one sorted view a mode, and its products with the other factors."""

from __future__ import annotations

import importlib.util
import math

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.sparse import SparseTensor
from pipeline.sparse.grid import linear_index

WORKING_REALS = 1 << 22  # doubles that one batch of the SciPy path may take
HAS_NUMBA = importlib.util.find_spec("numba") is not None


class ModeView:
    """A tensor's non-zeros sorted for one mode, in compressed sparse fibres (Smith et al., 2015).

    A fibre is a run of non-zeros that share all indices but that of the leaf mode, the largest of the
    other modes; a slice is a run of fibres that share the index of `mode`.

    Attributes
    ----------
    values, leaf
        (nnz,) float64 and int64: the entries and their index in the leaf mode.
    fibre_start
        (F + 1,) int64: where each fibre begins in `values`.
    upper
        (F, D - 2) int64: the fibre's indices in the remaining modes `middle`.
    slice_start, slice_index
        (S + 1,) and (S,) int64: where each slice begins among the fibres, and its index in `mode`.
    """

    def __init__(self, X: SparseTensor, mode: int) -> None:
        others = sorted((other for other in range(X.order) if other != mode), key=lambda other: X.shape[other])
        self.mode, self.leaf_mode, self.middle = mode, others[-1], others[:-1]
        modes = [mode, *others]
        coords = X.coords[:, modes]
        coords, self.values = _sorted(coords, X.values, [X.shape[other] for other in modes])
        new_fibre = np.any(coords[1:, :-1] != coords[:-1, :-1], axis=1)
        starts = np.concatenate(([0], np.flatnonzero(new_fibre) + 1))
        self.leaf = np.ascontiguousarray(coords[:, -1])
        self.fibre_start = np.append(starts, X.nnz)
        self.upper = np.ascontiguousarray(coords[starts, 1:-1])
        root = coords[starts, 0]
        slices = np.concatenate(([0], np.flatnonzero(root[1:] != root[:-1]) + 1))
        self.slice_start = np.append(slices, len(starts))
        self.slice_index = root[slices]
        self.size = X.shape[mode]

    def mttkrp(self, factors: list[Reals]) -> Reals:
        """Product of the matricised tensor with the Khatri-Rao product of the other modes' factors.

        Parameters
        ----------
        factors
            D arrays (N_d, R); that of this view's own mode is not read.

        Returns
        -------
        (N_mode, R) float64: row i holds the sum over its non-zeros x of x times the other modes' factor rows.
        """
        return self._mttkrp_compiled(factors) if HAS_NUMBA else self._mttkrp_scipy(factors)

    def _mttkrp_compiled(self, factors: list[Reals]) -> Reals:
        from pipeline.kernels.sparse import mttkrp_slices

        result = np.zeros((self.size, factors[self.leaf_mode].shape[1]))
        sizes = [len(factors[mode]) for mode in self.middle]
        offsets = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)[: len(sizes)]
        stacked = np.concatenate([np.zeros((0, result.shape[1]))] + [factors[mode] for mode in self.middle])
        mttkrp_slices(
            self.values, self.leaf, self.fibre_start, self.upper + offsets, self.slice_start, self.slice_index,
            np.ascontiguousarray(factors[self.leaf_mode]), stacked, result,
        )  # fmt: skip
        return result

    def _mttkrp_scipy(self, factors: list[Reals]) -> Reals:
        """The same as two sparse products; three times slower at rank 10, needs (F, R) doubles."""
        from scipy.sparse import csr_array

        leaf_factor = factors[self.leaf_mode]
        shape = (len(self.upper), len(leaf_factor))
        fibres = csr_array((self.values, self.leaf, self.fibre_start), shape=shape) @ leaf_factor
        for position, mode in enumerate(self.middle):
            fibres *= factors[mode][self.upper[:, position]]
        ones, order = np.ones(len(fibres)), np.arange(len(fibres))
        slices = csr_array((ones, order, self.slice_start), shape=(len(self.slice_index), len(fibres))) @ fibres
        result = np.zeros((self.size, slices.shape[1]))
        result[self.slice_index] = slices
        return result

    def ttmc(self, factors: list[Reals]) -> Reals:
        """Product of the matricised tensor with the Kronecker product of the other modes' factors.

        Parameters
        ----------
        factors
            D arrays (N_d, R_d); that of this view's own mode is not read.

        Returns
        -------
        (N_mode, product of the other R_d) float64; columns run over `middle` and then the leaf mode.
        """
        return self._ttmc_compiled(factors) if HAS_NUMBA else self._ttmc_scipy(factors)

    def to_tensor(self, matrix: Reals, factors: list[Reals]) -> Reals:
        """Fold an (R_mode, columns of :meth:`ttmc`) matrix into a tensor with the modes in their own order."""
        modes = [self.mode, *self.middle, self.leaf_mode]
        folded = matrix.reshape([len(matrix)] + [factors[mode].shape[1] for mode in modes[1:]])
        return np.ascontiguousarray(folded.transpose(np.argsort(modes)))

    def _ttmc_compiled(self, factors: list[Reals]) -> Reals:
        from pipeline.kernels.sparse import ttmc_slices

        leaf_factor = np.ascontiguousarray(factors[self.leaf_mode])
        ranks = np.array([factors[mode].shape[1] for mode in self.middle], dtype=np.int64)
        stacked = np.zeros((sum(len(factors[mode]) for mode in self.middle), max(ranks, default=0)))
        offsets = np.zeros(len(self.middle), dtype=np.int64)
        end = 0
        for position, mode in enumerate(self.middle):
            offsets[position] = end
            end += len(factors[mode])
            stacked[offsets[position] : end, : ranks[position]] = factors[mode]
        result = np.zeros((self.size, int(np.prod(ranks)) * leaf_factor.shape[1]))
        ttmc_slices(
            self.values, self.leaf, self.fibre_start, self.upper + offsets, self.slice_start, self.slice_index,
            leaf_factor, stacked, ranks, result,
        )  # fmt: skip
        return result

    def _ttmc_scipy(self, factors: list[Reals]) -> Reals:
        """The same by sparse products, a batch of fibres at a time."""
        from scipy.sparse import csr_array

        leaf_factor = factors[self.leaf_mode]
        shape = (len(self.upper), len(leaf_factor))
        fibres: Reals = csr_array((self.values, self.leaf, self.fibre_start), shape=shape) @ leaf_factor
        place = np.repeat(np.arange(len(self.slice_index)), np.diff(self.slice_start))
        columns = math.prod(factors[mode].shape[1] for mode in (*self.middle, self.leaf_mode))
        slices = np.zeros((len(self.slice_index), columns))
        batch = max(1, WORKING_REALS // columns)
        for start in range(0, len(fibres), batch):
            upper = self.upper[start : start + batch]
            product = np.ones((len(upper), 1))
            for position, mode in enumerate(self.middle):
                product = (product[:, :, None] * factors[mode][upper[:, position], None, :]).reshape(len(upper), -1)
            product = (product[:, :, None] * fibres[start : start + batch, None, :]).reshape(len(upper), -1)
            rows, column = place[start : start + batch], np.arange(len(upper))
            slices += csr_array((np.ones(len(upper)), (rows, column)), shape=(len(slices), len(upper))) @ product
        result = np.zeros((self.size, columns))
        result[self.slice_index] = slices
        return result


def _sorted(coords: Integers, values: Reals, shape: list[int]) -> tuple[Integers, Reals]:
    number = linear_index(coords, shape)
    order = np.lexsort(coords.T[::-1]) if number is None else np.argsort(number, kind="stable")
    return coords[order], values[order]
