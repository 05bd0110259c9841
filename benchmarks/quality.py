"""NeuKron's error against time on one tensor: how long a wanted error takes. Minutes to an hour a run.

    python -m benchmarks.quality data/tensors/email.parquet --hidden 30 --minutes 60

Writes the whole curve to benchmarks/results/quality-<tensor>-h<hidden>.json after every epoch, prints the error
at fixed times and puts all curves that are there into quality.md and quality.svg; without a tensor it does only
the last. ``--clock cpu`` counts the process's processor time instead of wall time, for a machine that does other
work as well: with one thread it is an upper bound of the wall time on a quiet one. Not part of ``make bench``,
which takes minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pipeline.core import step
from pipeline.core.files import atomic_path, write_json, write_text
from pipeline.neukron import NeuKron
from pipeline.neukron.trainer import TrainingState
from pipeline.reporting.style import MUTED, RC, look
from pipeline.sparse import SparseTensor

RESULTS = Path(__file__).parent / "results"
MARKS = (60, 120, 300, 600, 1200, 1800, 2400, 3600)
FIRST_DRAWN = 8.0  # seconds: what is earlier would take half of the figure
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PUBLISHED = {"email": {5: 70160, 10: 66460, 15: 66230, 20: 62590, 25: 63340, 30: 59200}}  # squared errors


class EnoughError(Exception):
    """The wanted error or the time limit is reached."""


def at_marks(curve: list[dict[str, Any]]) -> dict[str, float]:
    """Lowest error by each of the fixed times that the curve has passed."""
    last = curve[-1]["seconds"]
    best = {mark: [row["error_padded"] for row in curve if row["seconds"] <= mark] for mark in MARKS if mark <= last}
    return {str(mark): min(errors) for mark, errors in best.items() if errors}


def kept_runs() -> list[dict[str, Any]]:
    """All curves that are there."""
    runs = [json.loads(path.read_text()) for path in RESULTS.glob("quality-*.json")]
    return sorted(runs, key=lambda run: (run["tensor"], run["hidden"]))


def table(runs: list[dict[str, Any]]) -> str:
    """Runs in Markdown: the error at some times, and when it was as low as published."""
    lines = [
        "# NeuKron's error against time",
        "",
        "`python -m benchmarks.quality data/tensors/<tensor>.parquet --hidden <h>`; squared error over the padded grid",
        "(the choice of the initial order included in the time), one seed, default settings. Each curve is in",
        "`quality-<tensor>-h<h>.json`.",
        "",
        "| tensor | h | threads, clock | 60 s | 300 s | 600 s | last | published | reached after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        marks = [run["error_padded_by_second"].get(mark) for mark in ("60", "300", "600")]
        errors = " | ".join("" if error is None else f"{error:,.0f}" for error in marks)
        last, wanted = run["curve"][-1], PUBLISHED.get(run["tensor"], {}).get(run["hidden"])
        reached = [row["seconds"] for row in run["curve"] if wanted and row["error_padded"] <= wanted]
        lines.append(
            f"| {run['tensor']} | {run['hidden']} | {run['threads']}, {run['clock']} | {errors} | "
            f"{last['error_padded']:,.0f} at {last['seconds']:,.0f} s | {f'{wanted:,}' if wanted else ''} | "
            f"{f'{reached[0]:,.0f} s' if reached else 'not reached' if wanted else ''} |"
        )
    return "\n".join(lines) + "\n"


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the error of all runs on one tensor against time, each with its published error as a dashed line."""
    with matplotlib.rc_context({**RC, "svg.hashsalt": path.stem, "savefig.facecolor": "white"}):
        drawing = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = drawing.subplots()
        shades = matplotlib.colormaps["plasma"]
        for number, run in enumerate(runs):
            colour = shades(0.85 * (1 - number / len(runs)))
            curve = [row for row in run["curve"] if row["seconds"] >= FIRST_DRAWN]
            seconds, errors = [row["seconds"] for row in curve], [row["error_padded"] for row in curve]
            axes.plot(seconds, errors, color=colour, linewidth=1.4)
            ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            axes.annotate(f"h = {run['hidden']}", (seconds[-1], errors[-1]), (4, 0), textcoords="offset points",
                          color=colour, va="center", bbox=ground, zorder=5)  # fmt: skip
            wanted = PUBLISHED.get(run["tensor"], {}).get(run["hidden"])
            if wanted:
                axes.axhline(wanted, color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        axes.set_xticks([10, 30, 60, 300, 600, 3600], ["10 s", "30 s", "1 min", "5 min", "10 min", "1 h"])
        axes.set_xlabel("time since the start, choice of the initial order included")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"{look('neukron').name} on {runs[0]['tensor']}: squared error; dashed: published", loc="left")
        axes.text(0.995, 0.98, f"zero model: {runs[0]['norm2']:,.0f}", transform=axes.transAxes, ha="right", va="top",
                  color=MUTED)  # fmt: skip
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def summarise() -> None:
    """Table and figure of the runs that are there."""
    runs = kept_runs()
    write_text(RESULTS / "quality.md", table(runs))
    figure([run for run in runs if run["tensor"] == "email"], RESULTS / "quality.svg")


def main(argv: list[str] | None = None) -> None:
    arguments = step.parser(__doc__)
    arguments.add_argument("tensor", type=Path, nargs="?", help="without one, table and figure are made anew")
    arguments.add_argument("--hidden", type=int, default=30, help="width of NeuKron; default: %(default)s")
    arguments.add_argument(
        "--minutes", type=float, default=60.0, help="time of the fit by the clock; default: %(default)s"
    )
    arguments.add_argument("--until", type=float, default=0.0, help="stop when the padded error is at most this")
    arguments.add_argument("--seed", type=int, default=0, help="of the fit; default: %(default)s")
    arguments.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the fit; default: %(default)s"
    )
    arguments.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="what minutes are counted by; default: %(default)s"
    )
    options = arguments.parse_args(argv)
    if options.tensor is None:
        summarise()
        return
    X = SparseTensor.read_parquet(options.tensor)
    path = RESULTS / f"quality-{options.tensor.stem}-h{options.hidden}.json"
    clock = CLOCKS[options.clock]
    started = clock()
    curve: list[dict[str, Any]] = []

    def note(state: TrainingState) -> None:
        # time since the start of fit, the choice of orders included
        curve.append({"seconds": clock() - started, "epoch": state.epoch, "error_padded": state.best_error})
        write_json(path, {"tensor": options.tensor.stem, "norm2": X.norm2, "hidden": options.hidden,
                          "seed": options.seed, "threads": options.threads, "clock": options.clock,
                          "error_padded_by_second": at_marks(curve), "curve": curve})  # fmt: skip
        if curve[-1]["seconds"] >= 60 * options.minutes or state.best_error <= options.until:
            raise EnoughError

    with contextlib.suppress(EnoughError):
        NeuKron(hidden=options.hidden, seed=options.seed, device="cpu", threads=options.threads).fit(X, note)
    for mark, error in at_marks(curve).items():
        print(f"  after {mark:>5} s: {error:,.0f}")
    last = curve[-1]
    print(f"  after {last['seconds']:5.0f} s, {last['epoch']} epochs: {last['error_padded']:,.0f}")
    summarise()


if __name__ == "__main__":
    step.run(main)
