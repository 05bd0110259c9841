"""Several processes that share the non-zeros of a tensor; see :mod:`pipeline.runs.shards`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.model import Weights
from pipeline.runs import distributed


class SharedEngine(Engine):
    """Each process evaluates keys of its own, none perhaps; sums over keys are over those of all processes.

    All processes take a gradient at the same time, with the same weights, and get the same bits.

    Parameters
    ----------
    engine
        What evaluates this process's keys.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.device = engine.device
        super().__init__(engine.levels, engine.hidden, engine.chunk)

    def default_chunk(self) -> int:
        """That of the engine within."""
        return self.engine.default_chunk()

    def products(self, weights: Weights, keys: Keys) -> npt.NDArray[np.float32]:
        """P of this process's keys."""
        return self.engine.products(weights, keys) if keys.shape[1] else np.empty(0, dtype=np.float32)

    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """Sum of ``factors * P`` over the keys of all processes, P of its own, the sum's gradients."""
        share, products = 0.0, np.empty(0, dtype=np.float32)
        gradients = [torch.zeros_like(tensor) for tensor in weights.tensors()]
        if keys.shape[1]:
            share, products, gradients = self.engine.gradient(weights, keys, factors)
        total = torch.tensor(share, dtype=torch.float64, device=self.device)
        moved = [gradient.to(self.device) for gradient in gradients]
        distributed.sum_over_processes(total, *moved)
        own = [gradient.to(tensor.device) for gradient, tensor in zip(moved, weights.tensors(), strict=True)]
        return float(total), products, own
