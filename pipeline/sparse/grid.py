"""The grid of a tensor's cells: its bounds, and the number of a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LARGEST_SIZE = 2**62  # of a mode: positions and their sums stay within 64 bits
NORM2_TOLERANCE = 1e-9  # relative; sums of squares in another order differ by rounding


def linear_index(coords: npt.NDArray[np.int64], shape: Sequence[int]) -> npt.NDArray[np.int64] | None:
    """Return each coordinate's row-major cell number, or None where the grid has 2^63 cells or more."""
    if math.prod(shape) >= 2**63:
        return None
    number = coords[:, 0].copy()
    for mode in range(1, len(shape)):
        number *= shape[mode]
        number += coords[:, mode]
    return number
