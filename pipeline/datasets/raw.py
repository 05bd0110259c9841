"""What a reader gives, and the ways of opening raw files that readers share."""

from __future__ import annotations

import codecs
import errno
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.sizes import check_unpacked, most_unpacked
from pipeline.datasets.archive import (
    DAMAGE,
    OPENERS,
    Forward,
    is_archive,
    main_member,
    member_names,
    open_member,
    open_members,
    place_of,
)
from pipeline.errors import InputError

Array = npt.NDArray[Any]
Keys = Any  # a NumPy array, or an Arrow one where labels are text
Files = Mapping[str, Path]  # the entry's file names -> where they lie
Block = tuple[list[Keys], Array]  # one array of keys a mode, and the values


LONGEST_LINE = 1 << 22  # bytes
BUFFER = 1 << 18
MAGIC = {  # how packed files start
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": ".zip",
}
LONGEST_MAGIC = max(map(len, MAGIC))


@dataclass(frozen=True)
class Mode:
    """One mode of a raw tensor.

    Attributes
    ----------
    name
        What one index of it stands for.
    indexed
        Whether the keys are 0-based indices already; otherwise they are labels that become dense indices,
        in ascending order of the labels.
    size
        How many indices an indexed mode has; None: as many as its largest index asks for.
    labels
        Of an indexed mode: columns of its label file (``label``, ``split``, ..), one value an index.
    """

    name: str
    indexed: bool = False
    size: int | None = None
    labels: dict[str, Array] | None = None


@dataclass(frozen=True)
class RawTensor:
    """The entries of a raw data set in the order of its files, duplicates and all.

    Attributes
    ----------
    modes
        Its modes, in any order; the conversion sorts them by size.
    blocks
        The entries, in pieces: keys of each mode and values. Read once.
    notes
        Facts for the metadata of the converted file, such as the largest possible value of a pixel.
    """

    modes: list[Mode]
    blocks: Iterable[Block]
    notes: dict[str, Any] = field(default_factory=dict)


def only_file(files: Files, member: str | None = None) -> Path:
    """Return the one file of a data set whose format has just one; of an archive, the `member` of that name.

    Raises
    ------
    InputError
        There are several, or it is no archive (:func:`pipeline.datasets.archive.main_member`).
    """
    if len(files) != 1:
        raise InputError(f"files {sorted(files)}: this format takes one file")
    path = next(iter(files.values()))
    if member is None:
        return path
    with telling_damage(path):
        return path / main_member(path, member)


def file_named(files: Files, *parts: str) -> Path:
    """Return the one file whose name contains all `parts`."""
    found = [path for name, path in files.items() if all(part in name for part in parts)]
    if len(found) != 1:
        wanted = " and ".join(f"'{part}'" for part in parts)
        raise InputError(f"files {sorted(files)}: need exactly one with {wanted} in its name")
    return found[0]


@contextmanager
def open_raw(path: Path, member: str | None = None, *, lines: bool = False) -> Iterator[IO[bytes]]:
    """Open a raw file for reading, unpacking ``.gz``, ``.bz2``, ``.xz``, ``.zst`` and a file of an archive.

    Damage that shows while reading becomes an :class:`InputError` that names the file.

    Parameters
    ----------
    member
        Which file of an archive; None: the only one, or that of the archive's own name.
    lines
        Whether it is text, whose lines have a bound.
    """
    with telling_damage(path), _open_packed(path, member) as stream:
        yield io.BufferedReader(_Bounded(path, stream, lines), BUFFER)


def members(path: Path, pattern: str) -> list[str]:
    """Return the names of the files in an archive that match a pattern such as ``*.txt``; at least one.

    Raises
    ------
    InputError
        None matches; a damaged or dangerous archive.
    """
    with telling_damage(path):
        names = member_names(path, pattern)
    if not names:
        raise InputError(f"{path}: the archive has no file '{pattern}'")
    return names


def each_member(path: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of the files in an archive that match a pattern, in one pass; at least one.

    Reading a content belongs into :func:`telling_damage`. Errors as in :func:`members`.
    """
    found = False
    with telling_damage(path):
        for name, stream in open_members(path, pattern):
            found = True
            yield name, stream
    if not found:
        raise InputError(f"{path}: the archive has no file '{pattern}'")


@contextmanager
def telling_damage(path: Path) -> Iterator[None]:
    """Turn the damage of a packed file, and its absence, into an :class:`InputError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; fetch it with 'python -m pipeline.download'") from error
    except DAMAGE as error:
        raise InputError(f"{path}: truncated or damaged file ({error}); download it again") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # those mean data that are no bzip2, and places outside a zip
            raise
        raise InputError(f"{path}: truncated or damaged file ({error}); download it again") from error


def _open_packed(path: Path, member: str | None) -> AbstractContextManager[IO[bytes]]:
    archive, inner = place_of(path)
    if is_archive(archive):
        return open_member(archive, member or inner or main_member(archive))
    opened: AbstractContextManager[IO[bytes]] = OPENERS.get(path.suffix.lower(), Path.open)(path, "rb")
    return opened


class _Bounded(Forward):
    """Passes a stream on as long as it is not out of all proportion to the file that it is unpacked from."""

    def __init__(self, path: Path, stream: IO[bytes], lines: bool) -> None:
        super().__init__(stream)
        self._path, self._lines = path, lines
        self._disk = place_of(path)[0]
        self._count, self._since = 0, 0  # bytes so far, and those after the last line feed
        packed = is_archive(self._disk) or path.suffix.lower() in OPENERS
        self._most = most_unpacked(self._disk) if packed else math.inf

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, counted."""
        content = super().take(size)
        self._count += len(content)
        if self._count > self._most:
            check_unpacked(self._disk, self._count)
        if self._lines:
            end = content.rfind(b"\n")
            self._since = self._since + len(content) if end < 0 else len(content) - end - 1
            if self._since > LONGEST_LINE:
                raise InputError(f"{self._path}: a line of more than {LONGEST_LINE:,} bytes; it is no table of entries")
        return content


@contextmanager
def open_lines(path: Path, member: str | None = None) -> Iterator[IO[bytes]]:
    """Open a raw text file as :func:`open_raw` does; a line of more than 4 MiB is an InputError, and so is no text."""
    if not is_archive(path) and path.suffix.lower() not in OPENERS and path.is_file():
        with path.open("rb") as file:
            start = file.read(LONGEST_MAGIC)
        if ending := next((ending for magic, ending in MAGIC.items() if start.startswith(magic)), None):
            raise InputError(f"{path}: packed by its content, no text; name it so that it ends in {ending}")
    with open_raw(path, member, lines=True) as stream:
        yield stream


@contextmanager
def open_text(path: Path, encoding: str = "utf-8", member: str | None = None) -> Iterator[io.TextIOWrapper]:
    """Open a raw text file as :func:`open_raw` does; text in another encoding is an InputError.

    A byte order mark at its start is no part of it.
    """
    check_encoding(encoding)
    known = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    with open_lines(path, member) as stream, io.TextIOWrapper(stream, encoding=known, newline="") as text:
        try:
            yield text
        except UnicodeError as error:
            line = _line_that_is_no(encoding, path, member)
            reason = getattr(error, "reason", error)
            raise InputError(f"{path}:{line}: no {encoding} text ({reason}); set the option {_told(path)}") from error


def _told(path: Path) -> str:
    """The option encoding, with its value where a byte order mark tells it."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    with path.open("rb") as file:
        start = file.read(4)
    return next((f"encoding={name}" for mark, name in marks.items() if start.startswith(mark)), "encoding")


def check_encoding(encoding: str) -> None:
    """Refuse a name that Python knows no encoding of text by."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    except (LookupError, ValueError) as error:
        raise InputError(f"option encoding: Python knows no encoding '{encoding}' of text") from error


def _line_that_is_no(encoding: str, path: Path, member: str | None) -> int:
    """Number of the first line that is no text of the encoding; the last one, where only all together are none."""
    number = 0
    with open_raw(path, member) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return number
    return number


def read_integers(path: Path, minimum: int) -> npt.NDArray[np.int64]:
    """Read a text file of one whole number a line.

    Raises
    ------
    InputError
        A line that is no whole number, or one below `minimum`, with its number.
    """
    with open_raw(path) as stream:
        lines = stream.read().splitlines()
    try:
        numbers = np.array(lines, dtype=np.bytes_).astype(np.int64) if lines else np.empty(0, np.int64)
    except (ValueError, OverflowError):
        numbers = np.array([_integer(path, number, line) for number, line in enumerate(lines, start=1)])
    if len(numbers) and numbers.min() < minimum:
        line = int(np.argmax(numbers < minimum))
        raise InputError(f"{path}:{line + 1}: {numbers[line]} is below {minimum}, the smallest number here")
    return numbers


def _integer(path: Path, number: int, line: bytes) -> int:
    try:
        value = int(line)
    except ValueError:
        value = 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        text = line.decode("utf-8", "replace")
        raise InputError(f"{path}:{number}: '{text}' is no whole number of 64 bits") from None
    return value
