"""Orders of the indices of every mode: where they start, and the swaps that improve them.

An order of mode d is a permutation ``position`` of 0 .. 2^l_d - 1: index i of the padded mode stands at
``position[i]``. Indices of 2^l_d > i >= N_d are padding.

Among several processes the non-zeros of each are its own (:mod:`pipeline.runs.shards`); all get the same orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pipeline.neukron.bisection import bisection_order
from pipeline.neukron.levels import Levels
from pipeline.runs import distributed
from pipeline.sparse.orders import Order, Proposal, accept, inverse, matched_swaps, shingles

END = np.iinfo(np.int64).max
DEEPEST = 32  # items of a slice that decide its place in the lexicographic order


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
    coords, values = np.concatenate(distributed.gathered(coords)), np.concatenate(distributed.gathered(values))
    columns = list(coords.T)
    return [
        bisection_order(columns[mode], columns[:mode] + columns[mode + 1 :], values, orders[mode], bits)
        for mode, bits in enumerate(levels.bits)
    ]


def _degree_order(index: npt.NDArray[np.int64], values: npt.NDArray[np.float64], size: int) -> Order:
    weight = distributed.summed(np.bincount(index, weights=values * values, minlength=size))
    return inverse(np.argsort(-weight, kind="stable"))


def _lexicographic_order(index: npt.NDArray[np.int64], anchor: npt.NDArray[np.int64], size: int) -> Order:
    """Sort indices by their sorted lists of anchor positions, read from the first; empty slices last."""
    by_slice = np.lexsort((anchor, index))
    index, anchor = index[by_slice], anchor[by_slice]
    counts = np.bincount(index, minlength=size)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    # Radix sort from the last list item that matters to the first; deeper items decide ever fewer ties.
    order = np.arange(size)
    items = _items if distributed.size() == 1 else _items_of_all
    for item, has, found in items(anchor, starts, counts):
        key = np.full(size, -1 if item else END, dtype=np.int64)
        key[has] = found
        order = order[np.argsort(key[order], kind="stable")]
    return inverse(order)


Items = Iterator[tuple[int, npt.NDArray[np.bool_], npt.NDArray[np.int64]]]


def _items(anchor: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Items:
    """From the last item to the first: its number, which slices have one, and their items."""
    for item in range(min(int(counts.max()), DEEPEST) - 1, -1, -1):
        has = counts > item
        yield item, has, anchor[starts[has] + item]


def _items_of_all(anchor: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Items:
    """The same of slices that lie in several processes, a sorted list in each: no process ever holds two of them.

    The lists are merged from the front, to learn how many of its first items each process has; then from there back.
    """
    rank, size = distributed.rank(), distributed.size()
    padded = np.append(anchor, 0)
    taken = np.zeros_like(counts)  # by slice, of this process's list
    for _ in range(DEEPEST):
        offered = np.where(taken < counts, padded[starts + np.minimum(taken, counts)] * size + rank, END)
        first = distributed.smallest(offered)
        if first.min() == END:
            break
        taken += (first == offered) & (first < END)
    left = distributed.summed(taken)
    for item in range(int(left.max()) - 1, -1, -1):
        has = left > item
        offered = np.where(has & (taken > 0), padded[starts + taken - 1] * size + rank, -1)
        last = distributed.largest(offered)
        taken -= (last == offered) & has
        yield item, has, last[has] // size


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
        position,
        chosen,
        mate,
        distributed.smallest(shingles(mode, sizes, coords, rng))[chosen] if by_shingle else None,
        rng,
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
    orders[mode], taken = accept(proposal, orders[mode], coords[:, mode], change, gamma, rng, distributed.summed)
    return np.where(taken, after, products)
