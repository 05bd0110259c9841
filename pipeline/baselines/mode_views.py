"""Sparse tensor kernels: one sorted view a mode, and its products with the other factors."""

from __future__ import annotations

import importlib.util
import math

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.sparse import SparseTensor

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
        order = sorting(X.coords, modes)

        def column(one: int) -> Integers:  # no copy is made that is not kept: fresh memory costs more than sorting
            return np.ascontiguousarray(X.coords[:, one]) if order is None else X.coords[:, one][order]

        slices = np.cumsum(np.bincount(X.coords[:, mode], minlength=X.shape[mode]))
        new_fibre = np.zeros(X.nnz, dtype=bool)
        new_fibre[0] = True
        new_fibre[slices[slices < X.nnz]] = True
        uppers = []
        for one in self.middle:
            upper = column(one)
            new_fibre[1:] |= upper[1:] != upper[:-1]
            uppers.append(upper)
        starts = np.flatnonzero(new_fibre)
        self.values = X.values if order is None else X.values[order]
        self.leaf = column(self.leaf_mode)
        self.fibre_start = np.append(starts, X.nnz)
        self.upper = np.empty((len(starts), len(uppers)), dtype=np.int64)
        for position, upper in enumerate(uppers):
            self.upper[:, position] = upper[starts]
        counts = np.diff(slices, prepend=0)
        self.slice_index = np.flatnonzero(counts)
        self.slice_start = np.append(np.searchsorted(starts, (slices - counts)[self.slice_index]), len(starts))
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

        leaf_factor, stacked, upper = self._stacked(factors)
        result = np.zeros((self.size, leaf_factor.shape[1]))
        mttkrp_slices(
            self.values, self.leaf, self.fibre_start, upper, self.slice_start, self.slice_index,
            leaf_factor, stacked, result,
        )  # fmt: skip
        return result

    def _stacked(self, factors: list[Reals]) -> tuple[Reals, Reals, Integers]:
        """The leaf mode's factor; those of `middle`, below each other, as wide as the widest; `upper` in their rows."""
        ranks = [factors[mode].shape[1] for mode in self.middle]
        stacked = np.zeros((sum(len(factors[mode]) for mode in self.middle), max(ranks, default=0)))
        offsets = np.zeros(len(self.middle), dtype=np.int64)
        end = 0
        for position, mode in enumerate(self.middle):
            offsets[position] = end
            end += len(factors[mode])
            stacked[offsets[position] : end, : ranks[position]] = factors[mode]
        return np.ascontiguousarray(factors[self.leaf_mode]), stacked, self.upper + offsets

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

        leaf_factor, stacked, upper = self._stacked(factors)
        ranks = np.array([factors[mode].shape[1] for mode in self.middle], dtype=np.int64)
        result = np.zeros((self.size, int(np.prod(ranks)) * leaf_factor.shape[1]))
        ttmc_slices(
            self.values, self.leaf, self.fibre_start, upper, self.slice_start, self.slice_index,
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


def sorting(coords: Integers, modes: list[int]) -> Integers | None:
    """The sequence that sorts lexicographically sorted rows by `modes` instead, in time that grows with the rows alone.

    One stable sort by the first mode is enough where the others keep their sequence; else all modes, the last first.
    None where they are sorted so already.
    """
    if modes == sorted(modes):
        return None
    *rest, last = modes[:1] if modes[1:] == sorted(modes[1:]) else modes
    order = stable_order(coords[:, last])
    for mode in reversed(rest):
        order = order[stable_order(coords[order, mode])]
    return order


def stable_order(numbers: Integers) -> Integers:
    """What ``np.argsort(numbers, kind="stable")`` gives for numbers of at least 0, by 16 bits at a time.

    NumPy sorts numbers of 16 bits by counting, longer ones by comparing.
    """
    order = np.argsort(numbers.astype(np.uint16), kind="stable")  # the lowest 16 bits
    for shift in range(16, int(numbers.max(initial=0)).bit_length(), 16):
        order = order[np.argsort((numbers[order] >> shift).astype(np.uint16), kind="stable")]
    return order
