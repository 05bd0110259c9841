"""Step: registry entry -> its raw files under data/raw, checksums verified."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipeline import step
from pipeline.datasets.fetch import fetch
from pipeline.datasets.registry import Dataset, read_entry

MIRROR = "KRONFLOW_MIRROR"


def download(dataset: str, entry: Dataset, output: Path, root: Path, mirror: str | None = None) -> None:
    """Fetch every file of a registry entry into the folder `output`.

    Parameters
    ----------
    root
        What ``file:`` sources are relative to.
    mirror
        A folder or web address with ``<entry.mirror or dataset>/<file>``, tried before the entry's sources.

    Raises
    ------
    InputError
        A file that no source gives with the right checksum.
    """
    for name, file in entry.files.items():
        sources = [*mirror_sources(mirror, entry.mirror or dataset, name), *file.sources]
        source = fetch(output / name, sources, file.sha256, root)
        print(f"{output / name}: from {source}", file=sys.stderr)


def mirror_sources(mirror: str | None, folder: str, name: str) -> list[str]:
    """Return the mirror's address of a file as a source; a local mirror that lacks it says so and gives none."""
    if not mirror:
        return []
    if mirror.startswith(("http://", "https://")):
        return [f"{mirror.rstrip('/')}/{folder}/{name}"]
    path = Path(mirror).expanduser().absolute() / folder / name
    if path.is_file():
        return [f"file:{path}"]
    print(f"{name}: the mirror has no {path}; going on to its sources", file=sys.stderr)
    return []


def main(argv: list[str] | None = None) -> None:
    """Fetch the raw files of one data set."""
    arguments = step.parser(
        "Fetch the raw files of a data set and verify their checksums. Sources are tried in the order of the "
        f"registry; the environment variable {MIRROR} names a folder or web address to try first, which holds "
        "them as <data set>/<file>.",
        "example: python -m pipeline.download flights",
    )
    arguments.add_argument("dataset", help="name of the registry entry")
    arguments.add_argument("--output-dir", type=Path, help="default: data/raw/DATASET")
    arguments.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    options = arguments.parse_args(argv)
    entry = read_entry(options.params, options.dataset)
    output = options.output_dir or Path("data/raw") / options.dataset
    download(options.dataset, entry, output, options.params.absolute().parent, os.environ.get(MIRROR))


if __name__ == "__main__":
    step.run(main)
