"""What a sparse tensor looks like: degrees of its modes, its values, its connected components.

These are the quantities of Tables 3 and 7 and the distributions of NeuKron's supplement. A tensor comes in
blocks and is never in memory whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

MOST_VALUES = 10_000  # distinct values listed one by one; beyond, they are counted in bins
BINS = 200
LARGE = 1 << 22  # a mode of more indices is described by those that occur
EDGES = 1 << 23  # non-zeros joined at a time

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]  # coords (n, D), values (n,)


@dataclass(frozen=True)
class Distribution:
    """How often each number occurs.

    Attributes
    ----------
    numbers
        Distinct, ascending.
    counts
        How often each occurs, at least once.
    """

    numbers: Numbers
    counts: Counts

    @property
    def mean(self) -> float:
        """Mean of the numbers, each as often as it occurs."""
        return float(np.dot(self.numbers, self.counts) / self.counts.sum())

    @property
    def median(self) -> float:
        """The smallest number that is at least as large as half of all."""
        return float(self.numbers[np.searchsorted(np.cumsum(self.counts), self.counts.sum() / 2)])

    @property
    def largest(self) -> float:
        """The largest number."""
        return float(self.numbers[-1])


@dataclass(frozen=True)
class Description:
    """Statistics of a tensor.

    Attributes
    ----------
    shape, nnz, norm2
        As in :class:`~pipeline.sparse.SparseTensor`.
    degrees
        Of each mode: the number of non-zeros of an index, for indices that have any.
    sums
        Of each mode: the sum of the values of an index, for the same indices (the degrees of Table 7). Binned like
        `values` where there are too many.
    empty
        Of each mode: indices without a non-zero.
    values
        Of the non-zeros. Where `binned`, the numbers are geometric means of bins.
    components
        Number of indices, of all modes together, in a connected component. Two indices are connected when a
        non-zero has both among its coordinates; indices without non-zeros are left out.
    """

    shape: tuple[int, ...]
    nnz: int
    norm2: float
    degrees: list[Distribution]
    sums: list[Distribution]
    empty: list[int]
    values: Distribution
    binned: bool
    components: Distribution

    @property
    def density(self) -> float:
        """Share of the cells that are not zero."""
        return self.nnz / math.prod(self.shape)


def describe(blocks: Iterable[Block], shape: tuple[int, ...]) -> Description:
    """Compute the statistics of a tensor.

    Parameters
    ----------
    blocks
        Its non-zeros: distinct coordinates and values; gone through twice where a mode has more than 2^22 indices, of
        which those that occur are counted.

    Examples
    --------
    >>> import numpy as np
    >>> d = describe([(np.array([[0, 0], [0, 1], [2, 2]]), np.array([1.0, 1.0, 5.0]))], (3, 3))
    >>> d.degrees[0].numbers.tolist(), d.degrees[0].counts.tolist(), d.empty
    ([1.0, 2.0], [1, 1], [1, 0])
    >>> d.sums[0].numbers.tolist(), d.sums[0].counts.tolist()
    ([2.0, 5.0], [1, 1])
    >>> d.components.numbers.tolist(), d.components.counts.tolist()
    ([2.0, 3.0], [1, 1])
    """
    used = _occurring(blocks, [mode for mode, size in enumerate(shape) if size > LARGE])
    inner = tuple(len(used[mode]) if mode in used else size for mode, size in enumerate(shape))
    degrees = [np.zeros(size, dtype=np.int64) for size in inner]
    sums = [np.zeros(size) for size in inner]
    values = _ValueCounts()
    components = _Components(inner)
    nnz, norm2 = 0, 0.0
    for given, entries in blocks:
        coords = given.copy() if used else given
        for mode, indices in used.items():
            coords[:, mode] = np.searchsorted(indices, given[:, mode])
        for mode, size in enumerate(inner):
            degrees[mode] += np.bincount(coords[:, mode], minlength=size)
            sums[mode] += np.bincount(coords[:, mode], entries, minlength=size)
        values.add(entries)
        components.add(coords)
        nnz += len(entries)
        norm2 += float(np.sum(np.square(entries)))
    if nnz == 0:
        raise InputError(f"empty tensor of shape {shape}: nothing to describe")
    return Description(
        shape=shape,
        nnz=nnz,
        norm2=norm2,
        degrees=[_distribution(each[each > 0]) for each in degrees],
        sums=[_sum_distribution(own[each > 0]) for own, each in zip(sums, degrees, strict=True)],
        empty=[size - int(np.count_nonzero(each)) for size, each in zip(shape, degrees, strict=True)],
        values=values.distribution(),
        binned=values.binned,
        components=_distribution(components.sizes(np.concatenate(degrees) > 0)),
    )


def _occurring(blocks: Iterable[Block], modes: list[int]) -> dict[int, npt.NDArray[np.int64]]:
    """The indices that occur in given modes, rising."""
    found: dict[int, npt.NDArray[np.int64]] = {mode: np.empty(0, dtype=np.int64) for mode in modes}
    for coords, _ in blocks if modes else ():
        for mode in modes:
            found[mode] = np.union1d(found[mode], coords[:, mode])
    return found


def _distribution(numbers: npt.NDArray[np.int64]) -> Distribution:
    distinct, counts = np.unique(numbers, return_counts=True)
    return Distribution(distinct.astype(np.float64), counts)


def _sum_distribution(sums: Numbers) -> Distribution:
    counted = _ValueCounts()
    counted.add(sums)
    return counted.distribution()


class _ValueCounts:
    """Counts distinct values, and goes over to bins of their magnitude when there are too many."""

    def __init__(self) -> None:
        self.numbers: Numbers = np.empty(0)
        self.counts: Counts = np.empty(0, dtype=np.int64)
        self.binned = False

    def add(self, values: Numbers) -> None:
        numbers, counts = np.unique(_bin(values) if self.binned else values, return_counts=True)
        self._merge(np.concatenate([self.numbers, numbers]), np.concatenate([self.counts, counts]))
        if not self.binned and len(self.numbers) > MOST_VALUES:
            self.binned = True
            self._merge(_bin(self.numbers), self.counts)

    def _merge(self, numbers: Numbers, counts: Counts) -> None:
        self.numbers, place = np.unique(numbers, return_inverse=True)
        self.counts = np.bincount(place, weights=counts).astype(np.int64)

    def distribution(self) -> Distribution:
        return Distribution(self.numbers, self.counts)


def _bin(values: Numbers) -> Numbers:
    """Round magnitudes to the middle of one of 20 bins a power of ten; signs stay."""
    magnitude = np.zeros(len(values))  # of a sum that cancels out, too
    some = values != 0
    magnitude[some] = 10.0 ** ((np.floor(np.log10(np.abs(values[some])) * 20) + 0.5) / 20)
    signed: Numbers = np.copysign(magnitude, values)
    return signed


class _Components:
    """Connected components of the graph whose nodes are the indices of all modes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.offsets = np.concatenate(([0], np.cumsum(shape)))
        self.label = np.arange(self.offsets[-1])  # of each node: a node of its component
        self.waiting: list[npt.NDArray[np.int64]] = []
        self.count = 0

    def add(self, coords: npt.NDArray[np.int64]) -> None:
        self.waiting.append(coords + self.offsets[:-1])
        self.count += len(coords)
        if self.count >= EDGES:
            self._join()

    def _join(self) -> None:
        """Connect what waits with what is known, which is one edge from each node to its label."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        nodes = len(self.label)
        starts, ends = [np.arange(nodes)], [self.label]
        for coords in self.waiting:
            for mode in range(1, coords.shape[1]):
                starts.append(coords[:, 0])
                ends.append(coords[:, mode])
        rows, columns = np.concatenate(starts), np.concatenate(ends)
        graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(nodes, nodes)).tocsr()
        _, component = connected_components(graph, directed=False)
        first = np.full(component.max() + 1, -1)
        first[component[::-1]] = np.arange(nodes)[::-1]
        self.label = first[component]
        self.waiting, self.count = [], 0

    def sizes(self, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return the size of each component among the nodes that are present."""
        self._join()
        sizes = np.bincount(self.label[present])
        return sizes[sizes > 0]
