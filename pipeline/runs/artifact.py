"""Artifacts: one safetensors file a fitted model, with JSON metadata; loading one runs no code from it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.files import atomic_path
from pipeline.errors import InputError, nearest

FORMAT_VERSION = 1

# Method name in a file -> where its class lives. Imported on demand, so that reading a T-SVD needs no torch.
CLASSES = {
    "neukron": "pipeline.neukron:NeuKron",
    "t-svd": "pipeline.baselines.t_svd:TSVD",
    "cur": "pipeline.baselines.cur:CUR",
    "cmd": "pipeline.baselines.cmd:CMD",
    "accams": "pipeline.baselines.accams:ACCAMS",
    "baccams": "pipeline.baselines.baccams:BACCAMS",
    "kronfit": "pipeline.baselines.kronfit:KronFit",
    "cp": "pipeline.baselines.cp:CP",
    "tucker": "pipeline.baselines.tucker:Tucker",
    "lossless": "pipeline.baselines.lossless:Lossless",
    "truncation": "pipeline.baselines.truncation:Truncation",
    "kpd": "pipeline.kpd.artifact:NetworkArtifact",
}


def write_artifact(
    path: str | Path, method: str, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]
) -> None:
    """Write arrays and JSON metadata as one safetensors file, whole or not at all."""
    from safetensors.numpy import save

    header = {"version": FORMAT_VERSION, "method": method, **metadata}
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = save(arrays, metadata={"kronflow": json.dumps(header, allow_nan=False)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_artifact(path: str | Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the metadata of an artifact.

    Raises
    ------
    InputError
        The file is missing, damaged, no Kronflow artifact, or of a newer format version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; 'dvc pull' fetches shared artifacts")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})["kronflow"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: no readable Kronflow artifact ({error}); fetch or make it again") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("version"), int):
        raise InputError(f"{path}: its metadata names no format version; make it again")
    if metadata["version"] > FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {metadata['version']}, this program reads up to {FORMAT_VERSION}; update it"
        )
    return tensors, metadata


def load(path: str | Path) -> Any:
    """Give back the fitted model in an artifact; see :func:`pipeline.load`."""
    tensors, metadata = read_artifact(path)
    method = str(metadata.get("method"))
    if method not in CLASSES:
        raise InputError(f"{path}: method '{method}' is unknown{nearest(method, CLASSES)}")
    module, name = CLASSES[method].split(":")
    try:
        return getattr(importlib.import_module(module), name).from_artifact(tensors, metadata)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path}: contents do not fit a '{method}' artifact ({error}); make it again") from error
