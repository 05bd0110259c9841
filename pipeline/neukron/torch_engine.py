"""The prefix tree with torch operations and autograd: CUDA, float64, and CPUs without numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.neukron.engine import Engine, Keys
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import Weights


class TorchEngine(Engine):
    """The same tree with torch operations and autograd: CUDA, float64, and CPUs without numba."""

    def __init__(self, levels: Levels, hidden: int, device: str = "cpu", chunk: int | None = None) -> None:
        self.device = torch.device(device)
        super().__init__(levels, hidden, chunk)

    def default_chunk(self) -> int:
        """Large on a GPU, whose launches cost more than its memory."""
        return 1 << 18 if self.device.type == "cuda" else 1 << 13

    def products(self, weights: Weights, keys: Keys) -> npt.NDArray[np.float32]:
        """See :meth:`Engine.products`."""
        with torch.no_grad():
            moved = weights.replace([tensor.detach().to(self.device) for tensor in weights.tensors()])
            parts = [self._leaves(moved, keys[:, piece]).cpu() for piece in self.pieces(keys.shape[1])]
        result: npt.NDArray[np.float32] = torch.cat(parts).numpy()
        return result

    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """See :meth:`Engine.gradient`."""
        leaves = [tensor.detach().to(self.device).requires_grad_() for tensor in weights.tensors()]
        moved = weights.replace(leaves)
        total = 0.0
        parts = []
        for piece in self.pieces(keys.shape[1]):
            with torch.enable_grad():
                products = self._leaves(moved, keys[:, piece])
                share = torch.dot(torch.from_numpy(factors[piece]).to(self.device), products.double())
                share.backward()  # type: ignore[no-untyped-call]
            total += float(share.detach())
            parts.append(products.detach().cpu())
        gradients = [
            (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).to(tensor.device)
            for leaf, tensor in zip(leaves, weights.tensors(), strict=True)
        ]
        return total, torch.cat(parts).numpy(), gradients

    def _leaves(self, weights: Weights, keys: Keys) -> Tensor:
        """P of one chunk's keys."""
        h = self.hidden
        nodes, leaf = self._tree(torch.from_numpy(np.ascontiguousarray(keys)).to(self.device))
        product = weights.first[nodes[0][1]]
        hidden = cell = None
        for k in range(1, self.levels.depth):
            parent, token = nodes[k - 1]
            gates = weights.table[token + self.levels.embedding_offset(k)]
            if hidden is not None and cell is not None:
                gates = gates + (hidden @ weights.recurrent.T)[parent]
                cell = cell[parent]
            i, f, g, o = torch.split(gates, h, dim=1)
            fresh = torch.sigmoid(i) * torch.tanh(g)
            cell = fresh if cell is None else torch.sigmoid(f) * cell + fresh
            hidden = torch.sigmoid(o) * torch.tanh(cell)
            weight, bias = weights.heads[self.levels.alphabets[k]]
            factors = torch.nn.functional.normalize(torch.nn.functional.softplus(hidden @ weight.T + bias), dim=1)
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
