"""``kronflow grid``: settings of every method for an experiment on a user's own data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.commands.command_line import Commands, add_command
from pipeline.commands.source import Reading, add_reading, read_tensor
from pipeline.core import step
from pipeline.core.names import plain_name
from pipeline.core.sizes import parse_bytes
from pipeline.errors import InputError


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "grid", _run, "Print settings of every method for an experiment on your own data.")
    command.add_argument("tensor", type=Path, help="as for compress")
    command.add_argument("--name", default="mine", help="the data set's name in params.yaml")
    command.add_argument("--from", dest="smallest", metavar="SIZE", help="smallest artifact (default: CSF / 1000)")
    command.add_argument("--to", dest="largest", metavar="SIZE", help="largest artifact (default: CSF / 4)")
    command.add_argument(
        "--points", action=step.WholeNumber, least=1, below=1001, default=5, help="sizes a method (default: 5)"
    )
    add_reading(command)


def _run(options: argparse.Namespace) -> None:
    """Print what goes below ``experiments.<name>.settings`` in params.yaml."""
    from pipeline.baselines.lossless import csf_bytes
    from pipeline.commands.search import automatic_grid

    plain_name(options.name, "--name")
    X = read_tensor(options.tensor, Reading.of(options))
    csf = csf_bytes(X)
    smallest = parse_bytes(options.smallest, "--from") if options.smallest else max(256, csf // 1000)
    largest = parse_bytes(options.largest, "--to") if options.largest else max(csf // 4, smallest)
    if smallest > largest:
        raise InputError(f"--from {smallest:,} bytes: above --to {largest:,} bytes; give --from, --to")
    print(f"# {X}: {csf:,} bytes in compressed sparse fibres; sizes from {smallest:,} to {largest:,} bytes")
    print(f"{options.name}:")
    for method, settings in automatic_grid(X, smallest, largest, options.points).items():
        print(f"  {method}: {json.dumps(settings).replace(chr(34), '')}")
