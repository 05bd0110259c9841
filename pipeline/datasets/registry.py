"""The registry of data sets, section ``datasets`` of ``params.yaml``: its model, and a reader of one entry.

The steps ``download`` and ``convert`` read the one entry they need, so that their code does not rest on the plan.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pipeline.core.names import plain_name
from pipeline.core.secrets import masked
from pipeline.core.sections import Name, Positive, Section, checked
from pipeline.core.yaml_files import read_yaml
from pipeline.datasets import check_format
from pipeline.errors import InputError, nearest
from pipeline.sparse.grid import LARGEST_SIZE
from pipeline.sparse.synth import Recipe

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


FileName = Annotated[str, AfterValidator(plain_name)]
ModeSize = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
SOURCES = ("http", "https", "package", "file", "gdrive", "synth")  # what a source starts with, before a colon
PACKAGE = re.compile(r"package:([A-Za-z0-9._-]+)==([^/]+)/(.+)")


def checked_source(source: str) -> str:
    """Return a source that is of a form that there is (:mod:`pipeline.datasets.fetch`).

    Raises
    ------
    InputError
        It is of none, without passwords.
    """
    kind, _, rest = source.partition(":")
    if kind not in SOURCES:
        raise InputError(f"source '{masked(source)[:200]}': starts with none of: {', '.join(SOURCES)}")
    if kind == "package" and not PACKAGE.fullmatch(source):
        raise InputError(f"source '{source}': write package:NAME==VERSION/PATH")
    if kind == "synth":
        Recipe.parse(rest)
    if not rest.strip("/") or (kind in ("http", "https") and not _host(source)):
        raise InputError(f"source '{masked(source)[:200]}': names nothing that could be fetched")
    return source


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # brackets that hold no address
        return None


class RawFile(Section):
    """One published file: its checksum and where to get it, in order of preference."""

    sha256: Digest | None = None  # None: recorded in data/registry.lock at the first download
    size: Positive | None = None  # bytes
    sources: Annotated[list[Annotated[str, AfterValidator(checked_source)]], Field(min_length=1)]


class Dataset(Section):
    """One registry entry."""

    description: str
    licence: str
    citation: str
    format: str
    options: dict[str, Any] = {}
    labels: list[Annotated[int, Field(ge=0)]] = []  # modes whose labels become a file
    push: bool = True  # false where the licence forbids to pass on: DVC keeps raw files, tensor and samples here
    mirror: FileName | None = None  # folder in a mirror; default: the data set's name
    registration: str | None = None  # where to get files that need an account
    files: Annotated[dict[FileName, RawFile], Field(min_length=1)]
    shape: Annotated[list[ModeSize], Field(min_length=1)] | None = None  # what a conversion must give, as nnz and norm2
    nnz: Positive | None = None
    norm2: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        """Refuse at planning options that the format's reader would refuse, and numbers that no tensor has together."""
        check_format(self.format, self.options)
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"labels {self.labels}: a mode is given twice")
        if self.shape is not None and max(self.labels, default=0) >= len(self.shape):
            raise InputError(f"labels {self.labels}: of a tensor with modes 0..{len(self.shape) - 1}")
        if self.shape is not None and self.nnz is not None and self.nnz > math.prod(self.shape):
            raise InputError(f"nnz {self.nnz:,}: more than the cells of a tensor of shape {self.shape}")
        return self

    def deciding(self) -> dict[str, Any]:
        """What decides the bytes of the tensor, beside the raw files: not what is written for people."""
        return self.model_dump(include={"format", "options", "labels", "shape", "nnz", "norm2"})

    def checksums(self) -> dict[str, str | None]:
        """Published sha256 of every raw file."""
        return {name: file.sha256 for name, file in self.files.items()}

    def sources_on_disk(self) -> dict[str, list[str]]:
        """Paths of the ``file:`` sources of each raw file that has some, relative ones to ``params.yaml``'s folder."""
        paths = {
            name: [str(Path(each.removeprefix("file:")).expanduser()) for each in file.sources if each[:5] == "file:"]
            for name, file in self.files.items()
        }
        return {name: found for name, found in paths.items() if found}

    def own_files(self, raw: Path) -> list[str]:
        """Files on the user's disk that the raw files in the folder `raw` are, or would be, copies of.

        One that is not there counts too where its copy is: Snakemake then takes the copy as it is, so that who got
        it from a colleague or a mirror has nothing to make again.
        """
        found = []
        for name, paths in self.sources_on_disk().items():
            there = [path for path in paths if Path(path).is_file()]
            only = len(self.files[name].sources) == 1 and (raw / name).is_file()
            found += there[:1] or (paths if only else [])
        return found


class _Named(Section):
    name: Name


def read_entry(params: str | Path, dataset: str) -> Dataset:
    """Read the entry ``datasets.<dataset>`` of a ``params.yaml``.

    Raises
    ------
    InputError
        The file is no YAML, the data set does not exist or has no plain name, or a key is unknown, missing or of
        the wrong type.
    """
    params = Path(params)
    plain_name(dataset, "data set")
    known = _section(params)
    if dataset not in known:
        raise InputError(f"{params}: data set '{dataset}' does not exist{nearest(dataset, map(str, known))}")
    checked(_Named, {"name": dataset}, str(params), f"datasets.{dataset}")
    return checked(Dataset, known[dataset], str(params), f"datasets.{dataset}")


def data_sets(params: str | Path) -> list[str]:
    """Return the names of all data sets of a ``params.yaml``."""
    return [str(name) for name in _section(Path(params))]


def _section(params: Path) -> dict[Any, Any]:
    content = read_yaml(params)
    known = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(known, dict):
        raise InputError(f"{params}: no section 'datasets'")
    return known
