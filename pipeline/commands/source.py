"""The tensor that a command is given: a Parquet sparse tensor, or a file of any other known format."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.sizes import check_unpacked
from pipeline.core.step import parse_settings
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.sparse import SparseTensor


@dataclass(frozen=True)
class Reading:
    """How a tensor is read, as told on the command line.

    Attributes
    ----------
    format_name, options
        The format, and the options of its reader.
    more
        Files of the tensor beside the first, where the format has several.
    labels
        Whether what the indices stand for is kept.
    """

    format_name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    more: tuple[Path, ...] = ()
    labels: bool = True

    @classmethod
    def of(cls, given: argparse.Namespace) -> Reading:
        """From the options of :func:`add_reading`."""
        from pipeline.datasets import text_options

        options = parse_settings(given.read, "--read", text_options()) if given.read else {}
        for name in ("columns", "value"):
            text = getattr(given, name)
            if text is not None and name in options:
                raise InputError(f"--{name} {text}: given by --read too; give it once")
        options |= {"columns": given.columns.split(",")} if given.columns else {}
        options |= {"value": given.value} if given.value else {}
        return cls(given.format, options, tuple(given.file), not getattr(given, "no_labels", False))


def add_reading(command: Any) -> None:
    """Add the options that say how a file is read."""
    command.add_argument("--columns", help="of a table: the columns that are modes, as a,b (default: all but the last)")
    command.add_argument("--value", help="of a table: the column of the values (default: the last)")
    command.add_argument("--format", help="of the file (default: what its name's ending says)")
    command.add_argument(
        "--file",
        type=Path,
        action="append",
        default=[],
        help="another file of the same tensor, where its format has several (simplices); may be given several times",
    )
    command.add_argument(
        "--read",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the format's reader, such as separator=; or encoding=latin-1; may be given several times",
    )


def add_without_labels(command: Any) -> None:
    """Add the option that leaves out what the indices stand for."""
    command.add_argument(
        "--no-labels", action="store_true", help="leave the labels out: a smaller file, which answers by index"
    )


def read_whole(path: Path, reading: Reading) -> tuple[SparseTensor, str]:
    """Read a tensor as :func:`read_tensor` does, with the checksum of its files' contents one after another.

    Of a 10x folder the checksum is its matrix's.

    Raises
    ------
    InputError
        As there; or a file was written while it was read, so that no checksum is that of what was read.
    """
    from pipeline.core.files import sha256_file
    from pipeline.datasets import files_of

    contents = [
        next(file for name, file in files_of(each)[1].items() if "matrix" in name) if each.is_dir() else each
        for each in (path, *reading.more)
    ]
    before = [_stamp(file) for file in contents]
    X = read_tensor(path, reading)
    digest = sha256_file(*contents)
    for file, stamp in zip(contents, before, strict=True):
        if _stamp(file) != stamp:
            raise InputError(f"{file}: was written to while it was read; start again when it is complete")
    return X, digest


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs once a file has been written or replaced; nothing where there is none."""
    if not path.exists():
        return ()
    now = path.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def read_tensor(path: Path, reading: Reading | None = None) -> SparseTensor:
    """Read a Parquet sparse tensor, or a file of any other known format with its modes as they are in the file."""
    from pipeline.datasets import files_of_all, read_raw
    from pipeline.datasets.assemble import assemble
    from pipeline.datasets.readers.columnar import is_sparse_tensor
    from pipeline.sparse import SparseTensor
    from pipeline.sparse.stream import TensorReader

    reading = reading or Reading()
    if path.is_file() and path.suffix.lower() == ".parquet" and reading.format_name is None and is_sparse_tensor(path):
        if reading.options or reading.more:
            given = [*reading.options, *["file"] * bool(reading.more)]
            raise InputError(f"{', '.join(f'--{name}' for name in given)}: {path} is a sparse tensor, no table")
        header = TensorReader(path)
        check_unpacked(path, 8 * (len(header.shape) + 1) * header.nnz)
        return SparseTensor.read_parquet(path, labels=reading.labels)
    try:
        format_name, files = files_of_all([path, *reading.more], reading.format_name, reading.options.get("member"))
        raw = read_raw(format_name, files, _options(path, format_name, reading.options))
        assembled = assemble(raw, {"file": path.name})
        X = assembled.tensor
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    if not reading.labels:
        X.labels = {}
    places = [X.mode_names.index(mode.name) for mode in raw.modes]
    return X.permute_modes(places)


def _options(path: Path, format_name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The reader's options; of a table, with its columns."""
    from pipeline.datasets.table_columns import TABLES, with_columns

    if format_name not in TABLES and (tables := {"columns", "value"} & set(given)):
        raise InputError(f"{', '.join(f'--{name}' for name in sorted(tables))}: {path} is no table")
    return with_columns(path, format_name, given)
