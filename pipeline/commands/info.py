"""``kronflow info``: what an artifact or a Parquet sparse tensor holds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.commands.command_line import Commands, add_command, print_rows, short


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "info", _run, "Say what an artifact or a Parquet sparse tensor holds.")
    command.add_argument("file", type=Path)
    command.add_argument("--json", action="store_true", help="for programs")


def _run(options: argparse.Namespace) -> None:
    """Print what a file holds, as aligned lines or as JSON."""
    content = _tensor_info(options.file) if options.file.suffix == ".parquet" else _artifact_info(options.file)
    if options.json:
        print(json.dumps(content, indent=2))
    else:
        print_rows([(key, short(value)) for key, value in content.items()])


def _tensor_info(path: Path) -> dict[str, Any]:
    from pipeline.commands.source import read_tensor

    X = read_tensor(path)
    return {
        "file": str(path),
        "shape": list(X.shape),
        "nnz": X.nnz,
        "density": X.density,
        "norm2": X.norm2,
        "mode_names": list(X.mode_names),
        "source": X.source,
        "file_bytes": path.stat().st_size,
    }


def _artifact_info(path: Path) -> dict[str, Any]:
    import pipeline
    from pipeline.runs.artifact import read_artifact

    _, metadata = read_artifact(path)
    model = pipeline.load(path)
    content = {"file": str(path), **metadata}
    if hasattr(model, "size"):
        content |= {"parameters": model.parameter_count(), **model.size()}
    return content | {"file_bytes": path.stat().st_size}
