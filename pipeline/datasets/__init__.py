"""Data sets: the registry, fetching, and one reader a raw format.

A reader is a function ``read(files, **options) -> RawTensor``; adding a format is one file and one line
of :data:`READERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.datasets import coo, digits, flights, idx, kjv, mtx, simplices
from pipeline.datasets.raw import Files, RawTensor
from pipeline.errors import InputError, nearest

READERS: dict[str, Callable[..., RawTensor]] = {
    "coo": coo.read,
    "digits": digits.read,
    "flights": flights.read,
    "idx": idx.read,
    "kjv": kjv.read,
    "mtx": mtx.read,
    "simplices": simplices.read,
}


def check_format(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a format that has no reader, and an option that its reader does not have."""
    if name not in READERS:
        raise InputError(f"format '{name}' does not exist{nearest(name, READERS)}")
    known = list(inspect.signature(READERS[name]).parameters)[1:]
    for option in options:
        if option not in known:
            hint = nearest(option, known) if known else "; it has none"
            raise InputError(f"format '{name}' has no option '{option}'{hint}")


def read_raw(name: str, files: Files, options: Mapping[str, Any]) -> RawTensor:
    """Read raw files of a format."""
    check_format(name, options)
    return READERS[name](files, **options)
