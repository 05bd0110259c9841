"""Conversion of a FROSTT text file of enron's size: Kronflow against pandas, DuckDB and Arrow.

    python benchmarks/bench_convert.py                     # a tenth of the lines and all of them
    python benchmarks/bench_convert.py --lines 1000000     # quick

Every contender runs in a process of its own and sums four modes to three; the numbers of cells and the sums of
values must agree. Wall time is what a user waits; processor time says more on a machine that others use too.
Writes benchmarks/results/convert.json and prints a table. The files take 23 bytes a line in the folder for
temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

ROOT = Path(__file__).resolve().parent.parent
ENRON_LINES = 54_202_099
ENRON_SIZES = (6066, 5699, 244268, 1176)
DISTINCT = 0.81  # of the lines' places are drawn; about 57 % of the lines then have a cell of their own, as in enron
TWITCH_NONZEROS = 234_422_289
TWITCH_SIZES = (790_100, 15_524_309)
MEBIBYTE = 1 << 20

PANDAS = """
import pandas as pd, sys
table = pd.read_csv(sys.argv[1], sep=" ", header=None, names=["a", "b", "c", "d", "v"])
cells = table.groupby(["a", "b", "c"])["v"].sum()
print(len(cells), int(cells.sum()))
"""
DUCKDB = """
import duckdb, os, sys
sql = duckdb.connect(config={"threads": len(os.sched_getaffinity(0))})
sql.execute("SET enable_progress_bar = false")
columns = "{'a': 'INT', 'b': 'INT', 'c': 'INT', 'd': 'INT', 'v': 'BIGINT'}"
lines = f"read_csv('{sys.argv[1]}', delim = ' ', header = false, columns = {columns})"
sql.execute(f"CREATE TABLE cells AS SELECT a, b, c, sum(v) AS v FROM {lines} GROUP BY a, b, c")
sql.execute(f"COPY (SELECT * FROM cells ORDER BY a, b, c) TO '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)")
print(*sql.execute("SELECT count(*), sum(v) FROM cells").fetchone())
"""
ARROW = """
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq, sys
from pyarrow import csv
names = ["a", "b", "c", "d", "v"]
table = csv.read_csv(sys.argv[1], csv.ReadOptions(column_names=names), csv.ParseOptions(delimiter=" "),
                     csv.ConvertOptions(column_types={name: pa.int32() for name in names}, include_columns=[*"abcv"]))
cells = table.group_by(["a", "b", "c"]).aggregate([("v", "sum")]).sort_by([(name, "ascending") for name in "abc"])
pq.write_table(cells, sys.argv[2], compression="zstd")
print(cells.num_rows, pc.sum(cells["v_sum"]))
"""
KRONFLOW = """
import sys
from pathlib import Path
from pipeline.convert import convert_file
result = convert_file(Path(sys.argv[1]), Path(sys.argv[2]), "tns", {"drop": [3]})
print(result.nnz, int(sum(values.sum() for _, values in result.runs)))
"""
TWITCH = """
import sys
import numpy as np
from pathlib import Path
from pipeline.datasets.assemble import assemble
from pipeline.datasets.raw import Mode, RawTensor
count, sizes = int(sys.argv[1]), [int(size) for size in sys.argv[3:]]
def blocks():
    rng = np.random.default_rng(0)
    for start in range(0, count, 1 << 20):
        size = min(1 << 20, count - start)
        yield [(n * rng.random(size) ** 2).astype(np.int64) for n in sizes], rng.integers(1, 200, size).astype(float)
raw = RawTensor([Mode("streamer", True, sizes[0]), Mode("user", True, sizes[1])], blocks())
result = assemble(raw, {}, Path(sys.argv[2]).parent)
result.write(sys.argv[2])
print(result.nnz, int(sum(values.sum() for _, values in result.runs)))
"""
CONTENDERS = {"kronflow": KRONFLOW, "pandas": PANDAS, "duckdb": DUCKDB, "arrow": ARROW}


def generate(path: Path, lines: int) -> None:
    """Write lines of four 1-based indices and a count, with skewed indices and repeated cells, in random order."""
    rng = np.random.default_rng(0)
    with pa.OSFile(str(path), "wb") as file:
        for start in range(0, lines, 1 << 21):
            count = min(1 << 21, lines - start)
            drawn = rng.integers(0, max(int(DISTINCT * count), 1), count)
            columns = [
                (size * rng.random(count) ** power).astype(np.int64)[drawn] + 1
                for size, power in zip(ENRON_SIZES[:3], (1.5, 1.5, 2.0), strict=True)
            ]
            columns += [rng.integers(1, ENRON_SIZES[3] + 1, count), 1 + (20 * rng.random(count) ** 8).astype(np.int64)]
            table = pa.table([pa.array(column) for column in columns], names=["a", "b", "c", "d", "v"])
            csv.write_csv(table, file, csv.WriteOptions(include_header=False, delimiter=" "))


def measure(name: str, program: str, *arguments: str) -> dict[str, object]:
    """Run a program in its own process; seconds of wall and processor time, peak memory, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        return {"contender": name, "failed": status}
    cells, total = map(int, printed.split())
    return {
        "contender": name,
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mebibytes": usage.ru_maxrss * 1024 // MEBIBYTE,
        "cells": cells,
        "sum": total,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lines", type=int, default=ENRON_LINES, help="of the largest file; default: as enron")
    arguments.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "kronflow-bench")
    arguments.add_argument("--contenders", nargs="+", default=["kronflow", "pandas"], help="on the largest file")
    arguments.add_argument("--nonzeros", type=int, default=TWITCH_NONZEROS, help="of the last run; 0: leave it out")
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    output = options.folder / "cells.parquet"
    runs = []
    for lines in (options.lines // 10, options.lines):
        path = options.folder / f"enron-{lines}.tns"
        if not path.exists():
            generate(path, lines)
        for name in CONTENDERS if lines < options.lines else options.contenders:
            run = measure(name, CONTENDERS[name], str(path), str(output)) | {
                "lines": lines,
                "bytes": path.stat().st_size,
            }
            runs.append(run)
            print(run, flush=True)
        found = {(run["cells"], run["sum"]) for run in runs if run["lines"] == lines and "cells" in run}
        assert len(found) == 1, f"contenders disagree: {found}"
    if options.nonzeros:
        sizes = [str(size) for size in TWITCH_SIZES]
        run = measure("kronflow, entries without text", TWITCH, str(options.nonzeros), str(output), *sizes)
        runs.append(run | {"lines": options.nonzeros})
        print(runs[-1], flush=True)
    output.unlink(missing_ok=True)
    report(runs)


def report(runs: list[dict[str, object]]) -> None:
    """Write the JSON file and print the table."""
    machine = {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    target = ROOT / "benchmarks" / "results" / "convert.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"machine": machine, "load": os.getloadavg()[0], "runs": runs}, indent=2) + "\n")
    print("| contender | lines | seconds | processor seconds | peak MiB | million lines a processor second |")
    print("|---|---:|---:|---:|---:|---:|")
    for run in runs:
        if "failed" in run:
            print(f"| {run['contender']} | {run['lines']:,} | failed with status {run['failed']} | | | |")
            continue
        rate = float(str(run["lines"])) / float(str(run["processor_seconds"])) / 1e6
        print(
            f"| {run['contender']} | {run['lines']:,} | {run['seconds']} | {run['processor_seconds']} "
            f"| {run['peak_mebibytes']:,} | {rate:.2f} |"
        )


if __name__ == "__main__":
    main()
