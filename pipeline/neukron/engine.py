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

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights

try:
    from pipeline.neukron import kernels
except ImportError:  # a machine without numba: the torch path serves the CPU as well
    kernels = None  # type: ignore[assignment]

COMPILED = kernels is not None
Keys = npt.NDArray[np.int64]
GRADIENT_CHUNK = 1024  # a mini-batch is one chunk: smaller ones lose more to the interpreter than threads gain
Item = TypeVar("Item")


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
    """

    device = torch.device("cpu")

    def __init__(self, levels: Levels, hidden: int, chunk: int | None = None) -> None:
        self.levels = levels
        self.hidden = hidden
        self.chunk = chunk or self.default_chunk()

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


# ---------------------------------------------------------------------------------------------- compiled, CPU


@dataclass
class _Padded:
    """Weights laid out for the kernels: hidden units padded to `width`, matrices transposed for X @ W."""

    first: npt.NDArray[np.float32]
    table: npt.NDArray[np.float32]  # (rows, 4 width)
    recurrent: Tensor  # (width, 4 width)
    heads: dict[int, tuple[Tensor, Tensor]]  # (width, a), (a,)


class _Level:
    """A chunk's nodes at one depth and what the backward pass needs of them."""

    __slots__ = (
        "cell", "cell_before", "factors", "hidden", "norms", "outputs", "parent", "planes", "product", "tanh_cell",
        "token",
    )  # fmt: skip

    parent: Any
    token: Any
    product: Any
    planes: Any
    cell_before: Any
    cell: Any
    tanh_cell: Any
    hidden: Any
    outputs: Any
    factors: Any
    norms: Any


class _Arena:
    """Scratch memory of one thread, used again for every chunk: fresh pages cost as much as the arithmetic.

    :meth:`take` hands out arrays until :meth:`reset`; when they outgrow the block, the next reset enlarges it.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.float32)
        self._used = 0

    def reset(self) -> None:
        """Take back everything that was handed out."""
        if self._used > len(self._block):
            self._block = np.empty(self._used + self._used // 8, np.float32)
        self._used = 0

    def take(self, *shape: int) -> npt.NDArray[np.float32]:
        """An uninitialised array."""
        size = math.prod(shape)
        start = self._used
        self._used += -(-size // kernels.LANES) * kernels.LANES
        if self._used > len(self._block):
            return np.empty(shape, np.float32)
        return self._block[start : start + size].reshape(shape)


class _Workspace(threading.local):
    """Each thread's arenas: one for activations that are kept, two that take turns from level to level."""

    def __init__(self) -> None:
        self.kept = _Arena()
        self.turns = (_Arena(), _Arena())


class CompiledEngine(Engine):
    """Chunks on threads, each a sequence of small matrix products (torch) and compiled kernels (numba)."""

    def __init__(self, levels: Levels, hidden: int, threads: int = 1, chunk: int | None = None) -> None:
        super().__init__(levels, hidden, chunk)
        self.threads = threads
        self.width = -(-hidden // kernels.LANES) * kernels.LANES
        self._words = np.array([word for word, _ in levels.packing], dtype=np.int64)
        self._shifts = np.array([shift for _, shift in levels.packing], dtype=np.int64)
        self._alphabets = np.array(levels.alphabets, dtype=np.int64)
        self._offsets = [levels.embedding_offset(level) for level in range(1, levels.depth + 1)]
        self._workspace = _Workspace()
        self._pool: ThreadPoolExecutor | None = None

    def default_chunk(self) -> int:
        """About 24 MiB of kept activations, and at least 512 cells."""
        return int(np.clip((24 << 20) // (self.levels.depth * self.hidden * 32), 512, 8192))

    def products(self, weights: Weights, keys: Keys) -> npt.NDArray[np.float32]:
        """See :meth:`Engine.products`."""
        padded = self._pad(weights)
        result = np.empty(keys.shape[1], dtype=np.float32)

        def work(piece: slice) -> None:
            nodes, leaf = self._tree(keys[:, piece])
            result[piece] = self._forward(padded, nodes)[leaf]

        for _ in self._run(work, list(self.pieces(keys.shape[1]))):
            pass
        return result

    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """See :meth:`Engine.gradient`; sums over chunks are float64 in a fixed order."""
        padded = self._pad(weights)
        products = np.empty(keys.shape[1], dtype=np.float32)

        def work(piece: slice) -> _Padded:
            nodes, leaf = self._tree(keys[:, piece])
            self._workspace.kept.reset()
            products[piece] = self._forward_keep(padded, nodes)[leaf]
            below = np.bincount(leaf, factors[piece], len(nodes[-1].parent)).astype(np.float64)
            return self._backward(padded, nodes, below)

        total: list[Tensor] | None = None
        for partial in self._run(work, list(self.pieces(keys.shape[1], GRADIENT_CHUNK))):
            gradients = [tensor.double() for tensor in self._unpad(partial)]
            if total is None:
                total = gradients
            else:
                for sum_, gradient in zip(total, gradients, strict=True):
                    sum_ += gradient
        assert total is not None  # noqa: S101 - there is at least one key
        value = float(np.dot(factors, products.astype(np.float64)))
        return value, products, [tensor.to(torch.float32) for tensor in total]

    def _run(self, work: Callable[[slice], Item], pieces: list[slice]) -> Iterator[Item]:
        """Run `work` on every piece, results in the order of the pieces."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if self.threads == 1 or len(pieces) == 1:
                yield from map(work, pieces)
            else:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))
                yield from self._pool.map(work, pieces)
        finally:
            torch.set_num_threads(before)

    def _pad(self, weights: Weights) -> _Padded:
        h, width = self.hidden, self.width
        table = torch.zeros(len(weights.table), 4, width)
        table[:, :, :h] = weights.table.detach().view(-1, 4, h)
        recurrent = torch.zeros(width, 4, width)
        recurrent[:h, :, :h] = weights.recurrent.detach().view(4, h, h).permute(2, 0, 1)
        heads = {}
        for size, (weight, bias) in weights.heads.items():
            padded = torch.zeros(width, size)
            padded[:h] = weight.detach().T
            heads[size] = (padded, bias.detach())
        return _Padded(
            weights.first.detach().numpy(), table.view(-1, 4 * width).numpy(), recurrent.view(width, 4 * width), heads
        )

    def _unpad(self, padded: _Padded) -> list[Tensor]:
        h, width = self.hidden, self.width
        table = torch.from_numpy(padded.table).view(-1, 4, width)[:, :, :h].reshape(-1, 4 * h)
        recurrent = padded.recurrent.view(width, 4, width)[:h, :, :h].permute(1, 2, 0).reshape(4 * h, h)
        heads = [tensor for weight, bias in padded.heads.values() for tensor in (weight[:h].T, bias)]
        return [torch.from_numpy(padded.first), table, recurrent, *heads]

    def _tree(self, keys: Keys) -> tuple[list[_Level], npt.NDArray[np.int32]]:
        """Nodes of a chunk by depth (0 is the root) and each key's node at the last depth."""
        count, depth = keys.shape[1], self.levels.depth
        first = np.zeros(depth + 2, dtype=np.int64)
        parent = np.empty(count * depth, dtype=np.int32)
        token = np.empty(count * depth, dtype=np.int32)
        leaf = np.empty(count, dtype=np.int32)
        kernels.build_tree(keys, self._words, self._shifts, self._alphabets, first, parent, token, leaf)
        root = _Level()
        root.parent = root.token = np.zeros(1, dtype=np.int32)
        nodes = [root]
        for k in range(1, depth + 1):
            level = _Level()
            level.parent = parent[first[k] : first[k + 1]]
            level.token = token[first[k] : first[k + 1]]
            nodes.append(level)
        return nodes, leaf

    def _states(self, nodes: list[_Level], k: int) -> tuple[int, npt.NDArray[np.int32]]:
        """Number of nodes at depth k and their rows in the input table."""
        token = nodes[k].token
        return len(token), token + self._offsets[k - 1]

    def _recurrent(self, padded: _Padded, above: _Level, k: int, arena: _Arena) -> tuple[Any, Any]:
        """Recurrent products and cell states of the nodes above depth k; the start is all zero."""
        if k == 1:
            return np.zeros((1, 4 * self.width), np.float32), np.zeros((1, self.width), np.float32)
        products = arena.take(len(above.hidden), 4 * self.width)
        torch.mm(above.hidden, padded.recurrent, out=torch.from_numpy(products))
        return products, above.cell

    def _forward(self, padded: _Padded, nodes: list[_Level]) -> npt.NDArray[np.float32]:
        """P of every leaf, keeping only what the next depth needs."""
        width = self.width
        product: npt.NDArray[np.float32] = padded.first[nodes[1].token]
        for k in range(1, self.levels.depth):
            above, level, children = nodes[k - 1], nodes[k], nodes[k + 1]
            arena = self._workspace.turns[k % 2]
            arena.reset()
            count, rows = self._states(nodes, k)
            recurrent, cell_above = self._recurrent(padded, above, k, arena)
            planes, cell, hidden = arena.take(4, count * width), arena.take(count * width), arena.take(count * width)
            kernels.gather(recurrent, padded.table, level.parent, rows, cell_above, planes, cell)
            kernels.cell_forward(planes, cell, hidden, count * width)
            level.hidden, level.cell = torch.from_numpy(hidden).view(count, width), cell.reshape(count, width)
            factors = self._factors(padded, level, k, arena)
            below = np.empty(len(children.parent), np.float32)
            kernels.descend(factors, children.parent, children.token, product, below)
            product = below
        return product

    def _factors(self, padded: _Padded, level: _Level, k: int, arena: _Arena) -> npt.NDArray[np.float32]:
        """Normalised factors of level k + 1 at every node of depth k; outputs and norms are kept."""
        weight, bias = padded.heads[self.levels.alphabets[k]]
        count = len(level.hidden)
        level.outputs = torch.from_numpy(arena.take(count, len(bias)))
        torch.addmm(bias, level.hidden, weight, out=level.outputs)
        factors: npt.NDArray[np.float32] = torch.nn.functional.softplus(level.outputs).numpy()
        level.norms = arena.take(count)
        kernels.normalise(factors, level.norms)
        return factors

    def _forward_keep(self, padded: _Padded, nodes: list[_Level]) -> npt.NDArray[np.float32]:
        """P of every leaf, keeping every depth's activations in its level."""
        width, arena = self.width, self._workspace.kept
        nodes[1].product = padded.first[nodes[1].token]
        for k in range(1, self.levels.depth):
            above, level, children = nodes[k - 1], nodes[k], nodes[k + 1]
            turn = self._workspace.turns[k % 2]
            turn.reset()
            count, rows = self._states(nodes, k)
            recurrent, cell_above = self._recurrent(padded, above, k, turn)
            level.planes = arena.take(4, count * width)
            level.cell_before, cell, level.tanh_cell, hidden = arena.take(4, count * width)
            kernels.gather(recurrent, padded.table, level.parent, rows, cell_above, level.planes, level.cell_before)
            kernels.cell_forward_keep(level.planes, level.cell_before, cell, level.tanh_cell, hidden, count * width)
            level.hidden, level.cell = torch.from_numpy(hidden).view(count, width), cell.reshape(count, width)
            level.factors = self._factors(padded, level, k, arena)
            children.product = arena.take(len(children.parent))
            kernels.descend(level.factors, children.parent, children.token, level.product, children.product)
        result: npt.NDArray[np.float32] = nodes[-1].product
        return result

    def _backward(self, padded: _Padded, nodes: list[_Level], below: npt.NDArray[np.float64]) -> _Padded:
        """Gradients of one chunk, padded like the weights."""
        width, depth = self.width, self.levels.depth
        table = np.zeros_like(padded.table)
        recurrent = torch.zeros_like(padded.recurrent)
        heads = {
            size: (torch.zeros_like(weight), torch.zeros_like(bias)) for size, (weight, bias) in padded.heads.items()
        }
        grad_recurrent = grad_cell = None  # by the recurrent products and cell states of the depth at hand
        for k in range(depth - 1, 0, -1):
            level, children = nodes[k], nodes[k + 1]
            arena = self._workspace.turns[k % 2]
            arena.reset()
            count, rows = self._states(nodes, k)
            grad = arena.take(*level.factors.shape)
            below_above = np.empty(count)
            kernels.ascend(level.factors, children.parent, children.token, level.product, below, below_above, grad)
            below = below_above
            kernels.factor_backward(level.factors, level.norms, level.outputs.sigmoid_().numpy(), grad)
            weight, _ = padded.heads[self.levels.alphabets[k]]
            grad_outputs = torch.from_numpy(grad)
            heads[self.levels.alphabets[k]][0].addmm_(level.hidden.T, grad_outputs)
            heads[self.levels.alphabets[k]][1].add_(grad_outputs.sum(0))
            grad_hidden = torch.from_numpy(arena.take(count, width))
            torch.mm(grad_outputs, weight.T, out=grad_hidden)
            if grad_recurrent is None or grad_cell is None:
                grad_cell = np.zeros(count * width, np.float32)
            else:
                grad_hidden.addmm_(grad_recurrent, padded.recurrent.T)
                recurrent.addmm_(level.hidden.T, grad_recurrent)
            kernels.cell_backward(
                level.planes, level.cell_before, level.tanh_cell, grad_hidden.view(-1).numpy(), grad_cell, count * width
            )
            above = len(nodes[k - 1].parent)
            grad_gates, grad_above = arena.take(above, 4 * width), arena.take(above * width)
            kernels.scatter(level.planes, grad_cell, level.parent, rows, grad_gates, grad_above, table)
            grad_recurrent, grad_cell = torch.from_numpy(grad_gates), grad_above
        first = np.bincount(nodes[1].token, weights=below, minlength=len(padded.first)).astype(np.float32)
        return _Padded(first, table, recurrent, heads)
