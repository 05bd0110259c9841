"""Products of a sparse tensor's slices with the factors of its other modes, for CP and Tucker."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.kernels.optional import compiled_parallel, inlined, prange

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@inlined
def sum_fibre(values: Reals, leaf: Integers, first: int, last: int, leaf_factor: Reals, total: Reals) -> None:
    """Set `total` to the sum of a fibre's non-zeros times their rows of the leaf mode's factor."""
    total[:] = 0.0
    for entry in range(first, last):
        value = values[entry]
        other = leaf_factor[leaf[entry]]
        for column in range(len(total)):
            total[column] += value * other[column]


@compiled_parallel
def mttkrp_slices(
    values: Reals,
    leaf: Integers,
    fibre_start: Integers,
    upper: Integers,
    slice_start: Integers,
    slice_index: Integers,
    leaf_factor: Reals,
    stacked: Reals,
    result: Reals,
) -> None:
    """Add every slice's sum to its row of `result`, one slice a thread, so that threads change no digit."""
    rank = result.shape[1]
    for part in prange(len(slice_index)):
        row = result[slice_index[part]]
        total = np.zeros(rank)
        for fibre in range(slice_start[part], slice_start[part + 1]):
            sum_fibre(values, leaf, fibre_start[fibre], fibre_start[fibre + 1], leaf_factor, total)
            for position in range(upper.shape[1]):
                other = stacked[upper[fibre, position]]
                for column in range(rank):
                    total[column] *= other[column]
            for column in range(rank):
                row[column] += total[column]


@compiled_parallel
def ttmc_slices(
    values: Reals,
    leaf: Integers,
    fibre_start: Integers,
    upper: Integers,
    slice_start: Integers,
    slice_index: Integers,
    leaf_factor: Reals,
    stacked: Reals,
    ranks: Integers,
    result: Reals,
) -> None:
    """Add every slice's Kronecker products to its row of `result`, one slice a thread."""
    rank = leaf_factor.shape[1]
    width = result.shape[1] // rank
    for part in prange(len(slice_index)):
        row = result[slice_index[part]]
        total = np.zeros(rank)
        outer = np.ones(width)
        for fibre in range(slice_start[part], slice_start[part + 1]):
            sum_fibre(values, leaf, fibre_start[fibre], fibre_start[fibre + 1], leaf_factor, total)
            filled = 1
            outer[0] = 1.0
            for position in range(len(ranks)):
                other = stacked[upper[fibre, position]]
                for old in range(filled - 1, -1, -1):
                    share = outer[old]
                    for column in range(ranks[position]):
                        outer[old * ranks[position] + column] = share * other[column]
                filled *= ranks[position]
            for old in range(width):
                share = outer[old]
                for column in range(rank):
                    row[old * rank + column] += share * total[column]
