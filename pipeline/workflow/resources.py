"""What a run takes: memory and time by the size of its data and its settings, fitted to what runs of ours took.

Time is processor time: how long a run waited for others says nothing of the next. Both are sums of few terms with
coefficients that are not negative, one fit for each step (memory) and method (time); the coefficients and the records
they were fitted to are in ``benchmarks/results/cost.json``. A cluster reserves more than predicted, and more again at
each attempt.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core import step
from pipeline.core.files import write_json
from pipeline.errors import InputError

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "cost.json"
WIDTHS = ("hidden", "rank", "rows", "clusters", "seed_power")  # settings that a model's size grows with
EPOCHS = ("max_epochs", "epochs", "max_sweeps")
MEMORY_MARGIN, LEAST_MARGIN_MB = 1.5, 350  # over the prediction, whichever is more; compiling takes some
TIME_MARGIN, LEAST_MINUTES = 10.0, 10  # machines differ, and are shared
FEW_SIZES = 2
SHORTEST = 0.1  # seconds of processor time that the fit tells apart
BYTES_A_NONZERO = 2.0  # of a Parquet tensor, where nothing else is known of it
EXAMPLE = """examples:
  python -m pipeline.workflow.resources
  python -m pipeline.workflow.resources --fit results
"""


class Size(NamedTuple):
    """Of a tensor: non-zeros, order, indices of all modes together."""

    nnz: int
    order: int
    indices: int


class Work(NamedTuple):
    """What decides the cost of a run; `epochs` None: until no progress."""

    rule: str
    method: str
    size: Size
    width: int
    epochs: int | None


def work_of(rule: str, method: str, size: Size, settings: Mapping[str, Any]) -> Work:
    """The work of a run with these settings."""
    width = max([int(settings[key]) for key in WIDTHS if isinstance(settings.get(key), int | float)], default=1)
    counts = [settings[key] for key in EPOCHS if key in settings]
    return Work(rule, method, size, width, counts[0] if counts else 1)


def size_of(shape: Sequence[int] | None, nnz: int | None, share: float, tensor: Path, order: int = 3) -> Size:
    """Size of a tensor: as its registry entry says, or its file, or, where it is not there yet, None of both."""
    if (shape is None or nnz is None) and tensor.is_file():
        import pyarrow.parquet as pq

        header = json.loads((pq.read_metadata(tensor).metadata or {}).get(b"kronflow", b"{}"))
        shape, nnz, share = header.get("shape", shape), header.get("nnz", nnz), 1.0
    if shape is None or nnz is None:
        return Size(0, order, 0)
    return Size(math.ceil(nnz * share), len(shape), sum(shape))


def memory_terms(work: Work) -> list[float]:
    """Constant; coordinates; factors of all modes; the model of a network or sequence model."""
    return [1.0, work.size.nnz * work.size.order, work.size.indices * work.width, work.width**2]


def time_terms(work: Work) -> list[float]:
    """Constant; coordinates in all epochs and for each unit of width; epochs, for each unit of width and index.

    A mini-batch has so many cells whatever the tensor, and a search of orders goes over the indices.
    """
    epochs = work.epochs or 1
    entries = epochs * work.size.nnz * work.size.order
    return [1.0, entries, entries * work.width, epochs, epochs * work.width, epochs * work.size.indices]


@cache
def coefficients() -> dict[str, dict[str, list[float]]]:
    """The fitted coefficients: of memory in MB by step, of time in seconds by method and by step."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return {kind: content[kind] for kind in ("memory_mb", "seconds")}


def predicted_mb(work: Work) -> float:
    """Expected peak of resident memory in MB."""
    return _sum(coefficients()["memory_mb"][work.rule], memory_terms(work))


def predicted_seconds(work: Work) -> float | None:
    """Expected processor time of the fit in seconds, its time on one core; None where the epochs are not known."""
    if work.epochs is None:
        return None
    known = coefficients()["seconds"]
    return _sum(known.get(work.method, known[work.rule]), time_terms(work))


def _sum(factors: list[float], terms: list[float]) -> float:
    return sum(factor * term for factor, term in zip(factors, terms, strict=True))


def memory_to_reserve(work: Work, attempt: int, file_mb: float = 0.0) -> int:
    """MB to ask a cluster for; twice as much at each attempt. `file_mb`: of the tensor, where its size is not known."""
    if not work.size.nnz and file_mb:
        work = work._replace(size=Size(int(file_mb * 1e6 / BYTES_A_NONZERO), work.size.order, 0))
    predicted = predicted_mb(work)
    return math.ceil(max(predicted * MEMORY_MARGIN, predicted + LEAST_MARGIN_MB)) << (attempt - 1)


def minutes_to_reserve(work: Work, attempt: int, default: int) -> int:
    """Minutes to ask a cluster for; `default` where the run has no bound or its data are not known."""
    seconds = predicted_seconds(work) if work.size.nnz else None
    minutes = default if seconds is None else max(LEAST_MINUTES, math.ceil(TIME_MARGIN * seconds / 60))
    return minutes << (attempt - 1)


def fit(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Coefficients by non-negative least squares of the relative errors, for each step and (time) each method.

    A record has the fields of :class:`Work`, those of :class:`Size` in place of `size`, `mb` and processor `seconds`,
    None where only wall time is known.
    """
    works = [_work(record) for record in records]
    timed = [number for number, record in enumerate(records) if record["seconds"] is not None]
    memory, seconds = {}, {}
    for rule in sorted({work.rule for work in works}):
        chosen = [number for number, work in enumerate(works) if work.rule == rule]
        memory[rule] = _fitted([memory_terms(works[i]) for i in chosen], [records[i]["mb"] for i in chosen])
        seconds[rule] = _fitted_seconds([i for i in timed if works[i].rule == rule], works, records)
    for method in sorted({works[i].method for i in timed}):
        chosen = [i for i in timed if works[i].method == method]
        seconds[method] = _fitted_seconds(chosen, works, records)
    return {"memory_mb": memory, "seconds": seconds, "records": list(records)}


def _fitted_seconds(chosen: list[int], works: list[Work], records: Sequence[dict[str, Any]]) -> list[float]:
    """What is known on few tensors is taken to grow with the coordinates, whatever else it does."""
    terms = [time_terms(works[i]) for i in chosen]
    if len({works[i].size for i in chosen}) <= FEW_SIZES:
        terms = [[0.0, entries, *(0.0 for _ in others)] for _, entries, *others in terms]
    return _fitted(terms, [max(records[i]["seconds"], SHORTEST) for i in chosen])


def _fitted(terms: list[list[float]], values: list[float]) -> list[float]:
    import numpy as np
    from scipy.optimize import nnls

    rows, wanted = np.array(terms), np.array(values)
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0
    solution, _ = nnls(rows / scale / wanted[:, None], np.ones(len(wanted)))
    return [float(f"{value:.4g}") for value in solution / scale]


def _work(record: Mapping[str, Any]) -> Work:
    size = Size(record["nnz"], record["order"], record["indices"])
    return Work(record["rule"], record["method"], size, record["width"], record["epochs"])


def collect(results: Path, params: Path) -> list[dict[str, Any]]:
    """What the runs of ``params.yaml`` that lie below `results` took."""
    from pipeline.config import load_config
    from pipeline.runs.metrics import read_metrics

    config = load_config(params)
    runs = {run.folder: run for name in config.experiments for run in config.runs(name)}
    found = []
    for folder, run in runs.items():
        path = results / Path(folder).relative_to("results") / "metrics.json"
        size = config.size_of(run.dataset, params.parent)
        if path.is_file() and size.nnz:
            metrics = read_metrics(path)
            work = work_of(run.rule, run.method, size, run.settings)
            record = {"run": folder.removeprefix("results/runs/"), "rule": run.rule, "method": run.method}
            record |= size._asdict() | {"width": work.width, "epochs": metrics.epochs}
            found.append(record | {"mb": round(metrics.peak_rss_bytes / 1e6), "seconds": round(metrics.cpu_seconds, 2)})
    return found


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Predicted beside used, and what a cluster would be asked for at the first attempt, as Markdown."""
    lines = [
        "| run | MB used | predicted | reserved | processor s used | predicted | minutes reserved |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for record in records:
        work = _work(record)
        cells = [record["mb"], round(predicted_mb(work)), memory_to_reserve(work, 1)]
        used = "-" if record["seconds"] is None else f"{record['seconds']:.1f}"
        cells += [used, f"{predicted_seconds(work) or 0.0:.1f}", minutes_to_reserve(work, 1, 0)]
        lines.append(f"| {record['run']} | " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    arguments = step.parser(
        "Print what runs took in memory and time beside what the cost model predicts and a cluster is asked for.",
        EXAMPLE,
    )
    arguments.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="folder with runs/ (default: results)"
    )
    arguments.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the configuration (default: params.yaml)"
    )
    arguments.add_argument(
        "--fit", action="store_true", help=f"fit it anew to the known records and these, {FILE.name}"
    )
    options: argparse.Namespace = arguments.parse_args(argv)
    records = collect(options.results, options.params)
    if not records:
        raise InputError(f"{options.results}/runs: holds no run of {options.params}; make some with 'snakemake'")
    if options.fit:
        known = {record["run"]: record for record in json.loads(FILE.read_text(encoding="utf-8"))["records"]}
        write_json(FILE, fit(list((known | {record["run"]: record for record in records}).values())))
        coefficients.cache_clear()
    print(table(records))


if __name__ == "__main__":
    step.run(main)
