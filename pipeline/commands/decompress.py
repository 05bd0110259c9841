"""``kronflow decompress``: a block of cells, or the largest ones, as a sparse tensor."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.commands.command_line import Commands, add_command
from pipeline.commands.loaded import as_neukron, load_compressor
from pipeline.errors import InputError


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "decompress",
        _run,
        "Write a block of cells, or the largest among given cells, as a sparse tensor.",
    )
    command.add_argument("artifact", type=Path)
    command.add_argument("output", type=Path, help="Parquet sparse tensor to write")
    command.add_argument("--block", help="ranges of every mode, for example 0:10,5:25 (default: everything)")
    command.add_argument("--top", type=int, help="keep only so many largest values")
    command.add_argument("--among", type=Path, help="Parquet sparse tensor whose non-zeros are the cells to look at")
    command.add_argument(
        "--limit", type=int, default=1 << 24, help="refuse to look at more cells (default: 16,777,216)"
    )


def _run(options: argparse.Namespace) -> None:
    """Predict the wanted cells and write those that are not zero."""
    import numpy as np

    from pipeline.sparse import SparseTensor

    model = load_compressor(options.artifact)
    if options.top is not None and options.top < 1:
        raise InputError(f"--top {options.top}: at least 1")
    if options.block and options.among:
        raise InputError("--block and --among: give one of them")
    if options.top and model.name == "neukron" and not options.block and not options.among:
        coords, values = as_neukron(model, "--top").largest(options.top)
    else:
        coords = _wanted_cells(model.shape_, options.block, options.among, options.limit)
        values = model.predict(coords)
    if options.top is not None:
        keep = np.argsort(-np.abs(values), kind="stable")[: options.top]
        coords, values = coords[keep], values[keep]
    X = SparseTensor(coords, values, model.shape_, source={"artifact": options.artifact.name})
    X.write_parquet(options.output)
    print(f"{options.output}: {X}")


def _wanted_cells(shape: Sequence[int], block: str | None, among: Path | None, limit: int) -> Any:
    from pipeline.commands.source import read_tensor
    from pipeline.runs.compressor import cells_within

    if among:
        return read_tensor(among).coords
    ranges = _parse_block(block, shape) if block else [(0, size) for size in shape]
    cells = math.prod(stop - start for start, stop in ranges)
    if cells > limit:
        raise InputError(f"{cells:,} cells, more than {limit:,}: narrow --block, or raise --limit")
    return cells_within([range(start, stop) for start, stop in ranges])


def _parse_block(text: str, shape: Sequence[int]) -> list[tuple[int, int]]:
    parts = text.split(",")
    if len(parts) != len(shape):
        raise InputError(
            f"--block {text}: {len(parts)} ranges for {len(shape)} modes; write one a mode, like 0:10,5:25"
        )
    ranges = []
    for part, size in zip(parts, shape, strict=True):
        start, colon, stop = part.partition(":")
        try:
            low, high = int(start or 0), int(stop or size) if colon else int(start) + 1
        except ValueError:
            raise InputError(f"--block {text}: '{part}' is no range; write start:stop") from None
        if not 0 <= low < high <= size:
            raise InputError(f"--block {text}: '{part}' is not within 0:{size}")
        ranges.append((low, high))
    return ranges
