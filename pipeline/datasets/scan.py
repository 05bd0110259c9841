"""The innermost loop of reading tables of whole numbers: one pass over the bytes of a block."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

LONGEST = 18  # digits of a number that surely fits 64 bits
ZERO, NEWLINE = ord("0"), ord("\n")
SPACE, TAB, RETURN, COMMA, SEMICOLON = ord(" "), ord("\t"), ord("\r"), ord(","), ord(";")


def scan_integers(block: bytes, width: int) -> tuple[npt.NDArray[np.int64], int] | None:
    """Read lines of `width` whole numbers without sign; None for a block that is anything else.

    Fields are separated by any number of spaces, tabs, commas, semicolons; empty lines are skipped.

    Returns
    -------
    (width, lines) int64, and how many lines there are with the empty ones.

    Examples
    --------
    >>> table, lines = scan_integers(b"1 20 3\\n\\n4,5,6\\n", 3)
    >>> table.tolist(), lines
    ([[1, 4], [20, 5], [3, 6]], 3)
    >>> scan_integers(b"1 -2 3\\n", 3) is None
    True
    """
    data = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", dtype=np.uint8)
    table = np.empty((width, len(data) // (2 * width) + 1), dtype=np.int64)  # a field and what ends it take 2 bytes
    lines, empty = _scan(data, table)
    return None if lines < 0 else (table[:, :lines], lines + empty)


@numba.njit(cache=True, nogil=True)
def _scan(data: npt.NDArray[np.uint8], table: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Fill the table from bytes that end with a newline; returns numbers of lines (-1: failure) and of empty ones."""
    width = table.shape[0]
    line, empty, field, place = 0, 0, 0, 0
    while place < len(data):
        byte = int(data[place])
        digit = byte - ZERO
        if 0 <= digit <= 9:
            if field == width:
                return -1, 0
            start, number = place, 0
            while 0 <= digit <= 9:
                number = 10 * number + digit
                place += 1
                digit = int(data[place]) - ZERO
            if place - start > LONGEST:
                return -1, 0
            table[field, line] = number
            field += 1
            byte = digit + ZERO
            if byte == SPACE:  # by far the most frequent
                place += 1
                continue
        if byte == NEWLINE:
            if field == width:
                line += 1
            elif field:
                return -1, 0
            else:
                empty += 1
            field = 0
        elif byte != SPACE and byte != TAB and byte != RETURN and byte != COMMA and byte != SEMICOLON:
            return -1, 0
        place += 1
    return line, empty
