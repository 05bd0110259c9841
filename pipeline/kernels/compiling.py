"""How kernels are compiled: for which processor, with a line that says so, and how long it took.

Importing it needs Numba. Whatever module has compiled functions imports it before any of them is compiled, so that
all are compiled for the same target, whatever came first, and no first use is silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numba
import numba.core.event as events
from numba.core.caching import FunctionCache

LINE = "kernels: compiling for this processor, once (up to a minute; `python -m pipeline.compile_kernels` does all)"


def features() -> set[str]:
    """What this processor has beyond the least."""
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def _prefer_wide_vectors() -> None:
    """Let LLVM use 512-bit registers where there are any; its default of 256 costs a third of the speed here.

    Has an effect only before Numba compiles its first function.
    """
    config: Any = numba.config
    if config.CPU_FEATURES is None and "avx512f" in features():
        config.CPU_NAME = llvm.get_host_cpu_name()
        config.CPU_FEATURES = ",".join([*(f"+{name}" for name in sorted(features())), "-prefer-256-bit"])


_prefer_wide_vectors()


class _Watch(events.Listener):
    """Hears of every function that is compiled, not of those that come from the cache."""

    said = False
    open = 0  # a function compiles those that it calls
    started = 0.0
    seconds = 0.0

    def on_start(self, event: Any) -> None:
        """Begin to count; the first time with a line."""
        if not _ours(event):
            return
        if not self.said:
            from tqdm import tqdm

            self.said = True
            tqdm.write(LINE, file=sys.stderr)  # above a progress bar where there is one
        if self.open == 0:
            self.started = time.perf_counter()
        self.open += 1

    def on_end(self, event: Any) -> None:
        """Stop counting."""
        if _ours(event):
            self.open -= 1
            if self.open == 0:
                self.seconds += time.perf_counter() - self.started


def _ours(event: Any) -> bool:
    return bool(event.data["dispatcher"].py_func.__module__.startswith("pipeline."))


_watch = _Watch()
events.register("numba:compile", _watch)  # type: ignore[no-untyped-call]


def seconds() -> float:
    """Wall time that this process has spent compiling so far."""
    return _watch.seconds


class _Forgiving(FunctionCache):
    """Numba's cache of one function, which goes without where it cannot be written."""

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep the compiled code for other processes, if that is possible."""
        try:
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]
        except OSError:
            self.disable()  # type: ignore[no-untyped-call]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: as ``numba.njit(cache=True, nogil=True, **options)``, and compiled anew where no disk took it."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(cache=True, nogil=True, **options)(function)
        dispatcher._cache = _Forgiving(function)  # type: ignore[no-untyped-call]
        return dispatcher

    return decorate
