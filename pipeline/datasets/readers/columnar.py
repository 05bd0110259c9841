"""Parquet and Arrow (Feather) tables with a named column for each mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.places import modes_of, to_places
from pipeline.datasets.raw import Block, Files, RawTensor, only_file
from pipeline.errors import InputError, nearest


def read(
    files: Files,
    *,
    columns: Sequence[str],
    value: str | None = None,
    drop_missing: bool = False,
    base: int | None = None,
    shape: Sequence[int] | None = None,
) -> RawTensor:
    """Read a Parquet file, an Arrow IPC file or stream, or a Feather file; which one, its content tells.

    Parameters
    ----------
    columns
        The columns that become modes: text, whole numbers, dates, truth values.
    value
        The column of the values; without, every row counts 1.
    drop_missing
        Whether rows with a missing label are left out; otherwise they are an error.
    base, shape
        For columns of indices: see :func:`pipeline.datasets.places.modes_of`.
    """
    path = only_file(files)
    modes = modes_of(columns, base, shape)
    blocks = _blocks(path, list(columns), value, bool(drop_missing), base is not None)
    return RawTensor(modes, to_places(blocks, modes, base, lambda entry: f"{path}: entry {entry}"))


def names(path: Path) -> list[str]:
    """Names of the columns; those of a data frame's index, which its writer puts last, come first."""
    schema = next(_batches(path, None)).schema
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    found = [str(name) for name in schema.names]
    return sorted(found, key=lambda name: name not in index)


def _blocks(path: Path, columns: list[str], value: str | None, drop: bool, indices: bool) -> Iterator[Block]:
    import pyarrow as pa

    wanted = columns + ([value] if value is not None else [])
    row = 0
    try:
        for batch in _batches(path, wanted):
            batch.validate(full=True)  # text that is no UTF-8 would show only later
            keys = [_without_views(batch.column(name)) for name in columns]
            values = pa.array(np.ones(batch.num_rows)) if value is None else batch.column(value)
            _check_types(path, columns, keys, value, values, indices)
            kept = np.ones(batch.num_rows, dtype=bool)
            for name, key in zip(columns, keys, strict=True):
                present = key.is_valid().to_numpy(zero_copy_only=False)
                if not drop and not present.all():
                    raise InputError(
                        f"{path}: row {row + int(np.argmin(present))}: column '{name}' has no value; "
                        "set the option drop_missing: true to leave such rows out"
                    )
                kept &= present
            if not kept.all():
                keys, values = [key.filter(pa.array(kept)) for key in keys], values.filter(pa.array(kept))
            entries = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            if not np.isfinite(entries).all():
                bad = np.flatnonzero(kept)[int(np.argmin(np.isfinite(entries)))]
                raise InputError(f"{path}: row {row + bad}: value in column '{value}' is missing or no finite number")
            yield [key.cast(pa.int64()).to_numpy() for key in keys] if indices else keys, entries
            row += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable Parquet or Arrow table ({reason})") from error


def _without_views(column: Any) -> Any:
    """Text that Arrow holds as views, which its sorting does not know, as plain text."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    return column.cast(pa.string()) if types.is_string_view(kind) else column


def _batches(path: Path, wanted: list[str] | None) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic[:4] == b"PAR1":
        parquet = pq.ParquetFile(path)
        _check_names(path, wanted, parquet.schema_arrow.names)
        yield from parquet.iter_batches(columns=wanted)
        return
    with pa.OSFile(str(path)) as source:
        opened = pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)
        _check_names(path, wanted, opened.schema.names)
        if magic == b"ARROW1":
            yield from (opened.get_batch(number) for number in range(opened.num_record_batches))
        else:
            yield from opened


def _check_names(path: Path, wanted: list[str] | None, names: list[str]) -> None:
    for name in wanted or ():
        if names.count(name) != 1:
            raise InputError(f"{path}: no single column '{name}'{nearest(str(name), names)}")


def _check_types(
    path: Path, columns: list[str], keys: list[Any], value: str | None, values: Any, indices: bool
) -> None:
    from pyarrow import types

    for name, key in zip(columns, keys, strict=True):
        kind = key.type.value_type if types.is_dictionary(key.type) else key.type
        if indices and not types.is_integer(kind):
            raise InputError(f"{path}: column '{name}' is of type {kind}, an index is a whole number")
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not (text or types.is_integer(kind) or types.is_temporal(kind) or types.is_boolean(kind)):
            raise InputError(f"{path}: column '{name}' is of type {kind}, which cannot be a label")
    kind = values.type
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
        raise InputError(f"{path}: column '{value}' is of type {kind}, a value is a number")
