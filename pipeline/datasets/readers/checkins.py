"""Foursquare check-ins of New York and Tokyo (Yang et al., TSMC 2014): users x venues, number of check-ins."""

from __future__ import annotations

from pipeline.datasets.raw import Files, RawTensor, members, only_file
from pipeline.datasets.readers.csvtable import Layout, read_parts

USER, VENUE = 0, 1  # then category id, category, latitude, longitude, time zone offset, UTC time


def read(files: Files, *, member: str) -> RawTensor:
    """Read one city of ``dataset_tsmc2014.zip``: tab-separated text in Latin-1, eight fields, no header.

    Parameters
    ----------
    member
        The file in the archive, for example ``dataset_TSMC2014_NYC.txt``.
    """
    path = only_file(files)
    layouts = [
        Layout(path, "\t", header=False, quotes=False, encoding="latin-1", member=name)
        for name in members(path, member)
    ]
    return read_parts(layouts, [USER, VENUE], names=["user", "venue"])
