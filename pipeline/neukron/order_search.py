"""Orders of the indices of every mode: where they start, and the swaps that improve them.

An order of mode d is a permutation ``position`` of 0 .. 2^l_d - 1: index i of the padded mode stands at
``position[i]``. Indices of 2^l_d > i >= N_d are padding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.neukron.bisection import bisection_order
from pipeline.neukron.levels import Levels
from pipeline.sparse.orders import Order, Proposal, accept, inverse, matched_swaps, shingles


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
    return inverse(np.argsort(-weight, kind="stable"))


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
    return inverse(order)


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
    at = inverse(position)
    low = np.flatnonzero((np.arange(size) >> bit) & 1 == 0)
    chosen_positions = low | (rng.integers(0, 2, len(low)) << bit)
    chosen = at[chosen_positions]
    mate = at[chosen_positions ^ (1 << bit)]
    sizes = [2**bits for bits in levels.bits]
    return matched_swaps(
        position, chosen, mate, shingles(mode, sizes, coords, rng)[chosen] if by_shingle else None, rng
    )


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
