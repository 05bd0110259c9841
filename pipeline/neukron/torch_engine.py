"""The prefix tree with torch operations and autograd: every cell, CUDA, float64, CPUs without numba."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.engine import Engine, Keys, Result
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import Weights
from pipeline.neukron.threads import one_thread

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LOUDNESS = 1024.0  # sum of |w P| in a chunk while gradients are taken: float16 then neither over- nor underflows
SMALLEST_CHUNK = 256


class TorchEngine(Engine):
    """Evaluates each chunk's tree level by level with torch operations; gradients by autograd.

    Parameters
    ----------
    levels, hidden, chunk
        See :class:`Engine`. Cells with large states get smaller chunks.
    device
        Where to compute.
    threads
        On a CPU, chunks computed side by side; they do not change a bit of the results.
    precision
        ``float32``, or ``bfloat16`` or ``float16`` for the sequence model and the output layers' products.
        Gradients by the weights, factors, their products and all sums over cells keep full precision.
    """

    def __init__(
        self,
        levels: Levels,
        hidden: int,
        device: str = "cpu",
        chunk: int | None = None,
        threads: int = 1,
        precision: str = "float32",
    ) -> None:
        self.device = torch.device(device)
        super().__init__(levels, hidden, chunk, threads)
        self.precision = PRECISIONS[precision]

    def default_chunk(self) -> int:
        """Large on a GPU, whose launches cost more than its memory."""
        return 1 << 18 if self.device.type == "cuda" else 1 << 13

    def products(self, weights: Weights, keys: Keys) -> npt.NDArray[np.float32]:
        """See :meth:`Engine.products`."""
        moved = weights.replace([tensor.detach().to(self.device) for tensor in weights.tensors()])

        def work(piece: slice) -> Tensor:
            with torch.no_grad():
                return self._leaves(moved, keys[:, piece]).cpu()

        result: npt.NDArray[np.float32] = torch.cat(list(self._run(work, weights, keys.shape[1]))).numpy()
        return result

    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """See :meth:`Engine.gradient`; sums over chunks are float64 in a fixed order."""
        detached = [tensor.detach().to(self.device) for tensor in weights.tensors()]

        def work(piece: slice) -> tuple[float, Tensor, list[Tensor]]:
            leaves = [tensor.clone().requires_grad_() for tensor in detached]
            with torch.enable_grad():
                products = self._leaves(weights.replace(leaves), keys[:, piece])
                shares = torch.from_numpy(factors[piece]).to(self.device) * products.double()
                loudness = 1.0 if self.precision == torch.float32 else _loudness(shares)
                total = shares.sum()
                gradients = torch.autograd.grad(loudness * total, leaves, materialize_grads=True)
            return float(total.detach()), products.detach().cpu(), [part.double() / loudness for part in gradients]

        total, parts = 0.0, []
        summed = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in detached]
        for share, products, gradients in self._run(work, weights, keys.shape[1]):
            total += share
            parts.append(products)
            for sum_, gradient in zip(summed, gradients, strict=True):
                sum_ += gradient
        result = [sum_.to(tensor) for sum_, tensor in zip(summed, weights.tensors(), strict=True)]
        return total, torch.cat(parts).numpy(), result

    def _run(self, work: Callable[[slice], Result], weights: Weights, count: int) -> Iterator[Result]:
        """Run `work` on every chunk; results in the order of the chunks."""
        large = max(1, weights.cell.numbers(self.hidden, self.levels.depth) // (2 * self.hidden))
        pieces = list(self.pieces(count, max(self.chunk // large, SMALLEST_CHUNK)))
        if self.device.type != "cpu":
            yield from map(work, pieces)
            return
        with one_thread():
            yield from self._on_threads(work, pieces, partial(torch.set_num_threads, 1))

    def _leaves(self, weights: Weights, keys: Keys) -> Tensor:
        """P of one chunk's keys."""
        levels = self.levels
        nodes, leaf = self._tree(torch.from_numpy(np.ascontiguousarray(keys)).to(self.device))
        full = weights.first.dtype
        state = weights.cell.start(weights.table, full if self.precision == torch.float32 else self.precision)
        product = weights.first[nodes[0][1]]
        for k in range(1, levels.depth):
            parent, token = nodes[k - 1]
            row = token + levels.embedding_offset(k)
            state = weights.cell.step(weights.table, weights.inner, state, parent, row)
            factors = weights.factors(levels.alphabets[k], state[0])
            parent, token = nodes[k]
            product = product[parent] * factors[parent, token]
        return product[leaf]

    def _tree(self, keys: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Parent and token of every node by depth 1..L, and each key's node at depth L."""
        nodes = []
        fresh = torch.zeros(keys.shape[1], dtype=torch.bool, device=self.device)
        fresh[0] = True
        above = torch.zeros(keys.shape[1], dtype=torch.int64, device=self.device)
        for (word, shift), alphabet in zip(self.levels.packing, self.levels.alphabets, strict=True):
            prefix = keys[word] >> shift
            fresh = fresh.clone()
            fresh[1:] |= prefix[1:] != prefix[:-1]
            nodes.append((above[fresh], prefix[fresh] & (alphabet - 1)))
            above = torch.cumsum(fresh, 0) - 1
        return nodes, above


def _loudness(shares: Tensor) -> float:
    """The power of two by which gradients are raised while they pass through short numbers."""
    loud = float(shares.detach().abs().sum())
    return 2.0 ** round(math.log2(LOUDNESS / loud)) if loud > 0 else 1.0
