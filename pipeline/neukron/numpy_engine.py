"""The engine of a few cells: NumPy alone, so that an answer waits for no compiled kernels and no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.weights import PlainWeights

FEW = 1024  # cells up to which this is faster than loading the compiled kernels, which takes half a second


class NumpyEngine(Engine):
    """LSTM in float64, each cell along its own path; the compiled kernels' float32 differs by about 1e-6 of a value."""

    uses_torch = False

    def default_chunk(self) -> int:
        """Cells in a chunk: all, for there are few."""
        return FEW

    def products(self, weights: PlainWeights, keys: Keys) -> npt.NDArray[Any]:
        """See :meth:`Engine.products`; (n,) float64."""
        levels, tokens = self.levels, self.levels.tokens(keys)
        table, recurrent = weights.table.astype(np.float64), weights.recurrent.T.astype(np.float64)
        heads = {size: [part.astype(np.float64) for part in pair] for size, pair in weights.heads.items()}
        result = weights.first.astype(np.float64)[tokens[:, 0]]
        cell = hidden = np.zeros((len(tokens), self.hidden))
        for level in range(1, levels.depth):
            row = table[levels.embedding_offset(level) + tokens[:, level - 1]]
            entry, forget, new, out = np.split(row + hidden @ recurrent, 4, axis=1)
            cell = _sigmoid(forget) * cell + _sigmoid(entry) * np.tanh(new)
            hidden = _sigmoid(out) * np.tanh(cell)
            weight, bias = heads[levels.alphabets[level]]
            factors = np.logaddexp(0.0, hidden @ weight.T + bias)
            chosen = np.take_along_axis(factors, tokens[:, level, None], axis=1)[:, 0]
            result *= chosen / np.linalg.norm(factors, axis=1)
        return result

    def gradient(self, weights: Any, keys: Keys, factors: npt.NDArray[np.float64]) -> Any:
        """None: it answers only."""
        raise NotImplementedError


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 0.5 + 0.5 * np.tanh(0.5 * x)
