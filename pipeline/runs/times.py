"""Where the time of a fit went."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Times:
    """Seconds of a fit, for ``metrics.json``.

    Attributes
    ----------
    setup_seconds
        Wall time before the fit's clock starts: imports, and compiling what is not in the cache.
    seconds
        Wall time of the fit without that.
    order_seconds
        Of `seconds`, what choosing and searching the orders of the modes took; None for a method without a search.
        With ``order_init=auto`` the trial trainings of NeuKron's initial orders are in it.
    cpu_seconds
        Processor time of all threads in `seconds`, summed over the processes that share a fit.
    """

    setup_seconds: float = 0.0
    seconds: float = 0.0
    order_seconds: float | None = None
    cpu_seconds: float = 0.0

    @property
    def model_seconds(self) -> float | None:
        """The rest of `seconds`, where the search of the orders is told apart."""
        return None if self.order_seconds is None else max(0.0, self.seconds - self.order_seconds)

    @contextmanager
    def setting_up(self) -> Iterator[None]:
        """Count as set-up."""
        started = time.perf_counter()
        yield
        self.setup_seconds += time.perf_counter() - started

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """Count as the fit."""
        started, busy = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - busy

    @contextmanager
    def ordering(self) -> Iterator[None]:
        """Count as search of orders, within :meth:`fitting`."""
        started = time.perf_counter()
        yield
        self.order_seconds = (self.order_seconds or 0.0) + time.perf_counter() - started


def compiling_seconds() -> float:
    """Seconds that this process has spent on compiling kernels."""
    module = sys.modules.get("pipeline.kernels.compiling")
    return module.seconds() if module else 0.0
