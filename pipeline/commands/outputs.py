"""Files that a command writes after hours: whether it will be able to, and one process at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.files import naming


def refuse_unwritable(path: Path) -> None:
    """Refuse, before the work, an output in whose folder, or where that would be, no file can be made.

    Raises
    ------
    InputError
        No right to write there, a read-only or a full disk, or a file where a folder should be.
    """
    with naming(path):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0" * 512)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Run the block while no other process runs one for the same folder, where the file system has locks."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
