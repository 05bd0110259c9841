"""Parquet sparse tensors in pieces, for tensors that should not lie in memory whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.files import atomic_path, naming
from pipeline.errors import InputError
from pipeline.sparse.grid import LARGEST_SIZE
from pipeline.sparse.header import ROW_GROUP, Header, Rows, telling_damage
from pipeline.sparse.labels import Label, LabelFiles, read_label_files
from pipeline.sparse.pages import checked_pages

log = logging.getLogger(__name__)

Block = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]  # coords (n, D) and values (n,)


class TensorReader:
    """The header of a Parquet sparse tensor at once, its non-zeros in blocks.

    Attributes
    ----------
    shape, nnz, mode_names, source
        As in :class:`~pipeline.sparse.SparseTensor`.
    value_type
        NumPy type of the stored values.

    Raises
    ------
    InputError
        No such file, no Parquet file, or none of ours.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow.parquet as pq

        self.path = Path(path)
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else f"no such file; make it with 'snakemake {path}'"
            raise InputError(f"{path}: {what}")
        with telling_damage(self.path):
            self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
            schema = self._file.schema_arrow
            self.header = Header.parsed(self.path, schema.metadata)
            about = self._file.metadata
            self.header.check_columns(self.path, schema.names, schema.types, about.num_rows)
            checked_pages(self.path, range(about.num_columns))
            self.value_type = np.dtype(schema.field("value").type.to_pandas_dtype())
        self.shape, self.nnz, self.mode_names = self.header.shape, self.header.nnz, self.header.mode_names
        self.source = self.header.source

    def labels(self) -> dict[int, Sequence[Label]]:
        """Labels of the modes that have any, from the files beside; where one is not there, the log says so.

        Raises
        ------
        InputError
            A file of labels that is not the one that was written with the tensor.
        """
        if not self.header.labels:
            return {}
        found, missing = read_label_files(self.path, self.header.labels, self.shape)
        for mode in missing:
            log.warning("%s: labels of mode %d (%s) are not beside it, so indices stand for themselves",
                        self.path, mode, self.mode_names[mode])  # fmt: skip
        return dict(found)

    def blocks(self, size: int = ROW_GROUP) -> Iterator[Block]:
        """Yield the non-zeros in order, at most `size` at a time.

        Raises
        ------
        InputError
            A damaged file; missing values; rows that are not sorted and distinct or lie outside the shape; a value
            that is zero or not finite; after the last block, another number of rows or norm2 than the metadata's.
        """
        rows = Rows(self.path, self.header)
        batches = self._file.iter_batches(batch_size=size)
        while True:
            with telling_damage(self.path):
                batch = next(batches, None)
                if batch is None:
                    break
                if any(column.null_count for column in batch.columns):
                    raise InputError(f"{self.path}: missing values in a column; a sparse tensor has none")
                coords = np.empty((batch.num_rows, len(self.shape)), dtype=np.int64)
                for mode in range(len(self.shape)):
                    column = batch.column(mode).to_numpy()
                    if column.dtype == np.uint64 and len(column) and column.max() > LARGEST_SIZE:
                        raise InputError(f"{self.path}: index {column.max()} in mode {mode} is outside its shape")
                    coords[:, mode] = column
                values = batch.column(len(self.shape)).to_numpy()
            rows.check(coords, values)
            yield coords, values
        rows.finish()


class TensorWriter:
    """Write a Parquet sparse tensor from sorted blocks; the file appears when the ``with`` block succeeds.

    Parameters
    ----------
    value_type
        NumPy type of the stored values, which must hold all of them exactly.
    labels
        By mode the columns of its label file, which is written beside (:mod:`pipeline.sparse.labels`).

    Attributes
    ----------
    nnz, norm2
        Of what has been written so far.
    """

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int],
        value_type: npt.DTypeLike,
        mode_names: Sequence[str] | None = None,
        source: dict[str, Any] | None = None,
        labels: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        import pyarrow as pa

        self.path = Path(path)
        self.shape = tuple(shape)
        self.value_type = np.dtype(value_type)
        self.mode_names = list(mode_names or (f"mode_{mode}" for mode in range(len(self.shape))))
        self.source = dict(source or {})
        self.labels = LabelFiles(self.path, labels or {})
        self.nnz = 0
        self.norm2 = 0.0
        self._types = [np.min_scalar_type(size - 1) for size in self.shape]
        self._schema = pa.schema(
            [(f"mode_{mode}", pa.from_numpy_dtype(kind)) for mode, kind in enumerate(self._types)]
            + [("value", pa.from_numpy_dtype(self.value_type))]
        )
        self._last: tuple[int, ...] | None = None
        self._pending: list[Any] = []  # Arrow tables that do not fill a row group yet
        self._pending_rows = 0
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._stack = ExitStack()  # of the files that are open while it is written

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq

        with ExitStack() as stack:  # a disk that is full takes not even the first bytes: then all is undone
            temporary = stack.enter_context(atomic_path(self.path))  # first in, last to appear, after its labels
            self._label_entry = self.labels.write(stack)
            stack.enter_context(naming(self.path))  # what fails from here on is the tensor, not its labels
            # without Arrow's own copy of the schema, which would hide metadata that is added at the end
            self._writer = stack.enter_context(
                pq.ParquetWriter(
                    temporary,
                    self._schema,
                    compression="zstd",
                    compression_level=1,
                    store_schema=False,
                    use_dictionary=False,
                    column_encoding=self._encodings(),
                    write_page_checksum=True,
                )
            )
            stack.enter_context(self._thread)  # left first: nothing is written when the file is closed
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            if self.nnz == 0:
                raise InputError(f"{self.path}: empty tensor of shape {self.shape}: it has no non-zero entry")
            self._flush()
            self._wait()
            names = tuple(self.mode_names)
            header = Header(self.shape, self.nnz, self.norm2, names, self.source, self._label_entry)
            self._writer.add_key_value_metadata({"kronflow": header.text()})
        self.labels.remove_others()

    def write(self, coords: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """Append non-zeros: (n, D) indices, sorted and after everything written before, and (n,) values.

        Raises
        ------
        InputError
            Entries out of order; a zero, NaN or infinity among the values.
        """
        self.write_columns(list(coords.T), values)

    def write_columns(self, indices: Sequence[npt.NDArray[Any]], values: npt.NDArray[Any]) -> None:
        """Append non-zeros as :meth:`write` does, with (n,) indices for each mode.

        A second thread encodes one row group while the caller prepares the next; the arrays must not change.
        """
        import pyarrow as pa

        if len(values) == 0:
            return
        self._check(indices, values)
        for start in range(0, len(values), ROW_GROUP):
            part = slice(start, start + ROW_GROUP)
            columns = [index[part].astype(kind, copy=False) for index, kind in zip(indices, self._types, strict=True)]
            columns.append(values[part].astype(self.value_type, copy=False))
            self._pending.append(pa.table(columns, schema=self._schema))
            self._pending_rows += len(columns[-1])
            if self._pending_rows >= ROW_GROUP:
                self._flush()
        self._last = tuple(int(index[-1]) for index in indices)
        self.nnz += len(values)
        with np.errstate(over="ignore"):
            self.norm2 += float(np.sum(np.square(values, dtype=np.float64)))

    def _encodings(self) -> dict[str, str]:
        """Differences of whole numbers in sorted data take less room and time than the default."""
        whole = [name for name in self._schema.names if name != "value" or self.value_type.kind in "iu"]
        return dict.fromkeys(whole, "DELTA_BINARY_PACKED")

    def _flush(self) -> None:
        """Hand the pending rows to the thread that writes, once it is done with those before."""
        import pyarrow as pa

        self._wait()
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        self._writing = self._thread.submit(self._writer.write_table, table, row_group_size=2 * ROW_GROUP)
        self._pending, self._pending_rows = [], 0

    def _wait(self) -> None:
        """Wait for the thread that writes; its failure is ours."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _check(self, indices: Sequence[npt.NDArray[Any]], values: npt.NDArray[Any]) -> None:
        first = tuple(int(index[0]) for index in indices)
        if self._last is not None and first <= self._last:
            raise InputError(f"{self.path}: entry {first} after {self._last}; blocks must be sorted")
        if any(
            int(index.min()) < 0 or int(index.max()) >= size for index, size in zip(indices, self.shape, strict=True)
        ):
            raise InputError(f"{self.path}: an index outside the shape {self.shape}")
        if not np.isfinite(values).all() or not values.all():
            raise InputError(f"{self.path}: a value that is zero, NaN or infinite")
