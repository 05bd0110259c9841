"""Choose the block size in one run: candidate KPD layers whose outputs add up, until one is left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from pipeline.kpd.layer import KPDLinear, WithDerivedWeight, as_node, forget_inputs, keep_called, map_nested


class BlockChoice(WithDerivedWeight):
    """A linear layer that is the sum of KPD layers with different blocks.

    Parameters
    ----------
    in_features, out_features, bias
        As in :class:`torch.nn.Linear`.
    blocks
        (m2, n2) of each candidate.
    rank
        Terms of each candidate.

    Attributes
    ----------
    candidates
        The KPD layers still in the sum, by name (``"2x4"``); only the first holds a bias.
    """

    def __init__(
        self, in_features: int, out_features: int, blocks: Sequence[tuple[int, int]], rank: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.candidates = nn.ModuleDict(
            {
                block_name(block): KPDLinear(in_features, out_features, block, rank, False, path="shape")
                for block in blocks
            }
        )
        bound = 1.0 / math.sqrt(in_features)
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None
        with torch.no_grad():  # the sum starts with the deviation of one layer
            for layer in self.layers():
                layer.A.div_(math.sqrt(len(blocks)))
        keep_called(self)

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> None:
        """Set each of the K candidates to what is nearest to its share of `weight`, one K-th."""
        for layer in self.layers():
            layer.approximate(weight / len(self.candidates))

    def forward(self, x: Tensor) -> Tensor:
        """Add up what the candidates give."""
        if isinstance(x, Proxy):
            return as_node(self, x)
        if x.is_nested:
            return map_nested(self.forward, x)
        outputs = [layer(x) for layer in self.candidates.children()]
        y = torch.stack(outputs).sum(dim=0)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def to_matrix(self) -> Tensor:
        """W, (m, n): the sum of the candidates'."""
        return torch.stack([layer.to_matrix() for layer in self.layers()]).sum(dim=0)

    def layers(self) -> list[KPDLinear]:
        """Return the candidates still in the sum."""
        return [layer for layer in self.candidates.children() if isinstance(layer, KPDLinear)]

    def remove(self, name: str) -> None:
        """Take a candidate out of the sum."""
        del self.candidates[name]

    @torch.no_grad()
    def survivor(self) -> KPDLinear:
        """Return the one candidate left as a layer of its own, with the bias."""
        (layer,) = self.layers()
        forget_inputs(layer)
        layer.free_terms()
        whole = KPDLinear(
            layer.in_features,
            layer.out_features,
            layer.block,
            layer.rank,
            self.bias is not None,
            layer.B.device,
            layer.B.dtype,
            path=layer.path,
        )
        whole.load_state_dict(layer.state_dict() | ({} if self.bias is None else {"bias": self.bias}))
        return whole


def block_name(block: tuple[int, int]) -> str:
    """Name a candidate: rows x columns."""
    return f"{block[0]}x{block[1]}"
