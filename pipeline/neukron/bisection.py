"""Recursive bisection: an order of one mode in which slices with the same non-zeros stand close together.

The cost of a split is what it takes to code the gaps between the neighbours of every index of the other
modes, d_A log2(n_A / (d_A + 1)) + d_B log2(n_B / (d_B + 1)) for d_A and d_B neighbours in halves of n_A and
n_B slices (Dhulipala, Kabiljo, Karrer, Ottaviano, Pupyrev, Shalita: "Compressing graphs and indexes with
recursive graph bisection", KDD 2016). All segments of one depth are refined together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDS = 20  # of swaps at each depth, at most
SETTLED = 0.005  # share of items whose swap is not worth another round

Index = npt.NDArray[np.int64]


def bisection_order(
    index: Index, others: list[Index], values: npt.NDArray[np.float64], start: Index, bits: int
) -> Index:
    """Order one mode by recursive bisection.

    Parameters
    ----------
    index
        (nnz,) the non-zeros' indices in the mode.
    others
        For each other mode (nnz,) the indices there.
    values
        (nnz,) values; of two halves the heavier one (sum of squares) comes first, so that the sequence model
        meets the same picture at every split.
    start
        (2^bits,) position of each index to start from.
    bits
        Number of bits of the mode.

    Returns
    -------
    (2^bits,) position of each index.
    """
    position = start.copy()
    weight = np.bincount(index, values * values, 2**bits).astype(np.float64)
    if not others:
        return position
    offsets = np.cumsum([0] + [int(other.max()) + 1 for other in others])
    term = np.concatenate([other + offset for other, offset in zip(others, offsets[:-1], strict=True)])
    item = np.tile(index, len(others))
    for depth in range(bits):
        half = 2 ** (bits - depth - 1)
        _refine(position, item, term, half)
        _heavier_half_first(position, weight, half)
    return position


def _refine(position: Index, item: Index, term: Index, half: int) -> None:
    """Swap items between the halves of every segment of 2 * half positions while that saves bits."""
    segment = position // (2 * half)
    key = term * (segment.max() + 1) + segment[item]
    _, group = np.unique(key, return_inverse=True)
    size = np.bincount(group)
    for _ in range(ROUNDS):
        right = (position // half) % 2
        in_right = np.bincount(group, weights=right[item])
        now = _bits(in_right, size, half)
        to_right = now - _bits(in_right + 1, size, half)
        to_left = now - _bits(in_right - 1, size, half)
        saved = np.where(right[item] == 1, to_left[group], to_right[group])
        gain = np.bincount(item, saved, len(position)).astype(np.float64)
        if not _swap(position, segment, right, gain, half):
            break


def _bits(in_right: npt.NDArray[Any], size: npt.NDArray[Any], half: int) -> npt.NDArray[np.float64]:
    """Bits for the gaps between `size` neighbours of which `in_right` are in the second of two halves."""
    total = np.zeros(len(size))
    for degree in (in_right, size - in_right):
        known = np.maximum(degree, 0.0)
        total += known * np.log2(half / (known + 1.0))
    return total


def _swap(position: Index, segment: Index, right: Index, gain: npt.NDArray[np.float64], half: int) -> bool:
    """Exchange the r-th best items of the two halves of each segment while both together save bits.

    Returns whether enough was exchanged for another round to be worth its time.
    """
    order = np.lexsort((-gain, right, segment)).reshape(-1, 2, half)
    left_item, right_item = order[:, 0].ravel(), order[:, 1].ravel()
    better = gain[left_item] + gain[right_item] > 1e-9
    a, b = left_item[better], right_item[better]
    position[a], position[b] = position[b], position[a]
    return len(a) > SETTLED * len(position)


def _heavier_half_first(position: Index, weight: npt.NDArray[np.float64], half: int) -> None:
    """Exchange the halves of every segment whose second half is the heavier one."""
    block = position // half
    mass = np.bincount(block, weights=weight)
    swap = np.repeat(mass[1::2] > mass[0::2], 2)
    position ^= np.where(swap[block], half, 0)
