"""Evaluate the model on many cells at once, on the prefix tree of their sorted keys.

Cells that share a prefix of tokens share the sequence model's state after it, so the model is stepped once
for each distinct prefix instead of once for each cell and level; a parent's recurrent product is computed
once for all its children; a token's input product is a row of a table. Sorted keys are cut into chunks, and
each chunk is a tree of its own: memory stays bounded, chunks run on as many threads as there are, and
because their borders do not depend on the number of threads, neither do the results.

Both engines answer the same two questions about normalised products P (the approximation is scale * P):
``products`` gives P, ``gradient`` the sum of w * P and its gradient by every weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.model import SequenceModel, Weights


class WeightedSum(torch.autograd.Function):
    """Sum of w * P as a differentiable function of the weights; P comes along for free."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        structure: Weights,
        keys: Keys,
        factors: npt.NDArray[np.float64],
        products: list[npt.NDArray[np.float32]],
        *tensors: Tensor,
    ) -> Tensor:
        """Evaluate, keep the gradients, and append P to `products`."""
        detached = structure.replace([tensor.detach() for tensor in tensors])
        total, values, gradients = engine.gradient(detached, keys, factors)
        products.append(values)
        ctx.save_for_backward(*gradients)
        return torch.tensor(total, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients kept by the forward pass."""
        scaled = [gradient * grad.to(gradient) for gradient in ctx.saved_tensors]
        return None, None, None, None, None, *scaled


def weighted_sum(
    engine: Engine, model: SequenceModel, keys: Keys, factors: npt.NDArray[np.float64]
) -> tuple[Tensor, npt.NDArray[np.float32]]:
    """Return sum of ``factors * P`` over sorted `keys`, differentiable by the model's parameters, and P."""
    weights = Weights.of(model)
    products: list[npt.NDArray[np.float32]] = []
    total: Tensor = WeightedSum.apply(  # type: ignore[no-untyped-call]
        engine, weights, keys, factors, products, *weights.tensors()
    )
    return total, products[0]
