"""The sparse tensor: coordinates and values of the non-zeros, sorted, checked, exact on disk."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.files import atomic_path, naming, refuse_clashes
from pipeline.errors import InputError
from pipeline.sparse.grid import LARGEST_SIZE, linear_index
from pipeline.sparse.header import ROW_GROUP, Header
from pipeline.sparse.labels import Label, LabelFiles, as_labels
from pipeline.sparse.reals import EXACT_INTEGER, as_float64, narrowest_exact_type

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import coo_array

log = logging.getLogger(__name__)
NUMERIC = ("integer", "floating", "mixed-integer-float", "decimal", "boolean", "empty")  # as pandas infers them

MARKED_SHARE = 16  # indices a non-zero, up to which those that occur are marked


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
    labels
        By mode what its indices stand for, texts or whole numbers, where they stand for something.

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
        labels: Mapping[int, Sequence[Label]] | None = None,
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
        self.labels = _checked_labels(labels or {}, self.shape)

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

    def total(self, number: float) -> float:
        """A sum over the non-zeros that lie here as one over all: the same, unless this is a share of a tensor."""
        return number

    def occurring(self, mode: int) -> npt.NDArray[np.int64]:
        """Distinct indices of a mode, rising; found by marking where that takes no more memory than the indices do."""
        index, size = self.coords[:, mode], self.shape[mode]
        if size > MARKED_SHARE * len(index):
            return np.unique(index)
        marked = np.zeros(size, dtype=bool)
        marked[index] = True
        return np.flatnonzero(marked)

    def with_entries(
        self, coords: npt.NDArray[np.int64], values: npt.NDArray[np.float64], shape: Sequence[int]
    ) -> SparseTensor:
        """The tensor of these entries in place of its own, with its mode names."""
        return SparseTensor(coords, values, shape, mode_names=self.mode_names)

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
    def of(cls, X: Any) -> SparseTensor:
        """A sparse tensor from what holds one.

        Raises
        ------
        InputError
            Neither a :class:`SparseTensor`, nor a sparse tensor of SciPy, torch or pydata/sparse (with zeros where
            nothing is stored), nor an array of real numbers.
        """
        if isinstance(X, SparseTensor):
            return X
        if not isinstance(X, np.ndarray) and getattr(X, "fill_value", 0) != 0:
            raise InputError(f"a {type(X).__name__} whose other cells are {X.fill_value}: only 0 is sparse")
        if hasattr(X, "fill_value") and hasattr(X, "asformat"):  # of pydata/sparse
            X = X.asformat("coo")
        elif hasattr(X, "tocoo"):
            return cls.from_scipy(X)
        if all(hasattr(X, name) for name in ("coords", "data", "shape")):
            return cls(np.asarray(X.coords).T, X.data, X.shape)
        if hasattr(X, "to_sparse_coo"):  # of torch, sparse or not
            if X.is_meta:
                raise InputError("a tensor of torch on the device meta holds no values")
            entries = X.detach().cpu().to_sparse_coo().coalesce()
            values = entries.values()
            exact = values.double() if values.is_floating_point() else values  # NumPy knows no bfloat16
            return cls(entries.indices().T.numpy(), exact.numpy(), tuple(entries.shape))
        if isinstance(X, np.ndarray | list | tuple):
            return cls.from_dense(X)
        hint = "; SparseTensor.from_pandas(frame, modes, value) takes a table" if hasattr(X, "columns") else ""
        raise InputError(
            f"a {type(X).__name__} where a SparseTensor belongs, or an array of SciPy, NumPy, torch or pydata/sparse"
            + hint
        )

    @classmethod
    def from_dense(cls, array: npt.ArrayLike) -> SparseTensor:
        """Take the non-zeros of a dense array of any order.

        Raises
        ------
        InputError
            An array of something else than real numbers, of no axis, without a non-zero, or with masked cells.
        """
        if isinstance(array, np.ma.MaskedArray):
            raise InputError("a masked array: say what the masked cells are, for example X.filled(0)")
        try:
            dense = np.asarray(array)
        except ValueError as error:
            raise InputError(f"no array of numbers ({error})") from error
        if dense.dtype.kind not in "iubf" or dense.ndim < 1:
            raise InputError(f"an array of type {dense.dtype} with {dense.ndim} axes: a tensor holds real numbers")
        coords = np.argwhere(dense)
        return cls(coords, dense[tuple(coords.T)], dense.shape)

    @classmethod
    def from_pandas(cls, frame: pd.DataFrame, modes: Sequence[Any], value: Any = None) -> SparseTensor:
        """Take a table with a column for each mode; what stands in these becomes the labels, in sorted order.

        Parameters
        ----------
        modes
            Names of the columns that become modes, in this order.
        value
            Name of the column of the values; without, every row counts 1. Rows of one cell add up.

        Raises
        ------
        InputError
            No such column, a missing label, labels that cannot be sorted, values that are no finite numbers.

        Examples
        --------
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"user": ["bob", "ann"], "item": [7, 7], "n": [1, 2]})
        >>> X = SparseTensor.from_pandas(frame, ["user", "item"], "n")
        >>> X.labels, X.to_dense().tolist()
        ({0: ['ann', 'bob'], 1: [7]}, [[2.0], [1.0]])
        """
        import pandas as pd

        if isinstance(modes, str) or not len(modes):
            raise InputError(f"modes={modes!r}: name the columns in a list")
        for name in [*modes, *([] if value is None else [value])]:
            if not isinstance(frame.get(name), pd.Series):
                raise InputError(f"no single column '{name}'; there are: {', '.join(map(str, frame.columns))}")
        labels: dict[int, Sequence[Label]] = {}
        coords = np.empty((len(frame), len(modes)), dtype=np.int64)
        for mode, name in enumerate(modes):
            try:
                codes, distinct = pd.factorize(frame[name], sort=True)
            except TypeError as error:
                raise InputError(
                    f"column '{name}': its labels cannot be told apart and sorted ({error}); make them text"
                ) from error
            if (codes < 0).any():
                raise InputError(f"row {int(np.argmin(codes))}: column '{name}' has no label; leave such rows out")
            coords[:, mode], labels[mode] = codes, as_labels(distinct)
        values = np.ones(len(frame)) if value is None else _numbers(frame[value])
        shape = [max(1, len(labels[mode])) for mode in range(len(modes))]
        return cls(coords, values, shape, mode_names=[str(name) for name in modes], labels=labels if len(frame) else {})

    @classmethod
    def from_scipy(cls, matrix: Any) -> SparseTensor:
        """Take a SciPy sparse matrix or array of any format; explicit duplicates are summed.

        Raises
        ------
        InputError
            Its indices or pointers lead out of it, which SciPy's compiled code would follow.
        """
        try:
            if hasattr(matrix, "check_format"):
                matrix.check_format(full_check=True)
            entries = matrix.tocoo()
        except ValueError as error:
            raise InputError(f"a {type(matrix).__name__} whose parts do not fit together ({error})") from error
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
            labels={place: self.labels[mode] for place, mode in enumerate(order) if mode in self.labels},
        )

    def write_parquet(self, path: str | Path) -> None:
        """Write the Parquet sparse tensor (columns ``mode_0 ..``, ``value``; metadata under ``kronflow``).

        The file appears whole or not at all; a previous file survives a failure. Labels of a mode go into a file
        beside it, ``<stem>.labels-<mode>.parquet``.

        Raises
        ------
        InputError
            No room, or another file stands where labels belong.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            f"mode_{mode}": self.coords[:, mode].astype(np.min_scalar_type(size - 1))
            for mode, size in enumerate(self.shape)
        }
        columns["value"] = self.values.astype(narrowest_exact_type(self.values))
        files = LabelFiles(path, {mode: {"label": labels} for mode, labels in self.labels.items()})
        refuse_clashes([], [path], files.marks)
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(path))  # first in, last to appear: its labels are there then
            entry = files.write(stack)
            stack.enter_context(naming(path))  # what fails from here on is the tensor, not its labels
            header = Header(self.shape, self.nnz, self.norm2, self.mode_names, self.source, entry)
            table = pa.table(columns).replace_schema_metadata({"kronflow": header.text()})
            pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
        files.remove_others()

    @classmethod
    def read_parquet(cls, path: str | Path, labels: bool = False) -> SparseTensor:
        """Read a Parquet sparse tensor and check it against its own metadata.

        Parameters
        ----------
        labels
            Whether the labels of its modes are read too, from the files beside it; where one is not there, the log
            says so.

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
        tensor.labels = reader.labels() if labels else {}
        return tensor


def _numbers(column: pd.Series[Any]) -> npt.NDArray[Any]:
    """Values of a column as they are, without loss where they are whole; texts, dates and complex numbers are none."""
    import pandas as pd

    found = column.to_numpy()
    if found.dtype.kind in "iubf":
        return found
    kind = pd.api.types.infer_dtype(found, skipna=True)
    if kind not in NUMERIC:
        raise InputError(f"column '{column.name}': values that are no numbers ({kind}); pandas.to_numeric reads texts")
    try:
        whole = kind == "integer" and not column.isna().any()
        return column.to_numpy(np.int64) if whole else column.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"column '{column.name}': values that are no numbers of 64 bits ({error})") from error


def _checked_labels(labels: Mapping[int, Sequence[Label]], shape: tuple[int, ...]) -> dict[int, Sequence[Label]]:
    for mode, found in labels.items():
        if not 0 <= mode < len(shape) or len(found) != shape[mode]:
            raise InputError(f"{len(found):,} labels of mode {mode} for a tensor of shape {shape}: one an index")
    return dict(labels)


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
    entries = as_float64(values)
    if values.dtype.kind in "iu" and values.itemsize == 8 and (count := _rounded(values, entries)):
        log.warning("%d whole numbers beyond 2^53 are kept as the nearest 64-bit real", count)
    bad = ~np.isfinite(entries)
    if bad.any():
        entry = int(np.argmax(bad))
        raise InputError(f"entry {entry}: value {entries[entry]} at {coords[entry].tolist()} is not finite")
    return entries


def _rounded(whole: npt.NDArray[Any], entries: npt.NDArray[np.float64]) -> int:
    """How many whole numbers of 64 bits are not what became of them."""
    large = np.flatnonzero(np.abs(entries) >= EXACT_INTEGER)
    return sum(int(whole[place]) != int(entries[place]) for place in large.tolist())


def _checked_mode_names(names: Sequence[str] | None, order: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"mode_{mode}" for mode in range(order))
    if len(names) != order:
        raise InputError(f"{len(names)} mode names {list(names)} for {order} modes")
    return tuple(names)
