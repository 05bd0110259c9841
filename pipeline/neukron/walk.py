"""Walk down the model's tree: all children of a set of prefixes, with their products.

Each level's factors have norm 1, so the squares below a node sum to the square of its product. That makes
X~^2 / q^L a probability distribution over the padded grid, and gives the mass on the real cells exactly
where the grid is small, by ancestral sampling where it is not.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.neukron.levels import Levels
from pipeline.sparse.orders import Order

Floats = npt.NDArray[np.float32]
State = tuple[Any, ...]  # arrays or tensors of the model's own, one row a node

BLOCK = 1 << 13  # nodes expanded together
EXACT_CELLS = 1 << 26  # larger padded grids are sampled straight away
EXACT_NODES = 1 << 22  # walk at most so many nodes before sampling takes over
SAMPLES = 1 << 17
SEARCH_BLOCK = 64  # nodes expanded together by best-first search
SEARCH_NODES = 1 << 21  # that it may expand: some minutes, and a gigabyte of states waiting


class Steps(Protocol):
    """A model a step at a time: :class:`pipeline.neukron.model.TorchSteps`, or without torch an LSTM's
    :class:`pipeline.neukron.weights.PlainSteps`.
    """

    @property
    def first(self) -> Floats:
        """The normalised first factor, (a_1,)."""

    def start(self) -> State:
        """State before the first token, one row."""

    def step(self, state: State, parent: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> State:
        """States of children: the row of each one's parent in `state`, and of its token in the table."""

    def factors(self, alphabet: int, state: State) -> Floats:
        """Normalised factors of the next level, (n, alphabet)."""


@dataclass
class Nodes:
    """Nodes of one depth: their tokens so far as positions' leading bits, products and states.

    ``prefix`` (n, D) int64, ``product`` (n,) float32, ``state`` the sequence model's, n rows each.
    """

    depth: int
    prefix: npt.NDArray[np.int64]
    product: Floats
    state: State

    def select(self, rows: npt.NDArray[np.intp]) -> Nodes:
        """Some of the nodes."""
        return Nodes(self.depth, self.prefix[rows], self.product[rows], tuple(part[rows] for part in self.state))

    def __len__(self) -> int:
        return len(self.prefix)


class Walker:
    """Expands nodes of the tree of a model with the given level structure."""

    def __init__(self, levels: Levels, steps: Steps) -> None:
        self.levels = levels
        self.steps = steps

    def root(self) -> Nodes:
        """The empty prefix."""
        prefix = np.zeros((1, len(self.levels.bits)), dtype=np.int64)
        return Nodes(0, prefix, np.ones(1, dtype=np.float32), self.steps.start())

    def factors(self, nodes: Nodes) -> Floats:
        """Normalised factors of the next level at every node, (n, alphabet)."""
        if nodes.depth == 0:
            return self.steps.first[None]
        return self.steps.factors(self.levels.alphabets[nodes.depth], nodes.state)

    def child_prefixes(
        self, nodes: Nodes, parent: npt.NDArray[np.intp], token: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Prefixes of the children that `token` leads to from the nodes `parent`."""
        prefix = nodes.prefix[parent].copy()
        level = nodes.depth + 1
        modes = [mode for mode, bits in enumerate(self.levels.bits) if bits >= level]
        for rank, mode in enumerate(reversed(modes)):
            prefix[:, mode] = (prefix[:, mode] << 1) | ((token >> rank) & 1)
        return prefix

    def step(self, nodes: Nodes, parent: npt.NDArray[np.intp], token: npt.NDArray[np.int64], product: Floats) -> Nodes:
        """The children that `token` leads to from the nodes `parent`, with their states."""
        prefix = self.child_prefixes(nodes, parent, token)
        level = nodes.depth + 1
        if level == self.levels.depth:
            return Nodes(level, prefix, product, ())
        rows = token + self.levels.embedding_offset(level)
        return Nodes(level, prefix, product, self.steps.step(nodes.state, parent, rows))


@dataclass
class Mass:
    """Share of the model's squared mass on the real cells, with its 95 % interval (equal ends: exact)."""

    share: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        """Whether the share was summed, not sampled."""
        return self.low == self.high


def real_mass(
    walker: Walker,
    shape: tuple[int, ...],
    orders: list[Order],
    rng: np.random.Generator,
    exact_nodes: int = EXACT_NODES,
    samples: int = SAMPLES,
) -> Mass:
    """Share of the squared mass of the padded grid that falls on the N_1 x ... x N_D real cells.

    Subtrees that are wholly real or wholly padding are counted without being walked. Exact where the padded
    grid has at most 2^26 cells and fewer than `exact_nodes` nodes are visited, else from `samples` ancestral
    samples with a Wilson 95 % interval.
    """
    if all(size == 2**bits for size, bits in zip(shape, walker.levels.bits, strict=True)):
        return Mass(1.0, 1.0, 1.0)
    real = _RealCells(walker.levels, shape, orders)
    small = sum(walker.levels.bits) <= EXACT_CELLS.bit_length() - 1
    share = _exact_share(walker, real, exact_nodes) if small else None
    if share is not None:
        return Mass(share, share, share)
    from scipy.stats import binomtest

    inside = _sampled_inside(walker, real, rng, samples)
    interval = binomtest(inside, samples).proportion_ci(method="wilson")
    return Mass(inside / samples, interval.low, interval.high)


class _RealCells:
    """How many real positions lie below a prefix, by mode."""

    def __init__(self, levels: Levels, shape: tuple[int, ...], orders: list[Order]) -> None:
        self.levels = levels
        self.before = []  # real positions before each position
        for size, bits, order in zip(shape, levels.bits, orders, strict=True):
            real = np.zeros(2**bits, dtype=np.int64)
            real[order[:size]] = 1
            self.before.append(np.concatenate(([0], np.cumsum(real))))

    def classify(
        self, prefix: npt.NDArray[np.int64], depth: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """For each node whether all cells below it are real, and whether none is."""
        whole = np.ones(len(prefix), dtype=bool)
        none = np.zeros(len(prefix), dtype=bool)
        for mode, bits in enumerate(self.levels.bits):
            left = max(bits - depth, 0)
            count = self.before[mode][(prefix[:, mode] + 1) << left] - self.before[mode][prefix[:, mode] << left]
            whole &= count == 1 << left
            none |= count == 0
        return whole, none


def _children(walker: Walker, nodes: Nodes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], Floats]:
    """Every child of every node: parent row, token, product."""
    alphabet = walker.levels.alphabets[nodes.depth]
    parent = np.repeat(np.arange(len(nodes)), alphabet)
    token = np.tile(np.arange(alphabet), len(nodes))
    return parent, token, (nodes.product[:, None] * walker.factors(nodes)).flatten()


def _blocks(nodes: Nodes) -> Iterator[Nodes]:
    for start in range(0, len(nodes), BLOCK):
        yield nodes.select(np.arange(start, min(start + BLOCK, len(nodes))))


def _exact_share(walker: Walker, real: _RealCells, budget: int) -> float | None:
    """Sum of squared products over real cells, depth first in blocks; None when the budget runs out."""
    stack = [walker.root()]
    total = 0.0
    visited = 0
    while stack:
        nodes = stack.pop()
        visited += len(nodes)
        if visited > budget:
            return None
        parent, token, product = _children(walker, nodes)
        whole, none = real.classify(walker.child_prefixes(nodes, parent, token), nodes.depth + 1)
        total += float((product.astype(np.float64)[whole] ** 2).sum())
        mixed = np.flatnonzero(~whole & ~none)
        if len(mixed):
            children = walker.step(nodes, parent[mixed], token[mixed], product[mixed])
            stack.extend(_blocks(children))
    return min(total, 1.0)


def _sampled_inside(walker: Walker, real: _RealCells, rng: np.random.Generator, samples: int) -> int:
    """Number of ancestral samples that fall on real cells; samples at one node are split multinomially."""
    inside = 0
    stack = [(walker.root(), np.array([samples]))]
    while stack:
        nodes, counts = stack.pop()
        chances = walker.factors(nodes).astype(np.float64) ** 2
        chances = chances / chances.sum(axis=1, keepdims=True)
        split = rng.multinomial(counts, np.broadcast_to(chances, (len(nodes), chances.shape[1])))
        parent, token = np.nonzero(split)
        number = split[parent, token]
        whole, none = real.classify(walker.child_prefixes(nodes, parent, token), nodes.depth + 1)
        inside += int(number[whole].sum())
        mixed = np.flatnonzero(~whole & ~none)
        if len(mixed):
            children = walker.step(nodes, parent[mixed], token[mixed], np.ones(len(mixed), dtype=np.float32))
            for start, block in zip(range(0, len(mixed), BLOCK), _blocks(children), strict=True):
                stack.append((block, number[mixed][start : start + BLOCK]))
    return inside


def largest_cells(
    walker: Walker, shape: tuple[int, ...], orders: list[Order], count: int, fixed: dict[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The real cells of the largest products, found best first without visiting the others.

    No factor exceeds 1, so that a node's product bounds every cell below it: what cannot beat the cells in hand
    is never expanded.

    Parameters
    ----------
    shape, orders
        Real sizes of the modes (ascending) and the position of every index.
    count
        Number of cells wanted; fewer come back where there are fewer.
    fixed
        Modes whose position is given, for a row, a column or a slice.

    Returns
    -------
    (k, D) positions and (k,) products, largest first.

    Raises
    ------
    InputError
        After expanding 2^21 nodes: nearly equal cells everywhere keep the bounds from deciding anything.
    """
    levels = walker.levels
    expanded = 0
    real = _RealCells(levels, shape, orders)
    found_at, found = np.zeros((0, len(levels.bits)), dtype=np.int64), np.zeros(0, dtype=np.float32)
    waiting: list[tuple[float, int, Nodes]] = [(-1.0, 0, walker.root())]
    pushed = 0
    while waiting and (len(found) < count or -waiting[0][0] > found[-1]):
        _, _, nodes = heapq.heappop(waiting)
        expanded += len(nodes)
        if expanded > SEARCH_NODES:
            raise InputError(
                f"largest: {expanded:,} prefixes looked at without an end, the model's cells are too much alike; "
                "fix the index of more modes"
            )
        parent, token, product = _children(walker, nodes)
        prefix = walker.child_prefixes(nodes, parent, token)
        kept = ~real.classify(prefix, nodes.depth + 1)[1]
        for mode, position in fixed.items():
            kept &= prefix[:, mode] == position >> max(levels.bits[mode] - nodes.depth - 1, 0)
        if len(found) == count:
            kept &= product > found[-1]
        chosen = np.flatnonzero(kept)
        chosen = chosen[np.argsort(-product[chosen], kind="stable")]
        if nodes.depth + 1 == levels.depth:
            found_at = np.concatenate((found_at, prefix[chosen]))
            found = np.concatenate((found, product[chosen]))
            best = np.argsort(-found, kind="stable")[:count]
            found_at, found = found_at[best], found[best]
            continue
        for start in range(0, len(chosen), SEARCH_BLOCK):
            part = chosen[start : start + SEARCH_BLOCK]
            children = walker.step(nodes, parent[part], token[part], product[part])
            pushed += 1
            heapq.heappush(waiting, (-float(children.product[0]), pushed, children))
    return found_at, found
