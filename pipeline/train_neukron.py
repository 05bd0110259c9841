"""Fit NeuKron to a Parquet sparse tensor."""

from __future__ import annotations

from pipeline.core import step
from pipeline.core.settings import check_given
from pipeline.runs.record import add_run_arguments, identity, record_compression

EXAMPLE = """examples:
  python -m pipeline.train_neukron data/tensors/flights.parquet /tmp/run --set hidden=8 --set max_epochs=20
  python -m pipeline.train_neukron data/tensors/flights.parquet /tmp/run --set cell=gru --set max_epochs=20

  torchrun --standalone --nproc-per-node 2 -m pipeline.train_neukron ...   two processes, each with half of the
                      non-zeros, so that they need not fit into one; with --device cuda each has a GPU of its own

Several jobs on one machine take GPUs that no other one holds, and wait for one where all are held.

Ctrl-C, then the same command, goes on where it stopped, with as many processes as it is started with.
"""


def main(argv: list[str] | None = None) -> None:
    """Fit, then write the model, its metrics and its history into the run's folder."""
    arguments = step.parser("Fit NeuKron to a Parquet sparse tensor and record the run.", EXAMPLE, _settings)
    add_run_arguments(arguments)
    arguments.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options = arguments.parse_args(argv)
    settings = step.parse_settings(options.settings)
    step.limit_threads(options.threads)

    from pipeline.neukron import NeuKron
    from pipeline.runs import distributed, gpus, progress, shards
    from pipeline.runs.checkpoint import Checkpoint
    from pipeline.runs.metrics import library_versions

    check_given(NeuKron, settings, NeuKron.name, also={"max_seconds"})
    names = identity(options, NeuKron.name, settings)
    checkpoint = Checkpoint(names | {"versions": library_versions("torch", "numpy"), "device": options.device})
    with gpus.held(distributed.available_device(options.device)) as place, distributed.joined(place) as device:
        X = shards.read_share(options.tensor)
        model = NeuKron(seed=options.seed, device=device, threads=options.threads, **settings)
        model.listener = progress.tell
        with progress.epochs(X.norm2, model.max_epochs) as after_epoch, checkpoint.stopping_on_signals():
            model.fit(X, after_epoch, checkpoint)
        if not distributed.is_first():
            model.error(X)  # the first process measures it together with the others, as it records the run
            return
        record_compression(
            options.folder,
            model,
            X,
            names,
            threads=options.threads,
            device=model.device_,
            peak_gpu_bytes=model.peak_gpu_bytes_,
            training_error=None if model.precision == "float32" else model.training_error_,
            libraries=("torch", "numpy", "numba"),
        )
    checkpoint.clear()


def _settings() -> str:
    from pipeline.methods import settings_help

    return settings_help("neukron")


if __name__ == "__main__":
    step.run(main)
