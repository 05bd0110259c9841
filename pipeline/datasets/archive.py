"""Files inside archives, read in place: nothing is unpacked to disk, links are not followed."""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DAMAGE = (  # what the standard library raises where a compressed file or an archive is damaged
    EOFError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,  # of zipfile, for a way of compression that it does not know
    RuntimeError,  # of zipfile, for a member that says it is encrypted
    UnicodeDecodeError,  # of zipfile, for a member's damaged name
)
EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
LARGEST_HEADER = 1 << 20  # bytes of names and attributes that follow a file's header in a tar
# What tarfile ends in where a header's numbers are none, or a packed stream breaks off; it differs between Pythons.
UNREADABLE = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError)
LIMIT = 1 << 37  # bytes of all files together; the largest published archive unpacks to 2^32


def open_zstd(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a file compressed by Zstandard for reading."""
    import pyarrow as pa

    assert mode == "rb"  # noqa: S101 - as the openers of other compressions are called
    return io.BufferedReader(_Readable(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))


OPENERS: dict[str, Any] = {  # the one list of what a file may be compressed by
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": open_zstd,
}
ARCHIVES = (*(f".tar{ending}" for ending in OPENERS), ".tar", ".tgz", ".tbz2", ".txz", ".zip")


def is_archive(path: Path) -> bool:
    """Whether the name is one of a .zip or of a .tar, compressed or not."""
    return path.name.lower().endswith(ARCHIVES)


def unpacked_name(name: str) -> str:
    """The name without the ending of a compression or an archive, in small letters.

    >>> unpacked_name("My.mtx.gz"), unpacked_name("my.tar.gz"), unpacked_name("my.csv")
    ('my.mtx', 'my', 'my.csv')
    """
    small = name.lower()
    ending = next((ending for ending in (*ARCHIVES, *OPENERS) if small.endswith(ending)), "")
    return small.removesuffix(ending)


def main_member(path: Path, wanted: str = "*") -> str:
    """The one file of an archive, or of several the one of the archive's own name, as collections of matrices have it.

    Parameters
    ----------
    wanted
        Its name, or a pattern that its last part matches.

    Raises
    ------
    InputError
        There is none, or more than one.
    """
    names = [name for name in member_names(path, wanted) if not PurePosixPath(name).name.startswith((".", "__MACOSX"))]
    if not names:
        raise InputError(f"{path}: the archive has no file '{wanted}'")
    stem = unpacked_name(path.name)
    found = names if len(names) == 1 else [name for name in names if _stem(name) in (stem, PurePosixPath(stem).stem)]
    if len(found) != 1:
        shown = ", ".join(PurePosixPath(name).name for name in names[:3]) + (", .." if len(names) > 3 else "")
        raise InputError(
            f"{path}: {len(names)} files in the archive where one belongs ({shown}); name it by the option member, "
            f"for example member={PurePosixPath(names[0]).name}"
        )
    return found[0]


def place_of(path: Path) -> tuple[Path, str | None]:
    """The file on disk, and of a path that goes on into an archive (:func:`main_member`) the name within that."""
    archive = next((folder for folder in path.parents if is_archive(folder) and folder.is_file()), None)
    return (path, None) if archive is None else (archive, path.relative_to(archive).as_posix())


def _stem(name: str) -> str:
    return PurePosixPath(name.lower()).stem


def member_names(path: Path, pattern: str) -> list[str]:
    """Return the full names of the files in an archive that are `pattern`, or whose last part matches it, in its order.

    Raises
    ------
    InputError
        No archive by its name, or a damaged one; one that holds a name outside its folder, a link, a device, or too
        much.
    """
    if not is_archive(path):
        raise InputError(f"{path}: no archive by its name; the option member is for archives")
    names = [name for name, _ in _entries(path)]
    return [name for name in names if name == pattern or fnmatch.fnmatch(PurePosixPath(name).name, pattern)]


@contextmanager
def open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open one file of an archive for reading from its start to its end."""
    for found, stream in _entries(path):
        if PurePosixPath(found) == PurePosixPath(name):
            with stream() as content:
                yield content
            return
    raise InputError(f"{path}: the archive has no file {name}")


def open_members(path: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each file that matches, one after the other: the archive is read once.

    A content is to be read before the next one is asked for.
    """
    for name, stream in _entries(path):
        if fnmatch.fnmatch(PurePosixPath(name).name, pattern):
            with stream() as content:
                yield name, content


def _entries(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    if zipfile.is_zipfile(path):
        yield from _zip_entries(path)
    else:
        yield from _tar_entries(path)


def _zip_entries(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(path) as archive:
        total = 0
        for entry in archive.infolist():
            kind = entry.external_attr >> 28  # the type of a Unix file, 0 where another system made the archive
            total += entry.file_size
            _check(path, entry.filename, total, plain=kind in (0, 4, 8))
            if entry.flag_bits & 1:
                raise InputError(f"{path}: {entry.filename} is encrypted; unpack it yourself")
            if not entry.is_dir():
                yield entry.filename, partial(archive.open, entry)


def _tar_entries(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    with _open_tar(path) as archive:
        total = 0
        for entry in _tar_headers(archive):
            total += entry.size
            _check(path, entry.name, total, plain=entry.isreg() or entry.isdir())
            if entry.isreg():
                yield entry.name, partial(_open_tar_entry, archive, entry)


class _TarHeader(tarfile.TarInfo):
    """A file's header, of bounded size; nothing of a sparse file's map is read, which may have no end."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Called with each header, to be overridden: a name or attributes lie in what follows it."""
        if self.type in EXTENDED and self.size > LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]

    def _refuse_sparse(self, *_: Any) -> tarfile.TarInfo:
        raise tarfile.ReadError(f"{self.name} is a sparse file, most of which is not stored; unpack it yourself")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _tar_headers(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while True:
        try:
            entry = archive.next()
        except UNREADABLE as error:
            raise tarfile.ReadError(f"a header that cannot be read ({error})") from error
        if entry is None:
            return
        yield entry


def _open_tar(path: Path) -> tarfile.TarFile:
    """Open a .tar as a stream: compressed archives are read once, in order."""
    try:
        if path.name.lower().endswith(".zst"):
            return tarfile.open(fileobj=open_zstd(path), mode="r|", tarinfo=_TarHeader)
        return tarfile.open(path, "r|*", tarinfo=_TarHeader)
    except UNREADABLE as error:  # of the first header, or a gzip header that breaks off
        raise tarfile.ReadError(f"its header breaks off or cannot be read ({error})") from error


def _check(path: Path, name: str, total: int, *, plain: bool) -> None:
    if not name:
        raise InputError(f"{path}: the archive holds a file without a name; it is damaged")
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or name[1:2] == ":":
        raise InputError(f"{path}: the archive holds '{name}', a place outside its folder; do not trust it")
    if not plain:
        raise InputError(f"{path}: the archive holds '{name}', a link or device; do not trust it")
    if total > LIMIT:
        raise InputError(f"{path}: the archive unpacks to more than {LIMIT:,} bytes; do not trust it")


def _open_tar_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(entry)
    if stream is None:
        raise tarfile.ReadError(f"{entry.name} has no content")
    return io.BufferedReader(Forward(stream))


class Forward(io.RawIOBase):
    """A stream of anything that has `read` as one of Python's: forwards only, and it says so."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer as far as there is content."""
        view = memoryview(buffer).cast("B")
        content = self.take(len(view))
        view[: len(content)] = content
        return len(content)

    def take(self, size: int) -> bytes:
        """Up to `size` bytes of the stream."""
        content: bytes = self._stream.read(size)
        return content


class _Readable(Forward):
    """A stream of Arrow's, closed with this one."""

    def close(self) -> None:
        """Close both."""
        self._stream.close()
        super().close()
