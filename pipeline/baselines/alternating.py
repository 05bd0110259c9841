"""What decompositions by alternating least squares share: their settings, and when they end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.baselines.base import Baseline
from pipeline.core.settings import seed, setting
from pipeline.runs.compressor import clipped_error


class Alternating(Baseline):
    """Factor matrices, improved mode by mode until the fit stands still.

    Parameters
    ----------
    max_sweeps
        Sweeps over the modes at most.
    tolerance
        Stop when a sweep changes the fit, 1 - sqrt(error / norm2), by less than this.
    """

    stochastic = True
    least_order = 2

    rank: int | None = setting(None, at_least=1)
    max_sweeps: int = setting(50, at_least=1)
    tolerance: float = setting(1.0e-4, at_least=0, at_most=1)
    seed: int = seed()

    def _alternate(self, norm2: float, sweep: Callable[[], float]) -> None:
        """Call `sweep`, which improves every factor once and returns the squared error, until it gains too little."""
        fit = -np.inf
        for _ in range(self.max_sweeps):
            error = clipped_error(sweep(), norm2)
            before, fit = fit, 1.0 - float(np.sqrt(error / norm2))
            self._record(error, fit=fit)
            if abs(fit - before) < self.tolerance:
                break
