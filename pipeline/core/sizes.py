"""Sizes in bytes: as people write them, and how many a file may unpack to."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import InputError

UNPACKED = 1 << 27  # bytes that a file of any size may unpack to
EXPANSION = 200  # and how many times its own size beyond that
VARIABLE = "KRONFLOW_UNPACKED"  # of the environment: another number of bytes, where a user means it
REMEDY = f"if that is meant, set {VARIABLE}, for example {VARIABLE}=10GB"


def parse_bytes(text: str, option: str = "--bytes") -> int:
    """Read ``20000``, ``20kB`` or ``1.5 MB``; 1 kB is 1,000 bytes."""
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]+)?)\s*(k|K|M|G|)B?\s*", text)
    size = int(float(match[1]) * {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]) if match else 0
    if size < 1:
        raise InputError(f"{option} {text}: write a number of bytes, such as 20000, 20kB or 1.5MB")
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
