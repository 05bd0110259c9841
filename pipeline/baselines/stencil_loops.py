"""Inner loops of :mod:`pipeline.baselines.stencils`."""

from __future__ import annotations

from pipeline.baselines.base import Integers, Reals
from pipeline.kernels.optional import compiled


@compiled
def subtract_rows(tables: Reals, which: Integers, result: Reals) -> None:
    """Subtract from every row i of `result` (n, k) the rows ``tables[s, which[i, s]]`` of all tables (S, *, k)."""
    for row in range(len(result)):
        target = result[row]
        for table in range(len(tables)):
            other = tables[table, which[row, table]]
            for column in range(len(target)):
                target[column] -= other[column]


@compiled
def cluster_sums(vector: Reals, which: Integers, result: Reals) -> None:
    """Add the entries of a vector (n,) by each of S clusterings `which` (n, S) into `result` (S, k)."""
    for position in range(len(vector)):
        value = vector[position]
        for table in range(which.shape[1]):
            result[table, which[position, table]] += value
