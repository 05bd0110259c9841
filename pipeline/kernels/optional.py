"""Decorators of inner loops that are compiled where Numba is installed and plain Python where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

try:
    import numba
    from numba import prange

    from pipeline.kernels import compiling
except ImportError:
    numba = None  # type: ignore[assignment]
    prange = range  # type: ignore[misc]

__all__ = ["compiled", "compiled_parallel", "inlined", "prange"]
Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile to machine code, kept beside the module between processes. No reordering of sums, no fused products."""
    return cast(Function, compiling.compiled()(function)) if numba else function


def inlined(function: Function) -> Function:
    """Write out in every compiled caller, which is thus compiled whole: the same bits from the cache and afresh."""
    return cast(Function, numba.njit(inline="always")(function)) if numba else function


def compiled_parallel(function: Function) -> Function:
    """Compile with ``prange`` loops spread over the threads."""
    return cast(Function, compiling.compiled(parallel=True)(function)) if numba else function
