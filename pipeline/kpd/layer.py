"""KPDLinear: a linear layer whose weight is a sum of Kronecker products with a block selector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils import parametrize

from pipeline.errors import InputError, is_whole, nearest
from pipeline.kpd.functional import (
    HAS_FUSED,
    Parts,
    checked_path,
    choose,
    decided,
    is_unwatched,
    kpd_product,
    kron_weight,
    side_by_side_products,
    unit_norm,
)

if HAS_FUSED:
    from pipeline.kpd import fused


class UnitNorm(nn.Module):
    """V -> V_i / ||V_i||_F for (.., r, m2, n2): what keeps B on the sphere while it is trained."""

    def forward(self, V: Tensor) -> Tensor:
        """Divide each term by its norm."""
        return unit_norm(V)

    def right_inverse(self, B: Tensor) -> Tensor:
        """Start from B itself."""
        return B


WRITES = {"__setitem__", "__set__", *(f"__i{name}__" for name in (
    "add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"
))}  # fmt: skip


class _OfTensors(type(Tensor)):  # type: ignore[misc]
    """Any tensor counts as an instance, as far as a comparison of two tensors' types goes."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor)


VIEWS = {
    "__get__", "__getitem__", "chunk", "detach", "diagonal", "expand", "flatten", "narrow", "permute", "reshape",
    "select", "split", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as",
}  # fmt: skip


class DerivedWeight(Tensor, metaclass=_OfTensors):
    """A weight made of what the layer holds, anew on every access: to read and differentiate, not to write."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuse what would write into it or a view of it and be lost; the results of all else are plain tensors."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        writes = name in WRITES or (name.endswith("_") and not name.endswith("__") and name != "requires_grad_")
        first = next(iter((*args, *kwargs.values())), None)
        if (writes and type(first) is cls) or type(kwargs.get("out")) is cls:
            raise InputError(f"{name}: {UNWRITABLE}")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if type(first) is not cls or name not in VIEWS:
            return result
        if isinstance(result, tuple):
            return type(result)(cls._derived(part, name) for part in result)
        return cls._derived(result, name)

    @classmethod
    def _derived(cls, result: Any, name: str) -> Any:
        """The same where it is a view: what is written into it would be lost, too."""
        if isinstance(result, Tensor) and (name in ("__get__", "detach") or result._is_view()):
            return result.as_subclass(cls)
        return result


UNWRITABLE = "the weight is made of the layer's own parts and cannot be set; write those, or layer.approximate(weight)"


class WithDerivedWeight(nn.Module):
    """Base of layers whose ``weight`` is derived: giving them one is refused instead of lost."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise InputError(f"weight: {UNWRITABLE}")
        super().__setattr__(name, value)

    @property
    def weight(self) -> Tensor:
        """W, (m, n), made anew on every access; gradients reach what it is made of, and it cannot be written."""
        return self.to_matrix().as_subclass(DerivedWeight)

    def to_matrix(self) -> Tensor:
        """W as a plain tensor."""
        raise NotImplementedError


class KPDLinear(WithDerivedWeight):
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
    variant
        ``selector``: with S, whose l1 norm is penalised. ``group``: without S and with orthonormal B_i, so
        that a block's norm is that of (A_1 .. A_r)_ab and shrinking it is exactly block group LASSO.
    init
        ``random``: W has a fresh dense layer's standard deviation. ``svd``: the best approximation of a fresh
        dense W, scaled to its standard deviation.
    path
        How the product is made, see :func:`pipeline.kpd.functional.kpd_product`; every way is exact.

    Attributes
    ----------
    S
        (m1, n1), starts at 1; None in the group variant.
    A
        (r, m1, n1).
    B
        (r, m2, n2), each of unit Frobenius norm after :meth:`fix_gauge`.
    support
        (m1, n1) bool buffer: blocks outside it are zero whatever S and A say, and get no gradient.

    Raises
    ------
    InputError
        A block that does not divide the features, or a rank below 1 (or, in the group variant, above m2 n2).

    Notes
    -----
    Source: Zhu, Zuo, Khalili, "An Efficient Training Algorithm for Models with Block-wise Sparsity".
    Parameters: (r + 1) m1 n1 + r m2 n2, plus m for the bias; the group variant has no S.

    Examples
    --------
    >>> layer = KPDLinear(6, 4, block=(2, 3), rank=2)
    >>> layer(torch.ones(5, 6)).shape, layer.to_dense().weight.shape
    (torch.Size([5, 4]), torch.Size([4, 6]))
    """

    S: nn.Parameter | None
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
        *,
        variant: Literal["selector", "group"] = "selector",
        init: Literal["random", "svd"] = "random",
        path: str = "auto",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.block = m2, n2 = checked_block(in_features, out_features, block)
        self.rank, self.variant, self.init, self.path = rank, variant, init, checked_path(path)
        for name, value, known in (("variant", variant, ("selector", "group")), ("init", init, ("random", "svd"))):
            if value not in known:
                raise InputError(f"{name} '{value}' is unknown{nearest(value, known)}")
        if not is_whole(rank, 1):
            raise InputError(f"rank {rank}: needs a whole number of terms, at least one")
        if rank > m2 * n2 and (variant == "group" or init == "svd"):
            raise InputError(f"rank {rank}: a block of {m2} x {n2} has at most {m2 * n2} orthonormal terms")
        grid = (out_features // m2, in_features // n2)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.S = nn.Parameter(torch.empty(grid, **where)) if variant == "selector" else None
        self.A = nn.Parameter(torch.empty(rank, *grid, **where))
        self.B = nn.Parameter(torch.empty(rank, m2, n2, **where))
        self.bias = nn.Parameter(torch.empty(out_features, **where)) if bias else None
        self.register_buffer("support", torch.ones(grid, dtype=torch.bool, device=device))
        self.reset_parameters()
        keep_called(self)

    @property
    def grid(self) -> tuple[int, int]:
        """(m1, n1): number of blocks down and across."""
        return self.A.shape[1], self.A.shape[2]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters; W gets the standard deviation of a fresh :class:`torch.nn.Linear`."""
        bound = 1.0 / math.sqrt(self.in_features)
        self.support.fill_(True)
        if self.S is not None:
            self.S.fill_(1.0)
        if self.init == "svd":
            self.approximate(torch.empty_like(self.weight).uniform_(-bound, bound))
            deviation = self.weight.std(correction=0)
            if deviation > 0:  # a layer of one entry has none
                self.A.mul_(bound / math.sqrt(3) / deviation)
        else:
            self._stored.normal_()
            self._stored.div_(self._stored.flatten(1).norm(dim=1).view(-1, 1, 1))
            # An entry of B_i has deviation 1 / sqrt(m2 n2) now; nn.Linear's is bound / sqrt(3).
            self.A.normal_(std=bound / math.sqrt(3 * self.rank) * math.sqrt(math.prod(self.block)))
        if self.variant == "group":
            self.fix_gauge()
        if self.bias is not None:
            self.bias.uniform_(-bound, bound)

    @torch.no_grad()
    def approximate(self, weight: Tensor) -> None:
        """Set S = 1, A and B to the nearest W of this rank in the Frobenius norm.

        The truncated singular value decomposition of the rearranged `weight`, one block a row (Van Loan).
        """
        (m1, n1), (m2, n2) = self.grid, self.block
        U, s, Vh = torch.linalg.svd(_block_a_row(weight, self.block), full_matrices=False)
        terms = min(self.rank, len(s))
        self.A.zero_()
        B = self._stored
        B.fill_(1.0 / math.sqrt(m2 * n2))
        self.A[:terms] = (U[:, :terms] * s[:terms]).T.reshape(terms, m1, n1)
        B[:terms] = Vh[:terms].reshape(terms, m2, n2)
        self.support.fill_(True)
        if self.S is not None:
            self.S.fill_(1.0)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        block: tuple[int, int],
        rank: int = 1,
        *,
        variant: Literal["selector", "group"] = "selector",
        path: str = "auto",
    ) -> KPDLinear:
        """Return the layer nearest to `linear` in the Frobenius norm, with its bias.

        With rank = m2 n2 it is the same map.
        """
        weight = linear.weight
        layer = cls(
            linear.in_features,
            linear.out_features,
            block,
            rank,
            linear.bias is not None,
            weight.device,
            weight.dtype,
            variant=variant,
            path=path,
        )
        layer.approximate(weight.detach())
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        return layer

    def scaled(self) -> Tensor:
        """Return S * A_i (A_i in the group variant) on the support, zeros elsewhere: (r, m1, n1)."""
        return (self.A if self.S is None else self.A * self.S).masked_fill(~self.support, 0.0)

    def to_matrix(self) -> Tensor:
        """W, (m, n), from the factors, in their type."""
        with without_autocast(self.B.device.type):
            return kron_weight(self.scaled(), self.B)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m)."""
        if isinstance(x, Proxy):
            return as_node(self, x)
        if x.is_nested:
            return map_nested(self.forward, x)
        check_width(x, self.in_features)
        lower = autocast_type(x.device.type)
        parts = self.parts(x) if lower is None else None
        if parts is not None:
            (y,) = side_by_side_products(x.reshape(-1, self.in_features), [parts])
            return y.view(*x.shape[:-1], self.out_features)
        scaled: Tensor = self.scaled()
        B: Tensor = self.B
        if lower is not None and x.dtype != torch.float64:  # which autocast leaves alone
            x, scaled, B = x.to(lower), scaled.to(lower), B.to(lower)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = kpd_product(x.reshape(-1, self.in_features), scaled, B, self.path, bias)
        return y.view(*x.shape[:-1], self.out_features)

    def parts(self, x: Tensor) -> Parts | None:
        """What the layer is made of, where this project's kernels map as many rows as those of `x`, untold to torch."""
        if not is_unwatched(x) or x.shape[-1] == 0:
            return None
        is_bound = self.is_bound
        if is_bound and [type(own) for own in cast("Any", self.parametrizations)["B"]] != [UnitNorm]:
            return None
        own = Parts(self.S, self.A, self._stored, self.bias, self.support, is_bound)
        tensors = [tensor for tensor in own[:4] if tensor is not None]
        if not all(tensor.is_cpu and tensor.dtype == x.dtype for tensor in tensors):
            return None
        rows = x.numel() // x.shape[-1]
        way = decided(rows, own.A, own.V, self.path)
        if way is None:  # a checkpoint's second call must go the first one's way
            way = choose(x.new_ones(rows, self.in_features), own.A, own.V, measured=True)
        return own if way == "fused" else None

    @property
    def is_bound(self) -> bool:
        """Whether B is kept on the sphere, see :meth:`bind_terms`."""
        return parametrize.is_parametrized(self, "B")

    @property
    def _stored(self) -> Tensor:
        """The parameter that holds B: what B is divided from while on the sphere."""
        if not self.is_bound:
            return self.B
        stored: Tensor = self.parametrizations["B"].original  # type: ignore[index, union-attr]
        return stored

    @torch.no_grad()
    def bind_terms(self) -> None:
        """Keep each B_i at unit norm from now on, by a parametrisation that autograd sees; W stays.

        The optimiser moves V, and B_i = V_i / ||V_i||_F: its gradient is orthogonal to V_i and shrinks as V_i
        grows, so that no rate makes the product of the factors explode, and nothing is rewritten behind it.
        V starts with entries as large as those of S * A, so that an optimiser whose steps do not depend on the
        size of the gradient turns both alike.
        """
        if self.is_bound:
            return
        norms = self.B.flatten(1).norm(dim=1).clamp_min(torch.finfo(self.B.dtype).tiny).view(-1, 1, 1)
        self.B.div_(norms)
        self.A.mul_(norms)
        parametrize.register_parametrization(self, "B", UnitNorm())
        size = self.scaled().square().mean(dim=(1, 2)).sqrt().view(-1, 1, 1) * math.sqrt(math.prod(self.block))
        self._stored.mul_(torch.where(size > 0, size, 1.0))

    @torch.no_grad()
    def free_terms(self) -> None:
        """Undo :meth:`bind_terms`: B is a parameter again, at the value it has."""
        if self.is_bound:
            # torch takes the property out of the class, which copies (an average of the weights) share
            kind = type(self)
            own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            self.__class__ = type(kind.__name__, kind.__bases__, own)
            parametrize.remove_parametrizations(self, "B", leave_parametrized=True)

    @torch.no_grad()
    def fix_gauge(self) -> None:
        """Choose among the many (S, A, B) of one W the one on which a penalty means something; W stays.

        Selector: every B_i gets unit norm, and |S_ab| the square root of the Frobenius norm of block (a, b),
        so that |S| ranks blocks by their norm; else (S, A, B) and (S / (c d), c A, d B) would cost differently
        for any c of a block and d of a term. A block of norm zero keeps its S and A.
        Group: the B_i become orthonormal.
        """
        if self.S is None:
            Q, R = torch.linalg.qr(_factorable(self.B).flatten(1).T)  # vec B_i = sum_l Q_l R_li
            self.A.copy_(torch.tensordot(R, self.A.to(R.dtype), dims=1))
            self._stored.copy_(Q.T.view_as(self.B))
            return
        norms = self.B.flatten(1).norm(dim=1).clamp_min(torch.finfo(self.B.dtype).tiny).view(-1, 1, 1)
        self._stored.copy_(self.B / norms)
        self.A.mul_(norms)
        root = self.block_norms().sqrt()
        factor = torch.where(root > 0, root / self.S.abs(), 1.0)
        self.S.mul_(factor)
        self.A.div_(factor)

    @torch.no_grad()
    def block_norms(self) -> Tensor:
        """(m1, n1): Frobenius norms of the blocks of W."""
        return kron_block_norms(self.scaled()[None], self.B[None])[0]

    @torch.no_grad()
    def block_scores(self) -> Tensor:
        """(m1, n1): what the proximal step shrinks, the same for every (S, A, B) of one W.

        |S_ab| as :meth:`fix_gauge` would make it, the square root of the block's Frobenius norm; in the group
        variant the norm itself. Of W with its columns weighted, where :func:`observe_inputs` says by what.
        """
        return self.scores_of([self])[0]

    @staticmethod
    @torch.no_grad()
    def scores_of(layers: Sequence[KPDLinear]) -> Tensor:
        """(L, m1, n1): :meth:`block_scores` of L layers of one :meth:`kind`, in a few operations for all."""
        first = layers[0]
        if first.S is not None and first.rank == 1 and first.shrinks_fused and input_squares(first) is None:
            return _one_term_scores(layers)
        scaled = torch.stack([layer.A for layer in layers])
        if first.S is not None:
            scaled.mul_(torch.stack([layer.S for layer in layers if layer.S is not None])[:, None])
        scaled.masked_fill_(torch.stack([layer.support for layer in layers]).logical_not_()[:, None], 0.0)
        B = _factors_of(layers)
        seen = [own for own in map(input_squares, layers) if own is not None]
        if seen:
            (_, _, n1), n2 = first.A.shape, first.block[1]
            roots = torch.stack(seen).sqrt().view(len(layers), n1, 1, 1, n2)
            weighted = (B[:, None] * roots).flatten(3)  # (L, n1, r, m2 n2)
            gram = weighted @ weighted.mT  # (L, n1, r, r)
            norms = torch.einsum("Liab,Lbil,Llab->Lab", scaled, gram.to(B.dtype), scaled).clamp_min(0).sqrt()
        else:
            norms = kron_block_norms(scaled, B)
        return norms if first.S is None else norms.sqrt_()

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two layers have alike that :meth:`scores_of` takes together."""
        where, is_weighted = (self.A.dtype, self.A.device), input_squares(self) is not None
        return KPDLinear, self.A.shape, self.block, self.variant, self.is_bound, is_weighted, where

    @torch.no_grad()
    def shrink(self, threshold: Tensor | float) -> None:
        """Proximal step of the penalty on :meth:`block_scores`: score <- max(score - threshold, 0).

        It scales S (A in the group variant) and leaves the factors otherwise where the optimiser has them: with
        S, what |S| <- max(|S| - threshold, 0) does to W after :meth:`fix_gauge`; without, block group LASSO.
        """
        self.scale_blocks([self], kept_shares(self.block_scores(), threshold)[None])

    @staticmethod
    @torch.no_grad()
    def scale_blocks(layers: Sequence[KPDLinear], factors: Tensor) -> None:
        """Multiply the blocks of each of L layers by (L, m1, n1) `factors`."""
        scaled: list[Tensor] = [layer.A if layer.S is None else layer.S for layer in layers]
        torch._foreach_mul_(scaled, list(factors))

    @property
    def shrinks_fused(self) -> bool:
        """Whether this project's kernels score and shrink the blocks: float32 on a CPU, with Numba."""
        return HAS_FUSED and self.A.is_cpu and self.A.dtype == torch.float32 and self.A.is_contiguous()

    @staticmethod
    @torch.no_grad()
    def shrink_adaptively(layers: Sequence[KPDLinear], wanted: int, thresholds: Sequence[float]) -> list[int]:
        """The step of :func:`pipeline.kpd.fused.shrink` on L layers of one kind; blocks of each that are zero then."""
        gone = []
        for layer, scores, threshold in zip(layers, layers[0].scores_of(layers).numpy(), thresholds, strict=True):
            scaled = layer.A if layer.S is None else layer.S[None]
            gone.append(int(fused.shrink(scaled.detach().numpy(), scores, wanted, np.float32(threshold))))
        return gone

    @torch.no_grad()
    def set_support(self, support: Tensor) -> None:
        """Keep only the blocks where the (m1, n1) bool `support` is true; the others become exact zeros."""
        if support is not self.support:
            self.support.copy_(support)
        (self.A if self.S is None else self.S).masked_fill_(~self.support, 0.0)

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
        dense.weight.copy_(self.weight)
        if self.bias is not None:
            dense.bias.copy_(self.bias)
        return dense

    def extra_repr(self) -> str:
        """Sizes; parameters and operations a row (forward, the cheaper order) beside those of the dense layer."""
        (m1, n1), (m2, n2), r = self.grid, self.block, self.rank
        own = sum(parameter.numel() for parameter in self.parameters())
        dense = self.in_features * self.out_features + (self.out_features if self.bias is not None else 0)
        flops = 2 * r * min(n1 * m2 * (m1 + n2), m1 * n2 * (n1 + m2))
        variant = "" if self.variant == "selector" else f"variant={self.variant}, "
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, block={self.block}, rank={r}, "
            f"bias={self.bias is not None}, {variant}parameters={own} (dense: {dense}), "
            f"flops={flops} (dense: {2 * self.in_features * self.out_features})"
        )


def _factors_of(layers: Sequence[KPDLinear]) -> Tensor:
    """(L, r, m2, n2): B of L layers of one kind."""
    if not layers[0].is_bound:
        return torch.stack([layer.B for layer in layers])
    bound: list[Any] = [layer.parametrizations for layer in layers]
    return cast("Tensor", UnitNorm()(torch.stack([own["B"].original for own in bound])))


def _one_term_scores(layers: Sequence[KPDLinear]) -> Tensor:
    """:meth:`KPDLinear.scores_of` of layers with S and one term, by a kernel."""
    B = _factors_of(layers).flatten(2)
    squares = (B @ B.mT).flatten().numpy()
    scores = layers[0].A.new_empty(len(layers), *layers[0].grid)
    for layer, square, own in zip(layers, squares, scores.numpy(), strict=True):
        S, A = cast("Tensor", layer.S).detach().numpy(), layer.A.detach().numpy()
        fused.one_term_squares(S, A[0], square, layer.support.numpy(), own)
    return scores.sqrt_().sqrt_()


def kron_block_norms(scaled: Tensor, B: Tensor) -> Tensor:
    """(L, r, m1, n1), (L, r, m2, n2) -> (L, m1, n1): Frobenius norms of the blocks of L sums of Kronecker products."""
    B = B.flatten(2)
    products = (B @ B.mT @ scaled.flatten(2)).view_as(scaled).mul_(scaled)
    squares: Tensor = products[:, 0] if len(B[0]) == 1 else products.sum(dim=1)
    return squares.clamp_min_(0).sqrt_()


def kept_shares(scores: Tensor, threshold: Tensor | float) -> Tensor:
    """What a soft threshold leaves of each score, as a share of it: max(0, 1 - threshold / score)."""
    return torch.where(scores > threshold, 1.0 - threshold / scores, 0.0)


def _block_a_row(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """(m, n) -> (m1 n1, m2 n2), in which a Kronecker product has rank one (Van Loan)."""
    (m, n), (m2, n2) = weight.shape, block
    return _factorable(weight).reshape(m // m2, m2, n // n2, n2).transpose(1, 2).reshape(-1, m2 * n2)


@torch.no_grad()
def fitted_square(weight: Tensor, block: tuple[int, int], rank: int) -> Tensor:
    """Squared Frobenius norm of the nearest sum of `rank` Kronecker products to an (m, n) `weight`; float64.

    ||weight||^2 less this is the squared error of :meth:`KPDLinear.approximate`.
    """
    return kronecker_spectrum(weight, block)[:rank].sum()


@torch.no_grad()
def kronecker_spectrum(weight: Tensor, block: tuple[int, int]) -> Tensor:
    """Squared norms of the Kronecker products that add up to an (m, n) `weight`, the largest first; float64.

    Squared singular values of the rearranged matrix (Van Loan): as many as the smaller of blocks and cells of a block.
    """
    blocks = _block_a_row(weight, block).double()
    gram = blocks.T @ blocks if blocks.shape[0] >= blocks.shape[1] else blocks @ blocks.T
    squares: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
    return squares


MEMORY = 0.95  # share of the running mean of squared inputs that one more batch leaves


def observe_inputs(layer: nn.Module) -> None:
    """Have a linear layer keep the running mean square of each input while it is trained, in a buffer (n,).

    A block is then scored by what it adds to the outputs, the norm of W_ij rms(x_j), in place of that of W_ij (Sun et
    al. 2023 for single weights): weights of inputs that are always near zero count for nothing.
    """
    features = cast("int", layer.in_features)
    layer.register_buffer("input_squares", next(layer.parameters()).new_zeros(features))
    layer._observing = layer.register_forward_pre_hook(_observe, with_kwargs=True)  # type: ignore[assignment]


def forget_inputs(layer: nn.Module) -> None:
    """Undo :func:`observe_inputs`."""
    if input_squares(layer) is not None:
        del layer.input_squares
        layer._observing.remove()  # type: ignore[operator, union-attr]
        del layer._observing


def input_squares(layer: nn.Module) -> Tensor | None:
    """The running mean squares, (n,), where they are kept; scaled alike, in the first batches too small."""
    return layer._buffers.get("input_squares")


@torch.no_grad()
def _observe(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    x = next(iter((*given, *named.values())))
    if not layer.training or isinstance(x, Proxy):
        return
    x = x.detach()
    rows = torch.cat(x.unbind()) if x.is_nested else x.reshape(-1, x.shape[-1])
    kept = cast("Tensor", input_squares(layer))
    squares = rows.to(torch.promote_types(kept.dtype, torch.float32)).square().mean(dim=0)
    # a batch without rows, or whose loss a loop will find not finite and leave out, says nothing
    squares = squares.where(squares.isfinite(), kept).clamp_max(torch.finfo(kept.dtype).max).to(kept.dtype)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(squares)  # all choose the same blocks
        squares /= torch.distributed.get_world_size()
    kept.lerp_(squares, 1.0 - MEMORY)


HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def take_after(new: nn.Module, old: nn.Module) -> None:
    """Give `new`, which takes the place of the layer `old`, its mode, what is fixed and the hooks it was given."""
    new.train(old.training)
    is_trained: dict[bool, bool] = {}
    for name, parameter in old.named_parameters():
        is_trained[name == "bias"] = is_trained.get(name == "bias", False) or parameter.requires_grad
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(is_trained.get(name == "bias", True))
    give_hooks(old, new)


def give_hooks(old: nn.Module, new: nn.Module) -> None:
    """Have `new` call the hooks of `old`, but for those that a layer of this package gave itself."""
    own = {key for key, hook in old._forward_pre_hooks.items() if is_own_hook(hook)}
    for name in HOOKS:
        getattr(new, name).update({key: hook for key, hook in getattr(old, name).items() if key not in own})


def is_own_hook(hook: object) -> bool:
    """Whether a layer of this package gave itself this hook."""
    return hook in (_called, _observe)


def keep_called(layer: nn.Module) -> None:
    """Have `layer` called wherever it stands, by a hook that does nothing.

    In evaluation without gradients :class:`torch.nn.TransformerEncoderLayer` multiplies by its layers' ``weight``
    and calls none of them, unless one has a hook: a dense W would be made anew for each batch.
    """
    layer.register_forward_pre_hook(_called)


def _called(_: nn.Module, __: tuple[Any, ...]) -> None:
    """Do nothing; at module level, so that the layer can be copied and pickled."""


def as_node(layer: nn.Module, *given: Any, **named: Any) -> Any:
    """Record a call by :func:`torch.fx.symbolic_trace` as one node, as that of a layer of torch's own."""
    tracer = next(own.tracer for own in (*given, *named.values()) if isinstance(own, Proxy))
    name = tracer.path_of_module(layer)  # type: ignore[attr-defined]
    if not name:
        raise InputError(
            f"a {type(layer).__name__} alone has no name to trace it by; put it into a torch.nn.Sequential"
        )
    return tracer.create_proxy("call_module", name, given, named)


def map_nested(of_rows: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Map the nested tensor that :class:`torch.nn.TransformerEncoder` makes of padded sequences, all rows at once."""
    parts = x.unbind()
    y = of_rows(torch.cat(parts))
    return torch.nested.as_nested_tensor(list(torch.split(y, [len(part) for part in parts])))


def autocast_type(kind: str) -> torch.dtype | None:
    """What autocast lowers numbers to on this kind of device; None where it is off."""
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def without_autocast(kind: str) -> AbstractContextManager[Any]:
    """Have no numbers lowered on this kind of device."""
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def check_width(x: Tensor, features: int) -> None:
    """Refuse an input whose last dimension is not `features`."""
    if x.ndim == 0 or x.shape[-1] != features:
        raise InputError(f"input of shape {tuple(x.shape)}: the last dimension must be {features}")


def _factorable(matrix: Tensor) -> Tensor:
    """The matrix in a type that LAPACK factorises."""
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()


def checked_block(in_features: int, out_features: int, block: tuple[int, int]) -> tuple[int, int]:
    """Return `block` as (m2, n2), or say which side does not divide the layer."""
    if isinstance(block, str) or not isinstance(block, Sequence) or len(block) != 2:
        raise InputError(f"block {block}: give two numbers, rows and columns, for example (2, 4)")
    if not all(isinstance(size, Integral) for size in block):
        raise InputError(f"block {tuple(block)}: rows and columns are whole numbers, for example (2, 4)")
    for side, size, features in zip(("rows", "columns"), block, (out_features, in_features), strict=True):
        if size < 1 or features % size:
            name = "out_features" if side == "rows" else "in_features"
            divisors = [str(d) for d in range(1, min(features, 64) + 1) if features % d == 0]
            raise InputError(
                f"block {tuple(block)}: {size} {side} do not divide {name} = {features}; "
                f"possible: {', '.join(divisors)}"
            )
    return int(block[0]), int(block[1])
