"""N-grams of the Corpus of Historical American English: word x word x .., frequency summed over decades."""

from __future__ import annotations

from pipeline.datasets.raw import Files, RawTensor, members, only_file
from pipeline.datasets.readers import kjv
from pipeline.datasets.readers.csvtable import Layout, read_parts


def read(files: Files, *, order: int) -> RawTensor:
    """Read the archive of text files as published: tab-separated frequency, words and decade, in Latin-1, no header.

    Words stay as they are written, capitals included.

    Parameters
    ----------
    order
        n, the number of words and of modes.
    """
    kjv.check(order=order)
    path = only_file(files)
    layouts = [
        Layout(path, "\t", header=False, quotes=False, encoding="latin-1", member=name)
        for name in members(path, "*.txt")
    ]
    words = list(range(1, order + 1))
    return read_parts(layouts, words, names=[f"word {word}" for word in words], value=0)
