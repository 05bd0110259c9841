"""What the pages of a Parquet file unpack to, by their own headers: the sizes in the file's footer may say less.

A page starts with a header in Thrift's compact protocol (the Parquet format's ``PageHeader``), which no library here
shows. Arrow takes as much memory as it says, up to 2 GiB for each page, whatever the footer says. The footer
(``FileMetaData``) is read here too: asked about a column whose entry contradicts itself, Arrow ends the process.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.sizes import check_unpacked
from pipeline.errors import InputError

ROWS = 1 << 16  # read at a time
FEWEST_ROWS = 16
MOST_TEXT = 1 << 30  # bytes of texts in so many rows
NESTED = 12  # structs and lists within each other; a page's header has three, the footer about eight
LARGEST_PAGE = 1 << 31
TRUE, FALSE, BYTE, INT16, INT32, INT64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)  # Thrift's types
UNPACKED, PACKED, DATA, DATA_V2 = 2, 3, 5, 8  # fields of PageHeader: sizes in bytes, and what a page of data is
ENCODING = {DATA: 2, DATA_V2: 4}  # and the field of the last two that tells its encoding
DELTA_BYTE_ARRAY = 7
GROUPS, CHUNKS, CHUNK = 4, 1, 3  # fields of FileMetaData, RowGroup and ColumnChunk that lead to a column's entry
NAME, CHUNK_UNPACKED, CHUNK_PACKED, FIRST, FIRST_CODES = 3, 6, 7, 9, 11  # of that: its name, bytes, and where it starts
MAGIC = 4  # bytes at either end of a file
LONG_LIST = 15  # entries, from which their number has a place of its own


class _Thrift:
    """A place in bytes of Thrift's compact protocol."""

    def __init__(self, data: Any, place: int, lists: bool = False) -> None:
        self.data, self.place, self.lists = data, place, lists

    def byte(self) -> int:
        value: int = self.data[self.place]
        self.place += 1
        return value

    def number(self) -> int:
        """An unsigned number of seven bits a byte, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number without an end")

    def signed(self) -> int:
        """A number whose lowest bit is its sign."""
        value = self.number()
        return (value >> 1) ^ -(value & 1)

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Numbers, texts, structs and lists of a struct by the numbers of their fields."""
        found: dict[int, Any] = {}
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            found[field] = self.value(head & 0x0F, depth)
        return found

    def value(self, kind: int, depth: int) -> Any:
        """A value of a type; truth values are passed over."""
        if depth > NESTED:
            raise ValueError("structs nested too deeply")
        if kind in (TRUE, FALSE):
            return None
        if kind in (INT16, INT32, INT64):
            return self.signed()
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind == LIST and self.lists:
            head = self.byte()
            count, kind = head >> 4 if head >> 4 < LONG_LIST else self.number(), head & 0x0F
            kind = BYTE if kind in (TRUE, FALSE) else kind  # in a list they take room
            return [self.value(kind, depth + 1) for _ in range(min(count, len(self.data) - self.place + 1))]
        if kind not in (BYTE, DOUBLE, BINARY):
            raise ValueError(f"a field of type {kind}")
        length = {BYTE: 1, DOUBLE: 8}[kind] if kind != BINARY else self.number()
        self.place += length
        if self.place > len(self.data):
            raise IndexError("a text beyond the end")
        return bytes(self.data[self.place - length : self.place])


DAMAGE = (ValueError, IndexError, TypeError, KeyError, AttributeError)  # what bytes that are no Thrift end in


@dataclass(frozen=True)
class Pages:
    """What columns of a file unpack to.

    Attributes
    ----------
    longest
        Bytes of the longest page.
    shared
        Whether texts may share their beginnings (``DELTA_BYTE_ARRAY``): each may then be as long as all of a page.
    """

    longest: int
    shared: bool

    @property
    def rows(self) -> int:
        """How many rows to read at a time, where each may have a text as long as a page."""
        return min(ROWS, max(FEWEST_ROWS, MOST_TEXT // max(self.longest, 1)))


def checked_pages(path: Path, columns: Collection[int]) -> Pages:
    """Check what pages unpack to before one is unpacked.

    Parameters
    ----------
    columns
        Numbers of the columns that are to be read.

    Raises
    ------
    InputError
        They unpack to more than the footer says, or than is in proportion to the file
        (:func:`pipeline.core.sizes.check_unpacked`); a header or the footer cannot be read.
    """
    encodings: set[int] = set()
    longest = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            chunks = [group[CHUNKS][column][CHUNK] for group in _footer(data)[GROUPS] for column in columns]
            told = [_Chunk.of(entry, len(data)) for entry in chunks]
        except DAMAGE as error:
            raise InputError(f"{path}: the footer cannot be read ({error}); make the file again") from error
        check_unpacked(path, sum(chunk.unpacked for chunk in told))
        for chunk in told:
            try:
                sizes, found = _pages(data, chunk.start, chunk.packed)
            except DAMAGE as error:
                raise InputError(
                    f"{path}: column '{chunk.name}': the header of a page cannot be read ({error}); make the file again"
                ) from error
            longest = max(longest, *sizes, 0)
            if (unpacked := sum(sizes)) > chunk.unpacked:
                raise InputError(
                    f"{path}: column '{chunk.name}': its pages unpack to {unpacked:,} bytes, the file "
                    f"says {chunk.unpacked:,}; make it again"
                )
            encodings |= found
    return Pages(longest, DELTA_BYTE_ARRAY in encodings)


@dataclass(frozen=True)
class _Chunk:
    """What the footer says of a column in a group of rows."""

    name: str
    start: int
    packed: int
    unpacked: int

    @classmethod
    def of(cls, entry: dict[int, Any], size: int) -> _Chunk:
        """From the entry's fields, in a file of so many bytes."""
        start = min(filter(None, (entry.get(FIRST_CODES), entry[FIRST])), default=0)
        packed, unpacked = entry[CHUNK_PACKED], entry[CHUNK_UNPACKED]
        if min(start, packed, unpacked) < 0 or start + packed > size:
            raise ValueError(f"a column of {unpacked:,} bytes in {packed:,} from byte {start:,}")
        return cls(b".".join(entry[NAME]).decode("utf-8", "backslashreplace"), start, packed, unpacked)


def _footer(data: Any) -> dict[int, Any]:
    """Fields of the file's metadata, whose length stands before the last four bytes."""
    end = len(data) - MAGIC - 4
    length = int.from_bytes(data[end : end + 4], "little")
    if length > end:
        raise ValueError(f"{length:,} bytes in a file of {len(data):,}")
    return _Thrift(data[end - length : end], 0, lists=True).struct()


def _pages(data: Any, start: int, size: int) -> tuple[list[int], set[int]]:
    """Bytes that each page of a column unpacks to, and the encodings of their data."""
    place, unpacked, encodings = _Thrift(data, start), [], set()
    while place.place < start + size:
        header = place.struct()
        sizes = header.get(UNPACKED, -1), header.get(PACKED, -1)
        if not all(0 <= one < LARGEST_PAGE for one in sizes):
            raise ValueError(f"a page of {sizes[0]:,} bytes in {sizes[1]:,}")
        unpacked.append(sizes[0])
        place.place += sizes[1]
        told = {kind: header[kind] for kind in ENCODING if kind in header}
        if not all(isinstance(part, dict) for part in told.values()):
            raise ValueError("a number where a page's encodings belong")
        encodings |= {part.get(ENCODING[kind]) for kind, part in told.items()}
    return unpacked, encodings
