"""``kronflow info``: what an artifact or a Parquet sparse tensor holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.command_line import Commands, add_command, print_rows, short
from pipeline.commands.loaded import refuse_data

if TYPE_CHECKING:
    from pipeline.runs.compressor import Compressor


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "info", _run, "Say what an artifact or a Parquet sparse tensor holds.")
    command.add_argument("file", type=Path, help="an artifact, or a tensor as a Parquet file")
    command.add_argument("--json", action="store_true", help="for programs")


def _run(options: argparse.Namespace) -> None:
    """Print what a file holds, as aligned lines or as JSON."""
    is_tensor = options.file.suffix.lower() == ".parquet"
    content = tensor_info(options.file) if is_tensor else artifact_info(options.file)
    if options.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print_rows([(key, short(value)) for key, value in content.items()])


def tensor_info(path: Path) -> dict[str, Any]:
    """What a tensor is: shape, non-zeros, norm, names, origin."""
    from pipeline.commands.source import read_tensor

    X = read_tensor(path)
    return {
        "file": str(path),
        "shape": list(X.shape),
        "nnz": X.nnz,
        "density": X.density,
        "norm2": X.norm2,
        "mode_names": list(X.mode_names),
        "labels": {X.mode_names[mode]: len(labels) for mode, labels in sorted(X.labels.items())} or None,
        "source": X.source,
        "file_bytes": path.stat().st_size,
    }


def artifact_info(path: Path) -> dict[str, Any]:
    """What an artifact says of itself."""
    import pipeline
    from pipeline.runs.artifact import read_artifact
    from pipeline.runs.compressor import Compressor

    refuse_data(path)
    model = pipeline.load(path)
    tensors, metadata = read_artifact(path)
    content = {"file": str(path), "method": metadata["method"]}
    if isinstance(model, Compressor):
        labels = sum(array.nbytes for name, array in tensors.items() if name.startswith("labels_"))
        content |= _compressor_info(model, metadata) | {"label_bytes": labels}
    else:
        content |= {key: value for key, value in metadata.items() if key not in ("method", "version")}
        if hasattr(model, "size"):
            content |= {"parameters": model.parameter_count(), **model.size()}
    return content | {"file_bytes": path.stat().st_size, "format_version": metadata["version"]}


def _compressor_info(model: Compressor, metadata: dict[str, Any]) -> dict[str, Any]:
    about = model.about_
    given = model.given_settings()
    return {
        "settings": about.settings | {name: value for name, value in given.items() if name in metadata},
        "shape": list(model.shape_),
        "mode_names": list(about.mode_names) or None,
        "nnz": about.nnz,
        "norm2": about.norm2,
        "error": about.error,
        "relative_error": None if about.error is None or not about.norm2 else about.error / about.norm2,
        "orders_stored": model.own_indices_,
        "answers_in": "the tensor's own indices" if model.own_indices_ else "positions in an order of its own",
        "labels": {about.mode_names[mode] if about.mode_names else str(mode): len(about.labels_of(mode) or ())
                   for mode in sorted(about.labels)} or None,
        "data_file": about.file,
        "data_sha256": about.sha256,
        "written_by": about.program,
        "parameters": model.parameter_count(),
        **model.size(),
    }  # fmt: skip
