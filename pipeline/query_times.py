"""Step: how long NeuKron takes to answer a million cells of matrices of ten sides."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.core import step
from pipeline.core.files import atomic_path, refuse_clashes
from pipeline.sparse import SparseTensor

SIDES = tuple(2**bits for bits in range(7, 17))
CELLS = 1_000_000
REPEATS = 5
COLUMNS = ("side", "hidden", "repeat", "cells", "seconds", "cpu_seconds")


def main(argv: list[str] | None = None) -> None:
    """Time the answers and write a row a side and repeat as CSV."""
    arguments = step.parser(
        "Time the answers of NeuKron for random cells of square matrices of ten sides, 2^7 to 2^16. How long an answer "
        "takes depends on the side and the width alone, so the models are those of two non-zeros.",
        "example: python -m pipeline.query_times query-times.csv --threads 1",
    )
    arguments.add_argument("output", type=Path, help="CSV to write")
    arguments.add_argument("--hidden", action=step.WholeNumber, least=1, default=30, help="width (default: 30)")
    arguments.add_argument("--cells", action=step.WholeNumber, least=1, default=CELLS, help=f"default: {CELLS:,}")
    arguments.add_argument("--repeats", action=step.WholeNumber, least=1, default=REPEATS, help=f"default: {REPEATS}")
    arguments.add_argument("--threads", action=step.WholeNumber, least=1, default=1, help="threads to use (default: 1)")
    options = arguments.parse_args(argv)
    refuse_clashes([], [options.output])
    step.limit_threads(options.threads)
    rows = []
    for side in SIDES:
        rows += times(side, options.hidden, options.cells, options.repeats, options.threads)
        print(f"{side} x {side}: {min(row[4] for row in rows if row[0] == side):.3f} s", file=sys.stderr)
    with atomic_path(options.output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def times(
    side: int, hidden: int, cells: int, repeats: int, threads: int
) -> list[tuple[int, int, int, int, float, float]]:
    """Seconds and processor seconds of each repeat, after a first answer that is not timed; rows as :data:`COLUMNS`."""
    from pipeline.neukron import NeuKron

    X = SparseTensor([[0, 0], [side - 1, side - 1]], [1.0, 1.0], (side, side))
    model = NeuKron(hidden=hidden, max_epochs=1, order_init="random", device="cpu", threads=threads).fit(X)
    rng = np.random.default_rng(side)
    model.predict(rng.integers(0, side, (min(cells, 1000), 2)))
    rows = []
    for repeat in range(repeats):
        asked = rng.integers(0, side, (cells, 2))
        wall, processor = time.perf_counter(), time.process_time()
        model.predict(asked)
        rows.append((side, hidden, repeat, cells, time.perf_counter() - wall, time.process_time() - processor))
    return rows


if __name__ == "__main__":
    step.run(main)
