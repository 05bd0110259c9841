"""KPDLinear: a linear layer whose weight is a sum of Kronecker products with a block selector."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError


class KPDLinear(nn.Module):
    """Linear layer with W = sum_i (S * A_i) kron B_i.

    S_ab = 0 makes the m2 x n2 block (a, b) of W exactly zero. A drop-in for :class:`torch.nn.Linear`.

    Parameters
    ----------
    in_features, out_features
        n = n1 n2 and m = m1 m2.
    block
        (m2, n2): rows and columns of one block; m2 divides `out_features`, n2 divides `in_features`.
    rank
        Number r of terms.
    bias
        Whether to add a bias of m reals.
    device, dtype
        Of the parameters, as in :class:`torch.nn.Linear`.

    Attributes
    ----------
    S
        (m1, n1), starts at 1; the l1 penalty acts on it.
    A
        (r, m1, n1).
    B
        (r, m2, n2), each B_i of unit Frobenius norm after :meth:`fix_gauge`.
    support
        (m1, n1) bool buffer: blocks outside it are zero whatever S says, and get no gradient.

    Raises
    ------
    InputError
        A block that does not divide the features, or a rank below 1.

    Notes
    -----
    Source: Zhu, Zuo, Khalili, "An Efficient Training Algorithm for Models with Block-wise Sparsity".
    Parameters: (r + 1) m1 n1 + r m2 n2, plus m for the bias.

    Examples
    --------
    >>> layer = KPDLinear(6, 4, block=(2, 3), rank=2)
    >>> layer(torch.ones(5, 6)).shape, layer.to_dense().weight.shape
    (torch.Size([5, 4]), torch.Size([4, 6]))
    """

    support: Tensor

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
        self.block, self.rank = checked_block(in_features, out_features, block), rank
        if rank < 1:
            raise InputError(f"rank {rank}: a KPD layer needs at least one term")
        m2, n2 = self.block
        grid = (out_features // m2, in_features // n2)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.S = nn.Parameter(torch.empty(grid, **where))
        self.A = nn.Parameter(torch.empty(rank, *grid, **where))
        self.B = nn.Parameter(torch.empty(rank, m2, n2, **where))
        self.bias = nn.Parameter(torch.empty(out_features, **where)) if bias else None
        self.register_buffer("support", torch.ones(grid, dtype=torch.bool, device=device))
        self.reset_parameters()

    @property
    def grid(self) -> tuple[int, int]:
        """(m1, n1): number of blocks down and across."""
        return self.S.shape[0], self.S.shape[1]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw A and B so that W has the standard deviation of a fresh :class:`torch.nn.Linear`; S = 1."""
        bound = 1.0 / math.sqrt(self.in_features)
        self.S.fill_(1.0)
        self.support.fill_(True)
        self.B.normal_()
        # With B_i of unit norm an entry of it has deviation 1 / sqrt(m2 n2); nn.Linear's is bound / sqrt(3).
        self.A.normal_(std=bound / math.sqrt(3 * self.rank) * math.sqrt(math.prod(self.block)))
        self.B.div_(self.B.flatten(1).norm(dim=1).view(-1, 1, 1))
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    def scaled(self) -> Tensor:
        """Return S * A_i on the support: (r, m1, n1)."""
        return self.A * (self.S * self.support)

    def weight(self) -> Tensor:
        """Return W, (m, n)."""
        blocks = torch.einsum("rab,rjk->ajbk", self.scaled(), self.B)
        return blocks.reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m): B first, then S * A with the sum over terms inside one product."""
        (m1, n1), (m2, n2) = self.grid, self.block
        if x.shape[-1] != self.in_features:
            raise InputError(f"input of shape {tuple(x.shape)}: the last dimension must be {self.in_features}")
        inner = x.reshape(-1, n2) @ self.B.reshape(self.rank * m2, n2).T  # (N n1, r m2)
        inner = inner.view(-1, n1, self.rank, m2).permute(2, 1, 0, 3)  # (r, n1, N, m2)
        outer = self.scaled().permute(1, 0, 2).reshape(m1, -1)  # (m1, r n1)
        y = (outer @ inner.reshape(self.rank * n1, -1)).view(m1, -1, m2)  # (m1, N, m2)
        y = y.transpose(0, 1).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def fix_gauge(self) -> None:
        """Give every B_i unit norm, and |S_ab| the square root of the Frobenius norm of block (a, b).

        W stays the same. Without this the l1 penalty on S means nothing: (S, A, B) and (S / (c d), c A, d B)
        give one W for any c of a block and any d of a term. With it |S_ab| ranks blocks by their norm.
        A block of norm zero keeps its S and A.
        """
        norms = self.B.flatten(1).norm(dim=1).clamp_min(torch.finfo(self.B.dtype).tiny).view(-1, 1, 1)
        self.B.div_(norms)
        self.A.mul_(norms)
        root = self.block_norms().sqrt()
        factor = torch.where(root > 0, root / self.S.abs(), 1.0)
        self.S.mul_(factor)
        self.A.div_(factor)

    @torch.no_grad()
    def block_norms(self) -> Tensor:
        """(m1, n1): Frobenius norms of the blocks of W."""
        B = self.B.flatten(1)
        scaled = self.scaled()
        squares: Tensor = (torch.tensordot(B @ B.T, scaled, dims=1) * scaled).sum(dim=0)
        return squares.clamp_min(0).sqrt()

    @torch.no_grad()
    def block_scores(self) -> Tensor:
        """(m1, n1): what the proximal step shrinks, |S| on the support."""
        return self.S.abs() * self.support

    @torch.no_grad()
    def shrink(self, threshold: Tensor | float) -> None:
        """Proximal step of the l1 penalty: S <- sign(S) max(|S| - threshold, 0)."""
        self.S.copy_(self.S.sign() * (self.S.abs() - threshold).clamp_min(0))

    @torch.no_grad()
    def set_support(self, support: Tensor) -> None:
        """Keep only the blocks where the (m1, n1) bool `support` is true; the others become exact zeros."""
        self.support.copy_(support)
        self.S.mul_(self.support)

    @torch.no_grad()
    def zero_blocks(self) -> Tensor:
        """(m1, n1) bool: the blocks of W that are exactly zero."""
        return ~(self.scaled() != 0).any(dim=0)

    @torch.no_grad()
    def to_dense(self) -> nn.Linear:
        """Return the :class:`torch.nn.Linear` with the same W and bias; zero blocks are exact zeros."""
        dense = nn.Linear(
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.B.device,
            dtype=self.B.dtype,
        )
        dense.weight.copy_(self.weight())
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        """Sizes, and parameters beside those of the dense layer."""
        own = sum(parameter.numel() for parameter in self.parameters())
        dense = self.in_features * self.out_features + (self.out_features if self.bias is not None else 0)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, block={self.block}, "
            f"rank={self.rank}, bias={self.bias is not None}, parameters={own} (dense: {dense})"
        )


def checked_block(in_features: int, out_features: int, block: tuple[int, int]) -> tuple[int, int]:
    """Return `block` as (m2, n2), or say which side does not divide the layer."""
    if len(block) != 2:
        raise InputError(f"block {block}: give two numbers, rows and columns, for example (2, 4)")
    for side, size, features in zip(("rows", "columns"), block, (out_features, in_features), strict=True):
        if int(size) != size or size < 1 or features % int(size):
            name = "out_features" if side == "rows" else "in_features"
            divisors = [str(d) for d in range(1, min(features, 64) + 1) if features % d == 0]
            raise InputError(
                f"block {tuple(block)}: {size} {side} do not divide {name} = {features}; "
                f"possible: {', '.join(divisors)}"
            )
    return int(block[0]), int(block[1])
