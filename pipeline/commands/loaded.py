"""The fitted compressor in an artifact that a command is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.runs.compressor import Compressor


def load_compressor(path: Path) -> Compressor:
    """Load, and say where it answers in an order of its own."""
    import pipeline
    from pipeline.runs.compressor import Compressor

    refuse_data(path)
    model = pipeline.load(path)
    if not isinstance(model, Compressor):
        raise InputError(f"{path}: holds a network, not a compressed tensor")
    if not model.own_indices_:
        print(f"{path}: {NO_ORDERS}", file=sys.stderr)
    return model


def refuse_data(path: Path) -> None:
    """Say it where a file is, by its name, no artifact but data.

    Raises
    ------
    InputError
        It is.
    """
    if path.is_file() and path.suffix != ".safetensors":
        from pipeline.datasets import kind_of

        if known := kind_of(path):
            raise InputError(f"{path}: {known} by its name, no artifact; make one with 'kronflow compress'")


NO_ORDERS = "no orders stored, indices are positions in the model's own order"
