"""The sparse tensor: coordinates and values of the non-zeros, sorted, checked, exact on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.files import atomic_path
from pipeline.errors import InputError
from pipeline.sparse.grid import LARGEST_SIZE, linear_index
from pipeline.sparse.header import Header

if TYPE_CHECKING:
    from scipy.sparse import coo_array

ROW_GROUP = 1 << 20
EXACT_INTEGER = 2.0**53  # above this float64 skips integers


class SparseTensor:
    """A sparse tensor of any order D >= 1 in coordinate form.

    Parameters
    ----------
    coords
        (nnz, D) integers, 0-based.
    values
        (nnz,) real numbers, finite.
    shape
        Sizes of the D modes, each at least 1 and more than every index in that mode.
    mode_names
        D names for people; ``mode_0 ..`` if left out.
    source
        Free metadata that travels with the file: where the data came from, checksums of the raw files.

    Attributes
    ----------
    coords
        (nnz, D) int64, sorted lexicographically, distinct.
    values
        (nnz,) float64, none of them zero.
    duplicates_summed, zeros_dropped
        How many of the given entries were added into another one, and how many cells were zero after that.

    Raises
    ------
    InputError
        Wrong shapes, no entries left, NaN or infinity, an index that is negative, too large or no integer.

    Examples
    --------
    >>> X = SparseTensor([[0, 1], [2, 0], [0, 1]], [1.0, 5.0, 2.0], (3, 2))
    >>> X.nnz, X.norm2, X.duplicates_summed
    (2, 34.0, 1)
    >>> X.coords.tolist(), X.values.tolist()
    ([[0, 1], [2, 0]], [3.0, 5.0])
    """

    coords: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    shape: tuple[int, ...]

    def __init__(
        self,
        coords: npt.ArrayLike,
        values: npt.ArrayLike,
        shape: Sequence[int],
        *,
        mode_names: Sequence[str] | None = None,
        source: dict[str, Any] | None = None,
    ) -> None:
        self.shape = _checked_shape(shape)
        index = _checked_coords(np.asarray(coords), self.shape)
        entries = _checked_values(np.asarray(values), index)
        index, entries, self.duplicates_summed = _sort_and_sum(index, entries, self.shape)
        kept = entries != 0
        self.zeros_dropped = int(len(entries) - np.count_nonzero(kept))
        if self.zeros_dropped:
            index, entries = index[kept], entries[kept]
        if len(entries) == 0:
            raise InputError(f"empty tensor of shape {self.shape}: it has no non-zero entry; check the source")
        self.coords = np.ascontiguousarray(index)
        self.values = entries
        self.mode_names = _checked_mode_names(mode_names, len(self.shape))
        self.source = dict(source or {})

    @property
    def order(self) -> int:
        """Number of modes D."""
        return len(self.shape)

    @property
    def nnz(self) -> int:
        """Number of non-zeros."""
        return len(self.values)

    @property
    def norm2(self) -> float:
        """Squared Frobenius norm, the sum of the squared entries; infinite where that overflows."""
        with np.errstate(over="ignore"):
            return float(np.sum(self.values * self.values))

    @property
    def density(self) -> float:
        """Share of the cells that are not zero."""
        return self.nnz / math.prod(self.shape)

    def __repr__(self) -> str:
        sizes = " x ".join(f"{size:,}" for size in self.shape)
        return f"SparseTensor({sizes}, {self.nnz:,} non-zeros, norm2 {self.norm2:,.6g})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SparseTensor)
            and self.shape == other.shape
            and np.array_equal(self.coords, other.coords)
            and np.array_equal(self.values, other.values)
        )

    __hash__ = None  # type: ignore[assignment]

    def to_dense(self) -> npt.NDArray[np.float64]:
        """Return the whole array; for small tensors and tests."""
        dense = np.zeros(self.shape)
        dense[tuple(self.coords.T)] = self.values
        return dense

    @classmethod
    def from_dense(cls, array: npt.ArrayLike) -> SparseTensor:
        """Take the non-zeros of a dense array of any order."""
        dense = np.asarray(array, dtype=np.float64)
        coords = np.argwhere(dense)
        return cls(coords, dense[tuple(coords.T)], dense.shape)

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseTensor:
        """Take a SciPy sparse matrix or array of any format; explicit duplicates are summed."""
        entries = matrix.tocoo()
        return cls(np.stack(entries.coords, axis=1), entries.data, entries.shape)

    def to_scipy(self) -> coo_array:
        """Return a :class:`scipy.sparse.coo_array` with the same entries (any order)."""
        from scipy.sparse import coo_array

        result: coo_array = coo_array((self.values, tuple(self.coords.T)), shape=self.shape)
        return result

    def permute_modes(self, order: Sequence[int]) -> SparseTensor:
        """Return the tensor whose mode d is this one's mode ``order[d]``."""
        return SparseTensor(
            self.coords[:, list(order)],
            self.values,
            [self.shape[mode] for mode in order],
            mode_names=[self.mode_names[mode] for mode in order],
            source=self.source,
        )

    def write_parquet(self, path: str | Path) -> None:
        """Write the Parquet sparse tensor (columns ``mode_0 ..``, ``value``; metadata under ``kronflow``).

        The file appears whole or not at all; a previous file survives a failure.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            f"mode_{mode}": self.coords[:, mode].astype(np.min_scalar_type(size - 1))
            for mode, size in enumerate(self.shape)
        }
        columns["value"] = self.values.astype(narrowest_exact_type(self.values))
        header = Header(self.shape, self.nnz, self.norm2, self.mode_names, self.source)
        table = pa.table(columns).replace_schema_metadata({"kronflow": header.text()})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)

    @classmethod
    def read_parquet(cls, path: str | Path) -> SparseTensor:
        """Read a Parquet sparse tensor and check it against its own metadata.

        Raises
        ------
        InputError
            No Parquet file, no ``kronflow`` metadata, or contents that contradict it; rows that are not sorted and
            distinct, or values that are zero or not finite.
        """
        from pipeline.sparse.stream import TensorReader

        reader = TensorReader(path)
        coords, values, start = np.empty((0, len(reader.shape)), dtype=np.int64), np.empty(0), 0
        for part, entries in reader.blocks():
            if start == 0:  # what the first rows are found to be comes before room for all of them
                coords, values = np.empty((reader.nnz, len(reader.shape)), dtype=np.int64), np.empty(reader.nnz)
            coords[start : start + len(part)], values[start : start + len(part)] = part, entries
            start += len(part)
        tensor = cls.__new__(cls)  # the reader has checked what the constructor does
        tensor.shape, tensor.coords, tensor.values = reader.shape, coords, values
        tensor.duplicates_summed = tensor.zeros_dropped = 0
        tensor.mode_names, tensor.source = reader.mode_names, dict(reader.source)
        return tensor


def narrowest_exact_type(values: npt.NDArray[np.float64]) -> np.dtype[Any]:
    """Return the smallest integer type that holds all `values` exactly, else float64."""
    low, high = float(values.min()), float(values.max())
    whole = bool(np.all(values == np.rint(values))) and max(-low, high) <= EXACT_INTEGER
    if not whole:
        return np.dtype(np.float64)
    if low >= 0:
        return np.min_scalar_type(int(high))
    return np.promote_types(np.min_scalar_type(int(low)), np.min_scalar_type(-int(high) - 1 if high > 0 else -1))


def _sort_and_sum(
    coords: npt.NDArray[np.int64], values: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int]:
    """Sort entries lexicographically and add up those of one cell; returns the number added into another."""
    if len(values) < 2:
        return coords, values, 0
    number = linear_index(coords, shape)
    if number is not None:
        if np.all(number[1:] > number[:-1]):
            return coords, values, 0
        order = np.argsort(number, kind="stable")
        number = number[order]
        first = np.concatenate(([True], number[1:] != number[:-1]))
    else:
        order = np.lexsort(coords.T[::-1])
        ranked = coords[order]
        first = np.concatenate(([True], np.any(ranked[1:] != ranked[:-1], axis=1)))
    coords, values = coords[order], values[order]
    starts = np.flatnonzero(first)
    if len(starts) == len(values):
        return coords, values, 0
    return coords[starts], np.add.reduceat(values, starts), len(values) - len(starts)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in shape)
        usable = bool(sizes) and all(1 <= size == given for size, given in zip(sizes, shape, strict=True))
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        raise InputError(f"shape {str(shape)[:60]}: needs one whole number of at least 1 for each mode")
    if max(sizes) > LARGEST_SIZE:
        raise InputError(f"shape {str(sizes)[:60]}: a mode has at most {LARGEST_SIZE:,} indices")
    return sizes


def _checked_coords(coords: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    if coords.ndim != 2 or coords.shape[1] != len(shape):
        raise InputError(f"coords of shape {coords.shape} for a tensor of shape {shape}: needs (nnz, {len(shape)})")
    if coords.dtype.kind == "f":
        bad = ~np.isfinite(coords) | (coords != np.rint(coords))
        if bad.any():
            entry, mode = np.argwhere(bad)[0]
            raise InputError(f"entry {entry}: index {coords[entry, mode]} in mode {mode} is no whole number")
    elif coords.dtype.kind not in "iub":
        raise InputError(f"coords of type {coords.dtype}: indices are whole numbers")
    limits = np.asarray(shape)
    outside = (coords < 0) | (coords >= limits)
    if outside.any():
        entry, mode = np.argwhere(outside)[0]
        raise InputError(
            f"entry {entry}: index {coords[entry, mode]} in mode {mode} is outside 0..{shape[mode] - 1}; "
            "indices are 0-based"
        )
    return coords.astype(np.int64, copy=False)


def _checked_values(values: npt.NDArray[Any], coords: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    if values.ndim != 1 or len(values) != len(coords):
        raise InputError(f"values of shape {values.shape} for {len(coords)} coordinates: needs one value for each")
    if values.dtype.kind not in "iubf":
        raise InputError(f"values of type {values.dtype}: they must be real numbers")
    entries: npt.NDArray[np.float64] = values.astype(np.float64)
    bad = ~np.isfinite(entries)
    if bad.any():
        entry = int(np.argmax(bad))
        raise InputError(f"entry {entry}: value {entries[entry]} at {coords[entry].tolist()} is not finite")
    return entries


def _checked_mode_names(names: Sequence[str] | None, order: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"mode_{mode}" for mode in range(order))
    if len(names) != order:
        raise InputError(f"{len(names)} mode names {list(names)} for {order} modes")
    return tuple(names)
