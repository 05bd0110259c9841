"""10x Genomics' folders: ``matrix.mtx``, and the names of its rows and columns in ``features`` and ``barcodes``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.datasets.archive import unpacked_name
from pipeline.datasets.raw import Array, Files, RawTensor, file_named, open_text
from pipeline.datasets.readers import mtx
from pipeline.datasets.readers.hdf5 import labelled
from pipeline.errors import InputError

PARTS = ("matrix.mtx", "features.tsv", "genes.tsv", "barcodes.tsv")


def files_in(folder: Path) -> dict[str, Path]:
    """The files of such a folder, each packed or not; none where it is another one."""
    found = {path.name: path for path in sorted(folder.iterdir()) if unpacked_name(path.name) in PARTS}
    return found if any(unpacked_name(name) == PARTS[0] for name in found) else {}


def read(files: Files) -> RawTensor:
    """Read the matrix (features x barcodes) with the first column of ``features`` (or ``genes``) and of ``barcodes``.

    Files without one of these have no labels of that mode.
    """
    matrix = file_named(files, "matrix")
    raw = mtx.read({matrix.name: matrix})
    rows = _labels(files, "features", "genes")
    columns = _labels(files, "barcodes")
    modes = [
        labelled(matrix, name, mode, labels)
        for name, mode, labels in zip(("feature", "barcode"), raw.modes, (rows, columns), strict=True)
    ]
    return RawTensor(modes, raw.blocks)


def _labels(files: Files, *names: str) -> Array | None:
    found = [path for name, path in files.items() if any(part in name for part in names)]
    if len(found) > 1:
        raise InputError(f"files {sorted(files)}: more than one with {' or '.join(names)} in its name")
    if not found:
        return None
    with open_text(found[0]) as text:
        return np.array([line.rstrip("\r\n").partition("\t")[0] for line in text], dtype=object)
