"""Tables of numbers as text: whole numbers first, one value last, fast and with line numbers.

Three parsers give the same numbers. A block of lines of plain whole numbers takes one pass of compiled
code (:mod:`pipeline.datasets.scan`). What that refuses goes through Arrow's CSV reader. A block that Arrow
refuses too, or that has any character which a table of numbers has not, goes line by line through
:func:`parse_lines`, which gives the numbers or the error with its line.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from pipeline.datasets.archive import Forward
from pipeline.datasets.parallel import in_order
from pipeline.datasets.raw import BUFFER, open_lines
from pipeline.errors import InputError
from pipeline.sparse.reals import TOO_SMALL

BLOCK_BYTES = 1 << 22
NEWLINE = ord("\n")
MARK = b"\xef\xbb\xbf"  # the byte order mark that some programs put before UTF-8
COMMENT = re.compile(rb"^[ \t]*[#%][^\n]*\n?", re.MULTILINE)
RUNS_OF_SPACES = re.compile(rb" *\n *| {2,}")
SEPARATORS = bytes.maketrans(b"\t,;\r", b"    ")
ORDINARY = b"0123456789eE+-. \n"
INTEGER = re.compile(rb"[+-]?[0-9]+")
NUMBER = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
SMALL = re.compile(rb"[eE]-[0-9]{3}")
ZEROS = b"0" * 200  # in a row; the smallest 64-bit real has 323 after its point
SHOWN = 40  # characters of a wrong field in a message
FRACTION = re.compile(rb"[0-9],[0-9]")  # or two numbers, where nothing but commas separates
OTHERS = re.compile(rb"[^\s,;][ \t]*[; \t][ \t]*[^\s,;]")  # a separator that is no comma
MOST_FIELDS = 1024  # of a line
MOST_WITHOUT = 1 << 26  # bytes in a row without an entry: comments and empty lines

Column = npt.NDArray[Any]
Table = tuple[list[Column], Column]  # indices and values; of unsigned types where no number has a sign


def read_numbers(path: Path, order: int | None, *, values: bool = True, skip: int = 0) -> Iterator[Table]:
    """Yield the lines of a text file (plain, .gz or .zip) in blocks: `order` whole numbers, then a value.

    Columns come in the narrowest unsigned type that holds a block's numbers, those of a block with a sign or a
    fraction as int64 and float64.

    Fields are separated by spaces, tabs, commas or semicolons; empty lines and lines that start with ``#``
    or ``%`` are skipped.

    Parameters
    ----------
    order
        How many whole numbers a line has; None: as the first line has.
    values
        Whether a value follows them; without, each line has the value 1.
    skip
        Lines at the start that are not part of the table.

    Raises
    ------
    InputError
        A line with another number of fields, a field that is no whole number of 64 bits, a value that is no
        finite number; with file and line.
    """
    blocks = _blocks_of_lines(path, skip)
    line = skip + 1
    if order is None:
        without = 0
        for block in blocks:
            comments, fields, text = _first_fields(block)
            if fields:
                _check_commas(path, line + comments, text.strip())
                order = len(fields) - values
                if len(fields) > MOST_FIELDS:
                    _fail(path, line + comments, f"{len(fields):,} fields; an entry has at most {MOST_FIELDS:,}")
                if order < 1:
                    _fail(path, line + comments, "needs at least one index" + " and a value" * values)
                blocks = itertools.chain([block], blocks)
                break
            without = check_without(path, line, without + len(block))
            line += _newlines(block)
    if order is not None:
        without = 0
        for block, table, lines in in_order(partial(_parse, order, values), blocks):
            found = table or parse_lines(path, line, block, order, values=values)
            without = 0 if len(found[1]) else check_without(path, line, without + len(block))
            yield found
            line += lines


def first_lines(path: Path, count: int) -> list[tuple[int, list[bytes]]]:
    """Number and fields of the first lines that have any, comments aside; fewer where there are fewer."""
    found: list[tuple[int, list[bytes]]] = []
    read = 0
    with open_plain(path) as stream:
        for number, line in enumerate(stream, start=1):
            read = check_without(path, number, read + len(line))
            fields = line.removeprefix(MARK).translate(SEPARATORS).split()
            if fields and fields[0][:1] not in b"#%":
                found.append((number, fields))
            if len(found) == count:
                break
    return found


def comments_above(path: Path) -> list[bytes]:
    """The comments before the first line with fields, without the signs that make them comments."""
    found: list[bytes] = []
    read = 0
    with open_plain(path) as stream:
        for line in stream:
            read = check_without(path, len(found) + 1, read + len(line))
            text = line.removeprefix(MARK).strip()
            if text and text[:1] not in b"#%":
                break
            found.append(text.lstrip(b"#% "))
    return found


def is_integer(field: bytes) -> bool:
    """Whether a field is a whole number in plain notation."""
    return INTEGER.fullmatch(field) is not None


def is_number(field: str) -> bool:
    """Whether a field is a number, spaces around it aside."""
    return NUMBER.fullmatch(field.strip().encode()) is not None


def parse_number(text: bytes) -> tuple[float, str]:
    """The 64-bit real that a text says, and what is wrong with it: nothing, or the end of a sentence.

    >>> parse_number(b"-2.5e3"), parse_number(b"0e-999"), parse_number(b"1e400")[1]
    ((-2500.0, ''), (0.0, ''), 'is no finite number')
    """
    value = float(text) if NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        return value, "is no finite number"
    if value == 0 and text.lower().partition(b"e")[0].strip(b"+-0."):
        return value, TOO_SMALL
    return value, ""


def may_be_too_small(text: bytes) -> bool:
    """Whether a text may have a number that 64-bit reals know as 0 only, as :func:`parse_number` tells."""
    return ZEROS in text or ((b"e-" in text or b"E-" in text) and SMALL.search(text) is not None)


class _Ends(Forward):
    """Passes text on with line feeds for whatever ends its lines: a carriage return alone is an end, no blank."""

    def take(self, size: int) -> bytes:
        """Up to `size` bytes; a return and its line feed are not torn apart."""
        content = super().take(max(1, size - 1))
        if b"\r" in content:
            if content.endswith(b"\r") and size > 1:
                content += super().take(1)
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return content


@contextmanager
def open_plain(path: Path) -> Iterator[IO[bytes]]:
    """Open a text file as :func:`open_lines` does, with a line feed at the end of each line whatever ends it there."""
    with open_lines(path) as stream:
        yield io.BufferedReader(_Ends(stream), BUFFER)


def _blocks_of_lines(path: Path, skip: int) -> Iterator[bytes]:
    with open_plain(path) as stream:
        for _ in range(skip):
            stream.readline()
        first = skip == 0
        while block := stream.read(BLOCK_BYTES):
            yield block.removeprefix(MARK * first) + stream.readline()
            first = False


def check_without(path: Path, line: int, count: int) -> int:
    """Return how many bytes in a row have had no entry; very many are no table."""
    if count > MOST_WITHOUT:
        _fail(path, line, f"comments and empty lines of more than {MOST_WITHOUT:,} bytes without an entry")
    return count


def _newlines(block: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(block, dtype=np.uint8) == NEWLINE))  # faster than bytes.count


def _first_fields(block: bytes) -> tuple[int, list[bytes], bytes]:
    """Return how many lines precede the first one with fields, its fields, and the line."""
    for number, line in enumerate(io.BytesIO(block)):
        fields = line.translate(SEPARATORS).split()
        if fields and fields[0][:1] not in b"#%":
            return number, fields, line
    return 0, [], b""


def _check_commas(path: Path, number: int, line: bytes) -> None:
    """Refuse a comma that may stand before a fraction, since another sign separates fields."""
    if FRACTION.search(line) and OTHERS.search(line):
        _fail(
            path,
            number,
            f"'{_shown(line)}': a comma between digits, and another separator between fields: write a point before a "
            "fraction, or use one separator alone",
        )


def _parse(order: int, values: bool, block: bytes) -> tuple[bytes, Table | None, int]:
    """Return the block, its numbers where one of the fast parsers can read it, and its number of lines."""
    table, lines = parse_integers(block, order, values)
    if table is not None:
        return block, table, lines
    return block, parse_fast(block, order, values), _newlines(block)


class _Scratch(threading.local):
    """Memory that a thread uses again for every block: fresh pages would take longer than what fills them."""

    def __init__(self) -> None:
        self.table = np.empty(0, dtype=np.uint8)

    def take(self, count: int) -> npt.NDArray[np.uint8]:
        """Return at least `count` bytes."""
        if len(self.table) < count:
            self.table = np.empty(count + count // 4, dtype=np.uint8)
        return self.table


SCRATCH = _Scratch()


def parse_integers(block: bytes, order: int, values: bool) -> tuple[Table | None, int]:
    """Parse whole numbers by compiled code: the table and the lines it has; (None, 0) where anything else stands."""
    from pipeline.datasets.scan import scan_integers

    scanned = scan_integers(block, order + values, SCRATCH.take, decimals=values)
    if scanned is None:
        return None, 0
    rows, lines = scanned
    columns = [row.astype(np.min_scalar_type(int(row.max(initial=0)))) for row in rows]
    return (columns[:order], columns[order] if values else np.ones(rows.shape[1], dtype=np.uint8)), lines


def parse_fast(block: bytes, order: int, values: bool) -> Table | None:
    """Parse numbers by Arrow's reader of CSV; None where it does not understand a line."""
    import pyarrow as pa
    from pyarrow import csv

    if b"#" in block or b"%" in block:
        block = COMMENT.sub(b"", block)
    block = block.translate(SEPARATORS)
    if block.translate(None, ORDINARY):
        return None
    if b"  " in block or b" \n" in block or b"\n " in block or block[:1] in b" \n":
        block = RUNS_OF_SPACES.sub(lambda match: b"\n" if b"\n" in match[0] else b" ", block).strip()
    if not block.strip():
        return [np.empty(0, np.int64)] * order, np.empty(0)
    names = [f"mode_{mode}" for mode in range(order)] + ["value"] * values
    types = dict.fromkeys(names, pa.int64()) | ({"value": pa.float64()} if values else {})
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            read_options=csv.ReadOptions(column_names=names),
            parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
            convert_options=csv.ConvertOptions(column_types=types, null_values=[]),
        )
    except pa.ArrowException:
        return None
    indices = [table.column(mode).to_numpy() for mode in range(order)]
    entries = table.column("value").to_numpy() if values else np.ones(table.num_rows)
    if not np.isfinite(entries).all() or (not entries.all() and may_be_too_small(block)):
        return None
    return indices, entries


def parse_lines(path: Path, start: int, block: bytes, order: int, *, values: bool) -> Table:
    """Parse lines one by one; `start` is the number of the first one. See :func:`read_numbers`."""
    rows: list[list[int]] = []
    entries: list[float] = []
    wanted = order + values
    for number, line in enumerate(block.split(b"\n"), start):
        fields = line.translate(SEPARATORS).split()
        if not fields or fields[0][:1] in b"#%":
            continue
        if len(fields) != wanted:
            _fail(path, number, f"{len(fields)} fields where {wanted} belong")
        rows.append([_index(path, number, field) for field in fields[:order]])
        entries.append(_value(path, number, fields[-1]) if values else 1.0)
    table = np.array(rows, dtype=np.int64).reshape(-1, order)
    return list(np.ascontiguousarray(table.T)), np.array(entries, dtype=np.float64)


def _index(path: Path, number: int, field: bytes) -> int:
    if not INTEGER.fullmatch(field):
        named = (
            "; names of things belong in a table: --format csv (blanks between: --read 'separator= ')"
            if field.isalpha()
            else ""
        )
        _fail(path, number, f"index '{_shown(field)}' is no whole number{named}")
    if len(field) > 20 or not -(1 << 63) <= int(field) < 1 << 63:
        _fail(path, number, f"index '{_shown(field)}' does not fit 64 bits")
    return int(field)


def _value(path: Path, number: int, field: bytes) -> float:
    value, problem = parse_number(field)
    if problem:
        _fail(path, number, f"value '{_shown(field)}' {problem}")
    return value


def _shown(field: bytes) -> str:
    return field[:SHOWN].decode("utf-8", "backslashreplace")


def _fail(path: Path, number: int, problem: str) -> NoReturn:
    raise InputError(f"{path}:{number}: {problem}")


def line_of_entry(path: Path, entry: int, skip: int = 0) -> int:
    """Number of the line that holds the table's entry of the given number (0-based), for a message."""
    seen = 0
    with open_plain(path) as stream:
        for number, line in enumerate(stream, start=1):
            if number <= skip or not line.translate(SEPARATORS).split() or COMMENT.match(line):
                continue
            if seen == entry:
                return number
            seen += 1
    raise IndexError(f"{path} has {seen} entries, not {entry}")
