"""What a Parquet sparse tensor tells about itself, and the one check of its rows, whoever reads them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, is_whole
from pipeline.sparse.grid import LARGEST_SIZE, NORM2_TOLERANCE, linear_index
from pipeline.sparse.reals import EXACT_INTEGER

FORMAT_VERSION = 1
ROW_GROUP = 1 << 20  # non-zeros that are stored together
DIGEST = re.compile(r', "digest": "([0-9a-f]{64})"}\Z')


@dataclass(frozen=True)
class Header:
    """Metadata of a file, under the key ``kronflow``: JSON that ends with the SHA-256 of itself without that.

    Attributes
    ----------
    shape, nnz, mode_names, source
        As in :class:`~pipeline.sparse.SparseTensor`.
    norm2
        Squared Frobenius norm; infinite, and null in the file, where that overflows.
    labels
        File and checksum of the labels by mode; checked where they are read (:mod:`pipeline.sparse.labels`).
    """

    shape: tuple[int, ...]
    nnz: int
    norm2: float
    mode_names: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)
    labels: Any = None

    def text(self) -> str:
        """What the file holds."""
        content: dict[str, Any] = {
            "version": FORMAT_VERSION,
            "shape": list(self.shape),
            "nnz": self.nnz,
            "norm2": self.norm2 if math.isfinite(self.norm2) else None,
            "mode_names": list(self.mode_names),
            "source": self.source,
        } | ({"labels": self.labels} if self.labels else {})
        text = json.dumps(content)
        return f'{text[:-1]}, "digest": "{hashlib.sha256(text.encode()).hexdigest()}"}}'

    @classmethod
    def parsed(cls, path: Path, raw: dict[bytes, bytes] | None) -> Header:
        """From the key-value metadata of a file.

        Raises
        ------
        InputError
            There is none of ours, it was changed, a number in it is none, or the format is newer than this program.
        """
        remedy = "convert the raw data with 'python -m pipeline.convert'"
        try:
            text = (raw or {})[b"kronflow"].decode()
            content: Any = json.loads(text, parse_constant=_refuse_constant)
        except (KeyError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: no usable 'kronflow' metadata ({_shown(error)}); {remedy}") from error
        if type(content) is not dict:
            raise InputError(f"{path}: its 'kronflow' metadata is no JSON object; {remedy}")
        version = content.get("version", 0)
        if not is_whole(version, 1):
            raise InputError(f"{path}: its metadata names no format version; {remedy}")
        if version > FORMAT_VERSION:
            raise InputError(f"{path}: format version {version}, this program reads up to {FORMAT_VERSION}; update it")
        if "digest" in content:
            match = DIGEST.search(text)
            if match is None or match[1] != hashlib.sha256(f"{text[: match.start()]}}}".encode()).hexdigest():
                raise InputError(f"{path}: its metadata is not what was written (checksum differs); {remedy}")
        shape, nnz, norm2 = (content.get(name, 0) for name in ("shape", "nnz", "norm2"))
        if not isinstance(shape, list) or not shape or not all(is_whole(n, 1) and n <= LARGEST_SIZE for n in shape):
            raise InputError(f"{path}: metadata: shape {_shown(shape)} is no list of sizes of at least 1; {remedy}")
        if not is_whole(nnz, 1) or nnz > LARGEST_SIZE:
            raise InputError(f"{path}: metadata: {_shown(nnz)} non-zeros; {remedy}")
        if norm2 is not None and (not isinstance(norm2, int | float) or isinstance(norm2, bool) or not norm2 >= 0):
            raise InputError(f"{path}: metadata: norm2 {_shown(norm2)} is no number of at least 0; {remedy}")
        names, source = content.get("mode_names"), content.get("source")
        if names is None:
            names = [f"mode_{mode}" for mode in range(len(shape))]
        if not isinstance(names, list) or len(names) != len(shape) or not all(isinstance(n, str) for n in names):
            raise InputError(f"{path}: metadata: mode names {_shown(names)} for {len(shape)} modes; {remedy}")
        if source is not None and not isinstance(source, dict):
            raise InputError(f"{path}: metadata: source {_shown(source)} has no names; {remedy}")
        squares = math.inf if norm2 is None else _as_float(norm2)
        return cls(tuple(shape), nnz, squares, tuple(names), source or {}, content.get("labels"))

    def check_columns(self, path: Path, names: Sequence[str], kinds: Sequence[Any], rows: int) -> None:
        """Refuse columns that are not one of whole numbers for each mode and one of numbers, or too many or few rows.

        This is before any row is decoded: a small file may hold very many.
        """
        from pyarrow import types

        expected = [f"mode_{mode}" for mode in range(len(self.shape))] + ["value"]
        if list(names) != expected:
            raise InputError(f"{path}: columns {_shown(list(names))} where {_shown(expected)} belong; convert it again")
        for name, kind in zip(names, kinds, strict=True):
            if not (types.is_integer(kind) or (name == "value" and types.is_floating(kind))):
                wanted = "a value is a number" if name == "value" else "an index is a whole number"
                raise InputError(f"{path}: column '{name}' is of type {_shown(kind)}, {wanted}; convert it again")
        if rows != self.nnz:
            raise InputError(f"{path}: {rows:,} rows, its metadata says {self.nnz:,} non-zeros; convert it again")


class Rows:
    """The rows of a tensor, checked piece by piece as they come: sorted, distinct, in range, neither 0 nor NaN.

    Their number and the sum of their squares must be what the header says.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self.count, self.norm2 = 0, 0.0
        self._last: npt.NDArray[np.int64] | None = None

    def check(self, coords: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Check the next rows: (n, D) indices and (n,) values.

        Raises
        ------
        InputError
            With the number of the first row that is wrong.
        """
        if len(values) == 0:
            return
        shape = np.array(self.header.shape, dtype=np.int64)
        if coords.min() < 0 or np.any(coords.max(axis=0) >= shape):
            row, mode = np.argwhere((coords < 0) | (coords >= shape))[0]
            self._fail(row, f"index {coords[row, mode]} in mode {mode} is outside 0..{shape[mode] - 1}")
        joined = coords if self._last is None else np.concatenate((self._last[None], coords))
        rising = _rising(joined, self.header.shape)
        if not rising.all():
            row = int(np.argmin(rising)) + (self._last is None)
            self._fail(row, f"cell {coords[row].tolist()} does not come after the one before it")
        self._last = coords[-1].copy()
        usable = np.isfinite(values) & (values != 0)
        if not usable.all():
            row = int(np.argmin(usable))
            self._fail(row, f"value {values[row]}; a non-zero is finite and not 0")
        if values.dtype.kind in "iu" and values.itemsize == 8:
            inexact = (values > int(EXACT_INTEGER)) | (values < -int(EXACT_INTEGER))
            if inexact.any():
                row = int(np.argmax(inexact))
                self._fail(row, f"value {values[row]}; a 64-bit real holds whole numbers up to 2^53")
        self.count += len(values)
        with np.errstate(over="ignore"):
            self.norm2 += float(np.sum(np.square(values, dtype=np.float64)))

    def finish(self) -> None:
        """Compare all rows with the header.

        Raises
        ------
        InputError
            Rows are missing, or their squares add up to something else.
        """
        header = self.header
        if self.count != header.nnz:
            raise InputError(f"{self.path}: {self.count:,} rows, its metadata says {header.nnz:,}; convert it again")
        if not math.isclose(self.norm2, header.norm2, rel_tol=NORM2_TOLERANCE):
            raise InputError(f"{self.path}: norm2 {self.norm2!r}, its metadata says {header.norm2!r}; convert it again")

    def _fail(self, row: int, problem: str) -> None:
        raise InputError(f"{self.path}: row {self.count + row}: {problem}; convert it again")


@contextmanager
def telling_damage(path: Path) -> Iterator[None]:
    """Turn what Arrow raises for a damaged Parquet file into one line that names it."""
    import pyarrow as pa

    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: more than memory holds, or damaged ({_shown(error)}); make it again") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({_shown(error)}); make it again") from error


def _rising(coords: npt.NDArray[np.int64], shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether each row but the first comes after the one before it, lexicographically."""
    number = linear_index(coords, shape)
    if number is not None:
        return np.asarray(number[1:] > number[:-1])
    before, after = coords[:-1], coords[1:]
    first = np.argmax(before != after, axis=1)[:, None]  # the first mode that differs; 0 where none does
    return np.asarray((np.take_along_axis(after, first, 1) > np.take_along_axis(before, first, 1))[:, 0])


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _shown(value: object) -> str:
    text = " ".join(str(value).split()) or type(value).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
