"""Step: fetched raw files -> a folder that serves as mirror where there is no network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipeline.core import step
from pipeline.core.files import atomic_path, sha256_file
from pipeline.datasets.registry import data_sets, read_entry
from pipeline.errors import InputError


def pack(params: Path, raw: Path, mirror: Path) -> int:
    """Copy what has been fetched into a mirror; returns the number of files in it.

    Parameters
    ----------
    raw
        The folder with a folder for each data set, ``data/raw``.
    mirror
        Gets ``<entry.mirror or data set>/<file>``; files that are there already stay.

    Raises
    ------
    InputError
        A fetched file whose checksum is not the registry's, or nothing fetched at all.
    """
    count = 0
    for dataset in data_sets(params):
        entry = read_entry(params, dataset)
        for name, file in entry.files.items():
            source = raw / dataset / name
            if not source.is_file():
                continue
            if file.sha256 is not None and (found := sha256_file(source)) != file.sha256:
                raise InputError(f"{source}: sha256 {found}, the registry says {file.sha256}; download it again")
            target = mirror / (entry.mirror or dataset) / name
            if not target.exists():
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)
            print(target, file=sys.stderr)
            count += 1
    if count == 0:
        raise InputError(f"{raw}: nothing has been fetched; run 'python -m pipeline.download DATASET' first")
    return count


def main(argv: list[str] | None = None) -> None:
    """Pack the fetched files."""
    arguments = step.parser(
        "Copy every raw file that has been fetched into a folder. On a machine without network, set KRONFLOW_MIRROR "
        "to that folder, and the workflow takes the files from it.",
        "example: python -m pipeline.mirror ../mirror",
    )
    arguments.add_argument("mirror", type=Path, help="folder to fill")
    arguments.add_argument("--raw", type=Path, default=Path("data/raw"), help="what was fetched (default: data/raw)")
    arguments.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the configuration (default: params.yaml)"
    )
    options = arguments.parse_args(argv)
    count = pack(options.params, options.raw, options.mirror)
    print(f"{count} files in {options.mirror}; use it with KRONFLOW_MIRROR={options.mirror}", file=sys.stderr)


if __name__ == "__main__":
    step.run(main)
