"""Which engine evaluates a model where."""

from __future__ import annotations

from pipeline.neukron.engine import COMPILED, CompiledEngine, Engine
from pipeline.neukron.levels import Levels
from pipeline.neukron.torch_engine import TorchEngine


def make_engine(levels: Levels, hidden: int, device: str, threads: int = 1, chunk: int | None = None) -> Engine:
    """The fastest engine for a device: compiled kernels on a CPU that has numba, torch anywhere else."""
    if device == "cpu" and COMPILED:
        return CompiledEngine(levels, hidden, threads, chunk)
    return TorchEngine(levels, hidden, device, chunk)
