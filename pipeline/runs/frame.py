"""How a tensor is made fit for every method: only the indices that occur, and values near one.

Memory and time of most methods follow the ranges of the indices, and their sums of squares of squares leave the
range of floating point long before the values do. Where a tensor has a few non-zeros in large ranges, or values
of extreme size, the method is given the tensor of the indices that occur, divided by a power of two, and the frame
leads from there to the tensor's own cells and back, exactly: cells of an index that never occurs are zero.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

SPARSE_RANGE = 1 << 16  # a mode of at most so many indices is left as it is
SPARSE_SHARE = 16  # and one of which more than a sixteenth occur
LARGEST_EXPONENT = 1100
EXTREME = 200  # powers of two from one beyond which values are brought back

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """From a method's tensor to the user's.

    Attributes
    ----------
    shape
        Of the user's tensor.
    used
        By mode the indices that occur, rising; a mode that is not here keeps all of its indices.
    exponent
        The method's values times two to this power are the user's.
    """

    shape: tuple[int, ...]
    used: dict[int, Integers] = field(default_factory=dict)
    exponent: int = 0

    @classmethod
    def of(cls, X: SparseTensor, *, values: bool) -> Frame:
        """The frame that a tensor needs, a plain one in nearly all cases; of its indices alone without `values`."""
        used = {}
        for mode, size in enumerate(X.shape):
            if size > SPARSE_RANGE:
                occurring = X.occurring(mode)
                if size > SPARSE_SHARE * len(occurring):
                    used[mode] = occurring
        largest = math.frexp(float(np.max(np.abs(X.values))))[1]
        return cls(X.shape, used, largest if values and abs(largest) > EXTREME else 0)

    @property
    def plain(self) -> bool:
        """Whether both tensors are one."""
        return not self.used and not self.exponent

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Shape of the method's tensor."""
        return tuple(len(self.used[mode]) if mode in self.used else size for mode, size in enumerate(self.shape))

    @property
    def bytes(self) -> int:
        """What the indices take in the artifact."""
        return sum(array.nbytes for array in self.stored()[0].values())

    def inner(self, X: SparseTensor) -> tuple[SparseTensor | None, float]:
        """The method's tensor (None: nothing of it), and the squares of the cells that it leaves out."""
        if self.plain:
            return X, 0.0
        coords, known = self._inward(X.coords)
        left_out = X.total(float(np.sum(X.values[~known] ** 2)))
        if not known.any():
            return None, left_out
        values = np.ldexp(X.values[known], -self.exponent)
        return X.with_entries(coords[known], values, self.inner_shape), left_out

    def answers(self, predict: Callable[[Integers], Reals], index: Integers) -> Reals:
        """Values of the user's cells, from those of the method's."""
        if self.plain:
            return predict(index)
        coords, known = self._inward(index)
        values = np.zeros(len(index))
        values[known] = np.ldexp(predict(coords[known]), self.exponent)
        return values

    def outward(self, coords: Integers, values: Reals) -> tuple[Integers, Reals]:
        """The user's cells of the method's."""
        if self.plain:
            return coords, values
        own = coords.copy()
        for mode, used in self.used.items():
            own[:, mode] = used[coords[:, mode]]
        return own, np.ldexp(values, self.exponent)

    def inward(self, fixed: dict[int, int]) -> dict[int, int] | None:
        """Given indices of some modes in the method's tensor; None where one of them never occurs."""
        inside = dict(fixed)
        for mode, used in self.used.items():
            if mode in fixed:
                place = int(np.searchsorted(used, fixed[mode]))
                if place == len(used) or used[place] != fixed[mode]:
                    return None
                inside[mode] = place
        return inside

    def squares(self, value: float) -> float:
        """A sum of squares of the method's values, in the user's."""
        return math.ldexp(value, 2 * self.exponent)

    def _inward(self, index: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
        coords, known = index.copy(), np.ones(len(index), dtype=bool)
        for mode, used in self.used.items():
            place = np.minimum(np.searchsorted(used, index[:, mode]), len(used) - 1)
            known &= used[place] == index[:, mode]
            coords[:, mode] = place
        return coords, known

    # ------------------------------------------------------------------ artifact

    def stored(self, *, indices: bool = True) -> tuple[dict[str, npt.NDArray[np.uint8]], dict[str, Any]]:
        """Arrays and an entry of an artifact's metadata; nothing for a plain frame. No `indices` without orders."""
        if not indices:
            return {}, {"frame": {"exponent": self.exponent}} if self.exponent else {}
        if self.plain:
            return {}, {}
        arrays = {
            f"used_{mode}": np.frombuffer(
                zlib.compress(np.diff(used, prepend=0).astype("<u8").view(np.uint8).reshape(-1, 8).T.tobytes(), 9),
                dtype=np.uint8,
            )
            for mode, used in self.used.items()
        }
        counts = {str(mode): len(used) for mode, used in self.used.items()}
        return arrays, {"frame": {"shape": list(self.shape), "used": counts, "exponent": self.exponent}}

    @classmethod
    def restored(cls, contents: Contents, inner: tuple[int, ...]) -> Frame:
        """The frame of a method's tensor of shape `inner` in an artifact; a plain one where there is none."""
        entry = contents.metadata.get("frame")
        if entry is None:
            return cls(inner)
        if not isinstance(entry, dict) or not isinstance(entry.get("used", {}), dict):
            raise InputError("its metadata has no usable 'frame'")
        own = Contents(contents.tensors, entry)
        exponent = own.entry("exponent")
        if not isinstance(exponent, int) or abs(exponent) > LARGEST_EXPONENT:
            raise InputError(f"frame: an exponent of {str(exponent)[:60]}")
        if "used" not in entry:
            return cls(inner, {}, exponent)
        shape = own.shape(len(inner))
        used = {}
        for mode, size in enumerate(shape):
            if str(mode) in entry["used"]:
                count = Contents({}, entry["used"]).whole(str(mode), 1, size)
                own.permitted(16 * count, f"indices of mode {mode}")
                used[mode] = _decoded(own.code(f"used_{mode}"), count, size)
        if len(used) != len(entry["used"]):
            raise InputError(f"frame: indices of modes {list(entry['used'])} of a tensor of shape {shape}")
        frame = cls(shape, used, exponent)
        if frame.inner_shape != inner:
            raise InputError(f"a model of shape {inner} in a frame of shape {frame.inner_shape}")
        return frame


def _decoded(code: bytes, count: int, size: int) -> Integers:
    """Rising indices below `size` from their differences."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(code, 8 * count + 1)
    except zlib.error as error:
        raise InputError(f"frame: its indices cannot be unpacked ({error})") from error
    if len(plain) != 8 * count:
        raise InputError(f"frame: {len(plain)} bytes of indices where {8 * count} belong")
    steps = np.frombuffer(plain, dtype=np.uint8).reshape(8, count).T.copy().view("<u8").ravel()
    if np.any(steps > size) or np.any(steps[1:] == 0):
        raise InputError("frame: its indices are not rising")
    total = sum(steps.tolist())
    if total >= size:
        raise InputError(f"frame: index {total} in a mode of {size}")
    return np.cumsum(steps.astype(np.int64))
