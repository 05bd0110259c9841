"""Fit one baseline to a sparse tensor: T-SVD, CP, lossless, truncation and their kind."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pipeline.core import step

if TYPE_CHECKING:
    from pipeline.baselines.base import Baseline

LIBRARIES = ("numpy", "scipy")
EXAMPLE = """example:
  python -m pipeline.fit_baseline data/tensors/flights.parquet results/runs/flights/t-svd/r4-s0 \\
      --method t-svd --set rank=4 --dataset flights --setting r4"""


def main(argv: list[str] | None = None) -> None:
    """Fit a baseline and write its model, metrics and history."""
    step.limit_threads(_threads(argv))  # before anything imports NumPy
    from pipeline import baselines
    from pipeline.runs.record import add_run_arguments, identity, record_compression
    from pipeline.sparse import SparseTensor

    arguments = step.parser(
        "Fit a baseline to a sparse tensor; write model.safetensors, metrics.json and history.parquet.",
        EXAMPLE,
        _settings,
    )
    arguments.add_argument("--method", required=True, help=", ".join(baselines.names()))
    add_run_arguments(arguments)
    options = arguments.parse_args(argv)
    settings = step.parse_settings(options.settings)
    model = baselines.make(options.method, settings, options.seed)
    X = SparseTensor.read_parquet(options.tensor)
    names = identity(options, options.method, settings)
    with _ProgressBar(model, X.norm2) as bar:
        model.fit(X, progress=bar.update)
    metrics = record_compression(options.folder, model, X, names, threads=options.threads, libraries=LIBRARIES)
    print(
        f"{options.method} on {names['dataset']}: error {metrics['error']:,.6g} "
        f"({metrics['relative_error']:.2%} of the squared norm), {metrics['bytes']:,} bytes as published, "
        f"{metrics['bytes_equal']:,} at 4 bytes a real, {metrics['seconds']:.2f} s"
    )


def _settings() -> str:
    from pipeline.methods import BASELINES, settings_help

    return settings_help(*BASELINES)


def _threads(argv: list[str] | None) -> int:
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--threads", action=step.WholeNumber, least=1, below=step.MOST_THREADS + 1, default=1)
    threads: int = early.parse_known_args(argv)[0].threads
    return threads


class _ProgressBar:
    """Sweeps done, rate and time left of an iterative method, on standard error."""

    def __init__(self, model: Baseline, norm2: float) -> None:
        from tqdm import tqdm

        total = getattr(model, "max_sweeps", None)
        self.norm2 = norm2
        self.bar = tqdm(
            total=total, desc=model.name, unit="sweep", file=sys.stderr, disable=None if total else True, leave=False
        )

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *failure: object) -> None:
        self.bar.close()

    def update(self, row: dict[str, Any]) -> None:
        """Show one more sweep."""
        self.bar.set_postfix_str(f"error {row['error']:,.6g} ({row['error'] / self.norm2:.2%})", refresh=False)
        self.bar.update()


if __name__ == "__main__":
    step.run(main)
