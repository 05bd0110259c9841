"""NeuKron's error against wall time on one tensor: how long a wanted error takes. Minutes to an hour a run.

    python -m benchmarks.quality data/tensors/email.parquet --hidden 30 --minutes 60

Writes the whole curve to benchmarks/results/quality-<tensor>-h<hidden>.json after every epoch and prints the
error at fixed times. Not part of ``make bench``, which takes minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from pipeline.files import write_json
from pipeline.neukron import NeuKron
from pipeline.neukron.trainer import State
from pipeline.sparse import SparseTensor

RESULTS = Path(__file__).parent / "results"
MARKS = (60, 120, 300, 600, 1200, 1800, 2400, 3600)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("tensor", type=Path)
    arguments.add_argument("--hidden", type=int, default=30)
    arguments.add_argument("--minutes", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = arguments.parse_args()
    X = SparseTensor.read_parquet(options.tensor)
    path = RESULTS / f"quality-{options.tensor.stem}-h{options.hidden}.json"
    started = time.perf_counter()
    curve: list[dict[str, Any]] = []

    def note(state: State) -> None:
        # wall time since the start of fit, the choice of orders included
        curve.append({"seconds": time.perf_counter() - started, "epoch": state.epoch, "error_padded": state.best_error})
        best_by = {str(mark): min((row["error_padded"] for row in curve if row["seconds"] <= mark), default=None)
                   for mark in MARKS if curve[-1]["seconds"] >= mark}  # fmt: skip
        write_json(path, {"tensor": options.tensor.stem, "norm2": X.norm2, "hidden": options.hidden,
                          "seed": options.seed, "threads": options.threads, "error_padded_by_second": best_by,
                          "curve": curve})  # fmt: skip

    model = NeuKron(
        hidden=options.hidden,
        seed=options.seed,
        device="cpu",
        threads=options.threads,
        max_seconds=60 * options.minutes,
    ).fit(X, note)
    error = model.error(X)
    print(
        f"{options.tensor.stem}, h = {options.hidden}: padded {error['error_padded']:,.0f}, real {error['error']:,.0f}"
    )
    for mark in MARKS:
        reached = [row["error_padded"] for row in curve if row["seconds"] <= mark]
        if reached and curve[-1]["seconds"] >= mark:
            print(f"  after {mark:>5} s: {reached[-1]:,.0f}")


if __name__ == "__main__":
    main()
