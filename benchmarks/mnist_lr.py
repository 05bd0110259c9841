"""Choose the learning rates of experiment `mnist` by the accuracy on validation images.

Each method is trained at each rate on the training part, for two of its blocks on the linear network, with a
seed (of parameters, order and split) that the experiment does not use; the rate of the best mean wins. Test
images play no part. Writes mnist-lr.json and mnist-lr.md.

    snakemake data/tensors/mnist.parquet --config experiment=mnist
    python -m benchmarks.mnist_lr
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from pipeline.core import step

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SEED = 100
LINEAR = {"rates": [1e-3, 3e-3, 1e-2], "settings": ["default", "b2x2", "b2x16"], "shorter": {}}
LENET = {"rates": [1e-3, 4e-3], "settings": ["lenet5"], "shorter": {"epochs": 2, "batch": 128}}


def cells(epochs: int | None) -> list[dict[str, Any]]:
    """What to train: network, method, setting and rate."""
    from pipeline.config import load_config

    experiment = load_config(ROOT / "params.yaml").runs("mnist")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for run in experiment:
        found.setdefault((run.method, run.setting), dict(run.settings))
    result = []
    for (method, setting), settings in found.items():
        grid = LENET if settings.get("network") == "lenet5" else LINEAR
        if setting in grid["settings"]:
            settings |= grid["shorter"] | ({"epochs": epochs} if epochs else {})
            result += [
                {
                    "network": settings.get("network", "linear"),
                    "method": method,
                    "setting": setting,
                    "settings": settings | {"lr": rate},
                }
                for rate in grid["rates"]
            ]
    return result


def best_rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a network and method: mean validation accuracy at each rate, and the rate of the best."""
    result = []
    for network, method in dict.fromkeys((row["network"], row["method"]) for row in rows):
        own = [row for row in rows if (row["network"], row["method"]) == (network, method)]
        rates = sorted({row["settings"]["lr"] for row in own})
        means = {
            rate: statistics.mean(row["validation_accuracy"] for row in own if row["settings"]["lr"] == rate)
            for rate in rates
        }
        result.append({"network": network, "method": method, "means": means, "lr": max(means, key=means.__getitem__)})
    return result


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Learning rates of experiment mnist",
        "",
        f"`{results['command']}`: accuracy in per cent on the 6,000 validation images of seed {SEED}, which the "
        "experiment does not use; mean over blocks 2x2 and 2x16 on the linear network. LeNet-5: "
        "2 epochs in batches of 128. No test image was looked at. A run that diverged counts 0.",
    ]
    for network in ("linear", "lenet5"):
        own = [row for row in results["chosen"] if row["network"] == network]
        if not own:
            continue
        rates = sorted({rate for row in own for rate in row["means"]})
        lines += ["", f"| {network} | " + " | ".join(f"{rate:g}" for rate in rates) + " | chosen |"]
        lines += ["|---" * (len(rates) + 2) + "|"]
        for row in own:
            values = " | ".join(f"{100 * row['means'][rate]:.2f}" for rate in rates)
            lines.append(f"| {row['method']} | {values} | {row['lr']:g} |")
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> None:
    """Search, write both files and print the table."""
    arguments = step.parser(__doc__)
    arguments.add_argument(
        "--tensors", type=Path, default=ROOT / "data" / "tensors", help="folder of the tensors; default: %(default)s"
    )
    arguments.add_argument("--network", choices=["linear", "lenet5"], help="only this one, added to earlier results")
    arguments.add_argument("--epochs", type=int, help="shorter runs, for a trial")
    arguments.add_argument("--threads", type=int, default=1, help="of each training; default: %(default)s")
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables; default: %(default)s")
    options = arguments.parse_args(argv)
    import torch

    from pipeline.errors import InputError
    from pipeline.kpd.sparsity_methods import make
    from pipeline.kpd.trainer import train
    from pipeline.train_kpd import read_images

    torch.set_num_threads(options.threads)
    data = read_images(options.tensors / "mnist.parquet", options.tensors / "mnist.labels-2.parquet", SEED)
    path = options.output / "mnist-lr.json"
    rows = []
    if options.network and path.is_file():
        rows = [row for row in json.loads(path.read_text())["rows"] if row["network"] != options.network]
    for cell in cells(options.epochs):
        if options.network in (None, cell["network"]):
            try:
                accuracy = train(make(cell["method"], dict(cell["settings"])), data, seed=SEED).validation_accuracy
            except InputError:
                accuracy = 0.0  # diverged
            rows.append(cell | {"validation_accuracy": accuracy})
            print(cell["method"], cell["setting"], cell["settings"]["lr"], f"{accuracy:.4f}", file=sys.stderr)
    results = {
        "command": "python -m benchmarks.mnist_lr",
        "seed": SEED,
        "rows": rows,
        "chosen": best_rates(rows),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "mnist-lr.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    step.run(main)
