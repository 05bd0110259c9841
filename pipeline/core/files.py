"""Files that are there whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

MARKED = 1 << 16  # bytes at either end in which a mark is looked for


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it onto `path` when the block succeeds.

    On any exception the temporary file is removed and what stood at `path` stays as it was.
    A full disk or a missing right becomes an :class:`InputError` that names the file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a folder or a device, which a file cannot replace; name another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot write: {error.strerror or error}; the previous file, if any, is unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


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
        Two paths are one file, under whatever names, or a file beside would be lost.
    """
    outputs = [Path(path) for path in (*writes, *(beside or ()))]
    for number, output in enumerate(outputs):
        for path in (Path(path) for path in reads if path is not None):
            if output.exists() and path.exists() and output.samefile(path):
                other = "" if str(output) == str(path) else f", {path}"
                raise InputError(f"{output}: is a file that is read{other}; name another one to write")
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
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


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def sha256_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    buffer = bytearray(1 << 22)  # large pieces: other threads that hold Python's lock delay each one
    with Path(path).open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def sha256_json(content: Any) -> str:
    """Hexadecimal SHA-256 of the canonical JSON text of `content` (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
