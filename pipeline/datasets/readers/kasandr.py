"""KASANDR, Germany (Sidana et al., SIGIR 2017): offers x users, number of clicks."""

from __future__ import annotations

from pipeline.datasets.raw import Files, RawTensor, only_file
from pipeline.datasets.readers.csvtable import Layout, read_members

OFFER, USER, FEEDBACK = "offerid", "userid", "implicit feedback"


def read(files: Files) -> RawTensor:
    """Read the archive of ``train_de.csv`` and ``test_de.csv``: tab-separated with a header, clicks have feedback 1.

    The header may write its names with spaces, underscores or capitals. The archive is unpacked once.
    """
    layout = Layout(only_file(files), "\t", quotes=False, loose=True)
    return read_members(layout, "*_de.csv", [OFFER, USER], names=["offer", "user"], only={FEEDBACK: "1"})
