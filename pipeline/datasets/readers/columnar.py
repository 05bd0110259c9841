"""Parquet and Arrow (Feather) tables with a named column for each mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.sizes import check_unpacked
from pipeline.datasets.places import modes_of, to_places
from pipeline.datasets.raw import Block, Files, RawTensor, only_file
from pipeline.errors import InputError, nearest
from pipeline.sparse.pages import ROWS, checked_pages

CELL = 8  # bytes that a number or the code of a label takes


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
    check(columns=columns, base=base, shape=shape)
    path = only_file(files)
    modes = modes_of(columns, base, shape)
    blocks = _blocks(path, list(columns), value, bool(drop_missing), base is not None)
    return RawTensor(modes, to_places(blocks, modes, base, lambda entry: f"{path}: entry {entry}"))


def check(*, columns: Sequence[str], base: int | None = None, shape: Sequence[int] | None = None, **_: Any) -> None:
    """Refuse what the options of :func:`read` cannot be, whatever the file."""
    if not columns:
        raise InputError("option columns: name at least one column")
    modes_of(columns, base, shape)


def names(path: Path) -> list[str]:
    """Names of the columns; those of a data frame's index, which its writer puts last, come first."""
    schema = _opened(path)[0]
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    found = [str(name) for name in schema.names]
    return sorted(found, key=lambda name: name not in index)


def _blocks(path: Path, columns: list[str], value: str | None, drop: bool, indices: bool) -> Iterator[Block]:
    import pyarrow as pa

    wanted = columns + ([value] if value is not None else [])
    row = 0
    try:
        schema, batches = _opened(path)
        _check_names(path, wanted, schema.names)
        _check_types(path, columns, value, schema, indices)
        for batch in _bounded(path, wanted, batches):
            batch.validate(full=True)  # text that is no UTF-8 would show only later
            keys = [_without_views(batch.column(name)) for name in columns]
            values = pa.array(np.ones(batch.num_rows)) if value is None else batch.column(value)
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
        raise _unreadable(path, error) from error


def _without_views(column: Any) -> Any:
    """Text that Arrow holds as views, which its sorting does not know, as plain text."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    return column.cast(pa.string()) if types.is_string_view(kind) else column


def _bounded(path: Path, wanted: list[str], batches: Callable[[list[str]], Iterator[Any]]) -> Iterator[Any]:
    """Pieces of the wanted columns, as long as they are in proportion to the file."""
    total = 0.0
    for batch in batches(wanted):
        columns = [batch.column(name) for name in wanted]
        total += sum(max(CELL * batch.num_rows, _bytes(column)) for column in columns)
        check_unpacked(path, total)
        yield batch


def _bytes(column: Any) -> int:
    """What a column holds beside a number in each row."""
    import pyarrow as pa

    return 0 if isinstance(column, pa.DictionaryArray) else int(column.nbytes)


def _opened(path: Path) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """The schema of a file, and what yields its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'")
    with path.open("rb") as file:
        magic = file.read(6)
    try:
        if magic[:4] == b"PAR1":
            return _parquet(path, pq.ParquetFile(path))
        source = pa.OSFile(str(path))
        if magic == b"ARROW1":
            table = pa.ipc.open_file(source)
            return table.schema, lambda _: (table.get_batch(number) for number in range(table.num_record_batches))
        stream = pa.ipc.open_stream(source)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    return stream.schema, lambda _: iter(stream)


def _parquet(path: Path, file: Any) -> tuple[Any, Callable[[list[str]], Iterator[Any]]]:
    """Texts as codes and the few different ones, as they mostly lie there; sizes compared before a page is unpacked."""
    import pyarrow.parquet as pq
    from pyarrow import types

    schema, about = file.schema_arrow, file.metadata

    def batches(wanted: list[str]) -> Iterator[Any]:
        kinds = (types.is_string, types.is_large_string, types.is_string_view)
        texts = [name for name in wanted if any(is_text(schema.field(name).type) for is_text in kinds)]
        places = {
            place for place in range(about.num_columns)
            if about.schema.column(place).path.partition(".")[0] in wanted
        }  # fmt: skip
        check_unpacked(path, CELL * about.num_rows * len(wanted))
        pages = checked_pages(path, places)
        if pages.shared:  # Arrow makes no codes of such texts
            yield from file.iter_batches(pages.rows, columns=wanted)
        else:
            yield from pq.ParquetFile(path, read_dictionary=texts).iter_batches(ROWS, columns=wanted)

    return schema, batches


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable Parquet or Arrow table ({' '.join(str(error).split())})")


def _check_names(path: Path, wanted: list[str] | None, names: list[str]) -> None:
    for name in wanted or ():
        if (times := names.count(name)) != 1:
            hint = f"; it stands there {times} times" if times else nearest(str(name), names)
            raise InputError(f"{path}: no single column '{name}'{hint}")


def _check_types(path: Path, columns: list[str], value: str | None, schema: Any, indices: bool) -> None:
    from pyarrow import types

    def kind_of(name: str) -> Any:
        kind = schema.field(name).type
        return kind.value_type if types.is_dictionary(kind) else kind

    for name in columns:
        kind = kind_of(name)
        if indices and not types.is_integer(kind):
            raise InputError(f"{path}: column '{name}' is of type {kind}, an index is a whole number")
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        if not (text or types.is_integer(kind) or types.is_temporal(kind) or types.is_boolean(kind)):
            raise InputError(
                f"{path}: column '{name}' is of type {kind}, which cannot be a label; make it text or whole numbers"
            )
    if value is None:
        return
    kind = kind_of(value)
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
        raise InputError(f"{path}: column '{value}' is of type {kind}, a value is a number")


def is_sparse_tensor(path: Path) -> bool:
    """Whether a Parquet file carries the metadata of a sparse tensor; other tables are converted."""
    import pyarrow.parquet as pq

    from pipeline.sparse.header import telling_damage

    with telling_damage(path), path.open("rb") as file:
        return b"kronflow" in (pq.read_schema(file).metadata or {})
