"""Orders of the indices of every mode: where they start, and the swaps that improve them.

An order of mode d is a permutation ``position`` of 0 .. 2^l_d - 1: index i of the padded mode stands at
``position[i]``. Indices of 2^l_d > i >= N_d are padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.neukron.bisection import bisection_order
from pipeline.neukron.levels import Levels

Order = npt.NDArray[np.int64]


def initial_orders(
    kind: str,
    levels: Levels,
    coords: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> list[Order]:
    """Starting orders of all modes.

    Parameters
    ----------
    kind
        ``random``; ``degree`` (heaviest slices first, by sum of squares); ``lexicographic`` (the smallest
        mode by degree, every other by the sorted list of its slice's positions in that mode, so that
        slices with the same heavy neighbours stand together); ``bisection`` (recursive bisection of every
        mode, from the lexicographic order).
    coords, values
        (nnz, D) and (nnz,), modes in ascending size.
    rng
        Source of randomness for ``random``.

    Returns
    -------
    One permutation of 2^l_d positions for each mode; padding comes last unless the order is random.
    """
    if kind == "random":
        return [rng.permutation(2**bits) for bits in levels.bits]
    orders = [_degree_order(coords[:, mode], values, 2**bits) for mode, bits in enumerate(levels.bits)]
    if kind == "degree":
        return orders
    anchor = orders[0][coords[:, 0]]
    for mode in range(1, len(levels.bits)):
        orders[mode] = _lexicographic_order(coords[:, mode], anchor, 2 ** levels.bits[mode])
    if kind == "lexicographic":
        return orders
    columns = list(coords.T)
    return [
        bisection_order(columns[mode], columns[:mode] + columns[mode + 1 :], values, orders[mode], bits)
        for mode, bits in enumerate(levels.bits)
    ]


def _degree_order(index: npt.NDArray[np.int64], values: npt.NDArray[np.float64], size: int) -> Order:
    weight = np.bincount(index, weights=values * values, minlength=size)
    return _positions(np.argsort(-weight, kind="stable"))


def _lexicographic_order(index: npt.NDArray[np.int64], anchor: npt.NDArray[np.int64], size: int) -> Order:
    """Sort indices by their sorted lists of anchor positions, read from the first; empty slices last."""
    by_slice = np.lexsort((anchor, index))
    index, anchor = index[by_slice], anchor[by_slice]
    counts = np.bincount(index, minlength=size)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    # Radix sort from the last list item that matters to the first; deeper items decide ever fewer ties.
    order = np.arange(size)
    end = np.iinfo(np.int64).max
    for item in range(min(int(counts.max()), 32) - 1, -1, -1):
        has = counts > item
        key = np.full(size, -1 if item else end, dtype=np.int64)
        key[has] = anchor[starts[has] + item]
        order = order[np.argsort(key[order], kind="stable")]
    return _positions(order)


def _positions(order: npt.NDArray[np.int64]) -> Order:
    """Turn "the index at each position" into "the position of each index", or back."""
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return position


@dataclass
class Proposal:
    """Disjoint swaps of one mode, all evaluated at once.

    ``position`` is the mode's order with every swap made; ``swap`` names each index's swap (-1: none).
    """

    position: Order
    swap: npt.NDArray[np.int64]
    count: int


def propose(
    levels: Levels,
    mode: int,
    coords: npt.NDArray[np.int64],
    orders: list[Order],
    rng: np.random.Generator,
    by_shingle: bool = True,
) -> Proposal:
    """Draw swaps for one mode (NeuKron, Algorithm 3).

    A bit k is drawn with P(k) = 2^-(k+1), capped; of every two positions that differ in that bit alone one
    is chosen; chosen indices with equal shingles, then the rest at random, are matched; a match (a, b)
    proposes to swap a with b's mate and b with a's mate. With ``by_shingle=False`` all matches are random.
    """
    bits = levels.bits[mode]
    position = orders[mode]
    size = 2**bits
    if bits == 0:
        return Proposal(position, np.full(1, -1), 0)
    bit = min(int(rng.geometric(0.5)) - 1, bits - 1)
    at = _positions(position)
    low = np.flatnonzero((np.arange(size) >> bit) & 1 == 0)
    chosen_positions = low | (rng.integers(0, 2, len(low)) << bit)
    chosen = at[chosen_positions]
    mate = at[chosen_positions ^ (1 << bit)]
    sizes = [2**bits for bits in levels.bits]
    return matched_swaps(
        position, chosen, mate, shingles(mode, sizes, coords, rng)[chosen] if by_shingle else None, rng
    )


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
) -> tuple[Order, npt.NDArray[np.bool_]]:
    """Decide every swap by itself: accept when u < exp(-gamma * Delta).

    Parameters
    ----------
    index
        (nnz,) the non-zeros' indices in the mode.
    change
        (nnz,) each non-zero's share of Delta, the change of the loss. Zeros contribute nothing (Lemma 1), and
        a non-zero depends on one swap only, so the sums are exact whatever happens to the other swaps.

    Returns
    -------
    The mode's new order, and for each non-zero whether its swap was accepted.
    """
    part = proposal.swap[index]
    moved = part >= 0
    delta = np.bincount(part[moved], weights=change[moved], minlength=proposal.count)
    with np.errstate(divide="ignore"):
        threshold = -np.log(rng.random(proposal.count))
    accepted = delta < 0 if np.isinf(gamma) else gamma * delta < threshold
    taken = np.concatenate((accepted, [False]))  # swap -1: not part of any
    return np.where(taken[proposal.swap], proposal.position, position), taken[part]


Evaluate = Callable[[list[Order]], npt.NDArray[np.float64]]


def reorder_mode(
    mode: int,
    levels: Levels,
    coords: npt.NDArray[np.int64],
    gain: npt.NDArray[np.float64],
    orders: list[Order],
    products: npt.NDArray[np.float64],
    evaluate: Evaluate,
    gamma: float,
    rng: np.random.Generator,
    by_shingle: bool = True,
) -> npt.NDArray[np.float64]:
    """Improve the order of one mode in place; returns the products after it.

    `products` are the model's products at the non-zeros under the present orders, so that only the proposed
    orders need evaluating. `gain` is what a unit of each product takes off the loss, 2 * scale * x.
    """
    proposal = propose(levels, mode, coords, orders, rng, by_shingle)
    proposed = [proposal.position if other == mode else order for other, order in enumerate(orders)]
    after = evaluate(proposed)
    change = gain * (products - after)
    orders[mode], taken = accept(proposal, orders[mode], coords[:, mode], change, gamma, rng)
    return np.where(taken, after, products)
