"""A sparse tensor as a file for others, in the format that the name's ending tells, with labels where it holds them."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.naming import number
from pipeline.errors import InputError
from pipeline.sparse.formats import WRITERS, write

if TYPE_CHECKING:
    from pipeline.sparse import SparseTensor

TABLES = {".csv": ",", ".tsv": "\t"}
ENDINGS = (".parquet", *TABLES, *WRITERS)


def check_written(path: Path) -> None:
    """Refuse a name that tells no format."""
    if not str(path).lower().endswith(ENDINGS):
        raise InputError(f"{path}: its ending is none of {', '.join(ENDINGS)}")


def write_tensor(X: SparseTensor, path: Path) -> None:
    """Write a tensor in the format that the name's ending tells, one of `ENDINGS`; say where labels are left out.

    Raises
    ------
    InputError
        A format that does not hold tensors of this order; a place that cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        X.write_parquet(path)
    elif suffix in TABLES:
        _write_table(X, path, TABLES[suffix])
    else:
        write(X, path)
        if X.labels:
            print(f"{path}: holds no labels, only indices; .csv and .parquet hold both", file=sys.stderr)


def _write_table(X: SparseTensor, path: Path, separator: str) -> None:
    """A header, then a column for each mode, of labels or where it has none of indices from 0, and the values."""
    from pipeline.core.files import atomic_path

    indices = [X.coords[:, mode].tolist() for mode in range(X.order)]
    columns = [
        [X.labels[mode][index] for index in column] if mode in X.labels else column
        for mode, column in enumerate(indices)
    ]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        returns = any("\r" in text for labels in X.labels.values() for text in labels if isinstance(text, str))
        writer = csv.writer(
            file,
            delimiter=separator,
            lineterminator="\n",
            quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL,  # which leaves a carriage return as it is
        )
        value = "value"
        while value in X.mode_names:
            value += "_"
        writer.writerow([*X.mode_names, value])
        writer.writerows(zip(*columns, map(number, X.values), strict=True))
