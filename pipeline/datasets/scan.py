"""The innermost loop of reading tables of whole numbers: where the fields end, then what stands in them.

A field of up to eight digits is read as one word of eight bytes that ends with it. Masks clear what precedes
it, and three multiplications add up pairs, fours and eights of digits; the bytes of a word are taken in the
order of little-endian machines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.uint32] | npt.NDArray[np.int64]

WORD = 8  # digits that one word holds
LONGEST = {np.uint32: 9, np.int64: 18}  # digits of a number that surely fits the type
CHUNK = 1 << 15  # bytes whose fields are found at a time, so that their places stay in the fastest cache
ZERO, NEWLINE, POINT = ord("0"), ord("\n"), ord(".")
SPACE, TAB, RETURN, COMMA, SEMICOLON = ord(" "), ord("\t"), ord("\r"), ord(","), ord(";")
DIGITS = np.uint64(0x0F0F0F0F0F0F0F0F)
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


@numba.njit(cache=True, nogil=True)
def _scan(data: Any, words: Any, table: Any, longest: int, decimals: bool) -> tuple[int, int]:
    """Fill the table from bytes that end with a newline; returns numbers of lines and of empty ones.

    In place of the number of lines: OTHER for a byte or a number of fields that does not belong, TOO_LONG for
    a number of more than `longest` digits.
    """
    width = table.shape[0]
    ends = np.empty(CHUNK, dtype=np.int64)
    line, empty, field, fraction = 0, 0, 0, False
    start: Any = 0
    for base in range(0, len(data), CHUNK):
        count = 0
        for place in range(base, min(base + CHUNK, len(data))):
            ends[count] = place
            count += np.uint8(data[place] - np.uint8(ZERO)) > 9  # without a branch, which would often go wrong
        for number in range(count):
            end = ends[number]
            digits = end - start
            if digits:
                if digits > longest:
                    return TOO_LONG, 0
                value: Any = np.uint64(0)
                if digits <= WORD and end >= WORD:
                    value = _value_of_word(words[end - WORD], digits)
                else:
                    for place in range(start, end):
                        value = np.uint64(10) * value + np.uint64(data[place] - ZERO)
                if field < width:
                    table[field, line] = value
                    field += 1
                elif not fraction or value:
                    return OTHER, 0
            byte = data[end]
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
            start = end + 1
    return line, empty


@numba.njit(cache=True, nogil=True)
def _value_of_word(word: Any, digits: int) -> Any:
    """Return the number that the last `digits` of a word's eight bytes stand for."""
    above = np.uint64(8 * (WORD - digits))
    word = (word >> above) << above
    word = ((word & DIGITS) * ADD_DIGITS) >> BITS_8
    word = ((word & PAIRS) * ADD_PAIRS) >> BITS_16
    return ((word & FOURS) * ADD_FOURS) >> BITS_32
