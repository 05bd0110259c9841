"""Conversion of FROSTT text files of the largest published sizes: Kronflow beside pandas, DuckDB and Arrow.

    python -m benchmarks.bench_convert                        # every part; 15 minutes, 8 GiB of memory, 8 GB in /tmp
    python -m benchmarks.bench_convert --parts enron sample
    python -m benchmarks.bench_convert --lines 1000000 --nonzeros 1000000 --results /tmp/quick     # does it work?

Every contender runs in a process of its own, start of Python included, on a file that has just been read once.
Kronflow is the command line ``python -m pipeline.convert``: checksum of the raw file, checks, sorted Parquet.
pandas only reads and groups, DuckDB and Arrow also sort and write Parquet. The numbers of cells and the sums of
values must agree. Peak memory is the largest resident set of the process.

Parts:

engines   a tenth of enron's lines, four modes summed to three: all contenders
enron     all 54,202,099 lines: Kronflow and pandas
full      all lines: DuckDB and Arrow
linear    Kronflow on all, a half, a quarter and an eighth of the lines; slope of log seconds over log lines
sample    a half and 1/32 of the 31 M non-zeros that enron's lines give, by ``python -m pipeline.sample``
twitch    a file of 234,422,289 lines with two modes

Parts that are run replace those in convert.json; convert.md is the table of all that are there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from pipeline.core import step

ROOT = Path(__file__).resolve().parent.parent
ENRON_LINES = 54_202_099
ENRON_SIZES = (6066, 5699, 244268, 1176)
DISTINCT = 0.81  # of the lines' places are drawn; about 57 % of the lines then have a cell of their own, as in enron
TWITCH_NONZEROS = 234_422_289
TWITCH_SIZES = (790_100, 15_524_309)
MEBIBYTE = 1 << 20
Row = dict[str, Any]

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
PROGRAMS = {"pandas": PANDAS, "duckdb": DUCKDB, "arrow": ARROW}


def enron_file(folder: Path, lines: int) -> Path:
    """Lines of four 1-based indices and a count, with skewed indices and repeated cells, in random order."""

    def columns(rng: np.random.Generator, count: int) -> list[np.ndarray]:
        drawn = rng.integers(0, max(int(DISTINCT * count), 1), count)
        places = [
            (size * rng.random(count) ** power).astype(np.int64)[drawn] + 1
            for size, power in zip(ENRON_SIZES[:3], (1.5, 1.5, 2.0), strict=True)
        ]
        return [*places, rng.integers(1, ENRON_SIZES[3] + 1, count), 1 + (20 * rng.random(count) ** 8).astype(np.int64)]

    return text_file(folder / f"enron-{lines}.tns", lines, columns)


def twitch_file(folder: Path, lines: int) -> Path:
    """Lines of streamer, user and time watched, in random order; a place is hardly ever drawn twice."""

    def columns(rng: np.random.Generator, count: int) -> list[np.ndarray]:
        places = [(size * rng.random(count) ** 2).astype(np.int64) + 1 for size in TWITCH_SIZES]
        return [*places, rng.integers(1, 200, count)]

    return text_file(folder / f"twitch-{lines}.tns", lines, columns)


def text_file(path: Path, lines: int, columns: Callable[[np.random.Generator, int], list[np.ndarray]]) -> Path:
    """Write random lines in pieces, unless the file is there."""
    if not path.exists():
        rng = np.random.default_rng(0)
        partial = path.with_suffix(".part")
        with pa.OSFile(str(partial), "wb") as file:
            for start in range(0, lines, 1 << 21):
                drawn = columns(rng, min(1 << 21, lines - start))
                table = pa.table([pa.array(column) for column in drawn], names=[*"abcde"[: len(drawn)]])
                csv.write_csv(table, file, csv.WriteOptions(include_header=False, delimiter=" "))
        partial.rename(path)
    return path


def measure(contender: str, arguments: list[str], count: int) -> tuple[Row, str]:
    """Run Python in its own process; seconds of wall and processor time, peak memory, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    row: Row = {
        "contender": contender,
        "lines": count,
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mebibytes": usage.ru_maxrss * 1024 // MEBIBYTE,
    }
    return row | ({"failed": os.waitstatus_to_exitcode(status)} if status else {}), printed


def convert(path: Path, output: Path, lines: int, *options: str) -> Row:
    """Kronflow's command line on a file."""
    warm(path)
    arguments = ["-m", "pipeline.convert", "--file", str(path), "--output", str(output), *options]
    row, _ = measure("kronflow", arguments, lines)
    return row if "failed" in row else row | contents(output) | {"output_bytes": output.stat().st_size}


def contents(output: Path) -> Row:
    """Number of cells and sum of values of a Parquet sparse tensor."""
    file = pq.ParquetFile(output)
    total = sum(pc.sum(batch.column(0).cast(pa.int64())).as_py() for batch in file.iter_batches(columns=["value"]))
    return {"cells": file.metadata.num_rows, "sum": int(total)}


def other(name: str, path: Path, output: Path, lines: int) -> Row:
    """Another engine on a file of enron's kind."""
    warm(path)
    row, printed = measure(name, ["-c", PROGRAMS[name], str(path), str(output)], lines)
    return row if "failed" in row else row | dict(zip(("cells", "sum"), map(int, printed.split()), strict=True))


def warm(path: Path) -> None:
    """Read the file once, so that no contender waits for the disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def agreeing(rows: list[Row]) -> list[Row]:
    found = {(row["cells"], row["sum"]) for row in rows if "failed" not in row}
    assert len(found) == 1, f"contenders disagree: {found}"
    return rows


def part_engines(options: argparse.Namespace) -> list[Row]:
    lines = options.lines // 10
    path, output = enron_file(options.folder, lines), options.folder / "cells.parquet"
    rows = [convert(path, output, lines, "--set", "drop=[3]")]
    return agreeing(rows + [other(name, path, output, lines) for name in PROGRAMS])


def part_enron(options: argparse.Namespace) -> list[Row]:
    path, output = enron_file(options.folder, options.lines), options.folder / f"enron-{options.lines}.parquet"
    ours = convert(path, output, options.lines, "--set", "drop=[3]")
    theirs = other("pandas", path, output, options.lines)
    ratios = (
        {"times_faster_than_pandas": round(theirs["seconds"] / ours["seconds"], 2)} if "failed" not in theirs else {}
    )
    return agreeing([ours | ratios, theirs])


def part_full(options: argparse.Namespace) -> list[Row]:
    path, output = enron_file(options.folder, options.lines), options.folder / "cells.parquet"
    return agreeing([other(name, path, output, options.lines) for name in ("duckdb", "arrow")])


def part_linear(options: argparse.Namespace) -> list[Row]:
    rows = []
    for lines in [options.lines // share for share in (8, 4, 2, 1)]:
        path = enron_file(options.folder, lines)
        rows.append(convert(path, options.folder / "cells.parquet", lines, "--set", "drop=[3]"))
    logarithms = np.log([row["lines"] for row in rows])
    for measured in ("seconds", "processor_seconds"):
        slope = np.polyfit(logarithms, np.log([row[measured] for row in rows]), 1)[0]
        rows[-1][f"slope_of_{measured}"] = round(float(slope), 3)
    return rows


def part_sample(options: argparse.Namespace) -> list[Row]:
    tensor, output = options.folder / f"enron-{options.lines}.parquet", options.folder / "sample.parquet"
    if not tensor.exists():
        convert(enron_file(options.folder, options.lines), tensor, options.lines, "--set", "drop=[3]")
    nonzeros = contents(tensor)["cells"]
    rows = []
    for fraction in ("0.5", "0.03125"):
        arguments = ["-m", "pipeline.sample", str(tensor), str(output), "--fraction", fraction]
        row, _ = measure(f"kronflow, sample of {fraction}", arguments, nonzeros)
        rows.append(row | contents(output))
        assert row.get("failed") or rows[-1]["cells"] == round(float(fraction) * nonzeros)
    return rows


def part_twitch(options: argparse.Namespace) -> list[Row]:
    path, output = twitch_file(options.folder, options.nonzeros), options.folder / "cells.parquet"
    return [convert(path, output, options.nonzeros)]


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "engines": part_engines,
    "enron": part_enron,
    "full": part_full,
    "linear": part_linear,
    "sample": part_sample,
    "twitch": part_twitch,
}


def main(argv: list[str] | None = None) -> None:
    parser = step.parser(__doc__)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="tables to make; all if not given"
    )
    parser.add_argument("--lines", type=int, default=ENRON_LINES, help="of enron's file; default: %(default)s")
    parser.add_argument("--nonzeros", type=int, default=TWITCH_NONZEROS, help="of twitch's file; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "kronflow-bench", help="for files")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="for the tables")
    options = parser.parse_args(argv)
    options.folder.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    target = options.results / "convert.json"
    for name in options.parts:
        load = os.getloadavg()[0]
        rows = PARTS[name](options)
        content = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
        content["machine"] = {"processor": processor(), "cores": len(os.sched_getaffinity(0))}
        content.setdefault("parts", {})[name] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": f"python -m benchmarks.bench_convert --parts {name} --lines {options.lines}"
            f" --nonzeros {options.nonzeros}",
            "load_before": round(load, 2),
            "rows": rows,
        }
        target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        target.with_suffix(".md").write_text(table(content), encoding="utf-8")
        for row in rows:
            print(f"{name}: {row}", flush=True)


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(content: dict[str, Any]) -> str:
    """The markdown table of all parts that have been measured."""
    machine = content["machine"]
    lines = [
        f"Conversion, on {machine['cores']} cores of {machine['processor']}; see `benchmarks/bench_convert.py`.",
        "",
    ]
    lines += [
        "| part | contender | lines | seconds | processor seconds | peak MiB | cells | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for name in [name for name in PARTS if name in content["parts"]]:
        for row in content["parts"][name]["rows"]:
            notes = [
                f"{key.replace('_', ' ')}: {row[key]}" for key in row if key.startswith(("slope", "times", "failed"))
            ]
            lines.append(
                f"| {name} | {row['contender']} | {row['lines']:,} | {row['seconds']} | {row['processor_seconds']} "
                f"| {row['peak_mebibytes']:,} | {row.get('cells', 0):,} | {', '.join(notes)} |"
            )
    lines += [
        "",
        *(
            f"- {name}: {part['date']}, load before {part['load_before']}, `{part['command']}`"
            for name, part in content["parts"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    step.run(main)
