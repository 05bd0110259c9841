"""Walk down the model's tree: all children of a set of prefixes, with their products.

Each level's factors have norm 1, so the squares below a node sum to the square of its product. That makes
X~^2 / q^L a probability distribution over the padded grid, and gives the mass on the real cells exactly
where the grid is small, by ancestral sampling where it is not.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.neukron.cells import CellState
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import Weights
from pipeline.sparse.orders import Order

BLOCK = 1 << 13  # nodes expanded together
EXACT_CELLS = 1 << 26  # larger padded grids are sampled straight away
EXACT_NODES = 1 << 22  # walk at most so many nodes before sampling takes over
SAMPLES = 1 << 17
SEARCH_BLOCK = 64  # nodes expanded together by best-first search
SEARCH_NODES = 1 << 21  # that it may expand: some minutes, and a gigabyte of states waiting


@dataclass
class Nodes:
    """Nodes of one depth: their tokens so far as positions' leading bits, products and states.

    ``prefix`` (n, D) int64, ``product`` (n,) float32, ``state`` the sequence model's, n rows each.
    """

    depth: int
    prefix: npt.NDArray[np.int64]
    product: Tensor
    state: CellState

    def select(self, rows: npt.NDArray[np.intp]) -> Nodes:
        """Some of the nodes."""
        index = torch.from_numpy(rows)
        state = tuple(part[index] for part in self.state)
        return Nodes(self.depth, self.prefix[rows], self.product[index], state)

    def __len__(self) -> int:
        return len(self.prefix)


class Walker:
    """Expands nodes of the tree of a model with the given level structure and weights (detached, CPU)."""

    def __init__(self, levels: Levels, weights: Weights) -> None:
        self.levels = levels
        self.weights = weights.replace([tensor.detach().cpu() for tensor in weights.tensors()])

    def root(self) -> Nodes:
        """The empty prefix."""
        state = self.weights.cell.start(self.weights.table, self.weights.table.dtype)
        return Nodes(0, np.zeros((1, len(self.levels.bits)), dtype=np.int64), torch.ones(1), state)

    def factors(self, nodes: Nodes) -> Tensor:
        """Normalised factors of the next level at every node, (n, alphabet)."""
        if nodes.depth == 0:
            return self.weights.first[None]
        return self.weights.factors(self.levels.alphabets[nodes.depth], nodes.state[0])

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

    def step(self, nodes: Nodes, parent: npt.NDArray[np.intp], token: npt.NDArray[np.int64], product: Tensor) -> Nodes:
        """The children that `token` leads to from the nodes `parent`, with their states."""
        prefix = self.child_prefixes(nodes, parent, token)
        level = nodes.depth + 1
        if level == self.levels.depth:
            return Nodes(level, prefix, product, ())
        rows = torch.from_numpy(token) + self.levels.embedding_offset(level)
        weights = self.weights
        state = weights.cell.step(weights.table, weights.inner, nodes.state, torch.from_numpy(parent), rows)
        return Nodes(level, prefix, product, state)


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
    inside = _sampled_inside(walker, real, rng, samples)
    return _wilson(inside, samples)


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


def _children(walker: Walker, nodes: Nodes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], Tensor]:
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
        total += float((product.double().numpy()[whole] ** 2).sum())
        mixed = np.flatnonzero(~whole & ~none)
        if len(mixed):
            children = walker.step(nodes, parent[mixed], token[mixed], product[torch.from_numpy(mixed)])
            stack.extend(_blocks(children))
    return min(total, 1.0)


def _sampled_inside(walker: Walker, real: _RealCells, rng: np.random.Generator, samples: int) -> int:
    """Number of ancestral samples that fall on real cells; samples at one node are split multinomially."""
    inside = 0
    stack = [(walker.root(), np.array([samples]))]
    while stack:
        nodes, counts = stack.pop()
        chances = walker.factors(nodes).double().numpy() ** 2
        chances = chances / chances.sum(axis=1, keepdims=True)
        split = rng.multinomial(counts, np.broadcast_to(chances, (len(nodes), chances.shape[1])))
        parent, token = np.nonzero(split)
        number = split[parent, token]
        whole, none = real.classify(walker.child_prefixes(nodes, parent, token), nodes.depth + 1)
        inside += int(number[whole].sum())
        mixed = np.flatnonzero(~whole & ~none)
        if len(mixed):
            children = walker.step(nodes, parent[mixed], token[mixed], torch.ones(len(mixed)))
            for start, block in zip(range(0, len(mixed), BLOCK), _blocks(children), strict=True):
                stack.append((block, number[mixed][start : start + BLOCK]))
    return inside


def _wilson(inside: int, samples: int) -> Mass:
    """Wilson's 95 % interval of a proportion."""
    z = 1.959963984540054
    share = inside / samples
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return Mass(share, max(0.0, centre - half), min(1.0, centre + half))


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
            kept &= product.numpy() > found[-1]
        chosen = np.flatnonzero(kept)
        chosen = chosen[np.argsort(-product.numpy()[chosen], kind="stable")]
        if nodes.depth + 1 == levels.depth:
            found_at = np.concatenate((found_at, prefix[chosen]))
            found = np.concatenate((found, product.numpy()[chosen]))
            best = np.argsort(-found, kind="stable")[:count]
            found_at, found = found_at[best], found[best]
            continue
        for start in range(0, len(chosen), SEARCH_BLOCK):
            part = chosen[start : start + SEARCH_BLOCK]
            children = walker.step(nodes, parent[part], token[part], product[torch.from_numpy(part)])
            pushed += 1
            heapq.heappush(waiting, (-float(children.product[0]), pushed, children))
    return found_at, found
