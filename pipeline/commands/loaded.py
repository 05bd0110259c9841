"""The fitted compressor in an artifact that a command is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.neukron import NeuKron
    from pipeline.runs.compressor import Compressor


def load_compressor(path: Path) -> Compressor:
    """Load, and say where it answers in an order of its own."""
    import pipeline
    from pipeline.runs.compressor import Compressor

    model = pipeline.load(path)
    if not isinstance(model, Compressor):
        raise InputError(f"{path}: holds a network, not a compressed tensor")
    if getattr(model, "orders_", ()) is None:
        print(f"{path}: no orders stored, indices are positions in the model's own order", file=sys.stderr)
    return model


def as_neukron(model: Compressor, option: str) -> NeuKron:
    """The model itself where it is NeuKron."""
    from pipeline.neukron import NeuKron

    if not isinstance(model, NeuKron):
        raise InputError(f"{option}: for NeuKron only; this artifact is of method '{model.name}'")
    return model
