"""Step: registry entry -> its raw files under data/raw, checksums verified."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core import step
from pipeline.core.files import sha256_file, write_json
from pipeline.datasets.fetch import fetch
from pipeline.datasets.registry import Dataset, read_entry
from pipeline.errors import InputError

MIRROR = "KRONFLOW_MIRROR"
LOCK = "data/registry.lock"  # checksums of files for which none is published, from their first download


def download(dataset: str, entry: Dataset, output: Path, root: Path, mirror: str | None = None) -> None:
    """Fetch every file of a registry entry into the folder `output`.

    Parameters
    ----------
    root
        What ``file:`` sources and ``data/registry.lock`` are relative to.
    mirror
        A folder or web address with ``<entry.mirror or dataset>/<file>``, tried before the entry's sources.

    Raises
    ------
    InputError
        A file that no source gives with the right checksum.
    """
    lock = root / LOCK
    for name, file in entry.files.items():
        sources = [*mirror_sources(mirror, entry.mirror or dataset, name), *file.sources]
        expected = file.sha256 or recorded_digest(lock, dataset, name)
        try:
            source = fetch(output / name, sources, expected, root, file.size)
        except InputError as error:
            if entry.registration is None:
                place = f"{MIRROR}/{entry.mirror or dataset}/{name}"
                is_elsewhere = any(each.startswith(("http", "gdrive:")) for each in file.sources)
                remedy = f"; fetched elsewhere, it is taken from {place}, {MIRROR} a folder" if is_elsewhere else ""
                raise InputError(f"{error}{remedy}") from error
            own = file.sources[0].removeprefix("file:")
            raise InputError(
                f"{error}; '{dataset}' needs registration: get {name} from {entry.registration} and put it at {own}"
            ) from error
        own_file = all(each.startswith(("file:", "synth:")) for each in file.sources) and entry.registration is None
        if expected is None and not own_file:  # a user's own file may change
            record_digest(lock, dataset, name, sha256_file(output / name))
        print(f"{output / name}: from {source}", file=sys.stderr)


def recorded_digest(lock: Path, dataset: str, name: str) -> str | None:
    """Return the SHA-256 that the first download of a file had; None where there was none."""
    if not lock.is_file():
        return None
    try:
        digest = json.loads(lock.read_text(encoding="utf-8")).get(dataset, {}).get(name)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{lock}: no valid record of checksums ({error}); restore it from git") from error
    return None if digest is None else str(digest)


def record_digest(lock: Path, dataset: str, name: str, digest: str) -> None:
    """Add the checksum of a file whose entry has none, so that every later download is checked against it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(lock.parent):
        content = json.loads(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
        content.setdefault(dataset, {})[name] = digest
        write_json(lock, {key: dict(sorted(content[key].items())) for key in sorted(content)})
    print(f"{name}: sha256 {digest} recorded in {lock}", file=sys.stderr)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block; several downloads may end at once."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
