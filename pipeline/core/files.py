"""Files that are there whole or not at all, and their checksums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

PARTIAL = ".partial-"  # how the names of folders begin in which a file is being written
DAY = 86_400  # seconds
ATTEMPTS = 20
LONGEST_TEXT = 1 << 28  # characters
MARKED = 1 << 16  # bytes at either end in which a mark is looked for


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path of the same name on the same disk; rename it onto `path` when the block succeeds.

    On any exception the temporary file is removed and what stood at `path` stays as it was. A process that is
    killed leaves one where no tool records it (:func:`partials_folder`), and the next to write there removes it.
    A full disk or a missing right becomes an :class:`InputError` that names the file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a folder or a device, which a file cannot replace; name another place")
    lock, folder = None, None
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock, folder = _locked_folder(partials_folder(path))
            temporary = folder / path.name
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        if lock is not None and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn what the system says while a file is written into an :class:`InputError` that names it."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot write: {error.strerror or error}; the previous file, if any, is unchanged"
        ) from error


def partials_folder(path: Path) -> Path:
    """Where what becomes `path` lies for the time being: ``.cache/partial`` of the tree that DVC records.

    Beside it where there is no such tree, or ``.cache`` is on another disk; Git and DVC ignore the names there.
    """
    parent = path.absolute().parent
    root = next((folder for folder in (parent, *parent.parents) if (folder / ".dvc").is_dir()), None)
    if root is None:
        return path.parent
    folder = root / ".cache" / "partial"
    with suppress(OSError):  # no right to write there
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_dev == parent.stat().st_dev and os.access(folder, os.W_OK):
            return folder
    return path.parent


def _locked_folder(parent: Path) -> tuple[int, Path]:
    """Create a folder for one temporary file, locked as long as its writer lives; remove those of dead writers."""
    _sweep(parent)
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{_host()}-", dir=parent))
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept between its creation and its lock
        with suppress(OSError):  # a file system without locks: there nothing is swept
            fcntl.flock(handle, fcntl.LOCK_EX)
        if folder.is_dir():
            return handle, folder
        os.close(handle)
    raise InputError(f"{parent}: what is written there disappears at once; is another program removing it?")


def _sweep(parent: Path) -> None:
    """Remove what dead writers left: this machine's by their lock, others' when it is a day old too."""
    own = f"{PARTIAL}{_host()}-"
    for left in parent.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            if not left.name.startswith(own) and time.time() - left.stat().st_mtime < DAY:
                continue
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]


def refuse_clashes(
    reads: Sequence[str | Path | None], writes: Sequence[str | Path], beside: Mapping[Path, bytes] | None = None
) -> None:
    """Refuse to write over a file that is read, or twice into one; to be called with every path of a command.

    Parameters
    ----------
    beside
        What is written beside what the user named, each with the mark of such a file (:func:`has_mark`): one that
        stands there without it is somebody else's.

    Raises
    ------
    InputError
        Two paths are one file, under whatever names, a file beside would be lost, or no file can be there.
    """
    outputs = [Path(path) for path in (*writes, *(beside or ()))]
    for number, output in enumerate(outputs):
        if "\0" in str(output):
            raise InputError(f"{output}: no name of a file")
        holds = any(output in path.parents for path in beside or ())  # a folder that is written into
        if not holds and output.exists() and not output.is_file():
            raise InputError(f"{output}: is a folder or a device, which a file cannot replace; name another place")
        for path in (Path(path) for path in reads if path is not None):
            if output.exists() and path.exists() and output.samefile(path):
                other = "" if str(output) == str(path) else f", {path}"
                raise InputError(f"{output}: is a file that is read{other}; name another one to write")
        if os.path.realpath(output) in [os.path.realpath(other) for other in outputs[:number]]:  # links may be a circle
            raise InputError(f"{output}: would be written twice; name another one")
    for path, mark in (beside or {}).items():
        if path.exists() and not has_mark(path, mark):
            raise InputError(f"{path}: would be written beside {writes[0]}, and is there already; name another output")


def has_mark(path: Path, mark: bytes) -> bool:
    """Whether a file has a mark in its first or its last 64 KiB."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(MARKED)
        file.seek(max(0, path.stat().st_size - MARKED))
        return mark in head or mark in file.read()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """Read a text that a user names: a file, a pipe, or a device, which may have no end.

    Raises
    ------
    InputError
        It has more than 2^28 characters.
    UnicodeDecodeError
        It is no text of that encoding.
    """
    with Path(path).open(encoding=encoding) as file:
        text = file.read(LONGEST_TEXT + 1)
    if len(text) > LONGEST_TEXT:
        raise InputError(f"{path}: more than {LONGEST_TEXT:,} characters of text; divide it")
    return text


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256_file(*paths: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, or of several one after another, read in pieces."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 22)  # large pieces: other threads that hold Python's lock delay each one
    for path in paths:
        with Path(path).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def sha256_json(content: Any) -> str:
    """Hexadecimal SHA-256 of the canonical JSON text of `content` (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
