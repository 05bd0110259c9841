"""The console script: compress a tensor, look into an artifact, ask it, unpack it."""

from __future__ import annotations

from pipeline import __version__
from pipeline.commands import ask, compress, decompress, frontier, grid, import_reference, info, list_runs, pull
from pipeline.core import step

EXAMPLES = """examples:
  kronflow compress matrix.mtx matrix.safetensors --set hidden=8 --set max_epochs=100
  kronflow compress matrix.mtx matrix.safetensors --bytes 20kB
  kronflow frontier matrix.mtx envelope.svg
  kronflow grid matrix.mtx --name mine
  kronflow info matrix.safetensors
  kronflow query matrix.safetensors 3 17
  kronflow query matrix.safetensors --file coords.csv
  kronflow query matrix.safetensors --top 10 --at 0=3
  kronflow decompress matrix.safetensors top.parquet --top 1000 --among matrix.parquet
  kronflow list https://host/group/models.git@v1
  kronflow pull https://host/group/models.git@v1 flights/neukron/h15-s0 -o m.safetensors
"""
COMMANDS = (compress, frontier, grid, info, ask, decompress, list_runs, pull, import_reference)


def main(argv: list[str] | None = None) -> None:
    """Run one of the commands."""
    arguments = step.parser("Compress sparse matrices and tensors, and use what came of it.", EXAMPLES)
    arguments.prog = "kronflow"
    arguments.add_argument("--version", action="version", version=f"kronflow {__version__}")
    commands = arguments.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    options = arguments.parse_args(argv)
    options.run(options)


def run() -> None:
    """Entry point of the console script."""
    step.run(main)


if __name__ == "__main__":
    run()
