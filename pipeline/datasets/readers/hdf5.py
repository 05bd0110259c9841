"""Sparse matrices in HDF5, known by what the file holds: Binsparse, 10x Genomics' matrices, AnnData's ``.h5ad``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.raw import Array, Files, Mode, RawTensor, only_file
from pipeline.datasets.readers import arrays
from pipeline.errors import InputError

COMPRESSED = {"data", "indices", "indptr"}
KEYS = ("features/id", "genes", "gene_names")  # of a 10x file, where its rows' names lie: versions 3, 2 and older
BARCODES = "barcodes"


def read(files: Files, *, group: str | None = None) -> RawTensor:
    """Read a Binsparse file, a 10x Genomics file (features x barcodes) or AnnData's matrix (observations x variables).

    Parameters
    ----------
    group
        Where in the file the matrix lies, for example ``layers/counts``; without, a 10x file's only matrix or
        AnnData's ``X``.
    """
    import h5py

    path = only_file(files)
    if not path.is_file():
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'")
    arrays.check_heaps(path)
    try:
        with h5py.File(path, "r") as file:
            if "binsparse" not in arrays.own_object(path, file, group or "/").attrs:
                return _found(path, file, group)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable HDF5 file of a matrix ({error})") from error
    return arrays.read_binsparse(files, **({} if group is None else {"group": group}))


def _found(path: Path, file: Any, group: str | None) -> RawTensor:
    name = _place(path, file) if group is None else group
    place = arrays.own_object(path, file, name)
    if not hasattr(place, "keys"):
        dense = arrays.own_array(path, file, name)
        return _named(path, file, arrays.dense_tensor(path, dense))
    if not set(place) >= COMPRESSED:
        raise InputError(f"{path}: group '{name}' holds no compressed matrix ({', '.join(sorted(COMPRESSED))})")
    if "shape" in place:  # of 10x: by columns, one a barcode
        shape = tuple(arrays.own_array(path, place, "shape").tolist())
        columns = True
    else:
        kind = place.attrs.get("encoding-type", place.attrs.get("h5sparse_format", ""))
        kind = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind)
        if kind.removesuffix("_matrix") not in ("csr", "csc"):
            raise InputError(f"{path}: group '{name}' is of the encoding '{kind[:40]}', none of csr_matrix, csc_matrix")
        columns = kind.startswith("csc")
        shape = tuple(np.asarray(place.attrs.get("shape", place.attrs.get("h5sparse_shape", ()))).tolist())
    parts = {part: arrays.own_array(path, place, part) for part in COMPRESSED}
    raw = arrays.compressed_tensor(path, parts, shape, columns)
    return _named(path, file, raw, place if "shape" in place else None)


def _place(path: Path, file: Any) -> str:
    """The group of the file's matrix."""
    import h5py

    if "X" in file:
        return "X"
    own = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
    found = [name for name in own if hasattr(file[name], "keys") and set(file[name]) >= COMPRESSED]
    if len(found) != 1:
        holds = ", ".join(map(str, list(file)[:5])) or "nothing"
        raise InputError(f"{path}: no matrix of Binsparse, 10x or AnnData at its top ({holds}); name its place: group")
    return str(found[0])


def _named(path: Path, file: Any, raw: RawTensor, tenx: Any = None) -> RawTensor:
    """The same with the names of modes and labels, where the file has them."""
    if len(raw.modes) != 2:
        return raw
    if tenx is not None:
        names = ["feature", "barcode"]
        rows = (_texts(path, tenx, key) for key in KEYS)
        labels = [next((found for found in rows if found is not None), None), _texts(path, tenx, BARCODES)]
    else:
        names, labels = ["observation", "variable"], [_index(path, file, part) for part in ("obs", "var")]
    return RawTensor([labelled(path, *each) for each in zip(names, raw.modes, labels, strict=True)], raw.blocks)


def labelled(path: Path, name: str, mode: Mode, labels: Array | None) -> Mode:
    """A mode with a name, and with labels where there are some.

    Raises
    ------
    InputError
        Another number of labels than of indices.
    """
    if labels is not None and len(labels) != mode.size:
        raise InputError(f"{path}: {len(labels):,} names of {mode.size} indices of mode '{name}'")
    return Mode(name, indexed=True, size=mode.size, labels=None if labels is None else {"label": labels})


def _index(path: Path, file: Any, part: str) -> Array | None:
    """Names of AnnData's observations or variables; older files keep them in a table, which is not read."""
    table: Any = arrays.own_object(path, file, part) if part in set(file) else None
    return _texts(path, table, str(table.attrs.get("_index", "index"))) if hasattr(table, "keys") else None


def _texts(path: Path, place: Any, name: str) -> Array | None:
    *folders, last = name.split("/")
    for folder in folders:
        if not hasattr(place, "keys") or folder not in set(place):
            return None
        place = arrays.own_object(path, place, folder)
    if not hasattr(place, "keys") or last not in set(place):
        return None
    name = last
    found = arrays.own_array(path, place, name)
    texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in found.tolist()]
    return np.array(texts, dtype=object)
