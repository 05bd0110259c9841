"""What the indices of a mode stand for: in memory one label an index, on disk one file a mode beside the tensor's.

A tensor's Parquet file names the files of its labels and their checksums; a label file carries a mark by which it is
known as one, so that no file of somebody else's is ever taken for it or written over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.files import atomic_path, has_mark, sha256_file
from pipeline.core.sizes import check_unpacked
from pipeline.errors import InputError
from pipeline.sparse.pages import checked_pages

Label = str | int
MARK = b"kronflow_labels"  # key of a label file's metadata: which tensor's, which mode's


def label_path(tensor: str | Path, mode: int) -> Path:
    """Where the labels of a tensor's mode lie."""
    path = Path(tensor)
    return path.with_name(f"{path.stem}.labels-{mode}.parquet")


def as_labels(column: Any) -> list[Label]:
    """A column of labels (NumPy or Arrow) as texts and whole numbers."""
    values = column.to_pylist() if hasattr(column, "to_pylist") else list(getattr(column, "tolist", lambda: column)())
    return [value if isinstance(value, int) and not isinstance(value, bool) else str(value) for value in values]


class LabelFiles:
    """The label files of one tensor while it is written: all of them appear when the stack is left, or none.

    Parameters
    ----------
    tensor
        The tensor's own file.
    labels
        By mode the columns of its file: ``label`` and what else there is, one value an index.
    """

    def __init__(self, tensor: str | Path, labels: Mapping[int, Mapping[str, Any]]) -> None:
        self.tensor, self.labels = Path(tensor), labels

    @property
    def marks(self) -> dict[Path, bytes]:
        """Where the files go, each with the mark of one."""
        return {label_path(self.tensor, mode): MARK for mode in self.labels}

    def write(self, stack: ExitStack) -> dict[str, Any]:
        """Write them to temporary names that `stack` renames; returns the entry of the tensor's metadata."""
        entry = {}
        for mode, columns in sorted(self.labels.items()):
            path = label_path(self.tensor, mode)
            temporary = stack.enter_context(atomic_path(path))
            _write(temporary, columns, {"tensor": self.tensor.name, "mode": mode})
            entry[str(mode)] = {"file": path.name, "sha256": sha256_file(temporary)}
        return entry

    def remove_others(self) -> None:
        """Remove what an earlier tensor of this name left: its labels would be taken for this one's."""
        for path in self.tensor.parent.glob("*.labels-*.parquet"):
            mode = path.name.removeprefix(f"{self.tensor.stem}.labels-").removesuffix(".parquet")
            known = mode.isdecimal() and path == label_path(self.tensor, int(mode))
            if known and int(mode) not in self.labels and has_mark(path, MARK):
                path.unlink()


def _write(path: Path, columns: Mapping[str, Any], mark: dict[str, Any]) -> None:
    """Columns ``index``, ``label`` and what else there is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = len(columns["label"])
    table = pa.table({"index": np.arange(count, dtype=np.min_scalar_type(max(count - 1, 0))), **_typed(columns)})
    table = table.replace_schema_metadata({MARK.decode(): json.dumps(mark)})
    pq.write_table(table, path, compression="zstd")


def _typed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Labels of both kinds in one column are texts."""
    label = columns["label"]
    mixed = isinstance(label, list | tuple) and len({isinstance(one, int) for one in label}) > 1
    return {**columns, "label": [str(one) for one in label]} if mixed else dict(columns)


def read_label_files(tensor: Path, entry: Any, shape: Sequence[int]) -> tuple[dict[int, list[Label]], list[int]]:
    """Labels of the modes that a tensor's metadata names, and the modes whose file is not there.

    A file lies beside the tensor, under the tensor's present name or the one it was written with.

    Raises
    ------
    InputError
        A file that is not the one that was written with the tensor.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels: dict[int, list[Label]] = {}
    missing = []
    for mode, name, digest in _entries(tensor, entry, len(shape)):
        places = [label_path(tensor, mode), tensor.with_name(name)]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            missing.append(mode)
            continue
        if sha256_file(path) != digest:
            raise InputError(f"{path}: not the labels that {tensor} was written with; convert the raw data again")
        try:
            found = _column(path, pq.ParquetFile(path), shape[mode])
        except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
            raise InputError(f"{path}: no readable labels ({error}); convert the raw data again") from error
        labels[mode] = found
    return labels, missing


def _column(path: Path, file: Any, size: int) -> list[Label]:
    """The labels of a file, if there are so many; what they unpack to is checked before and while they are read."""
    about = file.metadata
    if about.num_rows != size:
        raise InputError(f"{path}: {about.num_rows:,} labels for {size:,} indices")
    place = file.schema_arrow.names.index("label")
    total = 0
    found: list[Label] = []
    for batch in file.iter_batches(checked_pages(path, [place]).rows, columns=["label"]):
        total += batch.nbytes
        check_unpacked(path, total)
        found += as_labels(batch.column(0))
    return found


def _entries(tensor: Path, entry: Any, order: int) -> list[tuple[int, str, str]]:
    """What metadata say about label files, checked: a name without folders, and a checksum."""
    found = []
    for key, named in entry.items() if isinstance(entry, dict) else [("", None)]:
        file, digest = (named.get(name) if isinstance(named, dict) else None for name in ("file", "sha256"))
        plain = isinstance(file, str) and isinstance(digest, str) and file == Path(file).name
        if not plain or not key.isdecimal() or int(key) >= order:
            raise InputError(f"{tensor}: its metadata has no usable 'labels'; convert the raw data again")
        found.append((int(key), str(file), str(digest)))
    return found
