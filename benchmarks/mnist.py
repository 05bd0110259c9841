"""Table of experiment `mnist`: test accuracy of every method and block, mean and standard error over the seeds.

snakemake results/mnist/report.html
python -m benchmarks.mnist
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from pipeline.core import step

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
WANTED = 0.5  # points that KPD may be below dense
FAR_APART = 1.0  # points of standard error from which on each seed's accuracy is shown


def read_runs(root: Path) -> list[dict[str, Any]]:
    """One row a method and setting: what its runs under `root` say; settings without a run are left out."""
    from pipeline.config import load_config

    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    missing = []
    for run in load_config(ROOT / "params.yaml").runs("mnist"):
        path = root / run.folder / "metrics.json"
        if path.is_file():
            metrics = json.loads(path.read_text())
            found.setdefault((run.method, run.setting), []).append(metrics | {"settings": run.settings})
        else:
            missing.append(run.folder)
    if missing:
        print(f"{len(missing)} runs missing, among them {missing[0]}", file=sys.stderr)
    return [row_of(method, setting, runs) for (method, setting), runs in found.items()]


def row_of(method: str, setting: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard error of the runs of one setting."""
    first, settings = runs[0], runs[0]["settings"]
    accuracies = [100 * run["accuracy"] for run in runs]
    sizes = {"parameters": first["train_parameters"], "inference_parameters": first["inference_parameters"]}
    return {
        "network": first["network"],
        "method": method,
        "setting": setting,
        **{name: settings.get(name) for name in ("distribution", "score", "permutation", "distil", "block_sparsity")},
        "block": settings.get("block"),
        "rank": settings.get("rank"),
        "lr": settings["lr"],
        "epochs": settings["epochs"],
        "batch": settings["batch"],
        "seeds": [run["seed"] for run in runs],
        "accuracy": statistics.mean(accuracies),
        "standard_error": statistics.stdev(accuracies) / math.sqrt(len(runs)) if len(runs) > 1 else None,
        "accuracies": accuracies,
        "zeros": [run["block_sparsity"] for run in runs],
        **sizes,
        "seconds_per_epoch": statistics.median(run["seconds_per_epoch"] for run in runs),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# MNIST: accuracy of block-sparse networks",
        "",
        "Runs as `python -m pipeline.config --experiment mnist` lists them; `snakemake results/mnist/report.html`",
        "makes all. Table: `python -m benchmarks.mnist`; runs that are not there are left out.",
        "Per cent of the 10,000 published test images, mean and standard error over seeds 0, 1, 2 (of parameters,",
        "order and validation split). The learning rate is chosen on validation images (mnist-lr.md), the number of",
        "epochs by hand, the same for all methods. KPD and KPD-group train two terms.",
    ]
    dense = {row["network"]: row for row in rows if row["method"] == "dense"}
    for network, share, title in (
        ("linear", 0.5, "Linear, 784 -> 10, half of the blocks zero"),
        ("linear", 0.9, "Linear, 784 -> 10, 90 % of the blocks zero"),
        ("linear", None, "Linear, 784 -> 10, other structures"),
        ("lenet5", None, "LeNet-5"),
    ):
        own = [row for row in rows if row["network"] == network]
        if network == "linear":
            own = [row for row in own if row["method"] != "dense" and row["block_sparsity"] == share]
        if own and network in dense:
            lines += ["", f"## {title}", ""]
            lines += listed(own, dense[network]) if network == "lenet5" else grid(own, dense[network])
    return "\n".join([*lines, ""])


def grid(rows: list[dict[str, Any]], dense: dict[str, Any]) -> list[str]:
    """Methods down, blocks across."""
    blocks = sorted({tuple(row["block"]) for row in rows if row["block"]})
    lines = ["| method | " + " | ".join(f"{m2}x{n2}" for m2, n2 in blocks) + " |", "|---" * (len(blocks) + 1) + "|"]
    lines.append("| dense | " + " | ".join([shown(dense)] * len(blocks)) + " |")
    for name in dict.fromkeys(named(row) for row in rows if row["block"]):
        cells = {tuple(row["block"]): shown(row) for row in rows if row["block"] and named(row) == name}
        lines.append(f"| {name} | " + " | ".join(cells.get(block, "") for block in blocks) + " |")
    lines += ["", *(f"{named(row)}, which chooses its block: {shown(row)}" for row in rows if not row["block"])]
    if any(row["method"] == "rigl" for row in rows):
        lines += ["RigL: with one layer, uniform and ERK densities are the same."]
    kpd = next((row for row in rows if named(row) == "kpd" and row["block"] == [2, 2]), None)
    return lines + (["", verdict("KPD, 2x2, half of the blocks zero", kpd, dense)] if kpd else [])


def named(row: dict[str, Any]) -> str:
    """The method, and which of its settings are not the usual ones."""
    more = [f"score {row['score']}"] if row["score"] == "output" else []
    more += ["inputs permuted"] if row["permutation"] == "learned" else []
    more += [f"{row['distil']:.0%} distilled"] if row["distil"] else []
    return ", ".join([row["method"], *more])


def listed(rows: list[dict[str, Any]], dense: dict[str, Any]) -> list[str]:
    """One line a setting, with the weights of the linear layers beside the dense network's."""
    linear = sum(m * n for m, n in ((120, 400), (84, 120), (10, 84)))
    other = dense["parameters"] - linear  # convolutions and biases
    lines = [
        f"Weights: of the {linear:,} of the three linear layers, trained and left after training; what the block does",
        "not divide is dense. `monarch` and `btt` have no zero blocks, and as many weights as those with 90 % zero.",
        "",
        "| method | block | zero blocks | accuracy | weights trained | weights left |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["method"] == "dense":
            lines.append(f"| dense | | | {shown(row)} | 100 % | 100 % |")
            continue
        m2, n2 = row["block"]
        trained, left = ((row[key] - other) / linear for key in ("parameters", "inference_parameters"))
        name = f"{row['method']} ({row['distribution']})" if row["distribution"] else row["method"]
        zeros = f"{statistics.mean(row['zeros']):.1%}" if row["block_sparsity"] else ""
        lines.append(f"| {name} | {m2}x{n2} | {zeros} | {shown(row)} | {trained:.1%} | {left:.1%} |")
    kpd = [row for row in rows if row["method"] == "kpd"]
    if any(row["method"] == "random-mask" and (row["standard_error"] or 0) > FAR_APART for row in rows):
        lines += ["", "A random mask may leave no weight to two outputs of the last layer; their digits are confused."]
    names = [f"KPD, {'x'.join(map(str, row['block']))}, {statistics.mean(row['zeros']):.0%} zero" for row in kpd]
    return [*lines, "", *(verdict(name, row, dense) for name, row in zip(names, kpd, strict=True))]


def shown(row: dict[str, Any]) -> str:
    """Mean and standard error, how many seeds where they are not three, and each where they differ by much."""
    error = row["standard_error"] or 0.0
    text = f"{row['accuracy']:.2f}" + (f" ± {error:.2f}" if len(row["seeds"]) > 1 else "")
    each = f" ({', '.join(f'{accuracy:.2f}' for accuracy in row['accuracies'])})" if error > FAR_APART else ""
    seeds = "" if len(row["seeds"]) == 3 else f" (seeds: {len(row['seeds'])})"
    return text + each + seeds


def verdict(what: str, row: dict[str, Any], dense: dict[str, Any]) -> str:
    """How far a row is below dense, and whether that is what was wanted."""
    below = dense["accuracy"] - row["accuracy"]
    outcome = "met" if below <= WANTED else "MISSED"
    if min(len(row["seeds"]), len(dense["seeds"])) < 3:
        outcome += " so far, too few seeds to tell"
    return f"{what}: {below:.2f} points below dense (wanted: at most {WANTED}): {outcome}."


def main(argv: list[str] | None = None) -> None:
    """Write both files and print the table."""
    arguments = step.parser(__doc__)
    arguments.add_argument("--network", choices=["linear", "lenet5"], help="only this one, added to earlier results")
    arguments.add_argument("--root", type=Path, default=ROOT, help="checkout that holds results/runs/")
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables; default: %(default)s")
    options = arguments.parse_args(argv)
    rows = read_runs(options.root)
    if not rows:
        raise SystemExit(f"error: no run of experiment mnist under {options.root}; make them with snakemake first")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.network:
        earlier = json.loads((options.output / "mnist.json").read_text())
        made = {(row["network"], row["method"], row["setting"]): row for row in earlier}
        made |= {
            (row["network"], row["method"], row["setting"]): row for row in rows if row["network"] == options.network
        }
        rows = list(made.values())
    (options.output / "mnist.json").write_text(json.dumps(rows, indent=2) + "\n")
    (options.output / "mnist.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    step.run(main)
