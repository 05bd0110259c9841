"""What the pages of a Parquet file unpack to, by their own headers: the sizes in the file's footer may say less.

A page starts with a header in Thrift's compact protocol (the Parquet format's ``PageHeader``), which no library here
shows. Arrow takes as much memory as it says, up to 2 GiB for each page, whatever the footer says.
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
NESTED = 8  # structs within each other; a page's header has three
LARGEST_PAGE = 1 << 31
TRUE, FALSE, BYTE, INT16, INT32, INT64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)  # Thrift's types
UNPACKED, PACKED, DATA, DATA_V2 = 2, 3, 5, 8  # fields of PageHeader: sizes in bytes, and what a page of data is
ENCODING = {DATA: 2, DATA_V2: 4}  # and the field of the last two that tells its encoding
DELTA_BYTE_ARRAY = 7


class _Thrift:
    """A place in bytes of Thrift's compact protocol."""

    def __init__(self, data: Any, place: int) -> None:
        self.data, self.place = data, place

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
        """Numbers and structs of a struct by the numbers of their fields; other fields are passed over."""
        if depth > NESTED:
            raise ValueError("structs nested too deeply")
        found: dict[int, Any] = {}
        field = 0
        while head := self.byte():
            field = field + (head >> 4) if head >> 4 else self.signed()
            found[field] = self.value(head & 0x0F, depth)
        return found

    def value(self, kind: int, depth: int) -> Any:
        """A value of a type; None for what no page's header is asked for."""
        if kind in (TRUE, FALSE):
            return None
        if kind in (INT16, INT32, INT64):
            return self.signed()
        if kind == STRUCT:
            return self.struct(depth + 1)
        if kind not in (BYTE, DOUBLE, BINARY):
            raise ValueError(f"a field of type {kind}")
        length = {BYTE: 1, DOUBLE: 8}[kind] if kind != BINARY else self.number()
        self.place += length
        return None


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


def checked_pages(path: Path, about: Any, columns: Collection[int]) -> Pages:
    """Check what pages unpack to before one is unpacked.

    Parameters
    ----------
    about
        The footer, as Arrow's ``FileMetaData``.
    columns
        Numbers of the columns that are to be read.

    Raises
    ------
    InputError
        They unpack to more than the footer says, or than is in proportion to the file
        (:func:`pipeline.core.sizes.check_unpacked`); a header cannot be read.
    """
    groups = [about.row_group(group) for group in range(about.num_row_groups)]
    chunks = [group.column(column) for group in groups for column in columns]
    check_unpacked(path, sum(chunk.total_uncompressed_size for chunk in chunks))
    encodings: set[int] = set()
    longest = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for chunk in chunks:
            start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
            try:
                sizes, found = _chunk(data, start, chunk.total_compressed_size)
            except (ValueError, IndexError, TypeError) as error:
                raise InputError(
                    f"{path}: column '{chunk.path_in_schema}': the header of a page cannot be read ({error}); "
                    "make the file again"
                ) from error
            longest = max(longest, *sizes, 0)
            if (unpacked := sum(sizes)) > chunk.total_uncompressed_size:
                raise InputError(
                    f"{path}: column '{chunk.path_in_schema}': its pages unpack to {unpacked:,} bytes, the file "
                    f"says {chunk.total_uncompressed_size:,}; make it again"
                )
            encodings |= found
    return Pages(longest, DELTA_BYTE_ARRAY in encodings)


def _chunk(data: Any, start: int, size: int) -> tuple[list[int], set[int]]:
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
