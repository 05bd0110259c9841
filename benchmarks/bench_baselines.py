"""Baselines beside the libraries a user would take instead, and on the published grids. Writes baselines.json and .md.

Every part runs in a process of its own, so that peak memory is its own, and is stored with its command and date as
soon as it is done; parts that are not run keep what was measured before. `--tensors` is a folder with
``email.parquet`` and ``threads.parquet`` (``snakemake data/tensors/email.parquet``) and the demo's tensors; a part
without its tensor is left out and said so. `--published` is a CSV with the columns dataset, method, bytes, error to
print beside ours.

    python -m benchmarks.bench_baselines                        # everything, an hour on two cores
    python -m benchmarks.bench_baselines --parts figures        # times, ratios and memory: minutes, on a quiet machine
    python -m benchmarks.bench_baselines --parts grids coding   # errors and sizes, whatever else runs
    python -m benchmarks.bench_baselines --parts                # only the table, from what is stored
"""

from __future__ import annotations

import csv
import datetime
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import step

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results"
NIPS = (2482, 2862, 14036)
NIPS_DRAWS = 3_300_000  # entries drawn; about 3.1 million cells differ
RANK = 10
SWEEPS = 4
GIB = 2**30
SEEDS = {"cur": 5, "cmd": 5, "accams": 3, "kronfit": 3}  # of the published grids; the others one
OVERRIDE = {"baccams": {"max_sweeps": 5}}  # 50 stencils: a sweep with 48 clusters takes a minute
CODED = ("email", "kjv-3gram", "flights-month")


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


def cp_genten() -> dict[str, Any]:
    """Set-up and sweep of our CP and of GenTen's, processor seconds, from a fit of one sweep and one of more."""
    import pygenten

    from pipeline.baselines.cp import CP

    X = nips_like()
    CP(rank=RANK, max_sweeps=1).warm_up(X.order)

    def ours(sweeps: int) -> None:
        CP(rank=RANK, max_sweeps=sweeps, tolerance=0.0).fit(X)

    def theirs(sweeps: int) -> None:
        tensor = pygenten.Sptensor(X.shape, X.coords.astype(np.uint64), X.values)
        pygenten.cp_als(tensor, rank=RANK, maxiters=sweeps, tol=0.0, printitn=0)

    found: dict[str, Any] = {"nnz": X.nnz}
    for name, fit in (("our", ours), ("genten", theirs)):
        seconds = []
        for sweeps in (1, 1 + SWEEPS):
            began = time.process_time()
            fit(sweeps)
            seconds.append(time.process_time() - began)
        found[f"{name}_sweep"] = (seconds[1] - seconds[0]) / SWEEPS
        found[f"{name}_setup"] = seconds[0] - found[f"{name}_sweep"]
    return found


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
    for _ in range(25):
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


def grid(path: Path, method: str, **more: Any) -> list[dict[str, Any]]:
    """Errors and sizes of one method's published grid: mean over seeds, and the spread of the error."""
    from pipeline.baselines import make
    from pipeline.config import load_config
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    rows = []
    for settings in load_config(ROOT / "params.yaml").experiments["paper"].settings_of(path.stem, method).values():
        began = time.perf_counter()
        chosen = settings | OVERRIDE.get(method, {}) | more
        seeds = SEEDS.get(method, 1)
        models = [make(method, chosen, seed).fit(X) for seed in range(seeds)]
        errors = [float(model.error(X)["error"]) for model in models]
        sizes = [model.size() for model in models]
        rows.append(
            {
                "settings": chosen,
                "seeds": seeds,
                "error": statistics.mean(errors),
                "error_spread": statistics.stdev(errors) if seeds > 1 else 0.0,
                "seconds": (time.perf_counter() - began) / seeds,
                **{name: round(statistics.mean(size[name] for size in sizes)) for name in sizes[0]},
            }
        )
    return rows


def cur_variants(path: Path) -> list[dict[str, Any]]:
    """Ways of drawing and of computing U, at the published sample sizes."""
    from benchmarks.cur_variants import measure
    from pipeline.config import load_config
    from pipeline.sparse import SparseTensor

    settings = load_config(ROOT / "params.yaml").experiments["paper"].settings_of(path.stem, "cur").values()
    return measure(SparseTensor.read_parquet(path), [(one["rows"], one["columns"]) for one in settings], seeds=5)


def coding(path: Path) -> dict[str, Any]:
    """Bytes of the exact codes, orders free and stored, beside gaps through LZMA and compressed sparse fibres."""
    from pipeline.baselines.coding.exact import gap_code
    from pipeline.baselines.lossless import Lossless, csf_bytes
    from pipeline.baselines.truncation import Truncation
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    began = time.perf_counter()
    gaps = len(gap_code(X.coords, X.values, X.shape)[0])
    gap_seconds = time.perf_counter() - began
    began = time.perf_counter()
    exact = Lossless().fit(X)
    seconds = time.perf_counter() - began
    parts = []
    for keep in (0.05, 0.1, 0.2):
        model = Truncation(keep=keep).fit(X)
        cells = model.cells_
        beside = len(gap_code(cells.coords, cells.values, X.shape)[0])
        error = float(model.error(X)["error"])
        parts.append({"keep": keep, "error": error, "relative_error": error / X.norm2, "gaps": beside, **model.size()})
    return {
        "nnz": X.nnz,
        "csf": csf_bytes(X),
        "gaps": gaps,
        "gap_seconds": gap_seconds,
        "seconds": seconds,
        **exact.size(),
        "truncation": parts,
    }


def truncation_at(path: Path, size: int) -> dict[str, Any]:
    """The least error of truncation, orders free, within a number of bytes: the share kept by bisection."""
    from pipeline.baselines.truncation import Truncation
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(path)
    low, high, best = 0.0, 1.0, None
    for _ in range(9):
        keep = (low + high) / 2
        model = Truncation(keep=keep).fit(X)
        if model.size()["bytes"] <= size:
            low, best = keep, {"keep": keep, "error": float(model.error(X)["error"]), "bytes": model.size()["bytes"]}
        else:
            high = keep
    assert best is not None
    return best


def published(path: Path | None) -> dict[str, list[tuple[float, float]]]:
    """Published (bytes, error) of email by method, in the order of the file."""
    if path is None:
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == "email":
                found.setdefault(row["method"].lower(), []).append((float(row["bytes"]), float(row["error"])))
    return found


class Part(NamedTuple):
    """One measurement: the group it belongs to, the tensor it needs, what to call, and a package that it needs."""

    group: str
    tensor: str | None
    function: Callable[..., Any]
    package: str | None = None

    def call(self, tensors: Path) -> Callable[[], Any]:
        return partial(self.function, tensors / f"{self.tensor}.parquet") if self.tensor else self.function


GRIDS = ("t-svd", "cur", "cmd", "accams", "baccams", "kronfit", "truncation", "lossless")
PARTS = {
    "cp": Part("figures", None, cp),
    "cp-genten": Part("figures", None, cp_genten, "pygenten"),
    "tucker": Part("figures", None, tucker),
    "t-svd": Part("figures", "email", t_svd),
    "accams": Part("figures", "threads", accams),
    **{f"email-{method}": Part("grids", "email", partial(grid, method=method)) for method in GRIDS},
    "email-cur-leverage": Part("grids", "email", partial(grid, method="cur", leverage=100)),
    **{f"coding-{name}": Part("coding", name, coding) for name in CODED},
    "truncation-8600": Part("coding", "email", partial(truncation_at, size=8_600)),
    "cur-variants": Part("variants", "email", cur_variants),
}
FIGURES = {
    "cp": ("CP, R = 10, synthetic nips-size tensor: sweep beside pyttb's",
           "{times_faster:.1f}x faster ({our_seconds_a_sweep:.2f} s against {pyttb_seconds_a_sweep:.2f} s), "
           "fits differ by {fit_difference:.1e}", "3x, 1e-6"),
    "cp-genten": ("the same beside GenTen's (pygenten), processor seconds",
                  "set-up {our_setup:.2f} s against {genten_setup:.2f} s, a sweep {our_sweep:.2f} s against "
                  "{genten_sweep:.2f} s", "equal"),
    "tucker": ("Tucker (10, 10, 10) on the same", "{seconds_a_sweep:.1f} s a sweep, "
               "{gib_above_the_data:.2f} GiB above the data", "60 s, 1 GiB"),
    "t-svd": ("T-SVD, email, R = 10: time beside svds", "{ratio:.2f} ({our_seconds:.3f} s)", "1.1"),
    "accams": ("ACCAMS, threads, s = 5, k = 16", "{seconds:.0f} s, {peak_gib:.2f} GiB at most", "ends, 2 GiB"),
    "coding-email": ("lossless, email, orders free", "{bytes:,} B", "55,000 B"),
    "truncation-8600": ("truncation, email, orders free, in 8,600 B", "error {error:,.0f} in {bytes:,} B", "57,000"),
}  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = {name: results["parts"][name]["outcome"] for name in PARTS if name in results["parts"]}
    lines = ["# Baselines", "", "| what | measured | wanted |", "|---|---|---|"]
    for name, (what, text, aim) in FIGURES.items():
        lines.append(f"| {what} | {text.format(**parts[name]) if name in parts else 'not measured'} | {aim} |")
    for name, rows in parts.items():
        _, _, what = name.partition("email-")
        if what and not name.startswith("coding"):
            lines += ["", f"## {what} on email", ""]
            lines += grid_table(rows, results["published"].get(what.removesuffix("-leverage"), []))
    lines += coding_tables(parts)
    if "cur-variants" in parts:
        lines += ["", "## Ways of drawing for CUR", ""]
        lines += variants_table(parts["cur-variants"], results["published"].get("cur", []))
    lines += ["", "## When and how", "", "| part | date | machine | threads | command |", "|---|---|---|--:|---|"]
    for name, stored in sorted(results["parts"].items()):
        lines.append(
            f"| {name} | {stored['date']} | {stored['processor']} | {stored['threads']} | `{stored['command']}` |"
        )
    return "\n".join(lines) + "\n"


def grid_table(rows: list[dict[str, Any]], beside: Sequence[Sequence[float]]) -> list[str]:
    """Ours by setting, each beside the published point of that place, and the best of ours in its bytes."""
    lines = [
        "| settings | bytes as published | bytes equal | with orders | error | published bytes | published error "
        "| ours / published | our least error in its bytes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for number, row in enumerate(rows):
        chosen = ", ".join(f"{key} {value}" for key, value in row["settings"].items()) or "default"
        error = f"{row['error']:,.0f}" + (f" ± {row['error_spread']:,.0f}" if row["seeds"] > 1 else "")
        text = f"| {chosen} | {row['bytes']:,} | {row['bytes_equal']:,} | {row['bytes_with_order']:,} | {error} "
        if number < len(beside):
            size, published_error = beside[number]
            within = [other["error"] for other in rows if other["bytes"] <= size * 1.005]  # read off a figure
            least = f"{min(within):,.0f}" if within else "none"
            text += f"| {size:,.0f} | {published_error:,.0f} | {row['error'] / published_error:.3f} | {least} |"
        else:
            text += "| | | | |"
        lines.append(text)
    return lines


def coding_tables(parts: dict[str, Any]) -> list[str]:
    """Exact codes of every coded tensor, whole and of its largest values."""
    found = {name: parts[f"coding-{name}"] for name in CODED if f"coding-{name}" in parts}
    if not found:
        return []
    lines = ["", "## Exact codes", "", "Bytes; gaps: variable-length gaps through LZMA, orders free.", ""]
    lines += ["| tensor | kept | relative error | CSF | gaps | ours, orders free | ours, orders stored | seconds |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    for name, row in found.items():
        lines.append(
            f"| {name} | all | 0 | {row['csf']:,} | {row['gaps']:,} | {row['bytes']:,} | {row['bytes_with_order']:,} "
            f"| {row['seconds']:.1f} |"
        )
        for part in row["truncation"]:
            lines.append(
                f"| | {part['keep']:.0%} | {part['relative_error']:.3f} | | {part['gaps']:,} | {part['bytes']:,} "
                f"| {part['bytes_with_order']:,} | |"
            )
    return lines


def variants_table(rows: list[dict[str, Any]], beside: Sequence[Sequence[float]]) -> list[str]:
    """One line a variant: at every sample size its error over the published one, and numbers charged an entry."""
    lines = ["Error over the published error (± spread over draws), and in brackets the numbers of 8 bytes that the",
             "published size has for each entry of C and R after U is paid.", ""]  # fmt: skip
    sizes = [(row["rows"], row["columns"]) for row in rows]
    sizes = list(dict.fromkeys(sizes))
    lines += ["| draw | replacement | U | " + " | ".join(f"{r} rows, {c} columns" for r, c in sizes) + " |"]
    lines += ["|---|---|---|" + "--:|" * len(sizes)]
    for start in range(0, len(rows), len(sizes)):
        cells = []
        for row, (size, error) in zip(rows[start : start + len(sizes)], beside, strict=False):
            charged = (size / 8 - row["entries_of_u"]) / row["entries_of_c_and_r"]
            spread = f" ± {row['spread'] / error:.3f}" if row["spread"] else ""
            cells.append(f"{row['error'] / error:.3f}{spread} ({charged:.2f})")
        first = rows[start]
        lines.append(f"| {first['draw']} | {first['replacement']} | {first['middle']} | " + " | ".join(cells) + " |")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Run the parts asked for and write the results."""
    parser = step.parser(__doc__)
    groups = sorted({part.group for part in PARTS.values()})
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each fit; default: %(default)s")
    parser.add_argument(
        "--tensors", type=Path, default=ROOT / "data" / "tensors", help="folder of the tensors; default: %(default)s"
    )
    parser.add_argument("--published", type=Path, help="CSV with published sizes and errors")
    parser.add_argument(
        "--parts", nargs="*", choices=[*groups, *PARTS], help="groups or single parts; all if not given"
    )
    options = parser.parse_args(argv)
    step.limit_threads(options.threads)  # what the parts' processes inherit
    results = read()
    if options.published:
        results["published"] = published(options.published)
    wanted = [*PARTS] if options.parts is None else options.parts
    for name in [name for name, part in PARTS.items() if {name, part.group} & set(wanted)]:
        part = PARTS[name]
        if part.tensor and not (options.tensors / f"{part.tensor}.parquet").is_file():
            print(f"{name}: left out, no {part.tensor}.parquet in {options.tensors}; make it with snakemake")
            continue
        if part.package and importlib.util.find_spec(part.package) is None:
            print(f"{name}: left out, no {part.package}; pip install {part.package}")
            continue
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            outcome = pool.submit(part.call(options.tensors)).result()
        results = read() | {"published": results["published"]}  # another run may have added parts meanwhile
        results["parts"][name] = {
            "outcome": outcome,
            "command": f"python -m benchmarks.bench_baselines --parts {name} --threads {options.threads}",
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
            "processor": f"{platform.machine()}, {os.cpu_count()} cores",
            "threads": options.threads,
            "python": platform.python_version(),
        }
        print(name, *(outcome if isinstance(outcome, list) else [outcome]), sep="\n  ", flush=True)
        write(results)  # after every part: an interrupted run leaves what it measured
    write(results)
    print(table(results))


def read() -> dict[str, Any]:
    """The results stored so far."""
    path = RESULTS / "baselines.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"published": {}, "parts": {}}
    return stored


def write(results: dict[str, Any]) -> None:
    """Write the results so far."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "baselines.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "baselines.md").write_text(table(results))


if __name__ == "__main__":
    step.run(main)
