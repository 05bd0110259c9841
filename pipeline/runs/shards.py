"""A sparse tensor of which each of several processes holds a share of the non-zeros, and none all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.runs import distributed
from pipeline.sparse import SparseTensor
from pipeline.sparse.stream import TensorReader

SAMPLES = 1024  # keys that each process shows, so that all divide the keys alike

Integers = npt.NDArray[np.int64]


class Shard(SparseTensor):
    """This process's share: ``coords`` and ``values`` are its own rows, ``nnz`` and ``norm2`` those of the tensor."""

    _nnz: int
    _norm2: float

    @property
    def nnz(self) -> int:
        """Number of non-zeros of all processes."""
        return self._nnz

    @property
    def norm2(self) -> float:
        """Squared Frobenius norm of the whole tensor."""
        return self._norm2

    def total(self, number: float) -> float:
        """Sum over the processes."""
        return distributed.total(number)

    def occurring(self, mode: int) -> Integers:
        """Indices of a mode that occur in any process."""
        return np.unique(np.concatenate(distributed.gathered(super().occurring(mode))))

    def with_entries(self, coords: Integers, values: npt.NDArray[np.float64], shape: Sequence[int]) -> Shard:
        """The share of the same tensor in other indices."""
        inner = super().with_entries(coords, values, shape)
        return Shard._of(inner, inner.coords, inner.values, self.nnz, self.norm2)

    @classmethod
    def _of(
        cls, like: SparseTensor | TensorReader, coords: Integers, values: npt.NDArray[np.float64],
        nnz: int, norm2: float,
    ) -> Self:  # fmt: skip
        shard = cls.__new__(cls)  # its rows were checked where they come from
        shard.shape, shard.mode_names, shard.source = like.shape, like.mode_names, dict(like.source)
        shard.coords, shard.values, shard._nnz, shard._norm2 = coords, values, nnz, norm2
        shard.duplicates_summed = shard.zeros_dropped = 0
        shard.labels = dict(like.labels) if isinstance(like, SparseTensor) else {}
        return shard


def own_share(X: SparseTensor) -> SparseTensor:
    """This process's rows of a tensor that every process has; the tensor itself in a process of its own."""
    if distributed.size() == 1 or isinstance(X, Shard):
        return X
    rows = _rows(X.nnz)
    return Shard._of(X, X.coords[rows], X.values[rows], X.nnz, X.norm2)


def read_share(path: str | Path) -> SparseTensor:
    """Read this process's rows of a Parquet tensor; all of them in a process of its own.

    Every process reads and checks the whole file, block by block, and keeps its rows.

    Raises
    ------
    InputError
        As :meth:`SparseTensor.read_parquet`, or more processes than non-zeros.
    """
    if distributed.size() == 1:
        return SparseTensor.read_parquet(path)
    reader = TensorReader(path)
    rows, start = _rows(reader.nnz), 0
    coords, values = np.empty((0, len(reader.shape)), dtype=np.int64), np.empty(0)
    for part, entries in reader.blocks():
        if start == 0:  # what the first rows are found to be comes before room for all of them
            count = rows.stop - rows.start
            coords, values = np.empty((count, len(reader.shape)), dtype=np.int64), np.empty(count)
        own = slice(max(rows.start - start, 0), max(rows.stop - start, 0))
        place = slice(max(start - rows.start, 0), max(start + len(part) - rows.start, 0))
        coords[place], values[place] = part[own], entries[own]
        start += len(part)
    norm2 = distributed.total(float(np.sum(values * values)))
    return Shard._of(reader, coords, values, reader.nnz, norm2)


def _rows(nnz: int) -> slice:
    """A run of the rows of `nnz` for each process."""
    rank, size = distributed.rank(), distributed.size()
    if nnz < size:
        raise InputError(f"{size} processes for {nnz} non-zeros; start at most {nnz}")
    return slice(rank * nnz // size, (rank + 1) * nnz // size)


def owners(keys: Integers) -> Integers:
    """The process for each key, so that each gets a run of the sorted keys of all, about as long as the others'.

    Parameters
    ----------
    keys
        (words, n) of this process, compared lexicographically; no two alike in any process.

    Returns
    -------
    (n,) int64.
    """
    size = distributed.size()
    total = int(distributed.total(keys.shape[1]))
    shown = np.concatenate(distributed.gathered(keys[:, :: max(1, total // (size * SAMPLES))]), axis=1)
    shown = shown[:, np.lexsort(shown[::-1])]
    owner = np.zeros(keys.shape[1], dtype=np.int64)
    for number in range(1, size):
        splitter = shown[:, number * shown.shape[1] // size]
        beyond = np.ones(keys.shape[1], dtype=bool)
        for word, border in zip(keys[::-1], splitter[::-1], strict=True):
            beyond = (word > border) | ((word == border) & beyond)
        owner += beyond
    return owner
