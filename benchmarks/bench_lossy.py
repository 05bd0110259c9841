"""Rate-distortion beside truncation at equal error: bytes, orders stored and free. Writes lossy.json and lossy.md.

`--tensors` is a folder of Parquet tensors. Truncation keeps some shares of the non-zeros; rate-distortion is asked for
the error that this leaves; `kronflow compress` takes another method where one is better still. The last line counts the
rows in which it takes 10 % and 25 % fewer bytes. `seconds` are of its fit, processor time. Data sets that are not run
keep their rows.

    python -m benchmarks.bench_lossy --tensors data/tensors --datasets flights kjv-3gram
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.about import by_data_set
from pipeline.core import step

SHARES = (0.02, 0.1, 0.2, 0.4, 0.7)
WANTED = (0.1, 0.25)  # of the bytes, less than truncation's
COUNTED = {"stored": "bytes_with_order", "free": "bytes"}


def measured(path: Path) -> list[dict[str, Any]]:
    """Rows of a data set."""
    from pipeline.baselines.rate_distortion import RateDistortion
    from pipeline.baselines.truncation import Truncation
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    rows = []
    for share in SHARES:
        cut = Truncation(keep=share).fit(X)
        error = cut.error(X)["error"] / X.norm2
        for orders, column in COUNTED.items():
            start = time.process_time()
            model = RateDistortion(max_error=error, orders=orders == "stored").fit(X)
            seconds = time.process_time() - start
            if model.error(X)["error"] > error * X.norm2 * (1 + 1e-9):
                raise RuntimeError(f"{path}: an error above the limit")
            rows.append(
                {
                    "orders": orders,
                    "relative_error": error,
                    "truncation": cut.size()[column],
                    "rate-distortion": model.size()[column],
                    "seconds": round(seconds, 1),
                }
            )
    return rows


def table(stored: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    lines = ["| data set | orders | relative error | truncation | rate-distortion | fewer | seconds |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|"]
    saved = []
    for name, found in sorted(stored.items()):
        for row in found["rows"]:
            fewer = 1 - row["rate-distortion"] / row["truncation"]
            saved.append(fewer)
            lines.append(
                f"| {name} | {row['orders']} | {row['relative_error']:.4f} | {row['truncation']:,} | "
                f"{row['rate-distortion']:,} | {fewer:.0%} | {row['seconds']} |"
            )
    told = " and ".join(f"{sum(each >= share for each in saved)} at least {share:.0%}" for share in WANTED)
    return [*lines, "", f"Of {len(saved)} rows {told} fewer."]


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    title = "Lossy codes at equal error, bytes"
    by_data_set(argv, "lossy", title, __doc__, lambda path: {"rows": measured(path)}, table)


if __name__ == "__main__":
    step.run(main)
