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

    model = pipeline.load(path)
    if not isinstance(model, Compressor):
        raise InputError(f"{path}: holds a network, not a compressed tensor")
    if not model.own_indices_:
        print(f"{path}: {NO_ORDERS}", file=sys.stderr)
    return model


NO_ORDERS = "no orders stored, indices are positions in the model's own order"
