"""The innermost loop of reading tables of whole numbers: eight bytes at a time.

A word of eight bytes shows by its bits where the digits at its start end. Shifted, so that it ends with them,
it gives their number by three multiplications, which add up pairs, fours and eights of digits. Bytes of a word
are taken in the order of little-endian machines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pipeline.kernels import compiling

Table = npt.NDArray[np.uint32] | npt.NDArray[np.int64]

WORD = 8  # digits that one word holds
LONGEST = {np.uint32: 9, np.int64: 18}  # digits of a number that surely fits the type
ZERO, NEWLINE, POINT = ord("0"), ord("\n"), ord(".")
SPACE, TAB, RETURN, COMMA, SEMICOLON = ord(" "), ord("\t"), ord("\r"), ord(","), ord(";")
ZEROS, ABOVE_NINE = np.uint64(0x3030303030303030), np.uint64(0x7676767676767676)  # 0x76 + 10 has the highest bit
LOW_BITS, HIGH_BITS = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x8080808080808080)
PAIRS, FOURS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
ADD_DIGITS, ADD_PAIRS, ADD_FOURS = (
    np.uint64((base << shift) + 1) for base, shift in ((10, 8), (100, 16), (10_000, 32))
)
BITS_8, BITS_16, BITS_32 = np.uint64(8), np.uint64(16), np.uint64(32)
OTHER, TOO_LONG = -1, -2


def scan_integers(
    block: bytes,
    width: int,
    memory: Callable[[int], npt.NDArray[np.uint8]] = lambda count: np.empty(count, dtype=np.uint8),
    *,
    decimals: bool = False,
) -> tuple[Table, int] | None:
    """Read lines of `width` whole numbers without sign; None for a block that is anything else.

    Fields are separated by any number of spaces, tabs, commas, semicolons; empty lines are skipped.

    Parameters
    ----------
    memory
        Gives a number of bytes to put the result in.
    decimals
        Whether the last number of a line may end with a point and zeros.

    Returns
    -------
    (width, lines), uint32 where that holds all numbers, else int64; and how many lines there are with the
    empty ones.

    Examples
    --------
    >>> table, lines = scan_integers(b"1 20 3\\n\\n4,5,6.0\\n", 3, decimals=True)
    >>> table.tolist(), lines
    ([[1, 4], [20, 5], [3, 6]], 3)
    >>> scan_integers(b"1 -2 3\\n", 3) is None
    True
    """
    if sys.byteorder != "little":
        return None
    data = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", dtype=np.uint8)
    # the word at each byte; words overlap, which only strides can say
    words: Any = np.ndarray((max(len(data) - WORD + 1, 0),), np.uint64, data, strides=(1,))
    most = len(data) // (2 * width) + 1  # a field and its end take 2 bytes
    for kind, longest in LONGEST.items():
        size = width * most * np.dtype(kind).itemsize
        table: Any = memory(size)[:size].view(kind).reshape(width, most)
        lines, empty = _scan(data, words, table, longest, decimals)
        if lines >= 0:
            return table[:, :lines], lines + empty
        if lines == OTHER:
            return None
    return None


def _count_zeros(context: Any, word: Any) -> Any:
    """Return the number of zero bits below the lowest one of a word that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


_trailing_zeros: Any = intrinsic(_count_zeros)


@compiling.compiled()
def _scan(data: Any, words: Any, table: Any, longest: int, decimals: bool) -> tuple[int, int]:
    """Fill the table from bytes that end with a newline; returns numbers of lines and of empty ones.

    In place of the number of lines: OTHER for a byte or a number of fields that does not belong, TOO_LONG for
    a number of more than `longest` digits.
    """
    width = table.shape[0]
    line, empty, field, place, fraction = 0, 0, 0, 0, False
    while place < len(data):
        digits: Any = 0
        value: Any = np.uint64(0)
        others = np.uint64(0)  # the highest bit of each byte of the word that is no digit
        if place < len(words):
            word = words[place] ^ ZEROS
            others = (((word & LOW_BITS) + ABOVE_NINE) | word) & HIGH_BITS
        if others:
            end = np.int64(_trailing_zeros(others)) - 7  # in bits
            if end:
                word = word << np.uint64(8 * WORD - end)
                word = (word * ADD_DIGITS) >> BITS_8
                word = ((word & PAIRS) * ADD_PAIRS) >> BITS_16
                value = ((word & FOURS) * ADD_FOURS) >> BITS_32
            digits = end >> 3
            place += digits
        else:
            while ZERO <= data[place] <= ZERO + 9:
                value = np.uint64(10) * value + np.uint64(data[place] - ZERO)
                digits += 1
                place += 1
        if digits:
            if digits > longest:
                return TOO_LONG, 0
            if field < width:
                table[field, line] = value
                field += 1
            elif not fraction or value:
                return OTHER, 0
        byte = data[place]
        if byte == NEWLINE:
            if field == width:
                line += 1
            elif field:
                return OTHER, 0
            else:
                empty += 1
            field = 0
        elif byte == POINT:
            if not decimals or field < width or digits == 0 or fraction:
                return OTHER, 0
        elif byte != SPACE and byte != TAB and byte != RETURN and byte != COMMA and byte != SEMICOLON:
            return OTHER, 0
        fraction = byte == POINT
        place += 1
    return line, empty
