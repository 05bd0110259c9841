"""Simplices over time (A. R. Benson's format): the incidence matrix of nodes and distinct simplices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.datasets.raw import Files, Mode, RawTensor, file_named, read_integers
from pipeline.errors import InputError


def read(files: Files) -> RawTensor:
    """Read ``*-nverts`` (the size of each simplex) and ``*-simplices`` (the node ids, one after the other).

    Rows are the nodes that occur, relabelled densely; columns are the simplices that differ as ordered
    lists, in the order in which they first occur; entries are 1.
    """
    sizes_path, nodes_path = file_named(files, "nverts"), file_named(files, "simplices")
    sizes = read_integers(sizes_path, minimum=1)
    nodes = read_integers(nodes_path, minimum=0)
    if sizes.sum() != len(nodes):
        raise InputError(
            f"{nodes_path}: {len(nodes):,} nodes where the sizes in {sizes_path.name} add up to {sizes.sum():,}; "
            "download both again"
        )
    first = _first_occurrences(nodes, sizes)
    kept = np.zeros(len(sizes), dtype=bool)
    kept[first] = True
    columns = np.repeat(np.arange(len(first)), sizes[first])
    rows = nodes[np.repeat(kept, sizes)]
    modes = [Mode("node"), Mode("simplex", indexed=True, size=len(first))]
    return RawTensor(modes, [([rows, columns], np.ones(len(rows)))], {"repeated_simplices": len(sizes) - len(first)})


def _first_occurrences(nodes: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers of the simplices whose ordered list of nodes did not occur before, ascending."""
    ends = np.cumsum(sizes)
    seen: dict[bytes, int] = {}
    for number, (start, end) in enumerate(zip((ends - sizes).tolist(), ends.tolist(), strict=True)):
        seen.setdefault(nodes[start:end].tobytes(), number)
    return np.fromiter(seen.values(), dtype=np.int64, count=len(seen))
