"""``metrics.json``: one schema for every method, checked when it is written and when it is read."""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.core.files import sha256_file, write_json
from pipeline.errors import InputError

FILES = {  # of a run, each with what is in every one of them
    "model.safetensors": b"kronflow",
    "metrics.json": b'"params_sha256"',
    "history.parquet": b"seconds",
}

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RunMetrics(BaseModel):
    """What every run reports, whatever it trains; the digests are of its settings, its data and its model's file.

    `seconds` is the wall time of the fit, `seconds_per_epoch` the mean of its epochs after the first, `cpu_seconds`
    the processor time of its threads and processes. `setup_seconds` preceded it and is in none of these: imports,
    and compiling what is not in the cache. `machine` names the processor, `cores` is how many it offers, `threads`
    how many the run was given; `date` is when the run ended, in UTC; `commit` is the checkout's, with a plus where
    files differed from it, None outside of one.
    """

    model_config = ConfigDict(extra="forbid")

    dataset: str
    method: str
    setting: str
    seed: Count
    parameters: Count
    epochs: Count
    seconds: NonNegative
    seconds_per_epoch: NonNegative
    setup_seconds: NonNegative | None = None
    cpu_seconds: NonNegative
    peak_rss_bytes: Count
    peak_gpu_bytes: Count
    device: str
    machine: str
    cores: Count
    threads: Count
    date: datetime.datetime
    commit: str | None = None
    versions: dict[str, str]
    params_sha256: Digest
    data_sha256: Digest
    model_sha256: Digest


class CompressionMetrics(RunMetrics):
    """A compressor's run. Errors are squared Frobenius norms; sizes are bytes.

    `error` covers the tensor's real cells, `error_padded` NeuKron's zero-padded grid, `error_interval`
    the 95 % interval where `error` was sampled, `error_padded_training` what a fit in short numbers took
    `error_padded` for. `order_seconds` of `seconds` went into choosing and improving orders and `model_seconds` into
    all else, where the method searches any. `bytes` follows the method's own publication, `bytes_equal` charges
    every method 4 bytes a real, `bytes_with_order` adds the stored orders to that, and `file_bytes` is the artifact
    on disk.
    """

    kind: Literal["compression"] = "compression"
    shape: list[Count]
    nnz: Count
    norm2: NonNegative
    error: NonNegative
    error_padded: NonNegative | None = None
    error_interval: tuple[NonNegative, NonNegative] | None = None
    error_padded_training: NonNegative | None = None
    order_seconds: NonNegative | None = None
    model_seconds: NonNegative | None = None
    relative_error: NonNegative
    fitness: Finite
    bytes: Count
    bytes_equal: Count
    bytes_with_order: Count
    file_bytes: Count


class NetworkMetrics(RunMetrics):
    """A block-sparse network's run, beside its dense twin.

    `accuracy` is on the test part. FLOPs are of the matrix products of one training step (forward and
    backward) or of classifying one batch, zero blocks skipped; times are of one training step, both measured
    in the same run, and of classifying a batch by the network as it is deployed. `inference_parameters` counts the
    reals that classification needs.
    """

    kind: Literal["network"] = "network"
    network: str
    accuracy: Share
    validation_accuracy: Share
    train_loss: NonNegative
    block_sparsity: Share
    train_parameters: Count
    inference_parameters: Count
    train_flops: Count
    dense_train_flops: Count
    inference_flops: Count
    dense_inference_flops: Count
    batch: Count
    step_seconds: NonNegative
    dense_step_seconds: NonNegative
    inference_seconds: NonNegative
    dense_inference_seconds: NonNegative
    file_bytes: Count


Metrics = CompressionMetrics | NetworkMetrics
_ADAPTER: TypeAdapter[Metrics] = TypeAdapter(Annotated[Metrics, Field(discriminator="kind")])


def write_metrics(path: str | Path, content: dict[str, Any]) -> None:
    """Check `content` against the schema and write it as JSON, whole or not at all."""
    write_json(path, _ADAPTER.validate_python(content).model_dump(mode="json"))


def read_metrics(path: str | Path) -> Metrics:
    """Read and check one ``metrics.json``; wrong content is an :class:`InputError` naming file and key."""
    try:
        return _ADAPTER.validate_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the step that makes it") from None
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        key = ".".join(str(part) for part in first["loc"][1:]) or "content"
        raise InputError(f"{path}: {key}: {first['msg']}; run the step that makes it again") from error


def check_model(metrics_path: Path, metrics: Metrics) -> None:
    """Refuse the model beside `metrics_path` if it is not, byte for byte, the one that `metrics` was measured on.

    Raises
    ------
    InputError
        It is missing, damaged or another one; the message names the file.
    """
    path = metrics_path.with_name("model.safetensors")
    if not path.is_file():
        raise InputError(f"{path}: no such file, though {metrics_path.name} beside it tells of it; {_remedy(path)}")
    if (found := sha256_file(path)) != metrics.model_sha256:
        raise InputError(
            f"{path}: damaged or exchanged: its SHA-256 is {found[:12]}, metrics.json beside it was measured on "
            f"{metrics.model_sha256[:12]}; {_remedy(path)}"
        )


def _remedy(path: Path) -> str:
    return f"fetch it again with 'dvc checkout --force {path}', or delete {path.parent} and make the run again"


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def library_versions(*distributions: str) -> dict[str, str]:
    """Versions of Python, Kronflow and the named distributions."""
    named = {name: version(name) for name in ("kronflow", *distributions)}
    return {"python": platform.python_version(), **named}


def circumstances(threads: int) -> dict[str, Any]:
    """Where and when a run was made, for its metrics."""
    return {
        "machine": processor(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "date": datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        "commit": _commit(),
    }


def processor() -> str:
    """The processor's name, as the operating system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return (named or [platform.processor()])[0] or platform.machine()


@functools.cache
def _commit() -> str | None:
    """The commit that this code is of, with a plus where the code differs from it; None outside of a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = [
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True)
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno", "--", "pipeline"])
        ]
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
        return None
    return found[0].stdout.strip() + ("+" if found[1].stdout.strip() else "")
