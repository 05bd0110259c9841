"""About the bits that each cell adds to a code of the others."""

from __future__ import annotations

import itertools

import numpy as np

from pipeline.baselines.base import Integers, Reals
from pipeline.sparse import SparseTensor

DISCOUNT = 0.75  # of a count, for what has not been seen
DRAWS = 0.5  # of the frequencies alone, in every context
PAIRED = 6  # modes at most whose pairs are counted
ALL_SEQUENCES = 3  # modes, of which every sequence is looked at
LEAST_BITS = 0.5


class CellBits:
    """The bits of each cell, were it told beside those that are kept.

    A set of n cells drawn alike takes -log2(n P(cell)) bits for each. There are two estimates of P, neither of which
    always chooses better cells. *Counted*, it is the product of the indices' frequencies, the cell among them.
    Otherwise it is as of the others: in tensors P(i_1) P(i_2 | i_1) P(i_3 | i_1, i_2) .. backs off, an index given
    others is the mean over these of interpolated Kneser-Ney estimates from pairs of modes, and P the mean over
    sequences of modes; in matrices, where each pair is a cell of its own, the product of frequencies. An index that
    is stored costs its number, which its cells share.

    References
    ----------
    Chen and Goodman, An empirical study of smoothing techniques, 1999, section 2.7.
    """

    def __init__(self, X: SparseTensor, orders: bool, counted: bool) -> None:
        self.shape, self.orders, self.order, self.counted = X.shape, orders, X.order, counted
        self.index = [np.unique(X.coords[:, mode], return_inverse=True)[1] for mode in range(X.order)]
        self.sizes = [int(index.max()) + 1 for index in self.index]
        self.pairs: dict[tuple[int, int], tuple[Integers, Integers]] = {}  # a pair's two indices; each cell's pair
        if not counted and 2 < X.order <= PAIRED:
            for one, other in itertools.combinations(range(X.order), 2):
                key = self.index[one] * self.sizes[other] + self.index[other]
                distinct, number = np.unique(key, return_inverse=True)
                self.pairs[one, other] = np.stack(np.divmod(distinct, self.sizes[other])), number

    def of(self, kept: Integers) -> Reals:
        """(nnz,) bits, given the numbers of the cells that are kept."""
        mine = np.zeros(len(self.index[0]))
        if not self.counted:
            mine[kept] = 1.0
        pairs = list(zip(self.index, self.sizes, strict=True))
        degrees = [np.bincount(index[kept], minlength=size)[index] - mine for index, size in pairs]
        total = [len(kept) + 1.0 + (0.0 if self.counted else 0.5 * size) for size in self.sizes]
        plain = [(degree + 0.5) / each for degree, each in zip(degrees, total, strict=True)]
        found = -np.log2(self._chance(kept, mine, degrees, plain) * (len(kept) + 1.0))
        if self.orders:
            for degree, size in zip(degrees, self.shape, strict=True):
                found += np.log2(size) / (degree + (0.5 if self.counted else 1.0))
        return np.maximum(found, LEAST_BITS)

    def _chance(self, kept: Integers, mine: Reals, degrees: list[Reals], plain: list[Reals]) -> Reals:
        """P of each cell."""
        if not self.pairs:
            return np.asarray(np.prod(plain, axis=0))
        given: dict[tuple[int, int], Reals] = {}  # (mode, mode that is known): P(index | index)
        for modes, (ends, pair) in self.pairs.items():
            times = np.bincount(pair[kept], minlength=ends.shape[1])
            others = times[pair] - mine
            for known, end in zip(modes, ends, strict=True):
                mode = modes[1] if known == modes[0] else modes[0]
                kinds = np.bincount(end, times > 0, minlength=self.sizes[known])[self.index[known]] - mine * (
                    others == 0
                )
                new = DISCOUNT * kinds + DRAWS
                seen = np.maximum(others - DISCOUNT, 0.0)
                given[mode, known] = (seen + new * plain[mode]) / (degrees[known] + DRAWS)
        total = np.zeros(len(mine))
        sequences = self._sequences()
        for sequence in sequences:
            chance = plain[sequence[0]].copy()
            for place in range(1, self.order):
                chance *= sum(given[sequence[place], known] for known in sequence[:place]) / place
            total += chance
        return total / len(sequences)

    def _sequences(self) -> list[tuple[int, ...]]:
        """Of modes: all of few, else each mode first, both ways round."""
        modes = tuple(range(self.order))
        if self.order <= ALL_SEQUENCES:
            return list(itertools.permutations(modes))
        turns = [modes[first:] + modes[:first] for first in modes]
        return turns + [turn[::-1] for turn in turns]
