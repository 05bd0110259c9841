"""KASANDR, Germany (Sidana et al., SIGIR 2017): offers x users, number of clicks."""

from __future__ import annotations

from pipeline.datasets.csvtable import Layout, read_parts
from pipeline.datasets.raw import Files, RawTensor, members, only_file

OFFER, USER, FEEDBACK = "offerid", "userid", "implicit feedback"


def read(files: Files) -> RawTensor:
    """Read the archive of ``train_de.csv`` and ``test_de.csv``: tab-separated with a header, clicks have feedback 1.

    The header may write its names with spaces, underscores or capitals.
    """
    path = only_file(files)
    layouts = [Layout(path, "\t", quotes=False, member=name) for name in members(path, "*_de.csv")]
    header = layouts[0].header_names()
    columns = {_plain(name): name for name in header}
    wanted = [columns.get(_plain(name), name) for name in (OFFER, USER, FEEDBACK)]
    return read_parts(layouts, wanted[:2], names=["offer", "user"], only={wanted[2]: "1"})


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("_", "")
