"""``kronflow query``: cells of a compressed tensor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.command_line import Commands, add_command
from pipeline.commands.loaded import load_compressor
from pipeline.commands.naming import Naming, number
from pipeline.core import step
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.runs.compressor import Compressor

EXAMPLES = """examples:
  kronflow query matrix.safetensors 3 17
  kronflow query clicks.safetensors ann book          by label, where the artifact has labels
  kronflow query clicks.safetensors --index 3 17      by index from 0
  kronflow query clicks.safetensors --file cells.csv
  kronflow query clicks.safetensors --top 10 --at item=book"""


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands, "query", _run, "Approximate single cells, by the labels or the indices of the tensor."
    )
    command.epilog = EXAMPLES
    command.add_argument("artifact", type=Path, help="an artifact, for example model.safetensors")
    command.add_argument("cell", nargs="*", help="one label for each mode, or where it has none an index from 0")
    command.add_argument(
        "--index",
        nargs="*",
        metavar="I",
        help="one cell by indices from 0, also where there are labels; alone: all are",
    )
    command.add_argument("--file", type=Path, help="text file with one cell a line, separated by commas or spaces")
    command.add_argument(
        "--top", action=step.WholeNumber, least=1, metavar="K", help="the K largest cells, found without a full scan"
    )
    command.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="MODE=INDEX",
        help="with --top: in this slice; mode by name or number",
    )


def _run(options: argparse.Namespace) -> None:
    """Print one value a line, or the largest cells and their values."""
    import numpy as np

    if options.index and options.cell:
        raise InputError("query: give the cell by label or by --index, not both")
    cell = options.cell or options.index
    if (options.top is not None) + bool(cell) + (options.file is not None) != 1:
        raise InputError("query: give one of: one cell, --file with many, --top")
    if options.at and options.top is None:
        raise InputError("--at: goes with --top")
    model = load_compressor(options.artifact)
    naming = Naming(model, options.index is not None)
    if options.top is not None:
        _print_largest(model, naming, options.top, naming.fixed(options.at))
        return
    coords = naming.file(options.file) if options.file else np.array([naming.cell(cell)], dtype=np.int64)
    values = model.predict(coords)
    naming.tell(values)
    print("\n".join(map(number, values)))


def _print_largest(model: Compressor, naming: Naming, count: int, fixed: dict[int, int]) -> None:
    coords, values = model.largest(count, fixed)
    naming.tell(values)
    for cell, value in zip(coords.tolist(), values, strict=True):
        print(*naming.words(cell), number(value))
