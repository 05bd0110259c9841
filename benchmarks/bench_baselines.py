"""Baselines beside the libraries a user would take instead, and on the published grids. Writes baselines.json and .md.

Every section runs in a process of its own, so that peak memory is its own. `--tensors` is a folder with
``email.parquet`` and ``threads.parquet`` (``snakemake data/tensors/email.parquet``); what is missing there is left
out and said so. `--published` is a CSV with the columns dataset, method, bytes, error to print beside ours.

    python -m benchmarks.bench_baselines --threads 2
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
NIPS = (2482, 2862, 14036)
NIPS_DRAWS = 3_300_000  # entries drawn; about 3.1 million cells differ
RANK = 10
SWEEPS = 4
GIB = 2**30
EMAIL_GRIDS: dict[str, list[dict[str, Any]]] = {
    "t-svd": [{"rank": rank} for rank in range(10, 51, 10)],
    "cur": [{"rows": r, "columns": c} for r, c in ((10, 259), (13, 324), (25, 648), (50, 1296), (100, 2592))],
    "cmd": [{"rows": r, "columns": c} for r, c in ((30, 150), (60, 350), (90, 700), (100, 1400), (150, 2500))],
    "accams": [{"stencils": 5, "clusters": k} for k in (4, 8, 16, 32, 48)],
    "baccams": [{"stencils": 50, "clusters": k, "max_sweeps": 5} for k in (4, 8)],
    "kronfit": [{"seed_power": k} for k in (10, 5, 4, 3, 2)],
    "truncation": [{"keep": keep} for keep in (0.1, 0.2, 0.3, 0.38, 0.4, 0.6)],
    "lossless": [{}],
}


def nips_like(seed: int = 0) -> Any:
    """A synthetic tensor of the shape and about the non-zeros of nips, words and authors skewed."""
    from pipeline.sparse import SparseTensor

    random = np.random.default_rng(seed)

    def skewed(size: int, power: float) -> np.ndarray:
        weight = 1.0 / np.arange(1, size + 1) ** power
        return random.choice(size, NIPS_DRAWS, p=weight / weight.sum())

    coords = np.stack([random.integers(0, NIPS[0], NIPS_DRAWS), skewed(NIPS[1], 0.4), skewed(NIPS[2], 0.6)], axis=1)
    return SparseTensor(coords, random.integers(1, 6, NIPS_DRAWS).astype(float), NIPS)


def peak() -> int:
    """Largest resident set of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sweep_seconds(history: list[dict[str, float]]) -> float:
    """Median seconds of a sweep, the first (which builds and compiles) left out."""
    return float(np.median(np.diff([row["seconds"] for row in history])))


def cp() -> dict[str, Any]:
    """Our CP and pyttb's from the same first factors."""
    import pyttb

    from pipeline.baselines.cp import CP

    X = nips_like()
    random = np.random.default_rng(1)
    first = [random.uniform(size=(size, RANK)) for size in X.shape]
    model = CP(rank=RANK, max_sweeps=SWEEPS, tolerance=0.0)
    model.shape_, model.history_, model._progress, model._started = X.shape, [], None, time.perf_counter()
    model._solve(X, [factor.copy() for factor in first])
    tensor = pyttb.sptensor(X.coords, X.values[:, None], X.shape)
    started = time.perf_counter()
    start = pyttb.ktensor([factor.copy(order="F") for factor in first])
    _, _, output = pyttb.cp_als(tensor, RANK, init=start, stoptol=0.0, maxiters=SWEEPS, printitn=0)
    theirs = (time.perf_counter() - started) / SWEEPS
    ours = sweep_seconds(model.history_)
    return {
        "nnz": X.nnz,
        "our_seconds_a_sweep": ours,
        "pyttb_seconds_a_sweep": theirs,
        "times_faster": theirs / ours,
        "our_fit": model.history_[-1]["fit"],
        "pyttb_fit": float(output["fit"]),
        "fit_difference": abs(model.history_[-1]["fit"] - float(output["fit"])),
    }


def tucker() -> dict[str, Any]:
    """Tucker (10, 10, 10): seconds a sweep, memory above the data."""
    import psutil

    from pipeline.baselines.tucker import Tucker

    X = nips_like()
    before = psutil.Process().memory_info().rss
    model = Tucker(rank=RANK, max_sweeps=SWEEPS, tolerance=0.0).fit(X)
    return {
        "nnz": X.nnz,
        "seconds_a_sweep": sweep_seconds(model.history_),
        "gib_above_the_data": (peak() - before) / GIB,
        "fit": model.history_[-1]["fit"],
    }


def t_svd(path: Path) -> dict[str, Any]:
    """T-SVD of rank 10 and svds alone, taken in turn."""
    from scipy.sparse.linalg import svds

    from pipeline.baselines.t_svd import TSVD
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    A = X.to_scipy().tocsr()
    start = np.random.default_rng(0).standard_normal(min(X.shape))
    times: dict[str, list[float]] = {"ours": [], "svds": []}
    for _ in range(7):
        began = time.perf_counter()
        TSVD(rank=RANK).fit(X)
        times["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        svds(A, k=RANK, v0=start)
        times["svds"].append(time.perf_counter() - began)
    ours, plain = (statistics.median(times[name]) for name in ("ours", "svds"))
    return {"our_seconds": ours, "svds_seconds": plain, "ratio": ours / plain}


def accams(path: Path) -> dict[str, Any]:
    """ACCAMS with 5 stencils of 16 clusters."""
    from pipeline.baselines.accams import ACCAMS
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    began = time.perf_counter()
    model = ACCAMS(stencils=5, clusters=16).fit(X)
    return {
        "seconds": time.perf_counter() - began,
        "peak_gib": peak() / GIB,
        "error": model.error(X)["error"],
        "bytes": model.size()["bytes"],
    }


def grid(path: Path, method: str) -> list[dict[str, Any]]:
    """Errors and sizes of one method's grid."""
    from pipeline.fit_baseline import make
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    rows = []
    for settings in EMAIL_GRIDS[method]:
        began = time.perf_counter()
        model = make(method, settings, 0).fit(X)
        seconds = time.perf_counter() - began
        rows.append({"settings": settings, "error": model.error(X)["error"], "seconds": seconds, **model.size()})
    return rows


def published(path: Path | None) -> dict[str, list[tuple[float, float]]]:
    """Published (bytes, error) of email by method, in the order of the file."""
    if path is None:
        return {}
    table: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == "email":
                table.setdefault(row["method"].lower(), []).append((float(row["bytes"]), float(row["error"])))
    return table


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = results["machine"]
    lines = [
        "# Baselines",
        "",
        f"{machine['processor']}, {machine['threads']} threads, Python {machine['python']}.",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
    ]
    wanted = {
        "cp": ("CP, R = 10: {times_faster:.1f} times as fast a sweep as pyttb, fits differ by {fit_difference:.1e}",
               "3 times, 1e-6"),
        "tucker": ("Tucker (10, 10, 10): {seconds_a_sweep:.1f} s a sweep, {gib_above_the_data:.2f} GiB above the data",
                   "60 s, 1 GiB"),
        "t-svd": ("T-SVD, email, R = 10: {ratio:.2f} of the time of svds", "1.1"),
        "accams": ("ACCAMS, threads, s = 5, k = 16: {seconds:.0f} s, {peak_gib:.2f} GiB at most", "ends, 2 GiB"),
    }  # fmt: skip
    for name, (text, aim) in wanted.items():
        measured = text.format(**results[name]) if name in results else f"{name}: not measured, no data"
        lines.append(f"| {measured.split(': ')[0]} | {measured.partition(': ')[2]} | {aim} |")
    for method, rows in results.get("email", {}).items():
        lines += ["", f"## {method} on email", ""]
        lines += [
            "| settings | bytes as published | bytes equal | bytes with orders | error | published bytes, error |"
        ]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        beside = results["published"].get(method, [])
        for number, row in enumerate(rows):
            theirs = beside[number] if number < len(beside) else None
            printed = f"{theirs[0]:,.0f}, {theirs[1]:,.0f}" if theirs else ""
            chosen = ", ".join(f"{key} {value}" for key, value in row["settings"].items()) or "default"
            lines.append(
                f"| {chosen} | {row['bytes']:,} | {row['bytes_equal']:,} | {row['bytes_with_order']:,} "
                f"| {row['error']:,.0f} | {printed} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run all sections and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tensors", type=Path, default=Path("data/tensors"))
    parser.add_argument("--published", type=Path, help="CSV with published sizes and errors")
    parser.add_argument("--only", nargs="*", help="sections to run: cp, tucker, email, or any baseline's name")
    options = parser.parse_args(argv)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    email, threads = options.tensors / "email.parquet", options.tensors / "threads.parquet"
    sections: list[tuple[str, Any, tuple[Any, ...]]] = [("cp", cp, ()), ("tucker", tucker, ())]
    if email.is_file():
        sections.append(("t-svd", t_svd, (email,)))
        sections += [(f"email {method}", grid, (email, method)) for method in EMAIL_GRIDS]
    if threads.is_file():
        sections.append(("accams", accams, (threads,)))
    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": options.threads,
            "python": platform.python_version(),
        },
        "published": published(options.published),
        "email": {},
    }
    spawn = multiprocessing.get_context("spawn")
    for name, function, arguments in sections:
        if options.only and not set(name.split()) & set(options.only):
            continue
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            outcome = pool.submit(function, *arguments).result()
        print(name, outcome, flush=True)
        if name.startswith("email "):
            results["email"][name.removeprefix("email ")] = outcome
        else:
            results[name] = outcome
        write(results)  # after every section: an interrupted run leaves what it measured
    print(table(results))


def write(results: dict[str, Any]) -> None:
    """Write the results so far."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "baselines.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "baselines.md").write_text(table(results))


if __name__ == "__main__":
    main()
