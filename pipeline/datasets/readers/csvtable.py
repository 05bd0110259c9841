"""CSV and TSV files with a column of labels or indices for each mode."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

import numpy as np

from pipeline.datasets.places import modes_of, to_places
from pipeline.datasets.raw import (
    Block,
    Files,
    RawTensor,
    check_encoding,
    each_member,
    members,
    only_file,
    open_lines,
    open_text,
    telling_damage,
)
from pipeline.datasets.text import INTEGER, NUMBER, SHOWN, is_number, may_be_too_small, parse_number
from pipeline.errors import InputError, nearest

BLOCK_BYTES = 1 << 24
MOST_COLUMNS = 100_000
MOST_EMPTY = 1_000_000  # lines in a row
SEPARATORS = ("\t", ";", "|")  # looked for where there is no comma
NAMES = {"\t": "a tab"}
THOUSANDS = (",", ".", " ", "'", "_")
GROUPED = re.compile(r"[+-]?[0-9]{1,3}([,. '_])[0-9]{3}(\1[0-9]{3})*(?![0-9])")
TRUTHS = ("true", "false")
LONGEST_SMALL = 256  # bytes in which a very small number shows
JOINT = "\x1f"  # stands for a separator of several characters: ASCII's own separator of fields


def read(
    files: Files,
    *,
    columns: Sequence[str | int],
    value: str | int | None = None,
    separator: str | None = None,
    header: bool | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    quotes: bool | None = None,
    encoding: str = "utf-8",
    missing: Sequence[str | int] = (),
    only: Mapping[str | int, str | int] | None = None,
    member: str | None = None,
    base: int | None = None,
    shape: Sequence[int] | None = None,
) -> RawTensor:
    """Read a CSV or TSV file (plain, compressed or in an archive): one entry a line, lines of one place add up.

    Parameters
    ----------
    columns
        The columns that become modes, by name; in a file without header by position, from 0.
    value
        The column of the values; without, every line counts 1.
    separator
        One or more characters (``::``; ``tab`` or ``\\t`` is a tab). None: a tab where the file's name has ``.tsv`` in
        it, else a comma; where the first line has none, another that stands there, which a line says.
    header
        Whether the first line names the columns. None: it does where it has any field that is no number; a line
        says so where it does not.
    decimal
        The sign before the fraction of a value, a point or a comma.
    thousands
        The sign between groups of three digits of a value, one of ``, . ' _`` or a space. Such a file is read more
        slowly.
    quotes
        Whether a field may stand in double quotes. None: it may, and lines between two quotes that are entries of
        their own without them are refused. A file with quotes is read more slowly.
    encoding
        As Python names it, for example ``latin-1``.
    missing
        Texts that stand for no label; lines with one in a column that becomes a mode are left out.
    only
        Columns and the text that each must have; other lines are left out.
    member
        The files of an archive to read, one after the other, as a pattern such as ``train_*.csv``.
    base, shape
        For columns of indices: see :func:`pipeline.datasets.places.modes_of`.
    """
    check(
        columns=columns, separator=separator, decimal=decimal, thousands=thousands, encoding=encoding, base=base,
        shape=shape,
    )  # fmt: skip
    path = only_file(files)
    layout = Layout(path, ",", True, quotes, encoding, tuple(map(str, missing)), base is not None)
    layout = replace(layout, decimal=decimal, thousands=thousands)
    parts = [layout] if member is None else [replace(layout, member=name) for name in members(path, member)]
    found = parts[0].separator_found() if separator is None else checked_separator(separator)
    parts = [replace(part, separator=found) for part in parts]
    if header is None:
        wanted = [*columns, *(only or {}), *([] if value is None else [value])]
        header = any(isinstance(name, str) and not is_number(name) for name in wanted) or has_header(parts[0])
    parts = [replace(part, header=header) for part in parts]
    return read_parts(parts, columns, base, shape, value=value, only=only)


def check(
    *,
    columns: Sequence[str | int],
    separator: str | None = None,
    decimal: str = ".",
    thousands: str | None = None,
    encoding: str = "utf-8",
    base: int | None = None,
    shape: Sequence[int] | None = None,
    **_: Any,
) -> None:
    """Refuse what the options of :func:`read` cannot be, whatever the file."""
    if not columns:
        raise InputError("option columns: name at least one column")
    if separator is not None:
        checked_separator(separator)
    if decimal not in (".", ","):
        raise InputError(f"option decimal: a point or a comma, not {decimal!r}")
    if thousands is not None and (thousands not in THOUSANDS or thousands == decimal):
        raise InputError(f"option thousands: one of {' '.join(map(repr, THOUSANDS))}, not decimal's; not {thousands!r}")
    check_encoding(encoding)
    modes_of(columns, base, shape)


def checked_separator(given: str) -> str:
    """What the option separator says."""
    separator = {"tab": "\t", "\\t": "\t"}.get(given, given)
    if not separator or any(sign in separator for sign in f'\r\n"{JOINT}'):
        raise InputError(f"option separator: characters between two fields, not {given!r}")
    return separator


def has_header(layout: Layout) -> bool:
    """Whether the first line names columns: numbers alone are an entry, which a line on standard error says.

    Raises
    ------
    InputError
        The first line is 0, 1, 2 and so on: an entry, or the names that a table without names is written with.
    """
    number, first = replace(layout, header=True)._first_line()
    fields = [field.strip() for field in first if field.strip()]
    if not fields or not all(map(is_number, fields)):
        return True
    place = f"{layout.name}:{number}"
    if fields == [str(position) for position in range(len(fields))]:
        raise InputError(
            f"{place}: {','.join(fields)}: set the option header=false if this is an entry, "
            "or header=true if it names the columns"
        )
    print(f"{place}: numbers alone, read as an entry (option header=true if it names the columns)", file=sys.stderr)
    return False


def read_parts(
    parts: Sequence[Layout],
    columns: Sequence[str | int],
    base: int | None = None,
    shape: Sequence[int] | None = None,
    *,
    names: Sequence[str] | None = None,
    value: str | int | None = None,
    minus: str | int | None = None,
    only: Mapping[str | int, str | int] | None = None,
) -> RawTensor:
    """Read tables of one layout, one after the other.

    Parameters
    ----------
    names
        Of the modes; without, those of the columns.
    minus
        A column to subtract from the values.

    Other parameters as in :func:`read`.
    """
    modes = modes_of(names or columns, base, shape)
    located = (layout.with_columns(columns, value, minus, only or {}) for layout in parts)
    return RawTensor(
        modes,
        itertools.chain.from_iterable(to_places(blocks_of(layout), modes, base, layout.place) for layout in located),
    )


def read_members(
    layout: Layout,
    pattern: str,
    columns: Sequence[str],
    *,
    names: Sequence[str],
    only: Mapping[str | int, str | int] | None = None,
) -> RawTensor:
    """Read the tables of an archive, without quotes, that match a pattern, unpacking the archive once.

    Parameters as in :func:`read_parts`.
    """
    modes = modes_of(names, None, None)

    def blocks() -> Iterator[Block]:
        for member, stream in each_member(layout.path, pattern):
            part = replace(layout, member=member)
            with telling_damage(layout.path):
                header = stream.readline().decode(layout.encoding, "replace").rstrip("\r\n")
            part = part.with_columns(columns, only=only, header=header.split(layout.separator))
            yield from blocks_of(part, stream)

    return RawTensor(modes, blocks())


@dataclass(frozen=True)
class Layout:
    """A table and where what stands in it."""

    path: Path
    separator: str = ","
    header: bool = True
    quotes: bool | None = None
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    indices: bool = False  # columns hold whole numbers, not labels
    member: str | None = None  # of an archive
    decimal: str = "."
    thousands: str | None = None
    loose: bool = False  # names of columns may differ in capitals, spaces and underscores
    above: int = 1  # lines down to the header and with it; a file may start with empty ones
    width: int = 0  # fields of a line
    keys: tuple[int, ...] = ()  # positions of the columns
    value: int | None = None
    minus: int | None = None
    only: tuple[tuple[int, str], ...] = ()

    def with_columns(
        self,
        columns: Sequence[str | int],
        value: str | int | None = None,
        minus: str | int | None = None,
        only: Mapping[str | int, str | int] | None = None,
        header: list[Any] | None = None,
    ) -> Layout:
        """Find the columns in the first line, which is `header` where the caller has read it."""
        above, first = (1, header) if header is not None else self._first_line()
        names = [self._plain(name) for name in first]

        def position(wanted: str | int) -> int:
            name = self._plain(wanted)
            if not self.header and isinstance(name, str) and name.isdecimal():
                name = int(name)
            if names.count(name) != 1:
                times = names.count(name)
                hint = f"; it stands there {times} times" if times else f"{nearest(str(name), map(str, names))}"
                if self.header and isinstance(wanted, int):
                    hint += "; set the option header=false if the first line is an entry"
                raise InputError(f"{self.name}:1: no single column '{wanted}'{hint}")
            return names.index(name)

        return replace(
            self,
            above=above,
            width=len(names),
            keys=tuple(position(name) for name in columns),
            value=None if value is None else position(value),
            minus=None if minus is None else position(minus),
            only=tuple((position(name), str(text)) for name, text in (only or {}).items()),
        )

    def separator_found(self) -> str:
        """What separates the fields of the first line."""
        if ".tsv" in self.path.name.lower():
            return "\t"
        with open_text(self.path, self.encoding, self.member) as text:
            first = next((line for line in itertools.islice(text, MOST_EMPTY) if line.strip()), "")
        found = [each for each in ("::", *SEPARATORS) if each in first]
        if "," in first or not found:
            return ","
        print(f"{self.name}: fields separated by {NAMES.get(found[0], found[0])} (option separator)", file=sys.stderr)
        return found[0]

    def header_names(self) -> list[Any]:
        """Return the names of the columns; their positions in a file without header."""
        return self._first_line()[1]

    def _first_line(self) -> tuple[int, list[Any]]:
        """Return the number of the first line that is not empty, and the names of the columns."""
        number, first = next(_lines(self, skip_header=False), (1, []))
        if not first:
            raise InputError(f"{self.name}: empty tensor: the file has no line")
        if len(first) > MOST_COLUMNS:
            raise InputError(
                f"{self.name}:{number}: {len(first):,} columns, more than {MOST_COLUMNS:,}; if its lines are rows of a "
                "matrix, write it as one (.mtx, .npz)"
            )
        return number, [name.removeprefix("\ufeff") for name in first] if self.header else list(range(len(first)))

    def _plain(self, name: Any) -> Any:
        return str(name).lower().replace(" ", "").replace("_", "") if self.loose else name

    @property
    def name(self) -> str:
        """The file, and within an archive its member, for messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def place(self, entry: int) -> str:
        """Return ``file:line`` of the entry with the given number."""
        kept = (number for number, fields in _lines(self) if not self.leaves_out(fields))
        for position, number in enumerate(kept):
            if position == entry:
                return f"{self.name}:{number}"
        raise IndexError(entry)

    def leaves_out(self, fields: list[str]) -> bool:
        """Whether a line lacks a label, or is not among those to read."""
        return any(fields[key] in self.missing for key in self.keys) or any(
            fields[column] != text for column, text in self.only
        )


def blocks_of(layout: Layout, rest: IO[bytes] | None = None) -> Iterator[Block]:
    """Arrow's blocks as long as it understands the file; what it does not, line by line.

    `rest` is what follows the header, where that has been read already.
    """
    read_lines = 0
    for lines, block in _fast_blocks(layout, rest):
        read_lines += lines
        if block is None:
            break
        yield block
    else:
        return
    yield from careful_blocks(layout, read_lines)


def _fast_blocks(layout: Layout, rest: IO[bytes] | None) -> Iterator[tuple[int, Block | None]]:
    """Yield the number of lines and the entries in them; None once Arrow fails or a field is not as it should be."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(number) for number in range(layout.width)]
    kinds = {names[key]: pa.string() for key in layout.keys}
    kinds |= {names[column]: pa.string() for column, _ in layout.only}
    kinds |= {names[column]: pa.float64() for column in (layout.value, layout.minus) if column is not None}
    if layout.thousands:
        yield 0, None
        return
    long = len(layout.separator) > 1
    try:
        opened = nullcontext(rest) if rest else open_lines(layout.path, layout.member)
        with telling_damage(layout.path), opened as stream:
            joined = _Joined(stream, layout.separator.encode(layout.encoding)) if long else stream
            plain = _Plain(joined, layout.quotes is not False)
            reader = arrow_csv.open_csv(
                plain,
                read_options=arrow_csv.ReadOptions(
                    column_names=names,
                    skip_rows_after_names=0,
                    skip_rows=layout.above if layout.header and rest is None else 0,
                    block_size=BLOCK_BYTES,
                    encoding=layout.encoding,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=JOINT if long else layout.separator,
                    quote_char=False,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=kinds,
                    include_columns=list(kinds),
                    null_values=[],
                    strings_can_be_null=False,
                    decimal_point=layout.decimal,
                ),
            )
            for batch in reader:
                block = _entries(layout, pa.Table.from_batches([batch]), names)
                if block is not None and plain.small and not block[1].all():
                    block = None
                yield (0 if block is None else batch.num_rows), block
                if block is None:
                    return
    except (pa.ArrowException, UnicodeDecodeError, _QuoteFoundError):
        yield 0, None


class _QuoteFoundError(Exception):
    """A file that needs Python's reader: Arrow's is lenient about what follows a closing quote."""


class _Plain(io.RawIOBase):
    """Passes a stream on as long as there is no double quote in it where there may be; notes very small numbers."""

    def __init__(self, stream: IO[bytes] | io.RawIOBase, quotes: bool) -> None:
        self._stream: Any = stream
        self._quotes, self._end = quotes, b""
        self.small = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        content: bytes = self._stream.read(size)
        if self._quotes and b'"' in content:
            raise _QuoteFoundError
        self.small = self.small or may_be_too_small(self._end + content)
        self._end = content[-LONGEST_SMALL:]
        return content


class _Joined(io.RawIOBase):
    """Passes a stream on with one character in place of a separator of several."""

    def __init__(self, stream: IO[bytes], separator: bytes) -> None:
        self._stream, self._separator, self._rest = stream, separator, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; no separator is cut in two."""
        wanted = size if size > 0 else BLOCK_BYTES
        content, self._rest = self._rest, b""
        while more := self._stream.read(wanted - len(content)):
            content += more
            if whole := content.rstrip(self._separator):
                content, self._rest = whole, content[len(whole) :]
                break
        if JOINT.encode() in content:
            raise _QuoteFoundError  # Python's reader tells where
        return content.replace(self._separator, JOINT.encode())


def _entries(layout: Layout, table: Any, names: list[str]) -> Block | None:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [table[names[key]] for key in layout.keys]
    values = np.ones(table.num_rows) if layout.value is None else table[names[layout.value]].to_numpy()
    if layout.minus is not None:
        values = values - table[names[layout.minus]].to_numpy()
    if layout.missing or layout.only:
        absent = pa.array(layout.missing, pa.string())
        kept = np.ones(table.num_rows, dtype=bool)
        for column in columns:
            kept &= ~pc.is_in(column, absent).to_numpy()
        for position, text in layout.only:
            kept &= pc.equal(table[names[position]], text).to_numpy()
        columns, values = [column.filter(pa.array(kept)) for column in columns], values[kept]
    pattern = r"^[+-]?[0-9]{1,18}$" if layout.indices else "."
    if not all(pc.all(pc.match_substring_regex(column, pattern), min_count=0).as_py() for column in columns):
        return None
    if not np.isfinite(values).all():
        return None
    if layout.indices:
        return [column.cast(pa.int64()).to_numpy() for column in columns], values
    return [column.combine_chunks() for column in columns], values


def _lines(layout: Layout, skip_header: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty, and its fields."""
    quoting: Literal[0, 3] = csv.QUOTE_NONE if layout.quotes is False else csv.QUOTE_MINIMAL
    held: list[str] = []  # the lines of the entry at hand: several where a quoted field has ends of lines
    with open_text(layout.path, layout.encoding, layout.member) as text:
        long = len(layout.separator) > 1
        source = _held((line.replace(layout.separator, JOINT) for line in text) if long else text, held)
        lines = csv.reader(source, delimiter=JOINT if long else layout.separator, quoting=quoting, strict=True)
        skipped, last = not (skip_header and layout.header), 0
        try:
            for fields in lines:
                if not fields and lines.line_num - last > MOST_EMPTY:
                    raise InputError(f"{layout.name}:{lines.line_num}: {MOST_EMPTY:,} empty lines; it is no table")
                last = lines.line_num if fields else last
                if layout.quotes is None and len(held) > 1:
                    _check_quoted(layout, lines.line_num, held, len(fields))
                if fields and skipped:
                    yield lines.line_num, fields
                skipped = skipped or bool(fields)
                held.clear()
        except csv.Error as error:
            quoted = layout.quotes is not False and any('"' in line for line in held)
            hint = "; where quotes are part of the text: option quotes=false" * quoted
            place = f"{layout.name}:{lines.line_num - len(held) + 1}"
            raise InputError(f"{place}: no valid line ({error}){hint}") from error


def _held(lines: Iterable[str], held: list[str]) -> Iterator[str]:
    """Pass lines on, and note them in `held`."""
    for line in lines:
        held.append(line)
        yield line


def _check_quoted(layout: Layout, last: int, held: list[str], width: int) -> None:
    """Refuse one entry of several lines each of which is an entry too where a quote is a sign like others."""
    separator = JOINT if len(layout.separator) > 1 else layout.separator
    if width > 1 and all(line.count(separator) == width - 1 for line in held):
        raise InputError(
            f"{layout.name}:{last - len(held) + 1}: from one quote to the next {len(held)} lines are one entry, and "
            "each is one without quotes: set the option quotes=false if they are part of the text, quotes=true if not"
        )


def careful_blocks(layout: Layout, skip: int) -> Iterator[Block]:
    """Parse line by line, after `skip` lines that have been read already."""
    rows: list[list[Any]] = []
    for position, (number, fields) in enumerate(_lines(layout)):
        if position < skip:
            continue
        if len(fields) != layout.width:
            _fail(layout, number, f"{len(fields)} fields where the first line has {layout.width}")
        value = 1.0 if layout.value is None else _value(layout, number, fields[layout.value])
        if layout.minus is not None:
            value -= _value(layout, number, fields[layout.minus])
        if not layout.leaves_out(fields):
            rows.append([*(_key(layout, number, fields[key]) for key in layout.keys), value])
        if len(rows) == 1 << 20:
            yield _block_of(layout, rows)
            rows = []
    if rows:
        yield _block_of(layout, rows)


def _block_of(layout: Layout, rows: list[list[Any]]) -> Block:
    *keys, values = zip(*rows, strict=True)
    return [np.array(key, dtype=np.int64 if layout.indices else object) for key in keys], np.array(values)


def _key(layout: Layout, number: int, field: str) -> str | int:
    if not field:
        _fail(layout, number, "a label is empty; set the option missing: [''] to leave such lines out")
    if not layout.indices:
        return field
    if not INTEGER.fullmatch(field.encode()) or len(field) > 20 or not -(1 << 63) <= int(field) < 1 << 63:
        _fail(layout, number, f"index '{field[:SHOWN]}' is no whole number of 64 bits")
    return int(field)


def _value(layout: Layout, number: int, field: str) -> float:
    plain = field.strip()
    grouped = GROUPED.match(plain)
    if grouped and grouped[1] == layout.thousands:
        plain = grouped[0].replace(grouped[1], "") + plain[grouped.end() :]
    if layout.decimal == ",":
        plain = "" if "." in plain else plain.replace(",", ".")
    value, problem = parse_number(plain.encode())
    if problem:
        _fail(layout, number, f"value '{field[:SHOWN]}' {problem}{_hint(layout, field.strip())}")
    return value


def _hint(layout: Layout, field: str) -> str:
    """The option that reads what is no plain number."""
    ways = []
    if field.lower() in TRUTHS:
        return f"; to count the lines that say so: name the modes' columns and set the option only={{NAME: '{field}'}}"
    if (grouped := GROUPED.match(field)) and not layout.thousands and grouped[1] != layout.decimal:
        ways.append(f"where it separates thousands: option thousands={grouped[1]}")
    if layout.decimal == "." and "," in field and NUMBER.fullmatch(field.replace(",", ".").encode()):
        ways.append("where the comma is before the fraction: option decimal=,")
    if layout.decimal == "." and grouped and grouped[1] != "," and field[grouped.end() :].startswith(","):
        ways.append("option decimal=,")
    return "".join(f"; {way}" for way in ways)


def _fail(layout: Layout, number: int, problem: str) -> NoReturn:
    raise InputError(f"{layout.name}:{number}: {problem}")
