"""From raw entries to the sparse tensor: labels to indices, duplicates summed, modes ascending by size.

The work goes in three passes, so that memory stays bounded whatever the number of entries:

1. Blocks of the reader are kept with labels as codes, in memory or, beyond a budget, in a file beside the
   result. Sizes of the modes are known after it.
2. Coordinates become one number each, the row-major number of the cell. Where they do not fit in memory
   they are first dealt into ranges of cells. Each range is sorted and summed.
3. The sorted ranges, one after the other, are the result.

Cell numbers need a grid of fewer than 2^63 cells. A larger one is sorted in memory by its coordinates.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.datasets.labels import LabelCodes, Labels
from pipeline.datasets.raw import Array, Keys, RawTensor
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.stream import TensorWriter
from pipeline.sparse.tensor import EXACT_INTEGER, narrowest_exact_type

IN_MEMORY = 1 << 30  # bytes of entries kept in memory; about three times as much is in use at the peak
PIECE = 1 << 20  # cells handed on at a time
SEEN = 10_000  # entries for each range that decide where the ranges end

Cells = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Run = tuple[Cells, Values]  # distinct cells in ascending order and their values
Places = tuple[list[Array], Array]  # indices of each mode of the result, and values


@dataclass
class Assembled:
    """A tensor's header, and its non-zeros in order by :meth:`blocks`.

    Attributes
    ----------
    shape, nnz, norm2, mode_names, source
        As in :class:`~pipeline.sparse.SparseTensor`.
    labels
        Of each mode; None where there are none.
    entries
        Raw entries; `duplicates` of them were added into another one.
    zeros
        Cells that were zero after that.
    value_type
        The narrowest type that holds all values exactly.
    """

    shape: tuple[int, ...]
    mode_names: tuple[str, ...]
    labels: list[Labels | None]
    source: dict[str, Any]
    entries: int
    nnz: int = 0
    norm2: float = 0.0
    duplicates: int = 0
    zeros: int = 0
    value_type: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    runs: Iterable[list[Array]] = ()  # cells or coordinates in order, and values

    def blocks(self) -> Iterator[tuple[Cells, Values]]:
        """Yield sorted coordinates (n, D) and values (n,)."""
        for cells, values in self.runs:
            for start in range(0, len(values), PIECE):
                part = slice(start, start + PIECE)
                coords = cells[part] if cells.ndim == 2 else unravel(cells[part], self.shape)
                yield coords, values[part].astype(np.float64)

    def write(self, path: str | Path) -> None:
        """Write the Parquet sparse tensor."""
        with TensorWriter(path, self.shape, self.value_type, self.mode_names, self.source) as writer:
            for coords, values in self.blocks():
                writer.write(coords, values)

    @property
    def tensor(self) -> SparseTensor:
        """The whole tensor in memory."""
        blocks = list(self.blocks())
        coords, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return SparseTensor(coords, values, self.shape, mode_names=self.mode_names, source=self.source)

    def __repr__(self) -> str:
        sizes = " x ".join(f"{size:,}" for size in self.shape)
        return f"{sizes}, {self.nnz:,} non-zeros, norm2 {self.norm2:,.6g}"


def assemble(
    raw: RawTensor, source: dict[str, Any], folder: Path | None = None, in_memory: int | None = None
) -> Assembled:
    """Sort and sum the entries of a raw data set.

    Parameters
    ----------
    source
        Metadata to store with the tensor, beside the notes of the reader.
    folder
        Where entries beyond the budget go for the time being; None: the system's folder for such files.
    in_memory
        Bytes of entries kept in memory.

    Raises
    ------
    InputError
        No entries, or only entries that cancel each other; an index or a value that is not allowed.
    """
    budget = IN_MEMORY if in_memory is None else in_memory
    store = _Store(folder, budget)
    codes = [None if mode.indexed else LabelCodes() for mode in raw.modes]
    largest = [-1] * len(raw.modes)
    entries = 0
    for keys, values in tqdm(raw.blocks, desc="reading", unit=" blocks", disable=None, leave=False):
        if len(values):
            _check_values(values, entries)
            store.add([*_coded(keys, codes, largest, raw), _narrow(values)])
            entries += len(values)
    if entries == 0:
        raise InputError("empty tensor: the raw files have no entry")
    ranks = [None if each is None else each.ranks() for each in codes]
    sizes = [
        mode.size or top + 1 if rank is None else rank.size
        for mode, rank, top in zip(raw.modes, ranks, largest, strict=True)
    ]
    order = sorted(range(len(sizes)), key=lambda position: sizes[position])
    labels = [mode.labels if rank is None else rank.labels for mode, rank in zip(raw.modes, ranks, strict=True)]
    result = Assembled(
        shape=tuple(sizes[position] for position in order),
        mode_names=tuple(raw.modes[position].name for position in order),
        labels=[labels[position] for position in order],
        source=source | raw.notes,
        entries=entries,
    )

    def places() -> Iterator[Places]:
        for *columns, values in store:
            indices = [column if rank is None else rank(column) for column, rank in zip(columns, ranks, strict=True)]
            yield [indices[position] for position in order], values

    _sort(result, places, store, budget)
    return result


def _coded(keys: list[Keys], codes: list[LabelCodes | None], largest: list[int], raw: RawTensor) -> list[Array]:
    columns: list[Array] = []
    for position, (key, code) in enumerate(zip(keys, codes, strict=True)):
        if code is not None:
            columns.append(code.encode(key))
            continue
        low, high = int(key.min()), int(key.max())
        size = raw.modes[position].size
        if low < 0 or (size is not None and high >= size):
            raise InputError(f"index {low if low < 0 else high} in mode '{raw.modes[position].name}' is out of range")
        largest[position] = max(largest[position], high)
        columns.append(key.astype(np.min_scalar_type(high)))
    return columns


def _check_values(values: Array, entries: int) -> None:
    if values.dtype.kind in "iu":
        return
    finite = np.isfinite(values)
    if not finite.all():
        entry = int(np.argmin(finite))
        raise InputError(f"entry {entries + entry}: value {values[entry]} is not finite")


def _narrow(values: Array) -> Array:
    if values.dtype.kind in "iu" and int(values.min()) >= 0:
        high = int(values.max())
        return values.astype(np.min_scalar_type(high) if high <= EXACT_INTEGER else np.float64)
    return values.astype(narrowest_exact_type(values.astype(np.float64, copy=False)), copy=False)


class _Store:
    """Blocks of columns, in memory up to a budget, then in a file that vanishes with the object."""

    def __init__(self, folder: Path | None, budget: int) -> None:
        self.folder = folder
        self.budget = budget
        self.bytes = 0
        self.blocks: list[list[Array]] = []
        self.layout: list[list[tuple[np.dtype[Any], int]]] = []
        self.file: IO[bytes] | None = None

    def add(self, columns: list[Array]) -> None:
        self.bytes += sum(column.nbytes for column in columns)
        if self.file is None and self.bytes <= self.budget:
            self.blocks.append(columns)
            return
        if self.file is None:
            self.file = temporary_file(self.folder)
            for block in self.blocks:
                self._append(block)
            self.blocks = []
        self._append(columns)

    def _append(self, columns: list[Array]) -> None:
        assert self.file is not None  # noqa: S101 - opened by add
        for column in columns:
            self.file.write(np.ascontiguousarray(column).data)
        self.layout.append([(column.dtype, len(column)) for column in columns])

    def __iter__(self) -> Iterator[list[Array]]:
        yield from self.blocks
        if self.file is not None:
            self.file.seek(0)
            for block in self.layout:
                yield [np.frombuffer(self.file.read(kind.itemsize * count), kind) for kind, count in block]


def temporary_file(folder: Path | None) -> IO[bytes]:
    """Open a file without a name: it takes room until it is closed, and none if the process dies."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


def _sort(result: Assembled, places: Callable[[], Iterator[Places]], store: _Store, budget: int) -> None:
    """Fill in the sorted runs of `result` and what is known of its values after that."""
    if math.prod(result.shape) >= 2**63:
        runs: Iterable[Run] = [_sum_coordinates(list(places()))]
        kept: Any = _Kept()
    else:
        parts = math.ceil(16 * result.entries / budget)
        blocks = ((ravel(indices, result.shape), values) for indices, values in places())
        ranges = [list(blocks)] if parts <= 1 else _deal(places, parts, result, store.folder)
        runs = map(_sum_cells, ranges)
        kept = _Store(store.folder, budget)
    low, high, whole = np.inf, -np.inf, True
    for cells, values in runs:
        nonzero = values != 0
        result.zeros += int(len(values) - np.count_nonzero(nonzero))
        if not nonzero.all():
            cells, values = cells[nonzero], values[nonzero]
        if len(values) == 0:
            continue
        result.nnz += len(values)
        result.norm2 += float(np.sum(values * values))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        whole = whole and bool(np.all(values == np.rint(values)))
        kept.add([cells, _narrow(values)])
    result.duplicates = result.entries - result.nnz - result.zeros
    if result.nnz == 0:
        raise InputError("empty tensor: its entries add up to zero everywhere")
    result.value_type = narrowest_exact_type(np.array([low, high])) if whole else np.dtype(np.float64)
    result.runs = kept


class _Kept(list[list[Array]]):
    """Runs in memory."""

    def add(self, columns: list[Array]) -> None:
        self.append(columns)


def ravel(indices: list[Array], shape: tuple[int, ...]) -> Cells:
    """Return the row-major number of each cell."""
    cells = indices[0].astype(np.int64)
    for index, size in zip(indices[1:], shape[1:], strict=True):
        cells *= size
        cells += index
    return cells


def unravel(cells: Cells, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the (n, D) coordinates of cells."""
    coords = np.empty((len(cells), len(shape)), dtype=np.int64)
    rest = cells
    for mode in range(len(shape) - 1, 0, -1):
        rest, coords[:, mode] = np.divmod(rest, shape[mode])
    coords[:, 0] = rest
    return coords


def _sum_cells(part: list[tuple[Cells, Array]]) -> Run:
    """Sort the entries of one range and add up those of one cell."""
    cells = np.concatenate([cells for cells, _ in part])
    values = np.concatenate([values for _, values in part])
    part.clear()
    bits = int(values.max()).bit_length() if values.dtype.kind == "u" else 64
    if int(cells.max()).bit_length() + bits <= 63:
        cells <<= bits  # cell and value in one number, which sorts several times faster than through an index
        cells |= values.astype(np.int64)
        cells.sort()
        values = cells & ((1 << bits) - 1)
        cells >>= bits
    elif not np.all(cells[1:] > cells[:-1]):
        order = np.argsort(cells, kind="stable")
        cells, values = cells[order], values[order]
    starts = np.flatnonzero(np.concatenate(([True], cells[1:] != cells[:-1])))
    exact = values.dtype.kind != "f" and float(np.abs(values).max()) * len(values) < 2**62
    wide = values.astype(np.int64 if exact else np.float64, copy=False)
    if len(starts) == len(cells):
        return cells, wide.astype(np.float64, copy=False)
    return cells[starts], np.add.reduceat(wide, starts).astype(np.float64, copy=False)


def _deal(
    places: Callable[[], Iterator[Places]], parts: int, result: Assembled, folder: Path | None
) -> Iterator[list[tuple[Cells, Array]]]:
    """Yield the entries by ranges of cells with about equal numbers of entries, each range in a file until then."""
    shape = result.shape
    step = max(1, result.entries // (parts * SEEN))
    seen = np.concatenate([ravel(indices, shape)[::step] for indices, _ in places()])
    seen.sort()
    bounds = np.unique(seen[np.linspace(0, len(seen), parts + 1)[1:-1].astype(np.int64)])
    stores = [_Store(folder, 0) for _ in range(len(bounds) + 1)]
    for indices, values in places():
        cells = ravel(indices, shape)
        order = np.argsort(cells)
        cells, values = cells[order], values[order]
        cuts = np.searchsorted(cells, bounds)
        for store, piece, amounts in zip(stores, np.split(cells, cuts), np.split(values, cuts), strict=True):
            if len(piece):
                store.add([piece, amounts])
    while stores:
        part = [(cells, values) for cells, values in stores.pop(0)]
        if part:
            yield part


def _sum_coordinates(blocks: list[Places]) -> Run:
    """Sort by coordinates in memory, for grids whose cells have no number of 64 bits."""
    coords = np.stack([np.concatenate(columns) for columns in zip(*(indices for indices, _ in blocks), strict=True)], 1)
    values = np.concatenate([values.astype(np.float64) for _, values in blocks])
    order = np.lexsort(coords.T[::-1])
    coords, values = coords[order].astype(np.int64), values[order]
    starts = np.flatnonzero(np.concatenate(([True], np.any(coords[1:] != coords[:-1], axis=1))))
    return coords[starts], np.add.reduceat(values, starts)
