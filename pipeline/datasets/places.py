"""Indices of any base, or labels: the options that readers of users' tables share, and their checks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.datasets.raw import Array, Block, Mode
from pipeline.errors import InputError

LARGEST = 1 << 48  # an index beyond is a name, not a place


def modes_of(names: Sequence[Any], base: int | None, shape: Sequence[int] | None) -> list[Mode]:
    """Return the modes that the options `base` and `shape` describe.

    Parameters
    ----------
    names
        One a mode.
    base
        0 or 1: the first index of a mode; None: labels.
    shape
        Sizes of the modes; None: the largest index decides.
    """
    if base not in (0, 1, None) or isinstance(base, bool):
        raise InputError(f"option base: 0 or 1, or null for labels; not {base!r}")
    if shape is None:
        return [Mode(str(name), indexed=base is not None) for name in names]
    if base is None:
        raise InputError("option shape: labels decide the sizes themselves; leave it out, or set the option base")
    if len(shape) != len(names):
        raise InputError(f"option shape: {len(shape)} sizes for {len(names)} modes")
    if not all(type(size) is int and 0 < size <= LARGEST for size in shape):
        raise InputError(f"option shape: whole numbers of at least 1, not {list(shape)}")
    return [Mode(str(name), indexed=True, size=size) for name, size in zip(names, shape, strict=True)]


def to_places(
    blocks: Iterable[Block], modes: Sequence[Mode], base: int | None, where: Callable[[int], str]
) -> Iterator[Block]:
    """Yield blocks with 0-based indices, each checked against its mode; labels pass unchanged.

    Parameters
    ----------
    where
        Gives the place of the entry with a number (``file:line``), for a message.

    Raises
    ------
    InputError
        An index below `base` or beyond the mode.
    """
    entry = 0
    first_is_used = False
    for keys, values in blocks:
        if base is not None and len(values):
            for mode, column in zip(modes, keys, strict=True):
                check_range(column, base, mode, where, entry)
                first_is_used = first_is_used or bool(column.min() == 0)
            keys = [column - base for column in keys] if base else keys
        yield keys, values
        entry += len(values)
    if base == 0 and entry and not first_is_used:
        print(f"{where(0)}: no index is 0; if the first index is 1, set the option 'base: 1'", file=sys.stderr)


def check_range(
    column: Array, base: int, mode: Mode, where: Callable[[int], str], entry: int = 0, fixed: bool = False
) -> None:
    """Refuse an index below `base` or beyond the mode; `entry` is the number of the first one.

    `fixed`: the format says where its indices start, and has no option for it.
    """
    limit = LARGEST if mode.size is None else mode.size + base
    if len(column) and (column.min() < base or column.max() >= limit):
        row = int(np.argmax((column < base) | (column >= limit)))
        other = {(1, base - 1): "0", (0, limit): "1"}.get((base, int(column[row])))
        hint = f"; where its first index is {other}: option base={other}" if other else ""
        hint = "" if fixed else hint
        hint = (
            "; where numbers are names, not places: option base=null" if column[row] >= LARGEST and not fixed else hint
        )
        raise InputError(
            f"{where(entry + row)}: index {column[row]} in mode '{mode.name}' is outside {base}..{limit - 1}; "
            f"{'the format is' if fixed else 'the file is read as'} {base}-based{hint}"
        )
