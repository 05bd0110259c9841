"""The tensor that a command is given: a Parquet sparse tensor, or a file of any other known format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.datasets.labels import Labels
    from pipeline.sparse import SparseTensor


def read_tensor(path: Path) -> SparseTensor:
    """Read a Parquet sparse tensor, or a file of any other known format with its modes as they are in the file."""
    return read_labelled(path, None, None)[0]


def read_labelled(path: Path, columns: str | None, value: str | None) -> tuple[SparseTensor, dict[int, Labels]]:
    """The tensor of a file, and by mode the labels that its indices stand for."""
    from pipeline.datasets import format_of, read_raw
    from pipeline.datasets.assemble import assemble
    from pipeline.sparse import SparseTensor

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".parquet" and is_sparse_tensor(path):
        if columns or value:
            raise InputError(f"--columns, --value: {path} is a sparse tensor, not a table")
        return SparseTensor.read_parquet(path), {}
    try:
        format_name = format_of(path.name)
        raw = read_raw(format_name, {path.name: path}, _table_options(path, format_name, columns, value))
        assembled = assemble(raw, {"file": path.name})
        X = assembled.tensor
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    places = [X.mode_names.index(mode.name) for mode in raw.modes]
    labels = {mode: assembled.labels[place] for mode, place in enumerate(places)}
    return X.permute_modes(places), {mode: found for mode, found in labels.items() if found is not None}


def _table_options(path: Path, format_name: str, columns: str | None, value: str | None) -> dict[str, Any]:
    """Which columns of a table are modes and which is the value: as told, else all but the last, and the last."""
    if format_name not in ("csv", "columnar"):
        if columns or value:
            raise InputError(f"--columns, --value: {path} is no table")
        return {}
    chosen = columns.split(",") if columns else [name for name in _column_names(path, format_name) if name != value]
    if columns is None and value is None:
        *chosen, value = chosen
        print(f"modes: {', '.join(chosen)}; value: {value} (choose others with --columns and --value)")
    return {"columns": chosen} | ({"value": value} if value else {})


def _column_names(path: Path, format_name: str) -> list[str]:
    """Names of a table's columns, two at least."""
    from pipeline.datasets.readers import columnar, csvtable

    names = columnar.names(path) if format_name == "columnar" else csvtable.names(path)
    if len(names) < 2:
        raise InputError(f"{path}: columns {names}: needs one for each mode, and one for the values; see --columns")
    return names


def is_sparse_tensor(path: Path) -> bool:
    """Whether a Parquet file carries the metadata of a sparse tensor; other tables are converted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return b"kronflow" in (pq.read_schema(path).metadata or {})
    except pa.ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
