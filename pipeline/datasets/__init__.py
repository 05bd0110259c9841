"""Data sets: the registry, fetching, and one reader a raw format.

A reader is a function ``read(files, **options) -> RawTensor``; adding a format is one file and one line
of :data:`READERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pipeline.datasets.archive import OPENERS, is_archive, main_member, unpacked_name
from pipeline.datasets.raw import Files, RawTensor, members, telling_damage
from pipeline.datasets.readers import (
    arrays,
    checkins,
    cifar,
    coha,
    columnar,
    coo,
    csvtable,
    digits,
    flights,
    hdf5,
    idx,
    kasandr,
    kjv,
    mtx,
    simplices,
    tenx,
    twitch,
)
from pipeline.errors import InputError, nearest

READERS: dict[str, Callable[..., RawTensor]] = {
    "10x": tenx.read,
    "binsparse": arrays.read_binsparse,
    "checkins": checkins.read,
    "cifar": cifar.read,
    "coha": coha.read,
    "columnar": columnar.read,
    "coo": coo.read,
    "csv": csvtable.read,
    "digits": digits.read,
    "flights": flights.read,
    "hdf5": hdf5.read,
    "idx": idx.read,
    "kasandr": kasandr.read,
    "kjv": kjv.read,
    "mtx": mtx.read,
    "npy": arrays.read_npy,
    "npz": arrays.read_npz,
    "simplices": simplices.read,
    "tns": coo.read_tns,
    "twitch": twitch.read,
}

CHECKS: dict[str, Callable[..., None]] = {  # what the types of options leave open, and no file decides
    "coha": kjv.check,
    "columnar": columnar.check,
    "coo": coo.check,
    "csv": csvtable.check,
    "flights": flights.check,
    "kjv": kjv.check,
    "tns": coo.check,
}

IN_PLACE = ("binsparse", "columnar", "hdf5", "kjv", "npy", "npz")  # formats that are not read from start to end

SUFFIXES = {  # of a file's name, that of its packing aside -> its format
    ".mtx": "mtx",
    ".ttx": "mtx",
    ".tns": "tns",
    ".txt": "coo",
    ".coo": "coo",
    ".csv": "csv",
    ".tsv": "csv",
    ".data": "csv",
    ".dat": "csv",
    ".npy": "npy",
    ".npz": "npz",
    ".parquet": "columnar",
    ".arrow": "columnar",
    ".feather": "columnar",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".h5ad": "hdf5",
}


def format_of(name: str) -> str:
    """Return the format that a file's name suggests.

    >>> format_of("my.matrix.mtx.gz")
    'mtx'
    """
    suffix = PurePath(unpacked_name(name)).suffix
    if suffix not in SUFFIXES:
        raise InputError(
            f"{name}: its ending tells no format; known: {', '.join(sorted(SUFFIXES))}, each also packed "
            f"({', '.join(OPENERS)}, .zip, .tar); name another by the option --format"
        )
    return SUFFIXES[suffix]


def kind_of(path: Path) -> str:
    """What a file is by its name: data of a format, or packed; empty where the ending says neither.

    >>> kind_of(Path("a.MTX.gz")), kind_of(Path("a.tar.gz")), kind_of(Path("a.safetensors"))
    ('mtx data', 'packed data', '')
    """
    plain = unpacked_name(path.name)
    known = SUFFIXES.get(PurePath(plain).suffix)
    return f"{known} data" if known else "packed data" if plain != path.name.lower() else ""


def check_ending(output: Path, written: str) -> None:
    """Refuse a name for an output whose ending says that it is something else than what is written.

    Parameters
    ----------
    written
        The ending of such files, for example ``.parquet``.

    Raises
    ------
    InputError
        With the ending that fits.
    """
    if not output.name.lower().endswith(written) and (known := kind_of(output)):
        raise InputError(f"{output}: an ending of {known}; what is written is {written}")


def files_of(path: Path, format_name: str | None = None, member: str | None = None) -> tuple[str, dict[str, Path]]:
    """Format and files of what a user names: a file, by its ending or by what its archive holds, or a folder of 10x's.

    Parameters
    ----------
    format_name
        The format, where the user says so.
    member
        Of an archive: the file, or a pattern of the files, that is read.

    Raises
    ------
    InputError
        No such file, or none whose format is known.
    """
    if path.is_dir():
        if found := tenx.files_in(path):
            return "10x", found
        raise InputError(f"{path}: is a folder, name a file in it")
    if not path.is_file():
        pipe = "a pipe or a device, and files are read more than once: write it to one first"
        what = pipe if path.exists() else "no such file"
        raise InputError(f"{path}: {what}")
    if format_name is not None:
        return format_name, {path.name: path}
    if is_archive(path) and (member or PurePath(unpacked_name(path.name)).suffix not in SUFFIXES):
        with telling_damage(path):
            inside = members(path, member)[0] if member else main_member(path)
            return format_of(PurePath(inside).name), {path.name: path}
    return format_of(path.name), {path.name: path}


def files_of_all(
    paths: Sequence[Path], format_name: str | None = None, member: str | None = None
) -> tuple[str, dict[str, Path]]:
    """Format and files of one tensor that lies in several files; see :func:`files_of`.

    Raises
    ------
    InputError
        Two files of one name, or a packed file of a format that is read in place.
    """
    name, files = files_of(paths[0], format_name, member)
    for path in paths[1:]:
        found = files_of(path, format_name)[1]
        if set(found) & set(files):
            raise InputError(f"--file {path}: two files of that name; rename one")
        files |= found
    _refuse_packed(name, files)
    return name, files


def _refuse_packed(format_name: str, files: Files) -> None:
    for path in files.values():
        if format_name in IN_PLACE and unpacked_name(path.name) != path.name.lower():
            raise InputError(f"{path}: of format '{format_name}', which is not read while it is packed; unpack it")


def text_options() -> set[str]:
    """Options that are texts in every reader that has them: on a command line they are taken as they are written."""
    kinds: dict[str, set[bool]] = {}
    for reader in READERS.values():
        for name, hint in get_type_hints(reader).items():
            kinds.setdefault(name, set()).add(set(get_args(hint) or [hint]) <= {str, type(None)})
    return {name for name, are_texts in kinds.items() if are_texts == {True}}


def check_format(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a format that has no reader, and options that its reader could not read any file with.

    Raises
    ------
    InputError
        An option that there is not, a lack of one that is needed, a value of another type or out of range.
    """
    if name not in READERS:
        raise InputError(f"format '{name}' does not exist{nearest(name, READERS)}")
    parameters = dict(list(inspect.signature(READERS[name]).parameters.items())[1:])
    known = list(parameters)
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "; it has none"
            raise InputError(f"format '{name}' has no option '{option}'{hint}")
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise InputError(f"format '{name}' needs the option '{option}'")
    hints = get_type_hints(READERS[name])
    for option, value in options.items():
        if not _is_a(value, hints[option]):
            raise InputError(f"format '{name}', option {option}: {_in_words(hints[option])}, not {value!r}")
    if name in CHECKS:
        CHECKS[name](**options)


KINDS = {bool: "true or false", int: "a whole number", str: "text", type(None): "null"}


def _is_a(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_is_a(value, each) for each in inner)
    if kind is Sequence:
        return isinstance(value, list | tuple) and all(_is_a(each, inner[0]) for each in value)
    if kind is Mapping:
        return isinstance(value, dict) and all(_is_a(k, inner[0]) and _is_a(v, inner[1]) for k, v in value.items())
    return type(value) is hint


def _in_words(hint: Any) -> str:
    kind, inner = get_origin(hint), [_in_words(each) for each in get_args(hint)]
    if kind is UnionType:
        return " or ".join(inner)
    if kind is Sequence:
        return f"a list in brackets, each {inner[0]}"
    if kind is Mapping:
        return f"in braces keys ({inner[0]}) and values ({inner[1]})"
    return KINDS[hint]


def read_raw(name: str, files: Files, options: Mapping[str, Any]) -> RawTensor:
    """Read raw files of a format.

    Raises
    ------
    InputError
        Options that are not its reader's (:func:`check_format`), or a packed file of a format that is read in place.
    """
    check_format(name, options)
    _refuse_packed(name, files)
    return READERS[name](files, **options)
