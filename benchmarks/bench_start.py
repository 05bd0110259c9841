"""What a command takes before its work: start-up, small inputs, kernels. Writes start.json and start.md.

Each command is a process of its own. Rounds are taken in turn, so that all rows see the same machine; the table has the
medians of wall and of processor time, the latter hardly moved by what else the machine does. `first` and `second` fit
with an empty cache of compiled kernels (``NUMBA_CACHE_DIR``) and with the one that `first` has left: once each.

    python -m benchmarks.bench_start --rounds 7
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import about
from pipeline.core import step

MATRIX = "%%MatrixMarket matrix coordinate real general\n4 4 5\n1 1 3\n2 2 1\n3 4 2\n4 4 1\n1 3 2\n"
KRONFLOW = [sys.executable, "-m", "pipeline"]
EPOCHS = ["--set", "hidden=4", "--set", "max_epochs=3", "--threads", "1"]


def commands(folder: Path) -> dict[str, list[str]]:
    """Commands by the name of their row; the artifacts are made by :func:`prepare`."""
    matrix, neukron, tsvd = (str(folder / name) for name in ("my.mtx", "neukron.safetensors", "t-svd.safetensors"))
    out = str(folder / "out.safetensors")
    return {
        "python, nothing else": [sys.executable, "-c", "pass"],
        "python, import numpy": [sys.executable, "-c", "import numpy"],
        "python, import torch": [sys.executable, "-c", "import torch"],
        "kronflow --help": [*KRONFLOW, "--help"],
        "info, NeuKron": [*KRONFLOW, "info", neukron],
        "query, one cell, NeuKron": [*KRONFLOW, "query", neukron, "0", "0"],
        "query --top 3, NeuKron": [*KRONFLOW, "query", neukron, "--top", "3"],
        "query, one cell, T-SVD": [*KRONFLOW, "query", tsvd, "0", "0"],
        "compress 4 x 4, T-SVD": [*KRONFLOW, "compress", matrix, out, "--method", "t-svd", "--set", "rank=2"],
        "compress 4 x 4, lossless": [*KRONFLOW, "compress", matrix, out, "--method", "lossless"],
        "compress 4 x 4, NeuKron, 3 epochs": [*KRONFLOW, "compress", matrix, out, *EPOCHS],
    }


def prepare(folder: Path) -> None:
    """The matrix, an artifact of each kind, and every kernel in the cache."""
    (folder / "my.mtx").write_text(MATRIX)
    for method, settings in (("neukron", EPOCHS), ("t-svd", ["--set", "rank=2"])):
        timed([*KRONFLOW, "compress", str(folder / "my.mtx"), str(folder / f"{method}.safetensors"),
               "--method", method, *settings], {})  # fmt: skip
    for command in commands(folder).values():
        timed(command, {})


def timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall and processor seconds of a command that must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def measured(rounds: int) -> dict[str, Any]:
    """Medians of all rows, and the two fits around an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        rows: dict[str, list[dict[str, float]]] = {row: [] for row in commands(folder)}
        for _ in range(rounds):
            for row, command in commands(folder).items():
                rows[row].append(timed(command, {}))
        empty = {"NUMBA_CACHE_DIR": str(folder / "kernels")}
        fit = commands(folder)["compress 4 x 4, NeuKron, 3 epochs"]
        once = {f"the same, {which}": [timed(fit, empty)] for which in ("kernels not compiled: first", "kept: second")}
    found = rows | once
    return {
        row: {kind: statistics.median(one[kind] for one in all_) for kind in all_[0]} for row, all_ in found.items()
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    how = results["about"]
    command = f"`python -m benchmarks.bench_start --rounds {how['rounds']}`"
    lines = ["# Start-up and small inputs, seconds", ""]
    lines += [f"{command}: {about.told(how)} Medians; first and second once each. One thread.", ""]
    lines += ["| command | wall | processor |", "|---|--:|--:|"]
    lines += [f"| {row} | {one['wall']:.2f} | {one['processor']:.2f} |" for row, one in results["rows"].items()]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Measure, write both files and print the table."""
    arguments = step.parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=7, help="how often each command is run; default: %(default)s")
    options = arguments.parse_args(argv)
    about.write("start", {"about": about.circumstances(rounds=options.rounds), "rows": measured(options.rounds)}, table)


if __name__ == "__main__":
    step.run(main)
