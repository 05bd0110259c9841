"""NeuKron's engine beside the reference, which evaluates every non-zero with ``nn.LSTM``.

Ours and the reference run in turn in one process on the same data, model and orders. The reference shares
nothing between non-zeros, so that its cost is exactly linear in their number: on large data it is timed on a
uniform part of them and scaled, and the table says so. Writes neukron.json and neukron.md after every part; rows
of parts that are not run again stay, with the date on which they were measured.

    python -m benchmarks.bench_neukron                     # everything that is there
    python -m benchmarks.bench_neukron --only forward predict
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core import step
from pipeline.core.files import write_json, write_text
from pipeline.neukron import NeuKron
from pipeline.neukron.dispatch import make_engine
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.order_search import initial_orders
from pipeline.neukron.trainer import Options, Trainer, TrainingState
from pipeline.sparse import SparseTensor
from tests.reference import neukron as reference

RESULTS = Path(__file__).parent / "results"
TENSORS = Path("data/tensors")
LONG = 10.0  # seconds
REFERENCE_NNZ = 100_000  # the reference is timed on at most so many non-zeros and scaled
PREDICT_CELLS = 1_000_000
REFERENCE_CELLS = 100_000
EPOCHS = [("email", 30, 12.0), ("flights", 30, None), ("kjv-3gram", 60, 10.0), ("threads", 60, 10.0)]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Best time of some calls after a first; a call of over ten seconds is not repeated."""
    times: list[float] = []
    while len(times) <= repeats and sum(times) < LONG:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


class Problem:
    """A tensor with a model and orders; the reference sees at most REFERENCE_NNZ of its non-zeros."""

    def __init__(self, X: SparseTensor, hidden: int, threads: int, device: str, order: str = "lexicographic") -> None:
        ascending = sorted(range(X.order), key=lambda mode: X.shape[mode])
        self.coords = np.ascontiguousarray(X.coords[:, ascending])
        self.values = X.values
        self.levels = Levels(tuple(X.shape[mode] for mode in ascending))
        self.engine = make_engine(self.levels, hidden, device, threads)
        options = Options("paper", 10.0, None, None, None, 100, 0)
        self.trainer = Trainer(self.levels, self.engine, self.coords, self.values, options)
        self.orders = initial_orders(order, self.levels, self.coords, self.values, np.random.default_rng(0))
        self.model = SequenceModel(self.levels, hidden, 0)
        self.model.set_scale(math.sqrt(X.norm2))
        count = min(len(self.values), REFERENCE_NNZ)
        self.part = np.sort(np.random.default_rng(1).choice(len(self.values), count, replace=False))
        self.share = len(self.values) / count

    def state(self) -> TrainingState:
        return self.trainer.start(self.model, [order.copy() for order in self.orders])

    def ours_forward(self) -> float:
        weights = Weights.of(self.model)
        return seconds(lambda: self.trainer.evaluate(weights, self.orders), 3)

    def reference_forward(self) -> float:
        tokens = torch.from_numpy(self.levels.tokens(self.levels.keys(self.coords[self.part], self.orders)))
        entries = torch.from_numpy(self.values[self.part])
        with torch.no_grad():
            return seconds(lambda: reference.loss(self.model, tokens, entries), 2) * self.share

    def ours_epoch(self) -> float:
        state = self.state()
        return seconds(lambda: self.trainer.paper_epoch(state), 2)

    def reference_epoch(self) -> float:
        optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        rng = np.random.default_rng(0)
        orders = [order.copy() for order in self.orders]
        started = time.perf_counter()
        reference.epoch(self.model, optimiser, self.coords[self.part], self.values[self.part], orders, rng)
        return (time.perf_counter() - started) * self.share


def row(what: str, data: str, ours: float, other: float, wanted: float | None, note: str = "") -> dict[str, Any]:
    return {
        "what": what,
        "data": data,
        "ours_seconds": ours,
        "reference_seconds": other,
        "ratio": other / ours,
        "wanted": wanted,
        "note": note,
    }


def part_note(problem: Problem) -> str:
    return "" if problem.share == 1 else f"reference timed on 1/{problem.share:.1f} of the non-zeros"


def forward(tensors: dict[str, SparseTensor], threads: int, device: str) -> list[dict[str, Any]]:
    rows = []
    for name in ("email", "flights"):
        if name in tensors:
            for order in ("random", "bisection"):
                problem = Problem(tensors[name], 30, threads, device, order)
                wanted = 8.0 if name == "email" else None
                note = f"order: {order}"
                rows.append(
                    row(
                        "loss, forward",
                        f"{name}, h = 30",
                        problem.ours_forward(),
                        problem.reference_forward(),
                        wanted,
                        note,
                    )
                )
    return rows


def epoch(tensors: dict[str, SparseTensor], threads: int, device: str) -> list[dict[str, Any]]:
    rows = []
    for name, hidden, wanted in EPOCHS:
        if name in tensors:
            problem = Problem(tensors[name], hidden, threads, device)
            ours, other = problem.ours_epoch(), problem.reference_epoch()
            rows.append(row("full epoch", f"{name}, h = {hidden}", ours, other, wanted, part_note(problem)))
    return rows


def predict(tensors: dict[str, SparseTensor], threads: int, device: str) -> list[dict[str, Any]]:
    rows = []
    for bits in (7, 10, 13, 16):
        side = 2**bits
        X = SparseTensor([[0, 0], [side - 1, side - 1]], [1.0, 1.0], (side, side))
        model = NeuKron(hidden=30, max_epochs=1, order_init="random", device=device, threads=threads).fit(X)
        cells = np.random.default_rng(0).integers(0, side, (PREDICT_CELLS, 2))
        tokens = torch.from_numpy(model.model_.levels.tokens(model.model_.levels.keys(cells[:REFERENCE_CELLS])))
        ours = seconds(partial(model.predict, cells), 2)
        with torch.no_grad():
            other = seconds(partial(reference.values, model.model_, tokens), 1) * (PREDICT_CELLS / REFERENCE_CELLS)
        note = "reference timed on a tenth of the cells"
        rows.append(row("predict 1e6 random cells", f"2^{bits} x 2^{bits}, h = 30", ours, other, 10.0, note))
    return rows


def scaling(tensors: dict[str, SparseTensor], threads: int, device: str) -> list[dict[str, Any]]:
    """Log-log slope of our epoch time against the non-zeros, samples of 1/16 .. 1."""
    rows = []
    for name in ("kjv-4gram", "threads"):
        if name in tensors:
            X = tensors[name]
            times, sizes = [], []
            for fraction in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1):
                rng = np.random.default_rng(0)
                kept = np.sort(rng.choice(X.nnz, round(X.nnz * fraction), replace=False))
                problem = Problem(SparseTensor(X.coords[kept], X.values[kept], X.shape), 60, threads, device)
                sizes.append(len(kept))
                times.append(problem.ours_epoch())
            slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
            rows.append({"what": "slope of epoch time", "data": f"{name}, h = 60", "slope": slope, "wanted": 1.05,
                         "nnz": sizes, "seconds": times})  # fmt: skip
    return rows


def memory(tensors: dict[str, SparseTensor], threads: int, device: str) -> list[dict[str, Any]]:
    """Peak resident memory that an epoch adds to what stands before it, per non-zero."""
    rows = []
    for name in ("kjv-4gram", "threads"):
        if name in tensors:
            X = tensors[name]
            problem = Problem(X, 60, threads, device)
            small = slice(0, 2000)
            keys, _ = problem.trainer.sorted_keys(problem.orders)
            problem.engine.gradient(Weights.of(problem.model), keys[:, small], problem.values[small])  # compiles
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            problem.trainer.paper_epoch(problem.state())
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            rows.append({"what": "peak memory above the data", "data": f"{name}, h = 60",
                         "bytes_per_nonzero": grown / X.nnz, "wanted": 200.0})  # fmt: skip
    return rows


PARTS = {"memory": memory, "forward": forward, "predict": predict, "epoch": epoch, "scaling": scaling}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| what | data | ours | reference | ratio | wanted | |", "|---|---|---|---|---|---|---|"]
    for entry in rows:
        wanted = "" if entry.get("wanted") is None else f"{entry['wanted']:g}"
        if "ratio" in entry:
            numbers = f"{entry['ours_seconds']:.3g} s | {entry['reference_seconds']:.3g} s | {entry['ratio']:.1f}x"
        elif "slope" in entry:
            numbers = f"slope {entry['slope']:.2f} | | "
        else:
            numbers = f"{entry['bytes_per_nonzero']:.0f} bytes | | "
        lines.append(f"| {entry['what']} | {entry['data']} | {numbers} | {wanted} | {entry.get('note', '')} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    arguments = step.parser(__doc__)
    arguments.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure; all if not given"
    )
    arguments.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each fit; default: %(default)s"
    )
    arguments.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    arguments.add_argument("--tensors", type=Path, default=TENSORS, help="folder of the tensors; default: %(default)s")
    options = arguments.parse_args(argv)
    torch.set_num_threads(options.threads)
    names = ("email", "flights", "kjv-3gram", "kjv-4gram", "threads")
    tensors = {name: SparseTensor.read_parquet(options.tensors / f"{name}.parquet")
               for name in names if (options.tensors / f"{name}.parquet").is_file()}  # fmt: skip
    missing = sorted(set(names) - set(tensors))
    if missing:
        print(f"not there, left out: {', '.join(missing)}; make them with: snakemake data/tensors/<name>.parquet")
    stem = "neukron" if options.device == "cpu" else f"neukron-{options.device}"
    for part in options.only:
        fresh = PARTS[part](tensors, options.threads, options.device)
        print(table(fresh), flush=True)
        keep(RESULTS / stem, part, fresh, options)


def keep(path: Path, part: str, fresh: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Replace the rows of one part in the results."""
    file = path.with_suffix(".json")
    old = json.loads(file.read_text(encoding="utf-8"))["parts"] if file.is_file() else {}
    parts = old | {
        part: {
            "command": f"python -m benchmarks.bench_neukron --only {part} --threads {options.threads}",
            "date": time.strftime("%Y-%m-%d"),
            "machine": platform.processor() or platform.machine(),
            "device": options.device,
            "torch": torch.__version__,
            "rows": fresh,
        }
    }
    write_json(file, {"parts": parts})
    tables = [f"`{parts[name]['command']}`, {parts[name]['date']}:\n\n{table(parts[name]['rows'])}" for name in PARTS
              if name in parts]  # fmt: skip
    write_text(path.with_suffix(".md"), "\n".join(tables))


if __name__ == "__main__":
    step.run(main)
