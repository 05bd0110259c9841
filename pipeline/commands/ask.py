"""``kronflow query``: cells of a compressed tensor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.command_line import Commands, add_command
from pipeline.commands.loaded import as_neukron, load_compressor
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.runs.compressor import Compressor


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "query", _run, "Approximate single cells, in the tensor's own indices.")
    command.add_argument("artifact", type=Path)
    command.add_argument("index", type=int, nargs="*", help="one index for each mode, 0-based")
    command.add_argument(
        "--file", type=Path, help="text file with one cell a line: indices separated by commas or spaces"
    )
    command.add_argument("--top", type=int, metavar="K", help="the K largest cells, found without a full scan")
    command.add_argument("--at", action="append", default=[], metavar="MODE=INDEX", help="with --top: in this slice")


def _run(options: argparse.Namespace) -> None:
    """Print one value a line, or the largest cells with their indices."""
    import numpy as np

    model = load_compressor(options.artifact)
    if (options.top is not None) + bool(options.index) + (options.file is not None) != 1:
        raise InputError("query: give one of: the indices of one cell, --file with many, --top")
    if options.at and options.top is None:
        raise InputError("--at: goes with --top")
    if options.top is not None:
        _print_largest(model, options.top, _parse_slice(options.at))
        return
    if not all(map(_fits, options.index)):
        raise InputError(f"query: {' '.join(map(str, options.index))}: outside a tensor of shape {model.shape_}")
    coords = _read_cells(options.file) if options.file else np.array([options.index], dtype=np.int64)
    for value in model.predict(coords):
        print(f"{value:.9g}")


def _print_largest(model: Compressor, count: int, fixed: dict[int, int]) -> None:
    coords, values = as_neukron(model, "--top").largest(count, fixed)
    for cell, value in zip(coords.tolist(), values, strict=True):
        print(*cell, f"{value:.9g}")


def _parse_slice(pairs: list[str]) -> dict[int, int]:
    fixed = {}
    for pair in pairs:
        mode, _, index = pair.partition("=")
        if not mode.isdecimal() or not index.isdecimal():
            raise InputError(f"--at {pair}: write MODE=INDEX, for example --at 0=3 for row 3")
        if int(mode) in fixed:
            raise InputError(f"--at {pair}: mode {mode} is given twice")
        fixed[int(mode)] = int(index)
    return fixed


def _fits(index: int) -> bool:
    """Whether it is a number of 64 bits."""
    return -(2**63) <= index < 2**63


def _read_cells(path: Path) -> Any:
    import numpy as np

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text file ({error}); write one cell a line, for example '3, 17'") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        parts = line.partition("#")[0].replace(",", " ").split()
        if parts:
            try:
                rows.append([int(part) for part in parts])
            except ValueError:
                raise InputError(f"{path}:{number}: '{line}': indices are whole numbers") from None
            if not all(map(_fits, rows[-1])):
                raise InputError(f"{path}:{number}: '{line}': outside of any tensor")
            if len(rows[-1]) != len(rows[0]):
                raise InputError(f"{path}:{number}: {len(rows[-1])} indices, the lines before have {len(rows[0])}")
    if not rows:
        raise InputError(f"{path}: no cells in it; write one a line, for example '3, 17'")
    return np.array(rows, dtype=np.int64)
