"""The innermost loop of reading tables of whole numbers: one pass over the bytes of a block."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

LONGEST = 18  # digits of a number that surely fits 64 bits
ZERO, NEWLINE = ord("0"), ord("\n")
SPACE, TAB, RETURN, COMMA, SEMICOLON = ord(" "), ord("\t"), ord("\r"), ord(","), ord(";")


def scan_integers(block: bytes, width: int) -> npt.NDArray[np.int64] | None:
    """Read lines of `width` whole numbers without sign; None for a block that is anything else.

    Fields are separated by any number of spaces, tabs, commas, semicolons; empty lines are skipped.

    Returns
    -------
    (width, lines) int64.

    Examples
    --------
    >>> scan_integers(b"1 20 3\\n4,5,6", 3).tolist()
    [[1, 4], [20, 5], [3, 6]]
    >>> scan_integers(b"1 -2 3\\n", 3) is None
    True
    """
    data = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", dtype=np.uint8)
    table = np.empty((width, len(data) // (2 * width) + 1), dtype=np.int64)  # a field and what ends it take 2 bytes
    lines = _scan(data, table)
    return None if lines < 0 else table[:, :lines]


@numba.njit(cache=True, nogil=True)
def _scan(data: npt.NDArray[np.uint8], table: npt.NDArray[np.int64]) -> int:
    """Fill the table from bytes that end with a newline; returns the number of lines, or -1."""
    width = table.shape[0]
    line, field, place = 0, 0, 0
    while place < len(data):
        byte = int(data[place])
        digit = byte - ZERO
        if 0 <= digit <= 9:
            if field == width:
                return -1
            start, number = place, 0
            while 0 <= digit <= 9:
                number = 10 * number + digit
                place += 1
                digit = int(data[place]) - ZERO
            if place - start > LONGEST:
                return -1
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
                return -1
            field = 0
        elif byte != SPACE and byte != TAB and byte != RETURN and byte != COMMA and byte != SEMICOLON:
            return -1
        place += 1
    return line
