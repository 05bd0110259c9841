"""What an artifact's arrays and metadata are checked by before any numerical code sees them.

A file may hold anything: each array's type, shape, range and finiteness and each number's range are demanded
here by name, against sizes that were checked before, so that compiled code is never given an unchecked index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.sizes import REMEDY, told_unpacked
from pipeline.errors import InputError, is_whole, nearest
from pipeline.runs.memory import in_words
from pipeline.sparse.grid import LARGEST_SIZE

MODES = 63
UNPACKED = 3 << 28  # bytes that a file of any size may unpack to
EXPANSION = 1000  # and how many times its own size beyond that


class Contents:
    """Arrays and metadata of an artifact, all of whose reals are finite (reading it has checked that).

    Every method returns what was asked for or raises :class:`InputError` with the name and what is wrong.
    """

    def __init__(self, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> None:
        self.tensors, self.metadata = tensors, metadata
        self.stored = sum(array.nbytes for array in tensors.values())

    # ------------------------------------------------------------------ metadata

    def entry(self, name: str) -> Any:
        """An entry of the metadata."""
        if name not in self.metadata:
            raise InputError(f"its metadata has no '{name}'")
        return self.metadata[name]

    def whole(self, name: str, least: int = 0, most: int = LARGEST_SIZE) -> int:
        """A whole number within bounds."""
        value = self.entry(name)
        if not is_whole(value, least) or value > most:
            raise InputError(f"{name}={_shown(value)}: needs a whole number from {least:,} to {most:,}")
        number: int = value
        return number

    def flag(self, name: str) -> bool:
        """Yes or no."""
        value = self.entry(name)
        if not isinstance(value, bool):
            raise InputError(f"{name}={_shown(value)}: needs true or false")
        return value

    def choice(self, name: str, among: Sequence[str]) -> str:
        """One of some words."""
        value = self.entry(name)
        if not isinstance(value, str) or value not in among:
            raise InputError(f"{name}={_shown(value)}: is unknown{nearest(_shown(value), among)}")
        return value

    def wholes(self, name: str, least: int = 0, most: int = LARGEST_SIZE) -> tuple[int, ...]:
        """A list of whole numbers within bounds."""
        value = self.entry(name)
        if not isinstance(value, list) or not all(is_whole(one, least) and one <= most for one in value):
            raise InputError(f"{name}={_shown(value)}: needs whole numbers from {least:,} to {most:,}")
        return tuple(value)

    def shape(self, order: int | None = None) -> tuple[int, ...]:
        """Sizes of the modes."""
        shape = self.wholes("shape", least=1)
        if not 1 <= len(shape) <= MODES or (order is not None and len(shape) != order):
            raise InputError(f"shape {_shown(shape)}: needs {order or f'1 to {MODES}'} sizes")
        return shape

    # ------------------------------------------------------------------ arrays

    def array(self, name: str, kinds: str, shape: Sequence[int | None] | None = None) -> npt.NDArray[Any]:
        """An array of one of NumPy's `kinds` of types and of a shape, in which None stands for any size."""
        if name not in self.tensors:
            raise InputError(f"array '{name}' is missing")
        array = self.tensors[name]
        if array.dtype.kind not in kinds:
            raise InputError(f"array '{name}' is of type {array.dtype}")
        if shape is not None and (
            array.ndim != len(shape)
            or any(want is not None and have != want for have, want in zip(array.shape, shape, strict=True))
        ):
            wanted = " x ".join("any" if size is None else f"{size:,}" for size in shape)
            raise InputError(f"array '{name}' of shape {array.shape} where {wanted} belongs")
        return array

    def reals(self, name: str, shape: Sequence[int | None]) -> npt.NDArray[np.float64]:
        """An array of reals as float64."""
        return self.array(name, "f", shape).astype(np.float64)

    def indices(self, name: str, below: int, count: int | None = None) -> npt.NDArray[np.int64]:
        """A list of `count` indices from 0 to `below` - 1."""
        array = self.array(name, "iu", (count,))
        if array.size and (array.min() < 0 or array.max() >= below):
            raise InputError(f"array '{name}' has an index outside 0..{below - 1}")
        return array.astype(np.int64)

    def counts(self, name: str, count: int, least: int = 0, total: int | None = None) -> npt.NDArray[np.int64]:
        """A list of `count` numbers of things, with their sum where it is known."""
        array = self.array(name, "iu", (count,))
        if array.size and (array.min() < least or array.max() > LARGEST_SIZE):
            raise InputError(f"array '{name}' has a number outside {least}..{LARGEST_SIZE}")
        numbers = array.astype(np.int64)
        summed = sum(numbers.tolist())  # Python's: these do not overflow
        if summed > LARGEST_SIZE or (total is not None and summed != total):
            raise InputError(f"the numbers in '{name}' sum to {summed:,}, not {total}")
        return numbers

    def pointers(self, name: str, count: int, end: int) -> npt.NDArray[np.int64]:
        """Where each of `count` runs starts, and where the last ends: from 0 to `end`, never falling."""
        array = self.indices(name, end + 1, count + 1)
        if array[0] != 0 or array[-1] != end or np.any(array[1:] < array[:-1]):
            raise InputError(f"array '{name}' does not divide {end:,} entries into {count:,} runs")
        return array

    def code(self, name: str) -> bytes:
        """Coded bytes."""
        array = self.array(name, "u", (None,))
        if array.dtype != np.uint8:
            raise InputError(f"array '{name}' is of type {array.dtype}, no bytes")
        return array.tobytes()

    def permitted(self, needed: float, what: str) -> None:
        """Refuse to unpack what is out of all proportion to the file."""
        limit = max(UNPACKED, EXPANSION * self.stored, told_unpacked())
        if needed > limit:
            raise InputError(
                f"{what} would take {in_words(needed)} of memory, more than {in_words(limit)}, "
                f"from {in_words(self.stored)} of arrays; {REMEDY}"
            )

    def cells(self, shape: Sequence[int]) -> int:
        """Number of cells."""
        return math.prod(shape)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
