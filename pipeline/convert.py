"""Step: raw files of a data set -> Parquet sparse tensor and label files."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.core import step
from pipeline.core.files import refuse_clashes, sha256_file
from pipeline.datasets import READERS, check_ending, files_of_all, read_raw, text_options
from pipeline.datasets.assemble import Assembled, assemble
from pipeline.datasets.labels import Labels
from pipeline.datasets.registry import Dataset, read_entry
from pipeline.datasets.table_columns import with_columns
from pipeline.errors import InputError
from pipeline.sparse.grid import NORM2_TOLERANCE
from pipeline.sparse.labels import MARK, label_path


def convert(dataset: str, entry: Dataset, raw: Path, output: Path) -> Assembled:
    """Read the raw files of a registry entry, check the tensor against the entry, write it and its labels.

    Parameters
    ----------
    raw
        Folder with the files that the entry names.
    output
        The Parquet file; label files ``<stem>.labels-<mode>.parquet`` go beside it.

    Raises
    ------
    InputError
        A missing, changed or malformed file; a tensor that is not the one the entry promises.
    """
    files = {name: raw / name for name in entry.files}
    source = {"dataset": dataset, "format": entry.format, "options": entry.options}
    try:
        expected = {name: entry.files[name].sha256 for name in files}
        result = _assemble_checked(entry.format, files, entry.options, source, expected, output.parent)
        _check_expectations(entry, result)
        labels = _wanted_labels(entry, result)
    except InputError as error:
        raise InputError(f"data set '{dataset}': {error}") from error
    _write(result, labels, output, list(files.values()))
    return result


def convert_file(paths: Sequence[Path], output: Path, format_name: str | None, options: dict[str, Any]) -> Assembled:
    """Convert what no registry entry names; every mode with labels gets a label file.

    Parameters
    ----------
    paths
        The file, or all files of a format that takes several, such as ``simplices``.
    format_name
        A key of :data:`pipeline.datasets.READERS`; None: what the file's name suggests.
    options
        Of the format's reader; a table's columns have a default (:func:`pipeline.datasets.table_columns.with_columns`).
    """
    name, files = files_of_all(paths, format_name, options.get("member"))
    refuse_clashes(list(files.values()), [output])
    options = with_columns(paths[0], name, options)
    source = {"dataset": paths[0].name, "format": name, "options": options}
    result = _assemble_checked(name, files, options, source, dict.fromkeys(files), output.parent)
    labels = {mode: columns for mode, columns in enumerate(result.labels) if columns is not None}
    _write(result, labels, output, list(files.values()))
    return result


def _write(result: Assembled, labels: dict[int, Labels], output: Path, reads: Sequence[Path]) -> None:
    """Write the tensor and its labels: all of them, or none and what stood there stays."""
    refuse_clashes(reads, [output], {label_path(output, mode): MARK for mode in labels})
    result.write(output, labels)


def _assemble_checked(
    format_name: str,
    files: dict[str, Path],
    options: dict[str, Any],
    source: dict[str, Any],
    expected: dict[str, str | None],
    folder: Path,
) -> Assembled:
    """Read and assemble while the files' checksums are computed beside; these go into the metadata."""
    for path in files.values():
        if not path.is_file():
            raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'")
    with ThreadPoolExecutor(1) as pool:
        digests = {name: pool.submit(_checked_digest, path, expected[name]) for name, path in files.items()}
        try:
            result = assemble(read_raw(format_name, files, options), source, folder)
        except InputError:
            for digest in digests.values():
                digest.result()  # a file that changed is the better explanation
            raise
        result.source["sha256"] = {name: digest.result() for name, digest in digests.items()}
    return result


def _checked_digest(path: Path, expected: str | None) -> str:
    digest = sha256_file(path)
    if expected is not None and digest != expected:
        raise InputError(f"{path}: sha256 {digest}, the registry says {expected}; download it again")
    return digest


def _check_expectations(entry: Dataset, tensor: Assembled) -> None:
    if entry.shape is not None and list(tensor.shape) != entry.shape:
        raise InputError(f"shape {list(tensor.shape)} after conversion, the registry says {entry.shape}")
    if entry.nnz is not None and tensor.nnz != entry.nnz:
        raise InputError(f"{tensor.nnz:,} non-zeros after conversion, the registry says {entry.nnz:,}")
    if entry.norm2 is not None and not math.isclose(tensor.norm2, entry.norm2, rel_tol=NORM2_TOLERANCE):
        raise InputError(f"norm2 {tensor.norm2!r} after conversion, the registry says {entry.norm2!r}")


def _wanted_labels(entry: Dataset, result: Assembled) -> dict[int, Labels]:
    """Labels of the modes that the entry lists; which files there will be is known from the entry alone."""
    found = {mode: labels for mode, labels in enumerate(result.labels) if labels is not None}
    for mode in entry.labels:
        if mode not in found:
            raise InputError(f"labels {entry.labels}: mode {mode} has none; modes with labels: {sorted(found)}")
    for mode in found:
        if mode not in entry.labels:
            name = result.mode_names[mode]
            print(f"labels of mode {mode} ({name}) are not kept; list it under 'labels' to keep them", file=sys.stderr)
    return {mode: found[mode] for mode in entry.labels}


def main(argv: list[str] | None = None) -> None:
    """Convert the raw files of one data set, or one file."""
    arguments = step.parser(
        "Convert the raw files of a data set to a Parquet sparse tensor: labels become indices, duplicates are "
        "summed, modes are sorted by size, and the result is checked against the registry. Or convert one file "
        "of your own, without an entry.",
        "examples:\n"
        "  python -m pipeline.convert flights\n"
        "  python -m pipeline.convert --file my.mtx.gz --output my.parquet\n"
        "  python -m pipeline.convert --file clicks.csv --set columns=[user,item] --set value=clicks "
        "--output my.parquet",
    )
    arguments.add_argument("dataset", nargs="?", help="name of the registry entry")
    arguments.add_argument("--raw", type=Path, help="folder with its files (default: data/raw/DATASET)")
    arguments.add_argument(
        "--file",
        type=Path,
        action="append",
        help="convert this file (or 10x folder) instead of a data set; several times for a format of several files",
    )
    arguments.add_argument("--format", help=f"of --file; by its name's ending, else one of: {', '.join(READERS)}")
    step.add_settings(arguments)
    arguments.add_argument("--output", type=Path, help="default: data/tensors/DATASET.parquet")
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    options = arguments.parse_args(argv)
    if options.output is not None:
        refuse_clashes(options.file or [], [options.output])
        check_ending(options.output, ".parquet")
    if (options.dataset is None) == (options.file is None):
        raise InputError("name either a data set or a file with --file")
    if options.file is not None:
        if options.output is None:
            raise InputError("--file needs --output, the Parquet file to write")
        output = options.output
        settings = step.parse_settings(options.settings, texts=text_options())
        result = convert_file(options.file, output, options.format, settings)
    else:
        if options.settings or options.format:
            raise InputError("--set and --format belong to --file; a data set's options are in params.yaml")
        output = options.output or Path("data/tensors") / f"{options.dataset}.parquet"
        entry = read_entry(options.params, options.dataset)
        result = convert(options.dataset, entry, options.raw or Path("data/raw") / options.dataset, output)
    print(f"{result} from {result.entries:,} entries -> {output}", file=sys.stderr)


if __name__ == "__main__":
    step.run(main)
