"""CSV and TSV files with a column of labels or indices for each mode."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from pipeline.datasets.places import modes_of, to_places
from pipeline.datasets.raw import Block, Files, RawTensor, only_file, open_raw, open_text
from pipeline.datasets.text import INTEGER, NUMBER, SHOWN
from pipeline.errors import InputError, nearest

BLOCK_BYTES = 1 << 24


def read(
    files: Files,
    *,
    columns: Sequence[str | int],
    value: str | int | None = None,
    separator: str | None = None,
    header: bool = True,
    quotes: bool = True,
    encoding: str = "utf-8",
    missing: Sequence[str] = (),
    base: int | None = None,
    shape: Sequence[int] | None = None,
) -> RawTensor:
    """Read a CSV or TSV file (plain, .gz or .zip): one entry a line, lines of the same place add up.

    Parameters
    ----------
    columns
        The columns that become modes, by name; in a file without header by position, from 0.
    value
        The column of the values; without, every line counts 1.
    separator
        One character; without, a tab where the file's name has ``.tsv`` in it, else a comma.
    header
        Whether the first line names the columns.
    quotes
        Whether a field may stand in double quotes.
    encoding
        As Python names it, for example ``latin-1``.
    missing
        Texts that stand for no label; lines with one in a column that becomes a mode are left out.
    base, shape
        For columns of indices: see :func:`pipeline.datasets.places.modes_of`.
    """
    path = only_file(files)
    if separator is None:
        separator = "\t" if ".tsv" in path.name else ","
    if not isinstance(separator, str) or len(separator) != 1 or separator in '\r\n"':
        raise InputError(f"option separator: one character, not {separator!r}")
    layout = _Layout(path, separator, header, quotes, encoding, tuple(map(str, missing)), base is not None)
    layout = layout.with_columns(columns, value)
    modes = modes_of(columns, base, shape)
    return RawTensor(modes, to_places(_blocks(layout), modes, base, layout.place))


@dataclass(frozen=True)
class _Layout:
    """Where what stands in the file."""

    path: Path
    separator: str
    header: bool
    quotes: bool
    encoding: str
    missing: tuple[str, ...]
    indices: bool  # columns hold whole numbers, not labels
    width: int = 0  # fields of a line
    keys: tuple[int, ...] = ()  # positions of the columns
    value: int | None = None

    def with_columns(self, columns: Sequence[str | int], value: str | int | None) -> _Layout:
        """Find the columns in the first line."""
        first = next(_lines(self, skip_header=False), (1, []))[1]
        if not first:
            raise InputError(f"{self.path}: empty tensor: the file has no line")
        names: list[Any] = [name.removeprefix("\ufeff") for name in first] if self.header else list(range(len(first)))
        if not columns:
            raise InputError("option columns: name at least one column")

        def position(name: str | int) -> int:
            if names.count(name) != 1:
                times = names.count(name)
                hint = f" stands there {times} times" if times else f"{nearest(str(name), map(str, names))}"
                raise InputError(f"{self.path}:1: no single column '{name}'{hint}")
            return names.index(name)

        keys = tuple(position(name) for name in columns)
        return replace(self, width=len(first), keys=keys, value=None if value is None else position(value))

    def place(self, entry: int) -> str:
        """Return ``file:line`` of the entry with the given number."""
        kept = (number for number, fields in _lines(self) if not self.lacks(fields))
        for position, number in enumerate(kept):
            if position == entry:
                return f"{self.path}:{number}"
        raise IndexError(entry)

    def lacks(self, fields: list[str]) -> bool:
        """Whether a line has no label for some mode."""
        return any(fields[key] in self.missing for key in self.keys)


def _blocks(layout: _Layout) -> Iterator[Block]:
    """Arrow's blocks as long as it understands the file; what it does not, line by line."""
    read_lines = 0
    for lines, block in _fast_blocks(layout):
        read_lines += lines
        if block is None:
            break
        yield block
    else:
        return
    yield from _careful_blocks(layout, read_lines)


def _fast_blocks(layout: _Layout) -> Iterator[tuple[int, Block | None]]:
    """Yield the number of lines and the entries in them; None once Arrow fails or a field is not as it should be."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(number) for number in range(layout.width)]
    kinds = {names[key]: pa.string() for key in layout.keys}
    if layout.value is not None:
        kinds[names[layout.value]] = pa.float64()
    try:
        with open_raw(layout.path) as stream:
            reader = arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(
                    column_names=names,
                    skip_rows_after_names=0,
                    skip_rows=int(layout.header),
                    block_size=BLOCK_BYTES,
                    encoding=layout.encoding,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=layout.separator,
                    quote_char='"' if layout.quotes else False,
                    newlines_in_values=layout.quotes,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=kinds, include_columns=list(kinds), null_values=[], strings_can_be_null=False
                ),
            )
            for batch in reader:
                block = _entries(layout, pa.Table.from_batches([batch]), names)
                yield (0 if block is None else batch.num_rows), block
                if block is None:
                    return
    except (pa.ArrowException, UnicodeDecodeError):
        yield 0, None


def _entries(layout: _Layout, table: Any, names: list[str]) -> Block | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [table[names[key]] for key in layout.keys]
    values = np.ones(table.num_rows) if layout.value is None else table[names[layout.value]].to_numpy()
    if layout.missing:
        absent = pa.array(layout.missing, pa.string())
        kept = np.ones(table.num_rows, dtype=bool)
        for column in columns:
            kept &= ~pc.is_in(column, absent).to_numpy()
        columns, values = [column.filter(pa.array(kept)) for column in columns], values[kept]
    pattern = r"^[+-]?[0-9]{1,18}$" if layout.indices else "."
    if not all(pc.all(pc.match_substring_regex(column, pattern), min_count=0).as_py() for column in columns):
        return None
    if not np.isfinite(values).all():
        return None
    if layout.indices:
        return [column.cast(pa.int64()).to_numpy() for column in columns], values
    return [column.combine_chunks() for column in columns], values


def _lines(layout: _Layout, skip_header: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty, and its fields."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if layout.quotes else csv.QUOTE_NONE
    try:
        with open_text(layout.path, layout.encoding) as text:
            lines = csv.reader(text, delimiter=layout.separator, quoting=quoting, strict=True)
            if skip_header and layout.header:
                next(lines, None)
            try:
                for fields in lines:
                    if fields:
                        yield lines.line_num, fields
            except csv.Error as error:
                raise InputError(f"{layout.path}:{lines.line_num}: no valid line ({error})") from error
    except LookupError as error:
        raise InputError(f"option encoding: Python knows no encoding '{layout.encoding}'") from error


def _careful_blocks(layout: _Layout, skip: int) -> Iterator[Block]:
    """Parse line by line, after `skip` lines that have been read already."""
    rows: list[list[Any]] = []
    for position, (number, fields) in enumerate(_lines(layout)):
        if position < skip:
            continue
        if len(fields) != layout.width:
            _fail(layout, number, f"{len(fields)} fields where the first line has {layout.width}")
        value = 1.0 if layout.value is None else _value(layout, number, fields[layout.value])
        if not layout.lacks(fields):
            rows.append([*(_key(layout, number, fields[key]) for key in layout.keys), value])
        if len(rows) == 1 << 20:
            yield _block_of(layout, rows)
            rows = []
    if rows:
        yield _block_of(layout, rows)


def _block_of(layout: _Layout, rows: list[list[Any]]) -> Block:
    *keys, values = zip(*rows, strict=True)
    return [np.array(key, dtype=np.int64 if layout.indices else object) for key in keys], np.array(values)


def _key(layout: _Layout, number: int, field: str) -> str | int:
    if not field:
        _fail(layout, number, "a label is empty; set the option missing: [''] to leave such lines out")
    if not layout.indices:
        return field
    if not INTEGER.fullmatch(field.encode()) or len(field) > 20 or not -(1 << 63) <= int(field) < 1 << 63:
        _fail(layout, number, f"index '{field[:SHOWN]}' is no whole number of 64 bits")
    return int(field)


def _value(layout: _Layout, number: int, field: str) -> float:
    text = field.strip().encode()
    value = float(text) if NUMBER.fullmatch(text) else np.nan
    if not np.isfinite(value):
        _fail(layout, number, f"value '{field[:SHOWN]}' is no finite number")
    return value


def _fail(layout: _Layout, number: int, problem: str) -> NoReturn:
    raise InputError(f"{layout.path}:{number}: {problem}")
