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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights

Keys = npt.NDArray[np.int64]
Result = TypeVar("Result")


class Engine(ABC):
    """Evaluates a model with given level structure.

    Parameters
    ----------
    levels
        The level structure.
    hidden
        Hidden size h.
    chunk
        Cells evaluated together; a suitable number for the engine if left out.
    threads
        Chunks computed side by side; they do not change a bit of the results.
    """

    device = torch.device("cpu")

    def __init__(self, levels: Levels, hidden: int, chunk: int | None = None, threads: int = 1) -> None:
        self.levels = levels
        self.hidden = hidden
        self.chunk = chunk or self.default_chunk()
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    @abstractmethod
    def default_chunk(self) -> int:
        """Cells in a chunk that keep its working set small and its matrix products large."""

    @abstractmethod
    def products(self, weights: Weights, keys: Keys) -> npt.NDArray[np.float32]:
        """P of every key; `keys` (words, n) must be sorted. Returns (n,) float32."""

    @abstractmethod
    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """Sum of ``factors * P``, P itself, and the sum's gradient by each of ``weights.tensors()``."""

    def pieces(self, count: int, most: int | None = None) -> Iterator[slice]:
        """Chunk borders for `count` keys; chunks of at most `most` keys."""
        chunk = min(self.chunk, most or self.chunk)
        for start in range(0, count, chunk):
            yield slice(start, min(start + chunk, count))

    def _on_threads(
        self, work: Callable[[slice], Result], pieces: list[slice], prepare: Callable[[], object] | None = None
    ) -> Iterator[Result]:
        """Run `work` on every piece, results in the order of the pieces; threads that are started `prepare` first."""
        if self.threads == 1 or len(pieces) == 1:
            yield from map(work, pieces)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, initializer=prepare)
            yield from self._pool.map(work, pieces)


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
