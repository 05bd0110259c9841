"""``kronflow import-reference``: a checkpoint of the NeuKron authors' program as an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.command_line import Commands, add_command, print_rows
from pipeline.core.files import refuse_clashes, sha256_file


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "import-reference",
        _run,
        "Turn a checkpoint of the NeuKron authors' program into an artifact, without running code from it.",
    )
    command.add_argument("checkpoint", type=Path, help="their .pt file")
    command.add_argument("data", type=Path, help="the text file it was trained on")
    command.add_argument("artifact", type=Path, help="the .safetensors file to write")


def _run(options: argparse.Namespace) -> None:
    """Convert, and show the error that the imported model has on its data."""
    from pipeline.commands.reference_file import import_checkpoint, read_reference_text

    refuse_clashes([options.checkpoint, options.data], [options.artifact])
    X = read_reference_text(options.data)
    model = import_checkpoint(options.checkpoint, X)
    error = model.error(X)
    model.about_.file, model.about_.sha256 = options.data.name, sha256_file(options.data)
    model.save(options.artifact)
    print_rows(
        [
            ("tensor", str(X)),
            ("parameters", f"{model.parameter_count():,}"),
            ("error_padded", f"{error['error_padded']:,.6f} (over the padded grid)"),
            ("error", f"{error['error']:,.6f} (over the real cells)"),
            ("file", f"{options.artifact}, {options.artifact.stat().st_size:,} bytes"),
        ]
    )
