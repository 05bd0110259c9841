"""Coordinates and values as text: the user's own lists, FROSTT's ``.tns`` files and their dialects.

Dialects with a header are known by their first lines: ``sptensor`` (the Tensor Toolbox, pyttb, GenTen), an order and
a line of sizes (ParTI), order and number of entries and a line of sizes (LLVM's "extended FROSTT").
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.datasets.places import modes_of, to_places
from pipeline.datasets.raw import Block, Files, RawTensor, only_file
from pipeline.datasets.text import comments_above, first_lines, is_integer, line_of_entry, read_numbers
from pipeline.errors import InputError

TOOLBOX = (b"tensor", b"ktensor", b"ttensor", b"matrix", b"facsptensor", b"sptenmat")  # and only sptensor is sparse
LARGEST_ORDER = 255


@dataclass(frozen=True)
class Head:
    """What stands above the entries: the dialect, its lines, and what it says; nothing in a plain list."""

    dialect: str = ""
    lines: int = 0
    shape: tuple[int, ...] | None = None
    entries: int | None = None


def read(
    files: Files,
    *,
    base: int | None = 0,
    values: bool | None = None,
    drop: Sequence[int] = (),
    names: Sequence[str | int] | None = None,
    shape: Sequence[int] | None = None,
    member: str | None = None,
) -> RawTensor:
    """Read a text file with the coordinates and the value of one entry a line.

    Fields are separated by spaces, tabs, commas or semicolons; lines that start with ``#`` or ``%`` and
    empty ones are skipped; the file may be packed. A header of sizes, as pyttb, GenTen, ParTI and LLVM write it,
    and a comment ``# shape 4 5 6`` are heeded.

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
        Sizes of the modes that stay; without, the file's header or the largest index decides.
    member
        Which file of an archive; without, the only one or that of the archive's own name.
    """
    check(base=base, drop=drop, names=names, shape=shape)
    path = only_file(files, member)
    head = read_head(path)
    if values is None:
        values = True if head.dialect else _with_values(path)
    order = len(head.shape) if head.dialect and head.shape else None
    blocks = read_numbers(path, order, values=values, skip=head.lines)
    first = next((block for block in blocks if len(block[1])), None)
    if first is None:
        raise InputError(f"{path}: empty tensor: the file has no entry")
    kept = _kept_modes(len(first[0]), drop)
    if names is not None and len(names) != len(kept):
        raise InputError(f"option names: {len(names)} names for {len(kept)} modes")
    if shape is None and base is not None and head.shape and len(head.shape) == len(first[0]):
        shape = [head.shape[mode] for mode in kept]
    modes = modes_of(names or [f"mode_{mode}" for mode in kept], base, shape)
    chosen: itertools.chain[Block] = itertools.chain([_pick(first, kept)], (_pick(block, kept) for block in blocks))
    counted = _counted(path, head, chosen)
    return RawTensor(
        modes, to_places(counted, modes, base, lambda entry: f"{path}:{line_of_entry(path, entry, head.lines)}")
    )


def read_tns(
    files: Files,
    *,
    base: int | None = 1,
    drop: Sequence[int] = (),
    names: Sequence[str | int] | None = None,
    shape: Sequence[int] | None = None,
    member: str | None = None,
) -> RawTensor:
    """Read a FROSTT file: coordinates from 1 (with the option base from 0) and a value on each line; see :func:`read`.

    Options as there.
    """
    return read(files, base=base, values=True, drop=drop, names=names, shape=shape, member=member)


def check(
    *,
    base: int | None = 0,
    drop: Sequence[int] = (),
    names: Sequence[str | int] | None = None,
    shape: Sequence[int] | None = None,
    **_: Any,
) -> None:
    """Refuse what the options of :func:`read` cannot be, whatever the file."""
    if min(drop, default=0) < 0:
        raise InputError(f"option drop: modes are counted from 0, not {list(drop)}")
    modes_of(names or [""] * len(shape or [""]), base, shape)


def read_head(path: Path) -> Head:
    """Know a dialect by its first lines.

    Raises
    ------
    InputError
        A header of a dialect that is not as it should be, or one of something else than a sparse tensor.
    """
    lines = first_lines(path, 4)
    counts = [len(fields) for _, fields in lines]
    word = lines[0][1][0].lower() if lines and counts[0] == 1 else b""
    if word in TOOLBOX:
        raise InputError(f"{path}:{lines[0][0]}: a '{word.decode()}' of the Tensor Toolbox; of these sptensor is read")
    if word == b"sptensor":
        shape, last = _sizes(path, lines[1:3]), lines[-1]
        if len(lines) < 4 or counts[3] != 1 or not is_integer(last[1][0]):
            raise InputError(f"{path}: an sptensor's fourth line is its number of non-zeros")
        return Head("sptensor", last[0], shape, int(last[1][0]))
    numbers = lines[:2] and all(is_integer(field) for _, fields in lines[:2] for field in fields)
    if numbers and len(lines) > 2 and lines[0][1][0].isdigit() and int(lines[0][1][0][:4]) == counts[1]:
        if counts[:3] == [1, counts[1], counts[1] + 1]:
            return Head("ParTI", lines[1][0], _sizes(path, lines[:2]))
        if counts[:3] == [2, counts[1], counts[1] + 1]:
            return Head("extended FROSTT", lines[1][0], _sizes(path, lines[:2]), int(lines[0][1][1]))
    told = next((text[5:].split() for text in comments_above(path) if text[:6].lower() == b"shape "), [])
    sizes = tuple(int(size) for size in told if size.isdigit() and len(size) < 19)
    return Head(shape=sizes if told and len(sizes) == len(told) and min(sizes) > 0 else None)


def _sizes(path: Path, lines: list[tuple[int, list[bytes]]]) -> tuple[int, ...]:
    """Sizes of the modes, in the second of two lines; the first starts with how many there are."""
    fields = lines[1][1] if len(lines) == 2 else []
    order = lines[0][1][0] if lines else b""
    if not order.isdigit() or int(order[:4]) != len(fields) or not all(size.isdigit() for size in fields):
        place = f"{path}:{lines[-1][0]}" if lines else str(path)
        raise InputError(f"{place}: where a tensor's order and a line of so many sizes belong")
    return tuple(int(size) for size in fields)


def _counted(path: Path, head: Head, blocks: Iterator[Block]) -> Iterator[Block]:
    """Pass the entries on and compare their number with the header's."""
    seen = 0
    for block in blocks:
        seen += len(block[1])
        yield block
    if head.entries is not None and seen != head.entries:
        raise InputError(f"{path}: {seen:,} entries where its header ({head.dialect}) promises {head.entries:,}")


def _with_values(path: Path) -> bool:
    """Say that the last field of a line is its value; refuse lines that may have none."""
    line, fields = next(iter(first_lines(path, 1)), (1, []))
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
        if mode >= order:
            raise InputError(f"option drop: mode {mode!r} of a tensor with modes 0..{order - 1}")
    kept = [mode for mode in range(order) if mode not in drop]
    if not kept:
        raise InputError(f"option drop: {list(drop)} leaves none of {order} modes")
    return kept
