"""What a run leaves behind: the model, ``metrics.json`` and ``history.parquet``, for every method alike."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.files import atomic_path, refuse_clashes, sha256_file, sha256_json
from pipeline.core.names import plain_name
from pipeline.core.settings import SEEDS
from pipeline.core.step import MOST_THREADS, WholeNumber, add_settings
from pipeline.errors import InputError
from pipeline.runs.compressor import Compressor
from pipeline.runs.metrics import FILES, circumstances, library_versions, peak_rss_bytes, write_metrics
from pipeline.sparse import SparseTensor


def add_run_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add what every fitting step takes: the tensor, the folder to fill, names, seed, threads, settings."""
    arguments.add_argument(
        "tensor", type=Path, help="a Parquet sparse tensor, for example data/tensors/flights.parquet"
    )
    arguments.add_argument("folder", type=Path, help="receives model.safetensors, metrics.json and history.parquet")
    arguments.add_argument("--dataset", help="its name in metrics.json (default: the tensor's file name)")
    arguments.add_argument("--setting", default="custom", help="the setting's name in metrics.json")
    arguments.add_argument(
        "--seed", action=WholeNumber, least=0, below=SEEDS, default=0, help="of all random numbers (default: 0)"
    )
    arguments.add_argument(
        "--threads", action=WholeNumber, least=1, below=MOST_THREADS + 1, default=1, help="threads to use (default: 1)"
    )
    add_settings(arguments)


def identity(options: argparse.Namespace, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The part of ``metrics.json`` that names a run: data, method, setting, seed and their digests.

    Refuses a tensor that the run would write over, and files in its folder that are no run's.
    """
    refuse_clashes([options.tensor], [options.folder], {options.folder / name: mark for name, mark in FILES.items()})
    dataset = options.dataset or options.tensor.stem.encode(errors="replace").decode()
    plain_name(options.setting, "--setting")
    return {
        "dataset": plain_name(dataset, "--dataset"),
        "method": method,
        "setting": options.setting,
        "seed": options.seed,
        "params_sha256": params_digest(method, options.seed, settings),
        "data_sha256": sha256_file(options.tensor),
    }


def params_digest(method: str, seed: int, settings: dict[str, Any]) -> str:
    """SHA-256 of what decides a run besides its data: method, seed and the settings given to the step."""
    return sha256_json({"method": method, "seed": seed, "settings": _plain(settings)})


def record_compression(
    folder: Path,
    model: Compressor,
    X: SparseTensor,
    names: dict[str, Any],
    *,
    threads: int,
    device: str = "cpu",
    peak_gpu_bytes: int = 0,
    training_error: float | None = None,
    libraries: Sequence[str],
) -> dict[str, Any]:
    """Write a fitted compressor's three files into `folder` and return its metrics.

    `names` comes from :func:`identity`; the fit was given so many `threads`; `training_error` is
    ``error_padded_training``; `libraries` are the distributions whose versions decide the result.
    """
    path = folder / "model.safetensors"
    error = model.error(X)
    model.about_.file, model.about_.sha256 = names["dataset"], names["data_sha256"]
    model.save(path)
    history, times = model.history_, model.times_
    epochs = int(history[-1]["epoch"])
    metrics = {
        "kind": "compression",
        **names,
        "shape": list(X.shape),
        "nnz": X.nnz,
        "norm2": X.norm2,
        **error,
        "error_padded_training": training_error,
        "relative_error": error["error"] / X.norm2,
        "fitness": 1.0 - (error["error"] / X.norm2) ** 0.5,
        **model.size(),
        "file_bytes": path.stat().st_size,
        "model_sha256": sha256_file(path),
        "parameters": model.parameter_count(),
        "epochs": epochs,
        "seconds": times.seconds,
        "seconds_per_epoch": epoch_seconds(history, times.seconds),
        "setup_seconds": times.setup_seconds,
        "order_seconds": times.order_seconds,
        "model_seconds": times.model_seconds,
        "cpu_seconds": times.cpu_seconds,
        **circumstances(threads),
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_gpu_bytes": peak_gpu_bytes,
        "device": device,
        "versions": library_versions(*libraries),
    }
    write_history(folder / "history.parquet", history)
    write_metrics(folder / "metrics.json", metrics)
    return metrics


def epoch_seconds(history: list[dict[str, Any]], seconds: float) -> float:
    """Mean time of the epochs after the first, which bears all that precedes it; of a single one the whole fit's."""
    first, last = history[0], history[-1]
    later = last["epoch"] - first["epoch"]
    return float((last["seconds"] - first["seconds"]) / later if later > 0 else seconds / max(last["epoch"], 1))


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one row an epoch or sweep as Parquet, whole or not at all; ``seconds`` is since the start of the fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not history:
        raise InputError(f"{path}: the method recorded no epoch")
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(history), temporary)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as canonical JSON can say them: defaults left to the method dropped, 10.0 as 10, infinity as text.

    So a run has one digest, whether its step saw the settings as given or completed them.
    """
    return {
        key: (int(value) if value.is_integer() else str(value)) if isinstance(value, float) else value
        for key, value in settings.items()
        if value is not None
    }
