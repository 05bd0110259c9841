"""Which engine evaluates a model where, and how cells become keys for it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.neukron.engine import Engine
from pipeline.neukron.levels import Levels

if TYPE_CHECKING:
    from pipeline.neukron.model import Weights
    from pipeline.neukron.weights import PlainWeights

COMPILED = find_spec("numba") is not None  # a machine without it: torch operations serve the CPU as well


def make_engine(
    levels: Levels,
    hidden: int,
    device: str,
    threads: int = 1,
    chunk: int | None = None,
    cell: str = "lstm",
    precision: str = "float32",
) -> Engine:
    """The fastest engine for a device, a sequence model and a precision.

    That is the compiled kernels on a CPU that has numba, for an LSTM in float32; torch operations for all else.
    """
    if device == "cpu" and slower_because(device, cell, precision) is None:
        from pipeline.neukron.compiled_engine import CompiledEngine

        return CompiledEngine(levels, hidden, threads, chunk)
    from pipeline.neukron.torch_engine import TorchEngine

    return TorchEngine(levels, hidden, device, chunk, threads, precision)


def slower_because(device: str, cell: str, precision: str) -> str | None:
    """Why a CPU runs torch operations in place of its compiled kernels; None where it does not."""
    if device != "cpu":
        return None
    if cell != "lstm" or precision != "float32":
        return (
            f"cell={cell}, precision={precision} runs on torch operations: "
            "the faster compiled kernels are for cell=lstm, precision=float32"
        )
    return None if COMPILED else "numba is not installed: torch operations in place of the faster compiled kernels"


def shared(engine: Engine) -> Engine:
    """The engine itself, or among several processes one that sums over the keys of all of them."""
    from pipeline.neukron.shared_engine import SharedEngine
    from pipeline.runs import distributed

    return engine if distributed.size() == 1 else SharedEngine(engine)


def products_at(
    engine: Engine,
    weights: Weights | PlainWeights,
    coords: npt.NDArray[np.int64],
    orders: Sequence[npt.NDArray[np.int64]] | None,
) -> npt.NDArray[np.float64]:
    """P of cells in any sequence: sorts their keys for the engine and puts the results back in place.

    Parameters
    ----------
    coords
        (n, D) indices, modes in ascending size.
    orders
        For each mode the position of every index; identity if None.

    Returns
    -------
    (n,) float64.
    """
    products = np.empty(len(coords))
    if len(coords):
        keys, permutation = engine.levels.sorted_keys(coords, orders)
        products[permutation] = engine.products(weights, keys)
    return products
