"""Matrix Market coordinate files: pattern, integer or real; general, symmetric or skew-symmetric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.datasets.places import check_range
from pipeline.datasets.raw import Block, Files, Mode, RawTensor, only_file, open_lines
from pipeline.datasets.text import MOST_WITHOUT, line_of_entry, read_numbers
from pipeline.errors import InputError

FIELDS = ("pattern", "integer", "real")
SYMMETRIES = ("general", "symmetric", "skew-symmetric")


@dataclass(frozen=True)
class Header:
    """What stands above the entries, and how many lines that takes."""

    field: str
    symmetry: str
    rows: int
    columns: int
    entries: int
    lines: int


def read(files: Files) -> RawTensor:
    """Read a ``.mtx`` file (plain, .gz or .zip); entries of a pattern are 1, symmetric ones stand for both places."""
    path = only_file(files)
    header = read_header(path)
    modes = [Mode("row", indexed=True, size=header.rows), Mode("column", indexed=True, size=header.columns)]
    return RawTensor(modes, _blocks(path, header, modes))


def read_header(path: Path) -> Header:
    """Read the header line, the comments and the sizes.

    Raises
    ------
    InputError
        No Matrix Market file, or one that holds a dense, complex or hermitian matrix.
    """
    with open_lines(path) as stream:
        words = stream.readline().decode("utf-8", "replace").lower().split()
        if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
            raise InputError(f"{path}:1: no Matrix Market file; the first line starts with '%%MatrixMarket matrix'")
        layout, field, symmetry = words[2:]
        for given, allowed in ((layout, ("coordinate",)), (field, FIELDS), (symmetry, SYMMETRIES)):
            if given not in allowed:
                raise InputError(f"{path}:1: '{given}' is none of: {', '.join(allowed)}")
        number, line, without = 1, b"", 0
        for number, line in enumerate(stream, start=2):
            if line.strip() and line[:1] != b"%":
                break
            without += len(line)
            if without > MOST_WITHOUT:
                raise InputError(f"{path}:{number}: comments of more than {MOST_WITHOUT:,} bytes above the sizes")
        else:
            number, line = 1, b""
    sizes = line.split()
    if len(sizes) != 3 or not all(size.isdigit() and len(size) < 19 for size in sizes):
        raise InputError(f"{path}:{number}: needs the numbers of rows, columns and entries")
    rows, columns, entries = (int(size) for size in sizes)
    if not rows or not columns or not entries:
        raise InputError(f"{path}:{number}: empty matrix of {rows} x {columns} with {entries} entries")
    if symmetry != "general" and rows != columns:
        raise InputError(f"{path}:{number}: a {symmetry} matrix of {rows} x {columns} is not square")
    return Header(field, symmetry, rows, columns, entries, number)


def _blocks(path: Path, header: Header, modes: list[Mode]) -> Iterator[Block]:
    def place(entry: int) -> str:
        return f"{path}:{line_of_entry(path, entry, skip=header.lines)}"

    seen = 0
    for keys, values in read_numbers(path, 2, values=header.field != "pattern", skip=header.lines):
        for column, mode in zip(keys, modes, strict=True):
            check_range(column, 1, mode, place, seen)
        seen += len(values)
        row, column = (each - 1 for each in keys)
        yield [row, column], values
        if header.symmetry != "general":
            off = row != column
            mirrored = values[off] if header.symmetry == "symmetric" else -values[off].astype(np.float64)
            yield [column[off], row[off]], np.asarray(mirrored)
    if seen != header.entries:
        raise InputError(f"{path}: {seen:,} entries where its line {header.lines} promises {header.entries:,}")
