"""The product of a KPD layer: four exact ways, and the choice between them.

``fused``
    One pass over the rows on a CPU, float32 (:mod:`pipeline.kpd.fused`; needs Numba).
``inner``
    B_i first, then S * A_i with the sum over terms inside one product. Cost beside dense: r (1 / m1 + 1 / n2).
``outer``
    S * A_i first, then B_i. Cost beside dense: r (1 / n1 + 1 / m2).
``dense``
    Build W and multiply. The cost of a dense layer, and for small or high-rank layers the least.

None keeps an intermediate result for the backward: what lies between the products is made again.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import register_flop_formula

from pipeline.errors import InputError, nearest

try:
    from pipeline.kpd import fused
except ImportError:  # Numba is an extra on a bare GPU machine
    HAS_FUSED = False
else:
    HAS_FUSED = True

ANY_ROWS = 1024  # where the number of rows is not known
WORTH_MEASURING = 1 << 24  # multiply-adds of the dense layer below which the choice by shape is as good


class _Product(torch.autograd.Function):
    """A product whose gradients need what it was made of, and nothing else."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)


class _Inner(_Product):
    """B first. x (N, n1 n2), scaled (r, m1, n1), B (r, m2, n2) -> (N, m1 m2)."""

    @staticmethod
    def forward(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
        (_, m1, _), m2 = scaled.shape, B.shape[1]
        y = side_by_side(scaled) @ _Inner.between(x, scaled, B)  # (m1, N m2)
        return y.view(m1, x.shape[0], m2).transpose(0, 1).reshape(x.shape[0], m1 * m2)

    @staticmethod
    def between(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
        """B_i x for all i: (r n1, N m2)."""
        (r, _, n1), (_, m2, n2) = scaled.shape, B.shape
        z = x.reshape(-1, n2) @ B.reshape(r * m2, n2).T  # (N n1, r m2)
        return z.view(x.shape[0], n1, r, m2).permute(2, 1, 0, 3).reshape(r * n1, x.shape[0] * m2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, scaled, B = ctx.saved_tensors
        return _Inner.gradients(dy, x, scaled, B, ctx.needs_input_grad[0])

    @staticmethod
    def gradients(
        dy: Tensor, x: Tensor, scaled: Tensor, B: Tensor, needs_dx: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Those of x, scaled and B."""
        (r, m1, n1), (_, m2, n2) = scaled.shape, B.shape
        N = x.shape[0]
        dy = dy.reshape(N, m1, m2).transpose(0, 1).reshape(m1, N * m2)
        d_outer = dy @ _Inner.between(x, scaled, B).T  # (m1, r n1)
        dz = (side_by_side(scaled).T @ dy).view(r, n1, N, m2).permute(2, 1, 0, 3).reshape(N * n1, r * m2)
        dB = (dz.T @ x.reshape(-1, n2)).view(r, m2, n2)
        dx = (dz @ B.reshape(r * m2, n2)).view(N, n1 * n2) if needs_dx else None
        return dx, d_outer.view(m1, r, n1).transpose(0, 1), dB


class _Outer(_Product):
    """S * A first. The same arguments as :class:`_Inner`."""

    @staticmethod
    def forward(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
        m1, m2 = scaled.shape[1], B.shape[1]
        y = _Outer.between(x, scaled, B) @ B.transpose(1, 2).reshape(-1, m2)  # (N m1, m2)
        return y.view(x.shape[0], m1 * m2)

    @staticmethod
    def between(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
        """(S * A_i) x for all i: (N m1, r n2)."""
        (r, m1, n1), n2 = scaled.shape, B.shape[2]
        u = scaled.reshape(r * m1, n1) @ _columns(x, n1, n2)
        return u.view(r, m1, x.shape[0], n2).permute(2, 1, 0, 3).reshape(x.shape[0] * m1, r * n2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, scaled, B = ctx.saved_tensors
        (r, m1, n1), (_, m2, n2) = scaled.shape, B.shape
        N = x.shape[0]
        dy = dy.reshape(N * m1, m2)
        dB = (_Outer.between(x, scaled, B).T @ dy).view(r, n2, m2).transpose(1, 2)
        du = (dy @ B.transpose(0, 1).reshape(m2, r * n2)).view(N, m1, r, n2)
        du = du.permute(2, 1, 0, 3).reshape(r * m1, N * n2)
        d_scaled = (du @ _columns(x, n1, n2).T).view(r, m1, n1)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (scaled.reshape(r * m1, n1).T @ du).view(n1, N, n2).transpose(0, 1).reshape(N, n1 * n2)
        return dx, d_scaled, dB


def side_by_side(scaled: Tensor) -> Tensor:
    """(r, m1, n1) -> (m1, r n1)."""
    r, m1, n1 = scaled.shape
    return scaled.transpose(0, 1).reshape(m1, r * n1)


def _columns(x: Tensor, n1: int, n2: int) -> Tensor:
    """(N, n1 n2) -> (n1, N n2)."""
    return x.reshape(x.shape[0], n1, n2).transpose(0, 1).reshape(n1, x.shape[0] * n2)


def kron_weight(scaled: Tensor, B: Tensor) -> Tensor:
    """Return sum_i scaled_i kron B_i, (m1 m2, n1 n2)."""
    (_, m1, n1), (_, m2, n2) = scaled.shape, B.shape
    return torch.einsum("rab,rjk->ajbk", scaled, B).reshape(m1 * m2, n1 * n2)


def _dense(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
    return x @ kron_weight(scaled, B).T


def as_array(tensor: Tensor) -> Any:
    """The tensor's own memory, or a C-contiguous copy, as NumPy knows it."""
    if tensor.requires_grad or not tensor.is_contiguous():
        tensor = tensor.detach().contiguous()
    return tensor.numpy()


def _factors(scaled: Tensor, B: Tensor) -> fused.Factors:
    """A layer's own memory, as the kernels take it."""
    return fused.factors(as_array(scaled), as_array(B))


@torch.library.custom_op("kronflow::kpd", mutates_args=(), device_types="cpu")
def _fused(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
    (y,) = fused.forward(as_array(x), [_factors(scaled, B)], torch.get_num_threads())
    return torch.from_numpy(y)


@torch.library.custom_op("kronflow::kpd_backward", mutates_args=(), device_types="cpu")
def _fused_backward(dy: Tensor, x: Tensor, scaled: Tensor, B: Tensor, needs_dx: bool) -> tuple[Tensor, Tensor, Tensor]:
    dx, (own,) = fused.backward([as_array(dy)], as_array(x), [_factors(scaled, B)], torch.get_num_threads(), needs_dx)
    return torch.from_numpy(dx), torch.from_numpy(own.scaled).contiguous(), torch.from_numpy(own.B)


@_fused.register_fake
def _(x: Tensor, scaled: Tensor, B: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], scaled.shape[1] * B.shape[1])


@_fused_backward.register_fake
def _(dy: Tensor, x: Tensor, scaled: Tensor, B: Tensor, needs_dx: bool) -> tuple[Tensor, Tensor, Tensor]:
    dx = x.new_empty(x.shape[0] if needs_dx else 0, x.shape[1])
    return dx, scaled.new_empty(scaled.shape), B.new_empty(B.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    (x, scaled, B), needs_dx = ctx.saved_tensors, ctx.needs_input_grad[0]
    if torch.is_grad_enabled():  # create_graph=True: by operations that can be differentiated again
        return _Inner.gradients(dy, x, scaled, B, needs_dx)
    dx, d_scaled, dB = _fused_backward(dy, x, scaled, B, needs_dx)
    return (dx if needs_dx else None), d_scaled, dB


_fused.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.kronflow.kpd)
def _fused_flops(x: list[int], scaled: list[int], B: list[int], *_: Any, **__: Any) -> int:
    (r, m1, n1), m2, n2 = scaled, B[1], B[2]
    return 2 * x[0] * r * m2 * n1 * (m1 + n2)


@register_flop_formula(torch.ops.kronflow.kpd_backward)
def _fused_backward_flops(
    dy: list[int], x: list[int], scaled: list[int], B: list[int], needs_dx: bool, *_: Any, **__: Any
) -> int:
    (r, m1, n1), m2, n2 = scaled, B[1], B[2]
    # B x anew, S * A, B x, B and, where wanted, x
    return 2 * x[0] * r * m2 * n1 * (n2 + m1 + m1 + n2 + (n2 if needs_dx else 0))


class Parts(NamedTuple):
    """What a layer in training is made of; scaled is S * A_i on the support, B_i is V_i, of unit norm if `on_sphere`.

    Attributes
    ----------
    S
        (m1, n1), or None: S = 1.
    A
        (r, m1, n1).
    V
        (r, m2, n2).
    bias
        (m,), or None.
    support
        (m1, n1) bool: blocks outside of it are zero; None: all are inside.
    on_sphere
        Whether V_i is divided by its Frobenius norm.
    """

    S: Tensor | None
    A: Tensor
    V: Tensor
    bias: Tensor | None
    support: Tensor | None = None
    on_sphere: bool = False

    def factors(self) -> tuple[Tensor, Tensor]:
        """Scaled, (r, m1, n1), and B, (r, m2, n2)."""
        scaled = self.A if self.S is None else self.A * self.S
        if self.support is not None:
            scaled = scaled.masked_fill(~self.support, 0.0)
        return scaled, (unit_norm(self.V) if self.on_sphere else self.V)


def unit_norm(V: Tensor) -> Tensor:
    """V_i / ||V_i||_F for (.., r, m2, n2)."""
    norms: Tensor = torch.linalg.vector_norm(V, dim=(-2, -1), keepdim=True)
    return V / norms.clamp_min(torch.finfo(V.dtype).tiny)


class _Unwatched(torch.autograd.Function):
    """Layers by this project's kernels, of which torch's dispatcher is not told; nothing but the inputs is kept.

    Arguments of a subclass: x (N, n); whether :data:`Parts` are on the sphere, for each layer, and what the subclass is
    called with besides; the tensors of the layers' parts.
    """

    @staticmethod
    def plain(x: Tensor, how: Any, layers: list[Parts]) -> tuple[Tensor, ...]:
        """The same by torch's own operations."""
        raise NotImplementedError

    @staticmethod
    def gradients(
        dys: list[Any], x: Any, how: Any, layers: list[Any], threads: int, needs_dx: bool
    ) -> tuple[Any, list[fused.Gradients]]:
        """By a kernel: those of x and of each layer."""
        raise NotImplementedError

    @staticmethod
    def keep(ctx: Any, x: Tensor, how: Any, tensors: tuple[Tensor | None, ...]) -> list[fused.Factors]:
        """Save what the backward needs; what the kernels need of the layers."""
        ctx.how = how
        ctx.save_for_backward(x, *tensors)
        ctx.own = [_factors_of(own) for own in _layers(tensors, how)]
        return [own for own, _ in ctx.own]

    @classmethod
    def differentiate(cls, ctx: Any, dys: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """The gradients of all arguments."""
        x, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or not all(is_unwatched(dy) for dy in dys):  # to be differentiated again
            return cls._by_torch(ctx, x, tensors, dys)
        needs_dx, _, *needed = ctx.needs_input_grad
        arrays, own, threads = [as_array(dy) for dy in dys], [own for own, _ in ctx.own], torch.get_num_threads()
        dx, gradients = cls.gradients(arrays, as_array(x), ctx.how, own, threads, needs_dx)
        found: list[Tensor | None] = []
        for part, (factors, outside), gradient in zip(_layers(tensors, ctx.how), ctx.own, gradients, strict=True):
            found += _gradients_of(part, factors, outside, gradient)
        kept = [grad if wanted else None for grad, wanted in zip(found, needed, strict=True)]
        return torch.from_numpy(dx) if needs_dx else None, None, *kept

    @classmethod
    def _by_torch(
        cls, ctx: Any, x: Tensor, tensors: Sequence[Tensor | None], dys: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # a layer that stands in two places has its gradient in each
            own = [None if tensor is None else tensor.view_as(tensor) for tensor in (x, None, *tensors)]
            ys = cls.plain(cast("Tensor", own[0]), ctx.how, _layers(own[2:], ctx.how))
        wanted = [each for each, needs in zip(own, ctx.needs_input_grad, strict=True) if needs and each is not None]
        found = iter(torch.autograd.grad(ys, wanted, dys, create_graph=create_graph))
        return tuple(next(found) if needs else None for needs in ctx.needs_input_grad)


TENSORS = 5  # of a layer's parts


def _layers(tensors: Sequence[Tensor | None], how: Any) -> list[Parts]:
    parts = [tensors[first : first + TENSORS] for first in range(0, len(tensors), TENSORS)]
    return [Parts(*cast("Any", (*own, on_sphere))) for own, on_sphere in zip(parts, how[0], strict=True)]


def _factors_of(parts: Parts) -> tuple[fused.Factors, Any]:
    """What the kernels need of a layer, and where it has no blocks."""
    A, V = as_array(parts.A), as_array(parts.V)
    scaled = A if parts.S is None else A * as_array(parts.S)
    outside = None if parts.support is None else ~as_array(parts.support)
    if outside is not None:
        scaled = np.where(outside, np.float32(0.0), scaled)
    B = V / _norms(V) if parts.on_sphere else V
    return fused.factors(scaled, B, *(() if parts.bias is None else (as_array(parts.bias),))), outside


def _norms(V: Any) -> Any:
    return np.maximum(np.sqrt(np.einsum("rjk,rjk->r", V, V)), np.finfo(np.float32).tiny)[:, None, None]


def _gradients_of(
    parts: Parts, factors: fused.Factors, outside: Any, gradients: fused.Gradients
) -> tuple[Tensor | None, ...]:
    """Those of the tensors of a layer's parts from those of scaled, B and the bias."""
    scaled, B, bias = gradients
    if outside is not None:
        scaled = np.where(outside, np.float32(0.0), scaled)
    if parts.on_sphere:
        along = np.einsum("rjk,rjk->r", factors.B, B)[:, None, None]
        B = (B - factors.B * along) / _norms(as_array(parts.V))
    dA, dS = scaled, None
    if parts.S is not None:
        dA, dS = scaled * as_array(parts.S), torch.from_numpy((scaled * as_array(parts.A)).sum(axis=0))
    d_bias = None if parts.bias is None else torch.from_numpy(bias)
    return dS, torch.from_numpy(np.ascontiguousarray(dA)), torch.from_numpy(B), d_bias, None


class _SideBySide(_Unwatched):
    """(N, m) of each layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: Any, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        own = _Unwatched.keep(ctx, x, how, tensors)
        return tuple(map(torch.from_numpy, fused.forward(as_array(x), own, torch.get_num_threads())))

    @staticmethod
    def plain(x: Tensor, how: Any, layers: list[Parts]) -> tuple[Tensor, ...]:
        return tuple(_by_inner(x, layer) for layer in layers)

    @staticmethod
    def gradients(
        dys: list[Any], x: Any, how: Any, layers: list[Any], threads: int, needs_dx: bool
    ) -> tuple[Any, list[fused.Gradients]]:
        return fused.backward(dys, x, layers, threads, needs_dx)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        return _SideBySide.differentiate(ctx, dys)


class _OneAfterTheOther(_Unwatched):
    """(N, m) of the second of two layers with GELU (the second of `how` being true) or ReLU between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: Any, *tensors: Tensor | None) -> Tensor:
        first, second = _Unwatched.keep(ctx, x, how, tensors)
        return torch.from_numpy(fused.forward_both(as_array(x), first, second, how[1], torch.get_num_threads()))

    @staticmethod
    def plain(x: Tensor, how: Any, layers: list[Parts]) -> tuple[Tensor, ...]:
        first, second = layers
        activation = torch.nn.functional.gelu if how[1] else torch.relu
        return (_by_inner(activation(_by_inner(x, first)), second),)

    @staticmethod
    def gradients(
        dys: list[Any], x: Any, how: Any, layers: list[Any], threads: int, needs_dx: bool
    ) -> tuple[Any, list[fused.Gradients]]:
        (dy,), (first, second) = dys, layers
        return fused.backward_both(dy, x, first, second, how[1], threads, needs_dx)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _OneAfterTheOther.differentiate(ctx, (dy,))


def _by_inner(x: Tensor, layer: Parts) -> Tensor:
    y = _Inner.forward(x, *layer.factors())
    return y if layer.bias is None else y + layer.bias


def side_by_side_products(x: Tensor, layers: Sequence[Parts]) -> list[Tensor]:
    """(N, n) -> (N, m) of each layer by this project's kernels, x being read once; where nobody watches."""
    how = ([own.on_sphere for own in layers],)
    tensors = [tensor for own in layers for tensor in own[:TENSORS]]
    ys: tuple[Tensor, ...] = _SideBySide.apply(x, how, *tensors)  # type: ignore[no-untyped-call]
    return list(ys)


def feed_forward_product(x: Tensor, first: Parts, second: Parts, is_gelu: bool) -> Tensor:
    """(N, n) -> (N, m) by two layers with GELU or else ReLU between them; where nobody watches."""
    how = ([first.on_sphere, second.on_sphere], is_gelu)
    y: Tensor = _OneAfterTheOther.apply(x, how, *first[:TENSORS], *second[:TENSORS])  # type: ignore[no-untyped-call]
    return y


with torch.inference_mode():
    _PLAIN = [torch._C._dispatch_keys(torch.empty(0, device="cpu"))]
with torch.inference_mode(mode=False):
    _PLAIN.append(torch._C._dispatch_keys(torch.empty(0, device="cpu")))  # what a CPU's own tensors pass through


def is_unwatched(x: Tensor) -> bool:
    """Whether a kernel may compute from `x` without torch being told: nobody traces, counts, transforms or profiles.

    Telling it takes a third of a millisecond where caches are cold, more than many a sparse product.
    """
    return not (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or x.dtype != torch.float32
        or torch._C._dispatch_keys(x) not in _PLAIN
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or is_transformed()
    )


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fused": _fused,
    "inner": _Inner.apply,
    "outer": _Outer.apply,
    "dense": _dense,
}
CHOICES = ("auto", "shape", *PATHS)
# of operations of torch's own alone
PLAIN = {"fused": _Inner.forward, "inner": _Inner.forward, "outer": _Outer.forward, "dense": _dense}
FRESH = ("fused", "dense")  # ways whose result is no view, so that the bias may be added in place


def checked_path(path: str) -> str:
    """Return `path` if it is one of :data:`CHOICES` and can be had here."""
    if path not in CHOICES:
        raise InputError(f"path '{path}' is unknown{nearest(path, CHOICES)}")
    if path == "fused" and not HAS_FUSED:
        raise InputError("path 'fused' needs Numba: pip install numba, or use auto")
    return path


def kpd_product(x: Tensor, scaled: Tensor, B: Tensor, path: str = "auto", bias: Tensor | None = None) -> Tensor:
    """Return x W^T (+ bias) for W = sum_i scaled_i kron B_i.

    Parameters
    ----------
    x
        (N, n1 n2).
    scaled, B
        (r, m1, n1) and (r, m2, n2), of x's type and on its device.
    path
        One of :data:`PATHS`; ``shape``: chosen from the sizes alone, the same on every run; ``auto``: for
        layers of some size chosen by measuring all once in this process, so that a rerun may round
        differently.
    bias
        (m1 m2,), of x's type.

    Raises
    ------
    InputError
        Arguments of different types or on different devices, or a path that cannot take theirs.
    """
    check_alike(x, scaled)
    check_alike(x, B)
    if path in ("auto", "shape"):
        path = choose(x, scaled, B, measured=path == "auto")
    if is_transformed():
        y = PLAIN[path](x, scaled, B)
        return y if bias is None else y + bias
    if path == "fused" and (x.device.type != "cpu" or x.dtype != torch.float32):
        raise InputError(f"path 'fused' takes float32 on a CPU, not {x.dtype} on {x.device.type}; use auto")
    if path == "fused" and is_unwatched(x):
        return side_by_side_products(x, [Parts(None, scaled, B, bias)])[0]
    y = PATHS[path](x, scaled, B)
    if bias is None:
        return y
    return y.add_(bias) if path in FRESH else y + bias


def check_alike(x: Tensor, parameter: Tensor) -> None:
    """Refuse an input of another type or on another device than the layer's own numbers."""
    if x.dtype != parameter.dtype or x.device != parameter.device:
        raise InputError(
            f"input: {x.dtype} on {x.device}, parameters: {parameter.dtype} on {parameter.device}; "
            "bring both to one type and device"
        )


def is_transformed() -> bool:
    """Whether :mod:`torch.func` (vmap, grad, jvp ..) or forward differentiation is at work: by torch's operations."""
    active: bool = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return active


def choose(x: Tensor, scaled: Tensor, B: Tensor, measured: bool) -> str:
    """Return the name of the path to take for these sizes."""
    # a program for batches of any size (torch.export) takes one way for all
    rows = x.shape[0] if isinstance(x.shape[0], int) else ANY_ROWS
    is_traced = torch.compiler.is_compiling() or is_transformed()
    path = decided(rows, scaled, B, "auto" if measured and not is_traced else "shape")
    if path is None:
        seconds = _measured[_kind(rows, scaled, B)] = measure(x, scaled, B, torch.is_grad_enabled())
        path = min(seconds, key=seconds.__getitem__)
    return path


def decided(rows: int, scaled: Tensor, B: Tensor, path: str) -> str | None:
    """The path that a layer whose setting is `path` takes for so many rows; None where it is to be measured yet."""
    if path not in ("auto", "shape"):
        return path
    (r, m1, n1), (_, m2, n2) = scaled.shape, B.shape
    if path == "auto" and rows * m1 * m2 * n1 * n2 >= WORTH_MEASURING:
        seconds = _measured.get(_kind(rows, scaled, B))
        return None if seconds is None else min(seconds, key=seconds.__getitem__)
    by_shape, least = "dense", math.inf
    for name, cost in _predicted(scaled, rows, r, m1, n1, m2, n2):  # min(.., key=..) of a symbolic number: not compiled
        if cost < least:
            by_shape, least = name, cost
    return by_shape


def _kind(rows: int, scaled: Tensor, B: Tensor) -> tuple[Any, ...]:
    """What products have alike that are measured once."""
    where = (scaled.device, scaled.dtype, torch.get_num_threads(), torch.is_grad_enabled())
    return *where, rows.bit_length(), scaled.shape, B.shape


_measured: dict[tuple[Any, ...], dict[str, float]] = {}


def available(x: Tensor) -> list[str]:
    """Names of the paths that can take `x`."""
    takes_fused = x.device.type == "cpu" and x.dtype == torch.float32
    if takes_fused and not HAS_FUSED:
        warnings.warn("Numba is missing: KPD layers use torch's own products, which are slower", stacklevel=2)
    return [name for name in PATHS if name != "fused" or (takes_fused and HAS_FUSED)]


def measure(x: Tensor, scaled: Tensor, B: Tensor, training: bool, repeats: int = 3) -> dict[str, float]:
    """Seconds of a forward (and, if `training`, a backward) by every available path; the best of `repeats`."""
    own = [tensor.detach().requires_grad_(training) for tensor in (x, scaled, B)]
    seconds = {}
    for name in available(x):
        times = []
        for _ in range(repeats + 1):  # the first call compiles or warms up
            _synchronise(x)
            started = time.perf_counter()
            # Under hooks of its own, so that those of the caller (checkpointing) see nothing of it.
            with torch.set_grad_enabled(training), saved_tensors_hooks(_same, _same):
                y = PATHS[name](*own)
                if training:
                    torch.autograd.grad(y, own, torch.ones_like(y))
            _synchronise(x)
            times.append(time.perf_counter() - started)
        seconds[name] = min(times[1:])
    return seconds


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _predicted(scaled: Tensor, N: int, r: int, m1: int, n1: int, m2: int, n2: int) -> list[tuple[str, float]]:
    """Relative cost of each available path: operations, what is copied or laid out anew, and a start-up.

    The weights are rough, fitted to steps of ViT-tiny's layers and of 1024 -> 1024: on a CPU, the fused path is about
    a third above one plain product and transposes tiles; the others copy what lies between their products.
    """
    inner, outer = r * N * n1 * m2 * (m1 + n2), r * N * m1 * n2 * (n1 + m2)
    costs = {
        "fused": 1.3 * inner + 12 * N * (n1 * n2 + m1 * m2) + 1.0e6,
        "inner": 2.0 * inner + 40 * N * (r * n1 * m2 + m1 * m2) + 2.0e6,
        "outer": 2.0 * outer + 40 * N * (r * m1 * n2 + n1 * n2) + 2.0e6,
        "dense": N * m1 * m2 * n1 * n2 + r * m1 * m2 * n1 * n2 + 1.0e6,
    }
    return [(name, costs[name]) for name in available(scaled)]
