"""What `kronflow compress --bytes` finds beside the best that is known. Writes search.json and search.md.

`--tensors` is a folder of Parquet tensors. For every budget of bytes (orders stored, the whole file) a search of all
methods but NeuKron, and `--error` for the error that it reached; beside it every fit of `KNOWN` at every budget, and
all that any of the searches fitted on its way. The ratio is the search's error over the least known within the budget,
or its bytes over the fewest known within the error. Seconds, the search's limit of 60 as well, are the processor's, so
that a busy machine measures the same. Data sets that are not run keep their rows.

    python -m benchmarks.bench_search --tensors data/tensors --datasets email flights flights-month
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.about import by_data_set
from pipeline.core import step

BUDGETS = (1_500, 4_000, 16_000)
ERRORS = (0.3, 0.1)
WITHOUT = "neukron"  # no file of it fits: its orders alone take more, or exact codes are as small (docs/baselines.md)
KNOWN: list[tuple[str, dict[str, Any]]] = [
    ("rate-distortion", {"orders": True}),
    *(("elicit", {"rank": rank}) for rank in (16, 32, 64)),
    *(("hybrid", {"share": share}) for share in (0.1, 0.4)),
    ("q-svd", {"rank": 16}),
    ("q-cp", {"rank": 16}),
    *(("light-it", {"rank": rank}) for rank in (1, 5, 16)),
]


def measured(path: Path) -> dict[str, Any]:
    """Points and searches of a data set."""
    from pipeline.commands.search import search
    from pipeline.methods import COMPRESSORS
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    names = [name for name in COMPRESSORS if name != WITHOUT]
    points: list[dict[str, Any]] = []
    searches = []
    for limits in [{"max_bytes": size} for size in BUDGETS] + [{"max_error": error} for error in ERRORS]:
        start = time.process_time()
        found = search(X, methods=names, clock=time.process_time, **limits)  # type: ignore[arg-type]
        seconds = time.process_time() - start
        points += [
            {"method": one.method, "bytes": one.file_bytes, "error": one.relative_error} for one in found.attempts
        ]
        best = found.best
        searches.append(
            limits | {"method": best.method, "bytes": best.file_bytes, "error": best.relative_error, "seconds": seconds}
        )
        print(path.stem, searches[-1], flush=True)
    for size in BUDGETS:
        points += [point for point in (known_point(X, name, more, size) for name, more in KNOWN) if point]
    return {"searches": [one | compared(one, points) for one in searches], "points": points}


def known_point(X: Any, name: str, settings: dict[str, Any], size: int) -> dict[str, Any] | None:
    """A method's file of at most so many bytes; None where it cannot be fitted to the tensor."""
    from pipeline.baselines import make
    from pipeline.baselines.kruskal import largest_rank

    limit = size - make(name, {}).file_overhead(X)
    if not type(make(name, {})).takes_order(X.order) or limit < 1:
        return None
    rank = {"rank": min(settings["rank"], largest_rank(X.shape, X.nnz))} if "rank" in settings else {}
    model = make(name, settings | rank | {"max_bytes": limit}).fit(X)
    return {"method": name, "bytes": len(model.artifact()), "error": model.error(X)["error"] / X.norm2}


def compared(found: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, Any]:
    """The best known point within a search's limit, and the search's ratio to it."""
    if "max_bytes" in found:
        limit, counted, other = found["max_bytes"], "bytes", "error"
    else:
        limit, counted, other = found["max_error"], "error", "bytes"
    best = min((point for point in points if point[counted] <= limit), key=lambda point: point[other])
    return {"known": best, "ratio": found[other] / best[other] if best[other] else 1.0}


def table(stored: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    lines = ["| data set | limit | found | bytes | relative error | best known | ratio | processor seconds |"]
    lines += ["|---|---|---|--:|--:|---|--:|--:|"]
    for name, rows in sorted(stored.items()):
        for row in rows["searches"]:
            limit = f"{row['max_bytes']:,} B" if "max_bytes" in row else f"error {row['max_error']}"
            known = row["known"]
            lines.append(
                f"| {name} | {limit} | {row['method']} | {row['bytes']:,} | {row['error']:.4f} | {known['method']}, "
                f"{known['bytes']:,} B, {known['error']:.4f} | {row['ratio']:.3f} | {row['seconds']:.0f} |"
            )
    return lines + by_method(stored)


def by_method(stored: dict[str, Any]) -> list[str]:
    """Lines of a table of the least error that each method has within each budget, whole files, orders stored."""
    names = [name for name, _ in KNOWN] + sorted({one["method"] for row in stored.values() for one in row["points"]})
    names = [name for name in dict.fromkeys(names) if name != "lossless"]
    lines = ["", f"| data set | bytes | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    for data, rows in sorted(stored.items()):
        for size in BUDGETS:
            within = [one for one in rows["points"] if one["bytes"] <= size]
            errors = [min((one["error"] for one in within if one["method"] == name), default=None) for name in names]
            cells = ["-" if error is None else f"{error:.4f}" for error in errors]
            lines.append(f"| {data} | {size:,} | {' | '.join(cells)} |")
    told = "Least relative error of each method within a size, of all fits of the searches and of those beside them."
    return [*lines, "", told]


def main(argv: list[str] | None = None) -> None:
    """Measure and write."""
    by_data_set(argv, "search", "The search beside the best known", __doc__, measured, table)


if __name__ == "__main__":
    step.run(main)
