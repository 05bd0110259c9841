"""Twitch (Rappaz et al., RecSys 2021): streamers x users, time watched in rounds of ten minutes."""

from __future__ import annotations

from pipeline.datasets.raw import Files, RawTensor, only_file
from pipeline.datasets.readers.csvtable import Layout, read_parts

USER, STREAMER, START, STOP = 0, 2, 3, 4  # field 1 is the stream


def read(files: Files) -> RawTensor:
    """Read ``full_a.csv.gz`` or ``100k_a.csv``: five fields, no header; an entry is the sum of stop - start."""
    layout = Layout(only_file(files), header=False, quotes=False)
    return read_parts([layout], [STREAMER, USER], names=["streamer", "user"], value=STOP, minus=START)
