"""The innermost loop of adding up the entries of one cell."""

from __future__ import annotations

from typing import Any

from pipeline.kernels import compiling


@compiling.compiled()
def sum_packed(numbers: Any, bits: int, sums: Any) -> int:
    """Add up the values of each cell in sorted numbers that hold cell and value.

    Parameters
    ----------
    numbers
        (n,) int64, ``cell << bits | value``, ascending, n >= 1; overwritten by the distinct cells.
    sums
        (n,) int64, gets the sum of each.

    Returns
    -------
    The number of distinct cells.

    Examples
    --------
    >>> import numpy as np
    >>> numbers, sums = np.array([0b0101, 0b0111, 0b1001]), np.empty(3, np.int64)
    >>> count = sum_packed(numbers, 2, sums)
    >>> numbers[:count].tolist(), sums[:count].tolist()
    ([1, 2], [4, 1])
    """
    low = (1 << bits) - 1
    count = -1
    cell = -1
    total = 0
    for place in range(len(numbers)):
        number = numbers[place]
        if number >> bits != cell:
            if count >= 0:
                numbers[count] = cell
                sums[count] = total
            count += 1
            cell = number >> bits
            total = 0
        total += number & low
    numbers[count] = cell
    sums[count] = total
    return count + 1
