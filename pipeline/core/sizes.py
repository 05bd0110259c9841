"""Sizes in bytes: as people write them, and how many a file may unpack to."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path

from pipeline.errors import InputError

UNPACKED = 1 << 27  # bytes that a file of any size may unpack to
EXPANSION = 200  # and how many times its own size beyond that
LARGEST = 10**18  # bytes, from which a size is a slip of the pen
LONGEST = 40  # characters of a size
VARIABLE = "KRONFLOW_UNPACKED"  # of the environment: another number of bytes, where a user means it
REMEDY = f"if that is meant, set {VARIABLE}, for example {VARIABLE}=10GB"


def parse_bytes(text: str, option: str = "--bytes") -> int:
    """Read ``20000``, ``2e4``, ``20kB``, ``1.5 MB`` or ``4 KiB``; 1 kB is 1,000 bytes, 1 KiB 1,024.

    Raises
    ------
    InputError
        It is no number of bytes, less than 1, or `LARGEST` or more.
    """
    match = re.fullmatch(
        r"\s*([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]{1,2})?)\s*(?:([kmgt])(i?))?b?\s*", text.lower(), re.ASCII
    )
    size = 0
    if match and len(text) < LONGEST:
        power = " kmgt".index(match[2] or " ")
        size = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)
    if not 1 <= size < LARGEST:
        raise InputError(f"{option} {text[:LONGEST]}: write a number of bytes, such as 20000, 20kB, 1.5MB or 4KiB")
    return size


def told_unpacked() -> int:
    """Bytes that the environment allows any file to unpack to; 0 where it says nothing."""
    told = os.environ.get(VARIABLE)
    return parse_bytes(told, VARIABLE) if told else 0


def most_unpacked(path: Path) -> int:
    """Bytes that a file may unpack to."""
    return max(UNPACKED, EXPANSION * path.stat().st_size, told_unpacked())


def check_unpacked(path: Path, needed: float, what: str = "") -> None:
    """Refuse to unpack what is out of all proportion to a file.

    Parameters
    ----------
    needed
        Bytes that it would take in memory.
    what
        The part of the file that is meant, if not all of it.

    Raises
    ------
    InputError
        With the bound, and the variable of the environment that raises it.
    """
    most = most_unpacked(path)
    if needed > most:
        raise InputError(
            f"{path}: {what}{' ' * bool(what)}unpacks to more than {most:,} bytes, {EXPANSION} times the file's size; "
            f"{REMEDY}"
        )
