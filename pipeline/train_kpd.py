"""Step: train a block-sparse network, or its dense twin, on labelled images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import step
from pipeline.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch.nn import Module

    from pipeline.kpd.data import LabelledImages
    from pipeline.kpd.trainer import Trained
    from pipeline.runs.checkpoint import Checkpoint

EXAMPLE = """example:
  python -m pipeline.train_kpd data/tensors/digits.parquet results/runs/digits/kpd/b2x4-s0 \\
      --labels data/tensors/digits.labels-2.parquet --method kpd --set block=[2,4] --set block_sparsity=0.5

  torchrun --standalone --nproc-per-node 2 -m pipeline.train_kpd ...   shares each batch among two processes
"""


def main(argv: list[str] | None = None) -> None:
    """Train and write model.safetensors, metrics.json and history.parquet."""
    options = _arguments().parse_args(argv)
    step.limit_threads(options.threads)
    import torch
    from tqdm import tqdm

    from pipeline.core.settings import values_of
    from pipeline.kpd.sparsity_methods import make
    from pipeline.kpd.trainer import train
    from pipeline.runs import distributed, gpus

    torch.set_num_threads(options.threads)
    method = make(options.method, step.parse_settings(options.settings))
    settings = values_of(method)
    data = read_images(options.tensor, options.labels, options.seed)
    state = _state(options, settings)
    with gpus.held(distributed.available_device(options.device)) as place:
        with distributed.joined(place) as device:
            is_first = distributed.is_first()
            with (
                state.stopping_on_signals(),
                tqdm(total=method.epochs, unit="epoch", desc=options.method, disable=not is_first) as bar,
            ):

                def show(entry: dict[str, Any]) -> None:
                    accuracy, zeros = entry["validation_accuracy"], entry["block_sparsity"]
                    bar.set_postfix(validation=f"{accuracy:.4f}", zeros=f"{zeros:.3f}")
                    bar.update()

                trained = train(method, data, seed=options.seed, device=device, progress=show, state=state)
        if not is_first:
            return
        if trained.report is not None:
            print(trained.report, file=sys.stderr)
        _write(options, settings, data, trained, device)
    state.clear()


def _arguments() -> argparse.ArgumentParser:
    from pipeline.runs.record import add_run_arguments

    arguments = step.parser(
        "Train a network on labelled images (a tensor of modes row, column, image; colours as a mode named channel)\n"
        "with a wanted share of exactly zero blocks, and time its training step beside that of its dense twin.",
        EXAMPLE,
        _settings,
    )
    add_run_arguments(arguments)
    arguments.add_argument(
        "--labels", type=Path, required=True, help="Parquet with columns index, label and, if published, split"
    )
    arguments.add_argument("--method", default="kpd", help="sparsity method, see below (default: kpd)")
    arguments.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 .. (default: a GPU if there is one)"
    )
    return arguments


def _settings() -> str:
    from pipeline.methods import NETWORKS, settings_help

    return settings_help(*NETWORKS)


def _state(options: argparse.Namespace, settings: dict[str, Any]) -> Checkpoint:
    """Where this run's training state lies, from an earlier interrupted one too."""
    from pipeline.core.files import sha256_file
    from pipeline.runs.checkpoint import Checkpoint
    from pipeline.runs.metrics import library_versions
    from pipeline.runs.record import identity

    run = identity(options, options.method, settings)
    return Checkpoint(run | {"labels": sha256_file(options.labels), "versions": library_versions("torch")})


def read_images(tensor: Path, labels: Path, seed: int) -> LabelledImages:
    """Read a tensor whose last mode is the image, and its labels, and split them by `seed`."""
    import numpy as np

    from pipeline.kpd.data import labelled_images
    from pipeline.sparse import SparseTensor

    X = SparseTensor.read_parquet(tensor)
    if X.order < 2:
        raise InputError(f"{tensor}: {X.order} mode; images need rows, columns and, last, the image")
    # (image, row, column[, channel]), wherever the tensor has its channels
    order = [X.order - 1, *sorted(range(X.order - 1), key=lambda mode: X.mode_names[mode] == "channel")]
    images = np.zeros([X.shape[mode] for mode in order], dtype=np.float32)
    images[tuple(X.coords[:, mode] for mode in order)] = X.values
    classes, published_test = _read_labels(labels, len(images))
    try:
        return labelled_images(images, classes, seed=seed, published_test=published_test)
    except InputError as error:
        raise InputError(f"{labels}: {error}") from error


def _read_labels(path: Path, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Labels of all `count` images, and which are published test images if the file says so."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    try:
        table = pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error}); make it with 'snakemake'") from error
    for column in ("index", "label"):
        if column not in table:
            raise InputError(f"{path}: no column '{column}' among {list(table.columns)}; convert the raw data again")
    table = table.sort_values("index")
    if not np.array_equal(table["index"].to_numpy(), np.arange(count)):
        raise InputError(f"{path}: {len(table)} labels; the tensor has {count} images, each needs one")
    labels = pd.to_numeric(table["label"], errors="coerce")
    wrong = labels.isna() | (labels != labels.round())
    if wrong.any():
        raise InputError(f"{path}: label '{table['label'][wrong].iloc[0]}' is no class number")
    if "split" not in table or not (table["split"] == "test").any():
        return labels.to_numpy(dtype=np.int64), None
    return labels.to_numpy(dtype=np.int64), (table["split"] == "test").to_numpy(dtype=bool)


def _write(
    options: argparse.Namespace,
    settings: dict[str, Any],
    data: LabelledImages,
    trained: Trained,
    device: str,
) -> None:
    """Leave the run's three files in its folder."""
    import torch

    from pipeline.core.files import sha256_file
    from pipeline.kpd.artifact import NetworkArtifact
    from pipeline.kpd.cost import inference_flops, inference_parameters, measured_costs, training_flops
    from pipeline.kpd.inference import dense_twin
    from pipeline.kpd.sparsity_methods import make
    from pipeline.kpd.trainer import fresh_network, inference_seconds, step_seconds
    from pipeline.runs.metrics import circumstances, library_versions, peak_rss_bytes, write_metrics
    from pipeline.runs.record import epoch_seconds, identity, write_history

    network = trained.network
    first = data.train[: settings["batch"]]
    images, labels = torch.from_numpy(data.images[first]).to(device), torch.from_numpy(data.labels[first]).to(device)
    for name, (own, dense) in measured_costs(network, images).items():
        print(f"layer {name}: {own / dense:.2f} times the dense layer's time, measured", file=sys.stderr)
    own_seconds, dense_seconds = step_seconds([network, dense_twin(network)], images, labels)
    deployed_seconds, dense_inference_seconds = inference_seconds(network, images)
    artifact = NetworkArtifact(
        network,
        name=settings["network"],
        image_shape=data.image_shape,
        classes=data.classes,
        scale=data.scale,
        trained_with={"method": options.method, "seed": options.seed, **settings},
    )
    path = options.folder / "model.safetensors"
    artifact.save(path)
    fresh, _ = fresh_network(make(options.method, settings), data, options.seed)  # with all that is trained
    fresh = fresh.to(device)
    seconds = trained.history[-1]["seconds"]
    write_history(options.folder / "history.parquet", trained.history)
    write_metrics(
        options.folder / "metrics.json",
        {
            "kind": "network",
            **identity(options, options.method, settings),
            "network": settings["network"],
            "accuracy": trained.test_accuracy,
            "validation_accuracy": trained.validation_accuracy,
            "train_loss": trained.train_loss,
            "block_sparsity": trained.block_sparsity,
            "parameters": _count(network),
            "train_parameters": _count(fresh),
            "inference_parameters": inference_parameters(network),
            "train_flops": training_flops(fresh, images, labels),
            "dense_train_flops": training_flops(dense_twin(network), images, labels),
            "inference_flops": inference_flops(network, images),
            "dense_inference_flops": inference_flops(dense_twin(network), images),
            "batch": len(first),
            "step_seconds": own_seconds,
            "dense_step_seconds": dense_seconds,
            "inference_seconds": deployed_seconds,
            "dense_inference_seconds": dense_inference_seconds,
            "epochs": len(trained.history),
            "seconds": seconds,
            "seconds_per_epoch": epoch_seconds(trained.history, seconds),
            "setup_seconds": trained.setup_seconds,
            "cpu_seconds": trained.history[-1]["cpu_seconds"],
            **circumstances(options.threads),
            "peak_rss_bytes": peak_rss_bytes(),
            "peak_gpu_bytes": torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0,
            "device": device,
            "file_bytes": path.stat().st_size,
            "model_sha256": sha256_file(path),
            "versions": library_versions("torch", "numpy"),
        },
    )


def _count(network: Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


if __name__ == "__main__":
    step.run(main)
