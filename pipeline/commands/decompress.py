"""``kronflow decompress``: a block of cells, or the largest ones, in the format that the output's name tells."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.command_line import Commands, add_command
from pipeline.commands.loaded import load_compressor
from pipeline.commands.naming import Naming
from pipeline.commands.written import ENDINGS, check_written, write_tensor
from pipeline.core import step
from pipeline.core.files import refuse_clashes
from pipeline.core.step import whole_number
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.runs.compressor import Compressor

LIMIT = 1 << 24


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands, "decompress", _run, "Write a block of cells, or the largest among given cells, as a sparse tensor."
    )
    command.add_argument("artifact", type=Path, help="an artifact, for example model.safetensors")
    command.add_argument("output", type=Path, help=f"file to write; its ending tells how: {', '.join(ENDINGS)}")
    command.add_argument("--block", help="ranges of every mode, for example 0:10,5:25 (default: everything)")
    command.add_argument("--top", action=step.WholeNumber, least=1, help="keep only so many largest values")
    command.add_argument("--among", type=Path, help="tensor whose non-zeros are the cells to look at")
    command.add_argument("--index", action="store_true", help="indices from 0 also where there are labels")
    command.add_argument(
        "--limit",
        action=step.WholeNumber,
        least=1,
        default=LIMIT,
        help=f"refuse to look at more cells (default: {LIMIT:,})",
    )


def _run(options: argparse.Namespace) -> None:
    """Predict the wanted cells and write those that are not zero."""
    from pipeline.sparse import SparseTensor
    from pipeline.sparse.reals import beyond_whole_numbers, in_reals

    if options.block and options.among:
        raise InputError("--block and --among: give one of them")
    check_written(options.output)
    refuse_clashes([options.artifact, options.among], [options.output])  # files of labels: write_parquet
    model = load_compressor(options.artifact)
    coords, values = _wanted(model, options.block, options.among, options.top, options.limit)
    if not values.any():
        raise InputError(f"{options.output}: all {len(values):,} cells are zero, and a file of no entries is none")
    names = model.about_.mode_names or None
    naming = Naming(model, options.index)
    source = {"artifact": options.artifact.name}
    X = SparseTensor(coords, values, model.shape_, mode_names=names, source=source, labels=naming.labels)
    write_tensor(X, options.output)
    print(f"{options.output}: {X}")
    if line := in_reals(beyond_whole_numbers(X.values)):
        print(line, file=sys.stderr)


def _wanted(model: Compressor, block: str | None, among: Path | None, top: int | None, limit: int) -> tuple[Any, Any]:
    """Coordinates and values of the cells to write."""
    import numpy as np

    from pipeline.commands.source import read_tensor
    from pipeline.runs.compressor import cells_within, largest_of

    ranges = _parse_block(block, model.shape_) if block else [(0, size) for size in model.shape_]
    held = model.held_cells()
    if among is not None:
        cells = read_tensor(among)
        if cells.shape != model.shape_:
            raise InputError(f"--among {among}: of shape {cells.shape}, the artifact's is {model.shape_}")
        coords, values = cells.coords, model.predict(cells.coords)
    elif held is not None:
        low, high = np.array(ranges).T
        inside = np.all((held[0] >= low) & (held[0] < high), axis=1)
        coords, values = held[0][inside], held[1][inside]
    elif top and not block and math.prod(model.shape_) > limit:
        return model.largest(top)
    else:
        used = model.frame_.used  # cells of an index that never occurs are zero
        indices: list[Any] = [
            used[mode][(used[mode] >= start) & (used[mode] < stop)] if mode in used else range(start, stop)
            for mode, (start, stop) in enumerate(ranges)
        ]
        count = math.prod(map(len, indices))
        if count > limit:
            raise InputError(f"{count:,} cells, more than {limit:,}: narrow --block, or raise --limit")
        coords = cells_within(indices)
        values = model.predict(coords)
    return largest_of(coords, values, top) if top else (coords, values)


def _parse_block(text: str, shape: Sequence[int]) -> list[tuple[int, int]]:
    parts = text.split(",")
    if len(parts) != len(shape):
        raise InputError(
            f"--block {text}: {len(parts)} ranges for {len(shape)} modes; write one a mode, like 0:10,5:25"
        )
    ranges = []
    for part, size in zip(parts, shape, strict=True):
        start, colon, stop = part.partition(":")
        low = whole_number(start or "0")
        high = whole_number(stop or str(size)) if colon else None if low is None or not start else low + 1
        if low is None or high is None:
            raise InputError(f"--block {text}: '{part}' is no range; write start:stop")
        if not 0 <= low < high <= size:
            raise InputError(f"--block {text}: '{part}' is not within 0:{size}")
        ranges.append((low, high))
    return ranges
