"""One entry of the registry, read from ``params.yaml`` without the typed configuration.

The steps ``download`` and ``convert`` decide results, so that their code is an input of their rules;
they read the one entry they need with this small reader instead of :mod:`pipeline.config`. A test
keeps the fields here and there equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any

from pipeline.core.yaml_files import read_yaml
from pipeline.errors import InputError, nearest


@dataclass(frozen=True)
class RawFile:
    """One published file: its sources in order of preference, its checksum, and its size in bytes."""

    sources: list[str]
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Dataset:
    """One registry entry.

    `registration` is the address where a user gets files that may not be fetched by a program; `mirror` the
    folder in a mirror; `labels` the modes whose labels are kept; `shape`, `nnz` and `norm2` what a conversion
    must give.
    """

    description: str
    licence: str
    citation: str
    format: str
    files: dict[str, RawFile]
    options: dict[str, Any] = field(default_factory=dict)
    labels: list[int] = field(default_factory=list)
    mirror: str | None = None
    registration: str | None = None
    shape: list[int] | None = None
    nnz: int | None = None
    norm2: float | None = None


def read_entry(params: str | Path, dataset: str) -> Dataset:
    """Read the entry ``datasets.<dataset>`` of a ``params.yaml``.

    Raises
    ------
    InputError
        The file is no YAML, the data set does not exist, or a key is unknown, missing or of the wrong type.
    """
    params = Path(params)
    known = _section(params)
    if dataset not in known:
        raise InputError(f"{params}: data set '{dataset}' does not exist{nearest(dataset, map(str, known))}")
    key = f"{params}: datasets.{dataset}"
    entry = _checked(key, known[dataset], Dataset)
    _expect(key, entry, "files", dict)
    files = {name: _raw_file(f"{key}.files.{name}", name, value) for name, value in entry["files"].items()}
    if not files:
        raise InputError(f"{key}.files: name at least one file")
    for name in ("description", "licence", "citation", "format"):
        _expect(key, entry, name, str)
    for name, kind in (("options", dict), ("labels", list), ("shape", list), ("nnz", int)):
        _expect(key, entry, name, kind)
    for name in ("mirror", "registration"):
        _expect(key, entry, name, str)
    for name in ("labels", "shape"):
        if not all(type(value) is int and value >= 0 for value in entry.get(name) or []):
            raise InputError(f"{key}.{name}: whole numbers of at least 0, not {entry[name]!r}")
    if not isinstance(entry.get("norm2", 0.0), (float, int, type(None))):
        raise InputError(f"{key}.norm2: a number, not {entry['norm2']!r}")
    return Dataset(**(entry | {"files": files}))


def data_sets(params: str | Path) -> list[str]:
    """Return the names of all data sets of a ``params.yaml``."""
    return [str(name) for name in _section(Path(params))]


def _section(params: Path) -> dict[Any, Any]:
    content = read_yaml(params)
    known = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(known, dict):
        raise InputError(f"{params}: no section 'datasets'")
    return known


def _raw_file(key: str, name: Any, content: Any) -> RawFile:
    if not isinstance(name, str) or PurePath(name).name != name or name.startswith("."):
        raise InputError(f"{key}: '{name}' is no plain file name; leave out the folder")
    entry = _checked(key, content, RawFile)
    _expect(key, entry, "sources", list)
    _expect(key, entry, "sha256", str)
    _expect(key, entry, "size", int)
    if not entry["sources"] or not all(isinstance(source, str) for source in entry["sources"]):
        raise InputError(f"{key}.sources: a list of at least one source, not {entry['sources']!r}")
    digest = entry.get("sha256")
    if digest is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise InputError(f"{key}.sha256: 64 hexadecimal digits in lower case, not '{digest}'")
    return RawFile(**entry)


def _checked(key: str, content: Any, model: type[Dataset] | type[RawFile]) -> dict[str, Any]:
    """Return the mapping `content` when it has every required field of `model` and no unknown one."""
    if not isinstance(content, Mapping):
        raise InputError(f"{key}: a mapping of keys to values, not {content!r}")
    names = [each.name for each in fields(model)]
    for name in content:
        if name not in names:
            raise InputError(f"{key}.{name}: unknown key{nearest(str(name), names)}")
    for each in fields(model):
        if each.default is MISSING and each.default_factory is MISSING and each.name not in content:
            raise InputError(f"{key}.{each.name}: this key is missing")
    return dict(content)


def _expect(key: str, entry: Mapping[str, Any], name: str, kind: type) -> None:
    value = entry.get(name)
    if name in entry and value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InputError(f"{key}.{name}: a value of type {kind.__name__}, not {value!r}")
