"""Orders of the indices of a mode: the swaps that improve one, and the bits that store one.

An order of a mode is a permutation ``position`` of its (padded) indices: index i stands at ``position[i]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

Order = npt.NDArray[np.int64]


@dataclass
class Proposal:
    """Disjoint swaps of one mode, all evaluated at once.

    ``position`` is the mode's order with every swap made; ``swap`` names each index's swap (-1: none).
    """

    position: Order
    swap: npt.NDArray[np.int64]
    count: int


def inverse(order: npt.NDArray[np.int64]) -> Order:
    """Turn "the index at each position" into "the position of each index", or back."""
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return position


def matched_swaps(
    position: Order,
    chosen: npt.NDArray[np.int64],
    mate: npt.NDArray[np.int64],
    likeness: npt.NDArray[np.int64] | None,
    rng: np.random.Generator,
) -> Proposal:
    """Match chosen indices, alike ones first, and let each of a match change places with the other's mate.

    `chosen` and `mate` name one index each of disjoint pairs of positions; `likeness` has a row for each
    chosen index (None: match at random).
    """
    first, second = _match(likeness, len(chosen), rng)
    proposed = position.copy()
    swap = np.full(len(position), -1, dtype=np.int64)
    number = np.arange(len(first))
    for a, b, offset in ((chosen[first], mate[second], 0), (chosen[second], mate[first], len(first))):
        proposed[a], proposed[b] = position[b], position[a]
        swap[a] = swap[b] = number + offset
    return Proposal(proposed, swap, 2 * len(first))


def shingles(
    mode: int, sizes: Sequence[int], coords: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """For every index of `mode` and every other mode the smallest random label in its slice, (padded size, D - 1).

    `sizes` are those of the padded modes.
    """
    columns = []
    for other, size in enumerate(sizes):
        if other != mode:
            label = rng.permutation(size)[coords[:, other]]
            smallest = np.full(sizes[mode], size, dtype=np.int64)  # empty slices share a label of their own
            np.minimum.at(smallest, coords[:, mode], label)
            columns.append(smallest)
    return np.stack(columns, axis=1) if columns else np.zeros((sizes[mode], 1), dtype=np.int64)


def _match(
    shingles: npt.NDArray[np.int64] | None, count: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Disjoint pairs of 0..count-1: within equal rows of `shingles` first, the rest at random.

    Rows are compared whole, so that no two different shingles are ever taken for the same.
    """
    order = rng.permutation(count)
    if shingles is None:
        rest = order
        first = second = np.zeros(0, dtype=np.int64)
    else:
        order = order[np.lexsort(shingles[order].T)]
        ranked = shingles[order]
        new = np.concatenate(([True], np.any(ranked[1:] != ranked[:-1], axis=1)))
        group = np.cumsum(new) - 1
        place = np.arange(count) - np.flatnonzero(new)[group]  # place within the group
        odd_one = (place % 2 == 0) & np.concatenate((new[1:], [True]))  # last of a group of odd size
        first = order[(place % 2 == 0) & ~odd_one]
        second = order[place % 2 == 1]
        rest = rng.permutation(order[odd_one])
    half = len(rest) // 2
    return np.concatenate((first, rest[:half])), np.concatenate((second, rest[half : 2 * half]))


def accept(
    proposal: Proposal,
    position: Order,
    index: npt.NDArray[np.int64],
    change: npt.NDArray[np.float64],
    gamma: float,
    rng: np.random.Generator,
    over_all: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = lambda delta: delta,
) -> tuple[Order, npt.NDArray[np.bool_]]:
    """Decide every swap by itself: accept when u < exp(-gamma * Delta).

    Parameters
    ----------
    index
        (nnz,) the non-zeros' indices in the mode.
    change
        (nnz,) each non-zero's share of Delta, the change of the loss. Zeros contribute nothing (Lemma 1), and
        a non-zero depends on one swap only, so the sums are exact whatever happens to the other swaps.
    over_all
        Makes sums over these non-zeros sums over all, where there are more elsewhere.

    Returns
    -------
    The mode's new order, and for each non-zero whether its swap was accepted.
    """
    part = proposal.swap[index]
    moved = part >= 0
    delta = over_all(np.bincount(part[moved], weights=change[moved], minlength=proposal.count).astype(np.float64))
    with np.errstate(divide="ignore", over="ignore"):
        threshold = -np.log(rng.random(proposal.count))
        accepted = delta < 0 if np.isinf(gamma) else gamma * delta < threshold
    taken = np.concatenate((accepted, [False]))  # swap -1: not part of any
    return np.where(taken[proposal.swap], proposal.position, position), taken[part]


def pack_integers(numbers: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.uint8]:
    """Pack non-negative integers of `bits` bits each into bytes, most significant bit first.

    >>> pack_integers(np.array([5, 2, 7]), 3).tolist()
    [171, 128]
    """
    if bits == 0:
        return np.zeros(0, dtype=np.uint8)
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits(((numbers[:, None] >> shifts) & 1).astype(np.uint8))


def unpack_integers(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.int64]:
    """Undo :func:`pack_integers`.

    >>> unpack_integers(np.array([171, 128], dtype=np.uint8), 3, 3).tolist()
    [5, 2, 7]
    """
    if bits == 0:
        return np.zeros(count, dtype=np.int64)
    if len(packed) != (count * bits + 7) // 8:
        raise InputError(f"{len(packed)} packed bytes where {count} numbers of {bits} bits belong")
    shifts = np.arange(bits - 1, -1, -1)
    flags = np.unpackbits(packed, count=count * bits).reshape(count, bits).astype(np.int64)
    numbers: npt.NDArray[np.int64] = (flags << shifts).sum(axis=1)
    return numbers
