"""Coordinates and values as text: the user's own lists and FROSTT's ``.tns`` files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.datasets.raw import Array, Block, Files, Mode, RawTensor, only_file
from pipeline.datasets.text import line_of_entry, read_numbers
from pipeline.errors import InputError

LARGEST = 1 << 48  # an index beyond is a name, not a place: see the option relabel


def read(
    files: Files,
    *,
    base: int = 0,
    values: bool = True,
    relabel: bool = False,
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
        0 or 1: what the first index of a mode is in the file.
    values
        False for files without values: every line counts 1.
    relabel
        Whether the whole numbers are names of things rather than indices; those that occur become dense indices.
    drop
        Modes (0-based, as in the file) to sum over.
    names
        Names of the modes that stay.
    shape
        Sizes of the modes that stay; without, the largest index decides.
    """
    if base not in (0, 1) or isinstance(base, bool):
        raise InputError(f"option base: 0 or 1, not {base!r}")
    path = only_file(files)
    blocks = read_numbers(path, None, values=bool(values))
    first = next((block for block in blocks if len(block[1])), None)
    if first is None:
        raise InputError(f"{path}: empty tensor: the file has no entry")
    kept = _kept_modes(len(first[0]), drop)
    modes = _modes(kept, names, shape, indexed=not relabel)
    return RawTensor(modes, _indices(path, first, blocks, kept, 0 if relabel else base, modes))


def _kept_modes(order: int, drop: Sequence[int]) -> list[int]:
    for mode in drop:
        if type(mode) is not int or not 0 <= mode < order:
            raise InputError(f"option drop: mode {mode!r} of a tensor with modes 0..{order - 1}")
    kept = [mode for mode in range(order) if mode not in drop]
    if not kept:
        raise InputError(f"option drop: {list(drop)} leaves none of {order} modes")
    return kept


def _modes(kept: list[int], names: Sequence[str] | None, shape: Sequence[int] | None, *, indexed: bool) -> list[Mode]:
    for option, given in (("names", names), ("shape", shape)):
        if given is not None and len(given) != len(kept):
            raise InputError(f"option {option}: {len(given)} entries for {len(kept)} modes")
    if shape is not None and not indexed:
        raise InputError("option shape: labels decide the sizes; leave it out with relabel")
    titles = [str(name) for name in names] if names is not None else [f"mode_{mode}" for mode in kept]
    return [
        Mode(title, indexed=indexed, size=None if shape is None else shape[position])
        for position, title in enumerate(titles)
    ]


def _indices(
    path: Path, first: Block, rest: Iterator[Block], kept: list[int], base: int, modes: list[Mode]
) -> Iterator[Block]:
    """Yield 0-based indices of the kept modes, each checked against its mode."""
    entry = 0
    smallest = np.full(len(modes), np.iinfo(np.int64).max)
    for columns, values in _chain(first, rest):
        keys = [columns[mode] for mode in kept]
        for position, mode in enumerate(modes):
            if mode.indexed and len(values):
                check_range(path, entry, keys[position], base, mode)
                smallest[position] = min(smallest[position], keys[position].min())
        yield [each - base for each in keys] if base else keys, values
        entry += len(values)
    if base == 0 and modes[0].indexed and smallest.min() > 0:
        print(f"{path}: no index is 0; if the first index is 1, set the option 'base: 1'", file=sys.stderr)


def check_range(path: Path, entry: int, keys: Array, base: int, mode: Mode, skip: int = 0) -> None:
    """Refuse an index below `base` or beyond the mode; `entry` is the number of the first one, `skip` as in text."""
    limit = LARGEST if mode.size is None else mode.size + base
    bad = (keys < base) | (keys >= limit)
    if bad.any():
        where = int(np.argmax(bad))
        line = line_of_entry(path, entry + where, skip)
        raise InputError(
            f"{path}:{line}: index {keys[where]} in mode '{mode.name}' is outside {base}..{limit - 1}; "
            f"the file is read as {base}-based"
        )


def _chain(first: Block, rest: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from rest
