"""Several processes that share each evaluation; see :mod:`pipeline.runs.distributed`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.model import Weights
from pipeline.runs import distributed


class SharedEngine(Engine):
    """Gives each process a run of the sorted keys, and every process the whole result, the same bits.

    All processes call it alike, with the same arguments: whoever decides by its results alone decides alike.

    Parameters
    ----------
    engine
        What evaluates this process's part.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.device = engine.device
        super().__init__(engine.levels, engine.hidden, engine.chunk)

    def default_chunk(self) -> int:
        """That of the engine within."""
        return self.engine.default_chunk()

    def products(self, weights: Weights, keys: Keys) -> npt.NDArray[np.float32]:
        """See :meth:`Engine.products`."""
        part = _own_part(keys.shape[1])
        values = torch.zeros(keys.shape[1], device=self.device)
        if part.start < part.stop:
            values[part] = torch.from_numpy(self.engine.products(weights, keys[:, part])).to(self.device)
        distributed.sum_over_processes(values)
        result: npt.NDArray[np.float32] = values.cpu().numpy()
        return result

    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """See :meth:`Engine.gradient`."""
        part = _own_part(keys.shape[1])
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        values = torch.zeros(keys.shape[1], device=self.device)
        gradients = [torch.zeros_like(tensor, device=self.device) for tensor in weights.tensors()]
        if part.start < part.stop:
            share, products, own = self.engine.gradient(weights, np.ascontiguousarray(keys[:, part]), factors[part])
            total += share
            values[part] = torch.from_numpy(products).to(self.device)
            gradients = [gradient.to(self.device) for gradient in own]
        distributed.sum_over_processes(total, values, *gradients)
        moved = [gradient.to(tensor.device) for gradient, tensor in zip(gradients, weights.tensors(), strict=True)]
        return float(total), values.cpu().numpy(), moved


def _own_part(count: int) -> slice:
    """This process's share of `count` keys."""
    rank, size = distributed.rank(), distributed.size()
    return slice(rank * count // size, (rank + 1) * count // size)
