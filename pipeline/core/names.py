"""Names of data sets, experiments, runs and raw files, which become parts of paths and of other tools' files."""

from __future__ import annotations

from pathlib import PurePath

from pipeline.errors import InputError

LONGEST = 200  # bytes; temporary names add to it
SPECIAL = "\\{}$"  # for a shell, Snakemake or DVC


def plain_name(name: str, what: str = "name") -> str:
    """Return a name that is one part of a path, leads nowhere else and means nothing to the tools that see it.

    Raises
    ------
    InputError
        It is empty, has a folder, control characters or one of ``\\ { } $``, starts with ``.``, ``-`` or ``~``, is no
        text in UTF-8 or longer than 200 bytes.

    Examples
    --------
    >>> plain_name("flights-2013 (1).csv")
    'flights-2013 (1).csv'
    """
    shown = ascii(name[:60])
    if PurePath(name).name != name or name[:1] in ("", ".", "-", "~") or not name.isprintable() or {*name} & {*SPECIAL}:
        raise InputError(f"{what} {shown}: is no plain name: no folder, no {' '.join(SPECIAL)}, no . - ~ in front")
    if len(name.encode()) > LONGEST:
        raise InputError(f"{what} {shown}: longer than {LONGEST} bytes")
    return name
