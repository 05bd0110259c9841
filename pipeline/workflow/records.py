"""Snakemake's records of what it made, packed into the one file that DVC keeps of them.

Snakemake has a file of JSON for each output, 3,164 of them with 1,000 runs: under DVC they were half of all objects.
"""

from __future__ import annotations

import base64
import fcntl
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.core.files import atomic_path, naming
from pipeline.core.yaml_files import read_yaml
from pipeline.errors import InputError

PACK = ".snakemake/records.json.gz"
FOLDER = ".snakemake/metadata"
MARK = ".packed"  # in the folder: the pack that it is in line with, and what it held then
NAME = re.compile(r"(@[\w=-]+/)*[\w=-]+", re.ASCII)  # Base64 of an output's path, a long one in pieces
LONGEST = 1 << 30  # bytes of all records
GZIP = 31  # zlib's number for that format

Records = dict[str, str]  # name of Snakemake's file in its folder -> the file's text


def sync(root: Path = Path()) -> None:
    """Bring pack and folder into line: a pack that DVC has put here is unpacked, then what is new is packed.

    Packed is what is of DVC's outs: what else is made here, such as descriptions, changes nothing that is shared.

    Raises
    ------
    InputError
        The pack is damaged, or a file cannot be written.
    """
    folder, pack = root / FOLDER, root / PACK
    if not (folder.is_dir() or pack.is_file()) or not os.access(pack.parent, os.W_OK):
        return  # nothing is made yet, or the tree may only be read
    with _alone(folder):
        digest, names = _digest(pack), _names(folder)
        mark = _mark(folder)
        if digest and mark == [digest, _state(folder, names)]:
            return
        packed = read_pack(pack.read_bytes(), pack) if digest else {}
        if digest != mark[0]:
            _unpack(packed, folder)
            names = sorted({*names, *packed})
        # a record is ASCII; of one that a disk has damaged every byte is kept, and Snakemake passes it over
        outs = tuple(f"{out}/" for out in outs_of(root))
        records = {
            name: (folder / name).read_text("utf-8", "surrogateescape")
            for name in names
            if not outs or f"{_output(name)}/".startswith(outs)
        }
        if records != packed:
            with atomic_path(pack) as temporary:
                temporary.write_bytes(pack_of(records))
        with naming(folder / MARK):
            (folder / MARK).write_text(f"{_digest(pack)} {_state(folder, names)}")


@contextmanager
def replaced(root: Path) -> Iterator[None]:
    """While DVC puts files here: its pack replaces this one, which says no more than the folder does.

    Where that fails the folder stays as it was: the records that came are of files that did not.
    """
    pack = root / PACK
    pack.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        pack.unlink(missing_ok=True)
        raise
    finally:
        sync(root)


def read_pack(content: bytes, source: Path | str) -> Records:
    """Records in the bytes of a pack, which messages call `source`.

    Raises
    ------
    InputError
        It is no pack, damaged, or has names that are none of Snakemake's.
    """
    unpacking = zlib.decompressobj(GZIP)
    try:
        text = unpacking.decompress(content, LONGEST)
        records = json.loads(text) if unpacking.eof else None
    except (zlib.error, ValueError, RecursionError):
        records = None
    if not isinstance(records, dict) or not all(
        NAME.fullmatch(name) and isinstance(record, str) for name, record in records.items()
    ):
        raise InputError(f"{source}: damaged, or no pack of Snakemake's records; delete it, then 'make pull'")
    return records


def pack_of(records: Records) -> bytes:
    """A pack of these records."""
    return gzip.compress(json.dumps(records, sort_keys=True).encode(), compresslevel=6, mtime=0)


def stages_of(root: Path) -> dict[str, Any]:
    """Stages of ``dvc.yaml`` by name; none where there is no such file."""
    path = root / "dvc.yaml"
    return (read_yaml(path).get("stages") or {}) if path.is_file() else {}


def outs_of(root: Path) -> dict[str, dict[str, Any]]:
    """What the stages of ``dvc.yaml`` make, and DVC's options of each."""
    listed = [out for stage in stages_of(root).values() for key in ("outs", "metrics") for out in stage.get(key, [])]
    return {name: options for out in listed if isinstance(out, dict) for name, options in out.items()}


def _output(name: str) -> str:
    """The output that a record is of, by Snakemake's name of it."""
    encoded = "".join(part.removeprefix("@") for part in name.split("/"))
    return base64.urlsafe_b64decode(encoded + "==").decode("utf-8", "replace")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` meanwhile, those that ask."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "incomplete").mkdir(exist_ok=True)  # without, Snakemake takes them to be an old version's
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _digest(pack: Path) -> str | None:
    return hashlib.sha256(pack.read_bytes()).hexdigest() if pack.is_file() else None


def _mark(folder: Path) -> list[str | None]:
    try:
        digest, state = (folder / MARK).read_text().split()
    except (OSError, ValueError):  # none yet, or of a process that was killed
        return [None, None]
    return [digest, state]


def _names(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if NAME.fullmatch(name))


def _state(folder: Path, names: list[str]) -> str:
    """Changes when one of these records does, and with their names."""
    files = [(name, (folder / name).stat()) for name in names]
    return hashlib.sha256(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]).encode()).hexdigest()


def _unpack(records: Records, folder: Path) -> None:
    for name, record in records.items():
        path, content = folder / name, record.encode("utf-8", "surrogateescape")
        with naming(path):
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
