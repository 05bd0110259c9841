"""Layers that are computed together, so that what lies between them stays in the cache.

In training (KPD layers that take the fused way) as well as deployed. Only where nobody asks torch what is computed (see
:func:`pipeline.kpd.functional.is_unwatched`) and no layer has a hook of its user's: else each layer is called as it
stands, with the same result up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as modules

from pipeline.kpd.functional import (
    HAS_FUSED,
    Parts,
    as_array,
    feed_forward_product,
    is_unwatched,
    side_by_side_products,
)
from pipeline.kpd.inference import InferenceLayer, is_free, multiplied
from pipeline.kpd.layer import KPDLinear, autocast_type, input_squares, is_own_hook

if HAS_FUSED:
    from pipeline.kpd import fused


HEARING = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OURS = (InferenceLayer, KPDLinear)


def side_by_side(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor] | None:
    """(.., n) -> (.., m) of each layer, x being read once; None where they must be called."""
    if any(getattr(layer, "in_features", None) != x.shape[-1] for layer in layers):
        return None
    rows = x.reshape(-1, x.shape[-1])
    parts = _parts(x, layers)
    if parts is not None:
        return [y.view(*x.shape[:-1], y.shape[1]) for y in side_by_side_products(rows, parts)]
    own = _operands(x, layers)
    return None if own is None else [y.view(*x.shape[:-1], y.shape[1]) for y in multiplied(rows, own)]


def one_after_the_other(x: Tensor, chain: Sequence[Any]) -> Tensor | None:
    """(.., n) -> (.., m) by a layer, GELU or ReLU, what passes its input on, and a layer; None where not possible."""
    first, activation, *between, second = chain
    is_gelu = activation is functional.gelu or (type(activation) is nn.GELU and activation.approximate == "none")
    is_relu = activation in (functional.relu, torch.relu) or type(activation) is nn.ReLU
    if not (is_gelu or is_relu) or not all(_passes(own) for own in between):
        return None
    if isinstance(activation, nn.Module) and not _is_bare(activation):
        return None
    parts = _parts(x, (first, second))
    own = _operands(x, (first, second)) if parts is None else None
    if parts is None and own is None:
        return None
    if x.shape[-1] != first.in_features or first.out_features != second.in_features:
        return None
    rows = x.reshape(-1, x.shape[-1])
    if parts is not None:
        y = feed_forward_product(rows, parts[0], parts[1], is_gelu)
    elif own is not None:
        y = x.new_empty(len(rows), second.out_features)
        fused.feed_forward(as_array(rows), own[0], own[1], y.numpy(), is_gelu, torch.get_num_threads())
    return y.view(*x.shape[:-1], second.out_features)


def _parts(x: Tensor, layers: Sequence[nn.Module]) -> list[Parts] | None:
    """What the kernels need of layers in training; None where one must be called, if only to find its way first."""
    if not all(isinstance(layer, KPDLinear) for layer in layers) or not _may_skip(x):
        return None
    found: list[Parts] = []
    for layer in cast("Sequence[KPDLinear]", layers):
        is_plain = type(layer).forward is KPDLinear.forward and _is_bare(layer)
        if not is_plain or (layer.training and input_squares(layer) is not None):  # which wants to see its inputs
            return None
        own = layer.parts(x)
        if own is None:
            return None
        found.append(own)
    return found


def _operands(x: Tensor, layers: Sequence[nn.Module]) -> list[fused.Operands] | None:
    """What the kernels need of each deployed layer; None where one must be called."""
    if not all(isinstance(layer, InferenceLayer) for layer in layers) or not _may_skip(x) or not is_free(x):
        return None
    found = []
    for layer in cast("Sequence[InferenceLayer]", layers):
        own = layer.operands() if _is_bare(layer) else None
        if own is None:
            return None
        found.append(own)
    return found


def _may_skip(x: Tensor) -> bool:
    """Whether layers need not be called with `x`."""
    return is_unwatched(x) and x.dim() > 0 and x.shape[-1] > 0 and autocast_type(x.device.type) is None


def _passes(layer: nn.Module) -> bool:
    """Whether a layer gives back its input."""
    is_off = isinstance(layer, nn.Dropout) and (not layer.training or layer.p == 0)
    return (is_off or type(layer) is nn.Identity) and _is_bare(layer)


def _is_bare(layer: nn.Module) -> bool:
    """Whether nobody hears of a call of the layer: it has no hooks but ours, nor have all modules."""
    return (
        "forward" not in layer.__dict__
        and not any(hook for name in HEARING for hook in getattr(layer, name).values() if not is_own_hook(hook))
        and not modules._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


class _Named(nn.Module):
    """Shows under the name of the class it stands for."""

    _stands_for: ClassVar[type[nn.Module]]

    def _get_name(self) -> str:
        return self._stands_for.__name__


class _AsOne(_Named):
    """Also for :func:`torch.fx.symbolic_trace`, which takes what is defined in torch.nn as a whole."""

    def __init_subclass__(cls) -> None:
        cls.__module__ = cls._stands_for.__module__

    def __reduce__(self) -> tuple[Any, ...]:
        """By the class of torch's, under whose module this one is not found."""
        return _blank, (self._stands_for,), self.__getstate__()  # type: ignore[no-untyped-call]


class _Encoder(_AsOne, nn.TransformerEncoderLayer):
    """torch's, with its feed-forward part at once."""

    _stands_for = nn.TransformerEncoderLayer

    def _ff_block(self, x: Tensor) -> Tensor:
        y = one_after_the_other(x, (self.linear1, self.activation, self.dropout, self.linear2))
        return super()._ff_block(x) if y is None else self.dropout2(y)


class _Decoder(_AsOne, nn.TransformerDecoderLayer):
    """torch's, with its feed-forward part at once."""

    _stands_for = nn.TransformerDecoderLayer

    def _ff_block(self, x: Tensor) -> Tensor:
        y = one_after_the_other(x, (self.linear1, self.activation, self.dropout, self.linear2))
        return super()._ff_block(x) if y is None else self.dropout3(y)


class _Sequential(_Named, nn.Sequential):
    """torch's, two layers of this package with an activation between them at once."""

    _stands_for = nn.Sequential

    def forward(self, x: Any) -> Any:
        """Call what does not go together."""
        parts = list(self)
        at = 0
        while at < len(parts):
            end = _end_of_chain(parts, at)
            y = one_after_the_other(x, parts[at:end]) if end > at and isinstance(x, Tensor) else None
            x, at = (parts[at](x), at + 1) if y is None else (y, end)
        return x


class _Mlp(nn.Module):
    """timm's, with all of it at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Call one after the other where that is not possible."""
        own: Any = self
        y = one_after_the_other(x, (own.fc1, own.act, own.drop1, own.norm, own.fc2))
        result: Tensor = super().forward(x) if y is None else own.drop2(y)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """By the class that timm knows, since this one is made when it is needed."""
        return _blank, (type(self).__bases__[1],), self.__getstate__()  # type: ignore[no-untyped-call]


def _blank(kind: type[nn.Module]) -> nn.Module:
    """A module of what stands for `kind`, without its parts."""
    joined = cast("type[nn.Module]", _joined(cast("Any", kind)))
    return joined.__new__(joined)


def _end_of_chain(parts: Sequence[nn.Module], first: int) -> int:
    """Where a chain that starts with the layer at `first` ends; there itself where none does."""
    if not isinstance(parts[first], OURS):
        return first
    for end in range(first + 2, len(parts)):
        if isinstance(parts[end], OURS):
            return end + 1
        if not isinstance(parts[end], nn.Dropout | nn.Identity):
            break
    return first


@cache
def _joined(kind: Any) -> type[nn.Module] | None:
    """What computes the layers of a module of this class together; None where there is nothing like it."""
    known: dict[type[nn.Module], type[nn.Module]] = {
        nn.TransformerEncoderLayer: _Encoder,
        nn.TransformerDecoderLayer: _Decoder,
        nn.Sequential: _Sequential,
    }
    if (kind.__module__, kind.__name__) == ("timm.layers.mlp", "Mlp"):
        return type(kind.__name__, (_Mlp, kind), {})
    return known.get(kind)


def join(network: nn.Module) -> nn.Module:
    """Have the parts of a network compute together what goes together, in place; return it."""
    for holder in network.modules():
        kind: Any = _joined(cast("Any", type(holder)))
        if kind is not None and sum(isinstance(own, OURS) for own in holder.children()) > 1:
            holder.__class__ = kind
    return network
