"""Coordinates and values as text: the user's own lists and FROSTT's ``.tns`` files."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.datasets.places import modes_of, to_places
from pipeline.datasets.raw import Block, Files, RawTensor, only_file
from pipeline.datasets.text import first_fields, is_integer, line_of_entry, read_numbers
from pipeline.errors import InputError


def read(
    files: Files,
    *,
    base: int | None = 0,
    values: bool | None = None,
    drop: Sequence[int] = (),
    names: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
) -> RawTensor:
    """Read a text file with the coordinates and the value of one entry a line.

    Fields are separated by spaces, tabs, commas or semicolons; lines that start with ``#`` or ``%`` and
    empty ones are skipped; the file may be a .gz or a .zip.

    Parameters
    ----------
    base
        0 or 1: what the first index of a mode is in the file. None: the whole numbers are names of things;
        those that occur become dense indices.
    values
        False for files without values: every line counts 1. None: the last field is the value, and a line says
        so; two whole numbers a line may be an edge or an index and its value and are refused.
    drop
        Modes (0-based, as in the file) to sum over.
    names
        Names of the modes that stay.
    shape
        Sizes of the modes that stay; without, the largest index decides.
    """
    path = only_file(files)
    if values is None:
        values = _with_values(path)
    blocks = read_numbers(path, None, values=values)
    first = next((block for block in blocks if len(block[1])), None)
    if first is None:
        raise InputError(f"{path}: empty tensor: the file has no entry")
    kept = _kept_modes(len(first[0]), drop)
    if names is not None and len(names) != len(kept):
        raise InputError(f"option names: {len(names)} names for {len(kept)} modes")
    modes = modes_of(names or [f"mode_{mode}" for mode in kept], base, shape)
    chosen: itertools.chain[Block] = itertools.chain([_pick(first, kept)], (_pick(block, kept) for block in blocks))
    return RawTensor(modes, to_places(chosen, modes, base, lambda entry: f"{path}:{line_of_entry(path, entry)}"))


def read_tns(
    files: Files,
    *,
    drop: Sequence[int] = (),
    names: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
) -> RawTensor:
    """Read a FROSTT file: 1-based coordinates and a value on each line. Options as in :func:`read`."""
    return read(files, base=1, values=True, drop=drop, names=names, shape=shape)


def _with_values(path: Path) -> bool:
    """Say that the last field of a line is its value; refuse lines that may have none."""
    line, fields = first_fields(path)
    if len(fields) == 2 and all(map(is_integer, fields)):
        raise InputError(
            f"{path}:{line}: two whole numbers: set the option values: false if a line is an edge, "
            "or values: true if it is an index and a value"
        )
    if len(fields) > 1:
        indices = "an index" if len(fields) == 2 else f"{len(fields) - 1} indices"
        print(f"{path.name}: a line is {indices} and a value (without values: option values: false)", file=sys.stderr)
    return True


def _pick(block: Block, kept: list[int]) -> Block:
    keys, values = block
    return [keys[mode] for mode in kept], values


def _kept_modes(order: int, drop: Sequence[int]) -> list[int]:
    for mode in drop:
        if type(mode) is not int or not 0 <= mode < order:
            raise InputError(f"option drop: mode {mode!r} of a tensor with modes 0..{order - 1}")
    kept = [mode for mode in range(order) if mode not in drop]
    if not kept:
        raise InputError(f"option drop: {list(drop)} leaves none of {order} modes")
    return kept
