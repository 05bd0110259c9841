"""Block tensor trains: a linear layer whose weight is a product of two block-diagonal matrices, permuted between."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from pipeline.errors import InputError, is_whole
from pipeline.kpd.layer import (
    WithDerivedWeight,
    as_node,
    check_width,
    checked_block,
    keep_called,
    map_nested,
    without_autocast,
)


class BTTLinear(WithDerivedWeight):
    """Linear layer with W[(a, j), (b, k)] = sum_i L[j, a, (b, i)] R[b, (i, j), k].

    Every block (rows a m2 + j, columns b n2 + k) has a weight of its own, unlike in a Kronecker product, and no zeros.
    With one term it is a Monarch matrix.

    Parameters
    ----------
    in_features, out_features, bias, device, dtype
        As in :class:`torch.nn.Linear`; n = n1 n2 and m = m1 m2.
    block
        (m2, n2), both near the square roots of m and n for the fewest parameters.
    rank
        Terms r of each slice W[(:, j), (b, :)], at most the smaller of m1 and n2.

    Attributes
    ----------
    R
        (n1, r m2, n2): a block a group of inputs.
    L
        (m2, m1, n1 r): a block a place within the groups of outputs.

    Raises
    ------
    InputError
        A block that does not divide the features, or a rank out of its bounds.

    Notes
    -----
    Sources: Qiu et al., "Compute Better Spent: Replacing Dense Layers with Structured Matrices" (2024), section 3, for
    the layer and its rule of initialisation; Dao et al., "Monarch" (2022), for one term. Parameters r n1 m2 (n2 + m1),
    plus m for the bias: r (1 / m1 + 1 / n2) of dense, and as many multiply-adds a row.

    Examples
    --------
    >>> layer = BTTLinear(6, 4, block=(2, 3), rank=2)
    >>> layer(torch.ones(5, 6)).shape, layer.to_dense().weight.shape
    (torch.Size([5, 4]), torch.Size([4, 6]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        block: tuple[int, int],
        rank: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.block = m2, n2 = checked_block(in_features, out_features, block)
        self.grid = m1, n1 = out_features // m2, in_features // n2
        if not is_whole(rank, 1) or rank > min(m1, n2):
            raise InputError(f"rank {rank}: slices of {m1} x {n2} have a whole number of terms, 1 to {min(m1, n2)}")
        self.rank = rank
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.R = nn.Parameter(torch.empty(n1, rank * m2, n2, **where))
        self.L = nn.Parameter(torch.empty(m2, m1, n1 * rank, **where))
        self.bias = nn.Parameter(torch.empty(out_features, **where)) if bias else None
        self.reset_parameters()
        keep_called(self)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw each factor with deviation sqrt(min(fan in, fan out)) / fan in; W gets a fresh dense layer's deviation.

        That is one factor of both, so that their proportion is the rule's.
        """
        for factor in (self.R, self.L):
            fan_out, fan_in = factor.shape[1:]
            factor.normal_(std=math.sqrt(min(fan_in, fan_out)) / fan_in)
        bound = 1.0 / math.sqrt(self.in_features)
        deviations = [math.sqrt(min(factor.shape[1:])) / factor.shape[2] for factor in (self.R, self.L)]
        excess = math.sqrt(self.rank) * math.prod(deviations) / (bound / math.sqrt(3))
        for factor in (self.R, self.L):
            factor.div_(math.sqrt(excess))
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> None:
        """Set the factors to the nearest W in the Frobenius norm: a truncated SVD of each slice W[(:, j), (b, :)]."""
        (m1, n1), (m2, n2), r = self.grid, self.block, self.rank
        exact = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
        slices = exact.reshape(m1, m2, n1, n2).permute(2, 1, 0, 3)  # (n1, m2, m1, n2)
        U, s, Vh = torch.linalg.svd(slices, full_matrices=False)
        root = s[..., :r].sqrt()
        left = U[..., :r] * root[:, :, None, :]  # (n1, m2, m1, r)
        right = root[..., None] * Vh[:, :, :r]  # (n1, m2, r, n2)
        self.L.copy_(left.permute(1, 2, 0, 3).reshape(m2, m1, n1 * r))
        self.R.copy_(right.transpose(1, 2).reshape(n1, r * m2, n2))

    def to_matrix(self) -> Tensor:
        """W, (m, n), from the factors."""
        (m1, n1), (m2, n2), r = self.grid, self.block, self.rank
        left, right = self.L.view(m2, m1, n1, r), self.R.view(n1, r, m2, n2)
        with without_autocast(self.R.device.type):
            return torch.einsum("jabi,bijk->ajbk", left, right).reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m)."""
        if isinstance(x, Proxy):
            return as_node(self, x)
        if x.is_nested:
            return map_nested(self.forward, x)
        check_width(x, self.in_features)
        n1, (m2, n2), r = self.grid[1], self.block, self.rank
        rows = x.reshape(-1, n1, n2).transpose(0, 1)  # (n1, N, n2)
        z = torch.bmm(rows, self.R.transpose(1, 2)).view(n1, -1, r, m2)
        z = z.permute(3, 1, 0, 2).reshape(m2, -1, n1 * r)
        y = torch.bmm(z, self.L.transpose(1, 2))  # (m2, N, m1)
        y = y.permute(1, 2, 0).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """Return the :class:`torch.nn.Linear` with the same W and bias."""
        has_bias = self.bias is not None
        dense = nn.Linear(self.in_features, self.out_features, has_bias, device=self.R.device, dtype=self.R.dtype)
        dense.weight.copy_(self.weight)
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        """Sizes, block and rank."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, block={self.block}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )
