"""The engine of a CPU: chunks of keys on threads, each one call of compiled tree_kernels."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.kernels.vector import WIDTH
from pipeline.neukron import tree_kernels
from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.levels import Levels
from pipeline.neukron.lstm_kernels import UNIT

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.neukron.model import Weights
    from pipeline.neukron.weights import PlainWeights

GRADIENT_CHUNK = 512  # keys whose activations are kept together
Floats = npt.NDArray[np.float32]


class _Network(NamedTuple):
    """Weights laid out for the kernels: hidden units padded to `width`, matrices transposed for X @ W."""

    first: Floats
    table: Floats  # (tokens, 4 width)
    recurrent: Floats  # (width, 4 width)
    heads: Floats  # (output layers, width, columns)
    biases: Floats  # (output layers, largest alphabet)
    head_of_level: npt.NDArray[np.int64]  # by level, from 0


class _Workspace(threading.local):
    """Each thread's scratch memory, used again for every chunk: fresh pages cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._floats = np.empty(0, np.float32)
        self._nodes = np.empty((2, 0), np.int32)

    def floats(self, size: int) -> Floats:
        """At least `size` uninitialised numbers."""
        if size > len(self._floats):
            self._floats = np.empty(size + size // 8, np.float32)
        return self._floats

    def nodes(self, size: int) -> npt.NDArray[np.int32]:
        """Two rows of at least `size`: parents and tokens."""
        if size > self._nodes.shape[1]:
            self._nodes = np.empty((2, size), np.int32)
        return self._nodes


class CompiledEngine(Engine):
    """LSTM in float32 by :mod:`pipeline.neukron.tree_kernels`; the same bits for any number of threads."""

    uses_torch = False

    def __init__(self, levels: Levels, hidden: int, threads: int = 1, chunk: int | None = None) -> None:
        super().__init__(levels, hidden, chunk, threads)
        self.width = _padded(hidden, UNIT)
        self._words = np.array([word for word, _ in levels.packing], dtype=np.int64)
        self._shifts = np.array([shift for _, shift in levels.packing], dtype=np.int64)
        self._alphabets = np.array(levels.alphabets, dtype=np.int64)
        self._offsets = np.array([levels.embedding_offset(level) for level in range(1, levels.depth + 1)])
        self._workspace = _Workspace()

    def default_chunk(self) -> int:
        """Keys in a chunk: enough to share prefixes, few enough for the second-level cache."""
        return 2048

    def products(self, weights: Weights | PlainWeights, keys: Keys) -> Floats:
        """See :meth:`Engine.products`."""
        network = self._network(weights)
        result = np.empty(keys.shape[1], dtype=np.float32)

        def work(piece: slice) -> None:
            tree, first, leaf = self._tree(keys[:, piece])
            scratch = self._workspace.floats(
                tree_kernels.products_scratch(int(np.diff(first[1:]).max()), self.width, network.heads.shape[2])
            )
            result[piece] = tree_kernels.products(tree, first, network, self._alphabets, self._offsets, scratch)[leaf]

        for _ in self._on_threads(work, list(self.pieces(keys.shape[1]))):
            pass
        return result

    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, Floats, list[Tensor]]:
        """See :meth:`Engine.gradient`; sums over chunks are float64 in a fixed order."""
        network = self._network(weights)
        transposed = self._transposed(network)
        products = np.empty(keys.shape[1], dtype=np.float32)

        def work(piece: slice) -> list[Floats]:
            tree, first, leaf = self._tree(keys[:, piece])
            below = np.bincount(leaf, factors[piece], first[-1] - first[-2]).astype(np.float64)
            sizes = int(np.diff(first[1:]).max()), int(first[-2]), int(first[-1])
            scratch = self._workspace.floats(
                tree_kernels.gradient_scratch(*sizes, self.width, network.heads.shape[2], transposed[0].shape[1])
            )
            grads = (
                np.zeros_like(network.first),
                np.zeros_like(network.table),
                np.zeros_like(network.recurrent),
                np.zeros((len(network.heads), int(self._alphabets.max()), self.width), np.float32),
                np.zeros_like(network.biases),
            )
            products[piece] = tree_kernels.gradient(
                tree, first, network, transposed, self._alphabets, self._offsets, below, scratch, grads
            )[leaf]
            return list(grads)

        total: list[npt.NDArray[np.float64]] = []
        for partial in self._on_threads(work, list(self.pieces(keys.shape[1], GRADIENT_CHUNK))):
            if total:
                for sum_, gradient in zip(total, partial, strict=True):
                    sum_ += gradient
            else:
                total = [gradient.astype(np.float64) for gradient in partial]
        value = float(np.sum(factors * products))
        return value, products, self._gradients(weights, [sum_.astype(np.float32) for sum_ in total])

    def _network(self, weights: Weights | PlainWeights) -> _Network:
        h, width = self.hidden, self.width
        table = np.zeros((len(weights.table), 4, width), np.float32)
        table[:, :, :h] = _array(weights.table).reshape(-1, 4, h)
        recurrent = np.zeros((width, 4, width), np.float32)
        recurrent[:h, :, :h] = _array(weights.recurrent).reshape(4, h, h).transpose(2, 0, 1)
        largest = int(self._alphabets.max())
        heads = np.zeros((len(weights.heads), width, _padded(largest, WIDTH)), np.float32)
        biases = np.zeros((len(weights.heads), largest), np.float32)
        layers: dict[int, Any] = dict(weights.heads)
        for number, (size, (weight, bias)) in enumerate(layers.items()):
            heads[number, :h, :size] = _array(weight).T
            biases[number, :size] = _array(bias)
        sizes = list(weights.heads)
        # the first level has its factor, not a layer
        head_of_level = np.array([-1, *(sizes.index(size) for size in self.levels.alphabets[1:])])
        return _Network(
            _array(weights.first),
            table.reshape(-1, 4 * width),
            recurrent.reshape(width, -1),
            heads,
            biases,
            head_of_level,
        )

    def _transposed(self, network: _Network) -> tuple[Floats, Floats]:
        """W_hh and the output layers for the way back, (4 width, columns) and (output layers, alphabet, columns)."""
        width, columns = self.width, _padded(self.width, WIDTH)
        recurrent = np.zeros((4 * width, columns), np.float32)
        recurrent[:, :width] = network.recurrent.T
        heads = np.zeros((len(network.heads), network.biases.shape[1], columns), np.float32)
        heads[:, :, :width] = network.heads[:, :, : network.biases.shape[1]].transpose(0, 2, 1)
        return recurrent, heads

    def _gradients(self, weights: Weights, padded: list[Floats]) -> list[Tensor]:
        """Gradients in the order of ``weights.tensors()``, without the padding."""
        import torch

        h, width = self.hidden, self.width
        first, table, recurrent, heads, biases = padded
        result = [
            first,
            table.reshape(-1, 4, width)[:, :, :h].reshape(-1, 4 * h),
            recurrent.reshape(width, 4, width)[:h, :, :h].transpose(1, 2, 0).reshape(4 * h, h),
        ]
        for number, size in enumerate(weights.heads):
            result += [heads[number, :size, :h], biases[number, :size]]
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in result]

    def _tree(self, keys: Keys) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Parents and tokens of a chunk's nodes by depth, where each depth starts, each key's node at the last."""
        count, depth = keys.shape[1], self.levels.depth
        first = np.zeros(depth + 2, dtype=np.int64)
        tree = self._workspace.nodes(count * depth)
        leaf = np.empty(count, dtype=np.int32)
        tree_kernels.build_tree(keys, self._words, self._shifts, self._alphabets, first, tree[0], tree[1], leaf)
        return tree, first, leaf


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _array(tensor: Tensor | Floats) -> Floats:
    array: Floats = tensor if isinstance(tensor, np.ndarray) else tensor.detach().numpy()
    return array
