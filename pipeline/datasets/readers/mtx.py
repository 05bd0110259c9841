"""Matrix Market files: pattern, integer or real; coordinate or array; general, symmetric, skew-symmetric, hermitian.

TACO's ``.ttx`` is the same with any number of sizes, its first line naming a ``tensor``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.datasets.places import check_range
from pipeline.datasets.raw import Array, Block, Files, Mode, RawTensor, only_file
from pipeline.datasets.text import MARK, SHOWN, check_without, line_of_entry, open_plain, parse_number, read_numbers
from pipeline.errors import InputError

LAYOUTS = ("coordinate", "array")
FIELDS = ("pattern", "integer", "real", "double")
SYMMETRIES = ("general", "symmetric", "skew-symmetric", "hermitian")  # the last of real numbers is symmetric


@dataclass(frozen=True)
class Header:
    """What stands above the entries, and how many lines that takes."""

    layout: str
    field: str
    symmetry: str
    shape: tuple[int, ...]
    entries: int
    lines: int


def read(files: Files, *, member: str | None = None) -> RawTensor:
    """Read a ``.mtx`` or ``.ttx`` file, packed or not.

    Entries of a pattern are 1, symmetric ones stand for both places. The values of an array come with the first index
    fastest, and its zeros are left out.

    Parameters
    ----------
    member
        Which file of an archive; without, the only one or that of the archive's own name.
    """
    path = only_file(files, member)
    header = read_header(path)
    plain = ("row", "column") if len(header.shape) == 2 else [f"mode_{mode}" for mode in range(len(header.shape))]
    modes = [Mode(name, indexed=True, size=size) for name, size in zip(plain, header.shape, strict=True)]
    if header.layout == "array":
        return RawTensor(modes, [_mirrored(header, *_cells(path, header))])
    return RawTensor(modes, _blocks(path, header, modes))


def read_header(path: Path) -> Header:
    """Read the header line, the comments and the sizes.

    Raises
    ------
    InputError
        No Matrix Market file, or one that holds complex values.
    """
    with open_plain(path) as stream:
        words = stream.readline().removeprefix(MARK).decode("utf-8", "replace").lower().split()
        if len(words) != 5 or words[0] != "%%matrixmarket" or words[1] not in ("matrix", "tensor"):
            raise InputError(f"{path}:1: no Matrix Market file; the first line starts with '%%MatrixMarket matrix'")
        kind, layout, field, symmetry = words[1:]
        if field == "complex":
            raise InputError(f"{path}:1: 'complex' values; a tensor has real ones: write their real part or size")
        for given, allowed in ((layout, LAYOUTS), (field, FIELDS), (symmetry, SYMMETRIES)):
            if given not in allowed:
                raise InputError(f"{path}:1: '{given}' is none of: {', '.join(allowed)}")
        number, sizes = _size_line(path, stream)
    dense = layout == "array"
    if not all(size.isdigit() and len(size) < 19 for size in sizes) or (
        len(sizes) != 3 - dense if kind == "matrix" else len(sizes) < 2 - dense
    ):
        what = "sizes" if dense else "sizes and entries"
        raise InputError(f"{path}:{number}: needs the numbers of {'rows, columns and entries' * (not dense) or what}")
    numbers = [int(size) for size in sizes]
    shape = tuple(numbers if dense else numbers[:-1])
    entries = _stored(shape, symmetry) if dense else numbers[-1]
    if not all(shape) or not entries:
        sizes_shown = " x ".join(map(str, shape))
        raise InputError(f"{path}:{number}: empty matrix of {sizes_shown} with {entries} entries")
    if symmetry != "general" and (len(shape) != 2 or shape[0] != shape[1]):
        raise InputError(f"{path}:{number}: a {symmetry} matrix of {' x '.join(map(str, shape))} is not square")
    if dense and field == "pattern":
        raise InputError(f"{path}:1: an array of pattern has no values")
    return Header(layout, field, symmetry, shape, entries, number)


def _size_line(path: Path, stream: IO[bytes]) -> tuple[int, list[bytes]]:
    read = 0
    for number, line in enumerate(stream, start=2):
        read = check_without(path, number, read + len(line))
        if line.strip() and line.lstrip()[:1] != b"%":
            return number, line.split()
    return 1, [b""]


def _stored(shape: tuple[int, ...], symmetry: str) -> int:
    """How many values an array has: of a symmetric one the lower triangle's, without a diagonal that is zero."""
    if symmetry == "general":
        return math.prod(shape)
    return shape[0] * (shape[0] + (-1 if symmetry == "skew-symmetric" else 1)) // 2


def _cells(path: Path, header: Header) -> tuple[list[Array], Array]:
    """Places and values of an array's non-zeros, as they are stored."""
    found: list[float] = []
    with open_plain(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number <= header.lines or line.lstrip()[:1] == b"%":
                continue
            for text in line.split():
                value, problem = parse_number(text)
                if problem:
                    shown = text[:SHOWN].decode("utf-8", "backslashreplace")
                    raise InputError(f"{path}:{number}: value '{shown}' {problem}")
                found.append(value)
            if len(found) > header.entries:
                break
    if len(found) != header.entries:
        seen = f"more than {header.entries:,}" if len(found) > header.entries else f"{len(found):,}"
        raise InputError(f"{path}: {seen} values where its sizes ask for {header.entries:,} in all")
    values = np.array(found)
    places = np.flatnonzero(values)
    if header.symmetry == "general":
        return list(np.unravel_index(places, header.shape, order="F")), values[places]
    row, column = (index[places] for index in _triangle(header.shape[0], header.symmetry == "skew-symmetric"))
    return [row, column], values[places]


def _triangle(size: int, strict: bool) -> tuple[Array, Array]:
    """Rows and columns of a lower triangle, column by column."""
    column, row = np.triu_indices(size, int(strict))
    return row, column


def _blocks(path: Path, header: Header, modes: list[Mode]) -> Iterator[Block]:
    def place(entry: int) -> str:
        return f"{path}:{line_of_entry(path, entry, skip=header.lines)}"

    seen, halves = 0, set[bool]()
    for keys, values in read_numbers(path, len(modes), values=header.field != "pattern", skip=header.lines):
        for column, mode in zip(keys, modes, strict=True):
            check_range(column, 1, mode, place, seen, fixed=True)
        if header.symmetry != "general":
            _check_half(header, keys, values, halves, place, seen)
        seen += len(values)
        yield _mirrored(header, [each - 1 for each in keys], values)
    if seen != header.entries:
        raise InputError(f"{path}: {seen:,} entries where its line {header.lines} promises {header.entries:,}")


def _check_half(
    header: Header, keys: list[Array], values: Array, halves: set[bool], place: Callable[[int], str], entry: int
) -> None:
    """Refuse cells on both sides of the diagonal, which would count twice.

    `halves` are those seen so far, `entry` is the number of the first one.
    """
    row, column = keys
    if header.symmetry == "skew-symmetric" and (wrong := (row == column) & (values != 0)).any():
        raise InputError(
            f"{place(entry + int(np.argmax(wrong)))}: a cell on the diagonal, which is 0 if skew-symmetric"
        )
    for upper in (False, True):
        there = column > row if upper else row > column
        halves |= {upper} if there.any() else set()
        if len(halves) == 2:
            raise InputError(
                f"{place(entry + int(np.argmax(there)))}: cells on both sides of the diagonal of a {header.symmetry} "
                "matrix, which has one of them; write that alone, or 'general' in the first line"
            )


def _mirrored(header: Header, indices: list[Array], values: Array) -> Block:
    """Both places of what a symmetric file stores once."""
    if header.symmetry == "general":
        return indices, values
    row, column = indices
    off = row != column
    other = -values[off].astype(np.float64) if header.symmetry == "skew-symmetric" else values[off]
    return [np.concatenate([row, column[off]]), np.concatenate([column, row[off]])], np.concatenate([values, other])
