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
    table = np.empty((width, block.count(b"\n") + 1), dtype=np.int64)
    lines = _scan(np.frombuffer(block, dtype=np.uint8), table)
    return None if lines < 0 else table[:, :lines]


@numba.njit(cache=True, nogil=True)
def _scan(data: npt.NDArray[np.uint8], table: npt.NDArray[np.int64]) -> int:
    """Fill the table; returns the number of lines, or -1."""
    width = table.shape[0]
    line, field, digits, number = 0, 0, 0, 0
    for position in range(len(data) + 1):
        byte = int(data[position]) if position < len(data) else NEWLINE
        if ZERO <= byte <= ZERO + 9:
            number = 10 * number + (byte - ZERO)
            digits += 1
            if digits > LONGEST:
                return -1
            continue
        if digits:
            if field == width:
                return -1
            table[field, line] = number
            field += 1
            digits, number = 0, 0
        if byte == NEWLINE:
            if field == width:
                line += 1
            elif field:
                return -1
            field = 0
        elif byte not in (SPACE, TAB, RETURN, COMMA, SEMICOLON):
            return -1
    return line
