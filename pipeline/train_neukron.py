"""Fit NeuKron to a Parquet sparse tensor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline import step
from pipeline.record import add_run_arguments, identity, record_compression
from pipeline.sparse import SparseTensor

if TYPE_CHECKING:
    from pipeline.neukron.trainer import State

EXAMPLE = """example:
  python -m pipeline.train_neukron data/tensors/flights.parquet /tmp/run --set hidden=8 --set max_epochs=20
"""


@contextmanager
def progress(X: SparseTensor, max_epochs: int | None) -> Iterator[Any]:
    """Progress bar over epochs: error, relative error, rate, and time left where the end is known."""
    from tqdm import tqdm

    with tqdm(total=max_epochs, unit="epoch", desc="NeuKron") as bar:

        def after_epoch(state: State) -> None:
            bar.set_postfix_str(f"error {state.error:,.6g} ({state.error / X.norm2:.2%} of ||X||^2)", refresh=False)
            bar.update(state.epoch - bar.n)  # a resumed run starts above zero

        yield after_epoch


def main(argv: list[str] | None = None) -> None:
    """Fit, then write the model, its metrics and its history into the run's folder."""
    arguments = step.parser("Fit NeuKron to a Parquet sparse tensor and record the run.", EXAMPLE)
    add_run_arguments(arguments)
    arguments.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = arguments.parse_args(argv)
    settings = step.parse_settings(options.settings)
    step.limit_threads(options.threads)

    from pipeline.checkpoint import Checkpoint
    from pipeline.metrics import library_versions
    from pipeline.neukron import NeuKron

    step.check_settings(NeuKron, settings, given_otherwise={"seed", "device", "threads"})
    model = NeuKron(seed=options.seed, device=options.device, threads=options.threads, **settings)
    X = SparseTensor.read_parquet(options.tensor)
    names = identity(options, NeuKron.name, settings)
    checkpoint = Checkpoint(names | {"versions": library_versions("torch", "numpy"), "device": options.device})
    started = time.perf_counter()
    with progress(X, model.max_epochs) as after_epoch, checkpoint.stopping_on_signals():
        model.fit(X, after_epoch, checkpoint)
    seconds = time.perf_counter() - started
    record_compression(
        options.folder,
        model,
        X,
        names,
        seconds=seconds,
        device=model.device_,
        peak_gpu_bytes=model.peak_gpu_bytes_,
        libraries=("torch", "numpy", "numba"),
    )
    checkpoint.clear()


if __name__ == "__main__":
    step.run(main)
