"""The engine of a few cells: NumPy alone, so that an answer waits for no compiled kernels and no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.weights import PlainSteps, PlainWeights

FEW = 1024  # cells up to which this is faster than loading the compiled kernels, which takes half a second


class NumpyEngine(Engine):
    """LSTM in float64, each cell along its own path; the compiled kernels' float32 differs by about 1e-6 of a value."""

    uses_torch = False

    def default_chunk(self) -> int:
        """Cells in a chunk: all, for there are few."""
        return FEW

    def products(self, weights: PlainWeights, keys: Keys) -> npt.NDArray[Any]:
        """See :meth:`Engine.products`; (n,) float64.

        Weights of a damaged file may give what is not finite; the caller refuses it, so NumPy need not warn.
        """
        with np.errstate(all="ignore"):
            return self._products(weights, keys)

    def _products(self, weights: PlainWeights, keys: Keys) -> npt.NDArray[np.float64]:
        levels, tokens = self.levels, self.levels.tokens(keys)
        steps = PlainSteps(weights.in_double())
        result = steps.first[tokens[:, 0]]
        parents, state = np.zeros(len(tokens), dtype=np.int64), steps.start()
        for level in range(1, levels.depth):
            state = steps.step(state, parents, levels.embedding_offset(level) + tokens[:, level - 1])
            parents = np.arange(len(tokens))
            factors = steps.factors(levels.alphabets[level], state)
            result *= np.take_along_axis(factors, tokens[:, level, None], axis=1)[:, 0]
        return result

    def gradient(self, weights: Any, keys: Keys, factors: npt.NDArray[np.float64]) -> Any:
        """None: it answers only."""
        raise NotImplementedError
