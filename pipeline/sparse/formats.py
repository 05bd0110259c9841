"""Sparse tensors in the formats of other programs: Matrix Market, FROSTT's ``.tns``, SciPy's ``.npz``.

Numbers are written so that reading gives the same float64 back. Neither text format has a header that a
tensor of any order could use: ``.tns`` keeps no shape, and none keeps labels.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.files import atomic_path
from pipeline.errors import InputError
from pipeline.sparse.tensor import SparseTensor

LINES = 1 << 20  # written at a time


def write_mtx(tensor: SparseTensor, path: str | Path) -> None:
    """Write a matrix as Matrix Market coordinate file, gzipped where the name ends in ``.gz``.

    Raises
    ------
    InputError
        A tensor that is no matrix.
    """
    if tensor.order != 2:
        raise InputError(f"{path}: Matrix Market holds matrices, this tensor has {tensor.order} modes; take .tns")
    field = "integer" if _whole(tensor) else "real"
    with _open_text(Path(path)) as file:
        file.write(f"%%MatrixMarket matrix coordinate {field} general\n".encode())
        file.write(f"{tensor.shape[0]} {tensor.shape[1]} {tensor.nnz}\n".encode())
        _write_lines(tensor, file)


def write_tns(tensor: SparseTensor, path: str | Path) -> None:
    """Write a tensor as FROSTT text (1-based), gzipped where the name ends in ``.gz``; a comment tells the shape."""
    with _open_text(Path(path)) as file:
        file.write(f"# shape {' '.join(map(str, tensor.shape))}\n".encode())
        _write_lines(tensor, file)


def write_npz(tensor: SparseTensor, path: str | Path) -> None:
    """Write a tensor for ``scipy.sparse.load_npz``."""
    from scipy import sparse

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sparse.save_npz(file, tensor.to_scipy())


WRITERS: dict[str, Callable[[SparseTensor, str | Path], None]] = {  # by the ending of a file's name
    ".mtx": write_mtx,
    ".mtx.gz": write_mtx,
    ".tns": write_tns,
    ".tns.gz": write_tns,
    ".npz": write_npz,
}


def write(tensor: SparseTensor, path: str | Path) -> None:
    """Write a tensor in the format that the name's ending tells, one of :data:`WRITERS`."""
    writer = next((WRITERS[ending] for ending in WRITERS if str(path).lower().endswith(ending)), None)
    if writer is None:
        raise InputError(f"{path}: its ending is none of {', '.join(WRITERS)}")
    writer(tensor, path)


@contextmanager
def _open_text(path: Path) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".gz":
            with temporary.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
                yield file  # type: ignore[misc]
        else:
            with temporary.open("wb") as file:
                yield file


def _whole(tensor: SparseTensor) -> bool:
    return bool(np.all(tensor.values == np.rint(tensor.values)) and np.abs(tensor.values).max() < 2.0**53)


def _write_lines(tensor: SparseTensor, file: IO[bytes]) -> None:
    """Write 1-based coordinates and values."""
    whole = _whole(tensor)
    for start in range(0, tensor.nnz, LINES):
        part = slice(start, start + LINES)
        values = tensor.values[part].astype(np.int64) if whole else tensor.values[part]
        columns = [*(tensor.coords[part] + 1).T.tolist(), values.tolist()]
        file.write("".join(f"{' '.join(map(repr, line))}\n" for line in zip(*columns, strict=True)).encode())
