"""Swap the linear layers of any module for block-sparse ones, by rules, and say what it costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipeline.errors import InputError
from pipeline.kpd.attention import Attention
from pipeline.kpd.blocks import BlockLinear
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.convolution import PatchConv2d, as_rows
from pipeline.kpd.layer import KPDLinear, checked_block, give_hooks, take_after
from pipeline.kpd.together import join


@dataclass(frozen=True)
class Rule:
    """What becomes of a layer: a KPD layer with these settings (see :class:`KPDLinear`)."""

    block: tuple[int, int]
    rank: int = 1
    variant: Literal["selector", "group"] = "selector"


@dataclass(frozen=True)
class Swap:
    """One linear layer and what became of it.

    Attributes
    ----------
    name, in_features, out_features
        The layer.
    problem
        Why it stayed as it was; None where it was swapped.
    parameters, dense_parameters
        Of the new layer and of the old one.
    predicted_cost
        Multiply-adds of the new layer's product beside the dense one's, the cheaper of both orders:
        the smaller of r (1 / m1 + 1 / n2) and r (1 / n1 + 1 / m2).
    fit_error
        ||W - W'||_F / ||W||_F of the new weight W' beside the one it was started from; None: started afresh.
    """

    name: str
    in_features: int
    out_features: int
    problem: str | None
    parameters: int
    dense_parameters: int
    predicted_cost: float
    fit_error: float | None = None


@dataclass(frozen=True)
class Report:
    """What :func:`convert` did; printing it gives a table."""

    swaps: tuple[Swap, ...]

    @property
    def swapped(self) -> list[str]:
        """Names of the layers that were swapped."""
        return [swap.name for swap in self.swaps if swap.problem is None]

    def __str__(self) -> str:
        lines = ["layer                          size           parameters      cost beside dense"]
        for swap in self.swaps:
            size = f"{swap.in_features} -> {swap.out_features}"
            if swap.problem is None:
                share = swap.parameters / swap.dense_parameters
                note = f"{share:8.3f} of dense   {swap.predicted_cost:.3f}"
                note += "  more than dense" if swap.predicted_cost > 1 else ""
                note += "" if swap.fit_error is None else f"   error of the weights kept {swap.fit_error:.3f}"
            else:
                note = f"left dense: {swap.problem}"
            lines.append(f"{swap.name:<30} {size:<14} {note}")
        return "\n".join(lines)


def predicted_cost(layer: KPDLinear) -> float:
    """Multiply-adds of a KPD layer's product beside its dense twin's, the cheaper of both orders."""
    (m1, n1), (m2, n2) = layer.grid, layer.block
    return layer.rank * min(1 / m1 + 1 / n2, 1 / n1 + 1 / m2)


def convert(
    module: nn.Module,
    rules: Mapping[str, Rule | None],
    *,
    keep_weights: bool = False,
    convolutions: bool = False,
    path: str = "auto",
) -> Report:
    """Swap, in place, linear layers of `module` for KPD layers.

    Parameters
    ----------
    module
        Any module that holds linear layers under a name of their own.
    rules
        Pattern of a layer's dotted name (``*`` and ``?`` as in file names) to what becomes of it; None
        leaves a layer as it is. The first pattern that matches decides, and a layer no pattern matches stays.
    keep_weights
        Start from the nearest approximation of the present weights instead of afresh.
    convolutions
        Take two-dimensional convolutions too, as linear maps of patches (:class:`PatchConv2d`).
    path
        See :func:`pipeline.kpd.functional.kpd_product`.

    Returns
    -------
    Report
        What was swapped, what a block does not divide, and each layer's predicted cost. A layer that will
        cost more than dense also gives a warning.

    Raises
    ------
    InputError
        No layer was swapped.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> convert(network, {"*": Rule(block=(4, 4))}).swapped
    ['0']
    """

    report = swap_layers(module, rules, partial(factored, path=path), keep_weights, convolutions)
    for swap in report.swaps:
        if swap.problem is None and swap.predicted_cost > 1:
            warnings.warn(
                f"layer '{swap.name}' costs {swap.predicted_cost:.2f} times its dense twin; "
                "a larger block or a lower rank costs less",
                stacklevel=2,
            )
    return report


def factored(layer: nn.Linear, rule: Rule, path: str) -> KPDLinear:
    """A fresh KPD layer of a dense layer's shape, by a rule."""
    return KPDLinear(
        layer.in_features,
        layer.out_features,
        rule.block,
        rule.rank,
        layer.bias is not None,
        variant=rule.variant,
        path=path,
    )


@torch.no_grad()
def _take_over(old: nn.Linear, new: nn.Module, keep_weights: bool) -> float | None:
    """Give `new` what `old` was beside its size; return how far the weights are from the old ones, if kept."""
    weight = old.weight
    new.to(device=weight.device, dtype=weight.dtype)
    error = None
    if keep_weights:
        new.approximate(weight.detach())  # type: ignore[operator]
        if old.bias is not None:
            new.bias.copy_(old.bias)  # type: ignore[operator]
        error = float(
            (cast("torch.Tensor", new.weight) - weight).norm() / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)
        )
    take_after(new, old)
    return error


OTHER_KINDS = (nn.modules.conv._ConvNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
DERIVED = (
    "its weight or bias is computed from other parameters (pruning, weight_norm, spectral_norm ..); make it "
    "plain first: torch.nn.utils.parametrize.remove_parametrizations, prune.remove or remove_weight_norm"
)
SHARED = "its weight is shared with another layer"


def _is_linear(layer: nn.Module) -> bool:
    """Whether `layer` is linear: torch's own, or Hugging Face's Conv1D, whose weight is (n, m)."""
    return isinstance(layer, nn.Linear) or (type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"))


def _obstacle(layer: nn.Module, is_owned: bool, convolutions: bool) -> str | None:
    """Why a layer that holds weights for products cannot be swapped; None where it can, or holds none."""
    kind = type(layer).__name__
    if isinstance(layer, nn.Conv2d) and not convolutions:
        return "a convolution; convolutions=True takes it too"
    if isinstance(layer, OTHER_KINDS) and not isinstance(layer, nn.Conv2d):
        return f"a {kind} is no linear layer"
    if not _is_linear(layer) and not isinstance(layer, nn.Conv2d):
        return None
    if "weight" not in layer._parameters or "bias" not in layer._parameters:
        return DERIVED
    if is_lazy(cast("torch.Tensor", layer._parameters["weight"])):
        return "its sizes are not known yet; run a batch through the network first"
    if is_owned:
        return "nn.MultiheadAttention multiplies by its weight and does not call it"
    for base in (nn.Linear, nn.Conv2d):
        if isinstance(layer, base) and type(layer).forward is not base.forward:
            return f"a {kind} computes in a way of its own"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return f"a convolution in {layer.groups} groups is as many maps, not one"
    return None


def _sizes(layer: nn.Module, weights: list[nn.Parameter]) -> tuple[int, int]:
    """Inputs and outputs of a layer that is left as it is, as far as they are known."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    shape = next((weight.shape for weight in weights if weight.ndim > 1), torch.Size((0, 0)))
    return shape[1:].numel(), shape[0]


def _as_linear(layer: nn.Module) -> nn.Linear:
    """The layer itself, or what it would be as torch's own; of a convolution, without its hooks, the map of a patch."""
    if isinstance(layer, nn.Linear):
        return layer
    if isinstance(layer, nn.Conv2d):
        return as_rows(layer)
    weight, bias = cast("nn.Parameter", layer.weight), cast("nn.Parameter", layer.bias)
    with torch.device("meta"):
        linear = nn.Linear(*weight.shape)
    linear.weight = nn.Parameter(weight.detach().T.contiguous(), weight.requires_grad)
    linear.bias = bias
    give_hooks(layer, linear)
    return linear.train(layer.training)


def names_of(module: nn.Module, name: str) -> list[str]:
    """What a pattern may call a layer: its name, and that of the attention or the convolution that it is a part of."""
    holder, _, own = name.rpartition(".")
    if not holder or own not in (*PROJECTIONS, "linear"):
        return [name]
    kinds = PatchConv2d if own == "linear" else Attention | nn.MultiheadAttention
    return [name, holder] if isinstance(module.get_submodule(holder), kinds) else [name]


def _rule_for(module: nn.Module, name: str, rules: Mapping[str, Rule | None]) -> Rule | None:
    """The first rule whose pattern fits a layer."""
    return next(
        (rules[pattern] for each in names_of(module, name) for pattern in rules if fnmatchcase(each, pattern)), None
    )


def _holders(module: nn.Module) -> dict[int, set[int]]:
    """The modules that hold each parameter, by their identities."""
    holders: dict[int, set[int]] = {}
    for holder in module.modules():
        for parameter in holder.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(id(holder))
    return holders


def _open_attentions(module: nn.Module, rules: Mapping[str, Rule | None]) -> dict[str, str]:
    """Make layers of the projections of every attention that a rule asks for; say why others stay, by name."""
    holders = _holders(module)
    stay: dict[str, str] = {}
    opened: dict[int, nn.Module] = {}
    for name, attention in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(attention, nn.MultiheadAttention) or not name:
            continue
        asked = {own: _rule_for(module, f"{name}.{own}", rules) for own in PROJECTIONS}
        wanted = {own: rule for own, rule in asked.items() if rule is not None}
        if not wanted:
            continue
        problem = _attention_obstacle(attention, holders) or _projections_obstacle(attention, wanted)
        if problem is not None:
            stay[name] = problem
            continue
        if id(attention) not in opened:
            opened[id(attention)] = new = Attention(attention)
            give_hooks(attention, new)
        module.set_submodule(name, opened[id(attention)])
    return stay


def _attention_obstacle(attention: nn.MultiheadAttention, holders: Mapping[int, set[int]]) -> str | None:
    """Why the projections of an attention cannot become layers; None where they can."""
    if type(attention).forward is not nn.MultiheadAttention.forward:
        return f"a {type(attention).__name__} computes in a way of its own"
    packed = attention._qkv_same_embed_dim
    names = ("in_proj_weight",) if packed else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    own = [attention._parameters.get(name) for name in names]
    if any(weight is None for weight in own) or "weight" not in attention.out_proj._parameters:
        return DERIVED
    if any(len(holders[id(weight)]) > 1 for weight in own):
        return SHARED
    return None


def _projections_obstacle(attention: nn.MultiheadAttention, wanted: Mapping[str, Rule]) -> str | None:
    """Why none of the wanted projections has a block that divides it; None where one has."""
    inputs = {"k_proj": attention.kdim, "v_proj": attention.vdim}
    problem = None
    for own, rule in wanted.items():
        try:
            checked_block(inputs.get(own, attention.embed_dim), attention.embed_dim, rule.block)
        except InputError as error:
            problem = str(error)
        else:
            return None
    return problem


def open_holders(network: nn.Module, layers: Iterable[str]) -> None:
    """Make layers under the names `layers` of what :func:`convert` makes them of: attentions and convolutions."""
    for name in layers:
        holder, _, own = name.rpartition(".")
        found = network.get_submodule(holder) if holder else network
        if isinstance(found, nn.MultiheadAttention) and own in PROJECTIONS:
            network.set_submodule(holder, Attention(found))
        elif isinstance(found, nn.Conv2d) and own == "linear":
            network.set_submodule(holder, PatchConv2d(found, as_rows(found)))


def _placed(old: nn.Module, new: nn.Module) -> nn.Module:
    """What stands in the place of `old`: the new layer, or the convolution that it makes."""
    if not isinstance(old, nn.Conv2d):
        return new
    patches = PatchConv2d(old, new)
    give_hooks(old, patches)
    return patches


def _check_rules(rules: Mapping[str, Rule | None]) -> None:
    """Refuse what is no set of rules."""
    if not isinstance(rules, Mapping):
        raise InputError(f'rules: a {type(rules).__name__} is no mapping, for example {{"*": Rule(block=(2, 4))}}')
    for pattern, rule in rules.items():
        if not isinstance(pattern, str):
            raise InputError(f"rules: {pattern!r} is no pattern of names; give '{pattern}', in quotes")
        if not isinstance(rule, Rule | None):
            raise InputError(f"rule for '{pattern}': {rule!r} is no Rule, for example Rule(block=(2, 4))")


def _cost(placed: nn.Module, share: float) -> float:
    """Multiply-adds beside dense of a layer that holds a `share` of the dense one's parameters."""
    if isinstance(placed, PatchConv2d):
        return 1.0 if placed.overlaps else _cost(placed.linear, share)
    if isinstance(placed, KPDLinear):
        return predicted_cost(placed)
    return share if isinstance(placed, BTTLinear) else 1.0


def swap_layers(
    module: nn.Module,
    rules: Mapping[str, Rule | None],
    make: Callable[[nn.Linear, Rule], nn.Module],
    keep_weights: bool = False,
    convolutions: bool = False,
    at_least: int = 1,
) -> Report:
    """Swap every linear layer that a rule asks for by what `make` returns; see :func:`convert`.

    The new layer takes over type, device, mode and hooks, and stays fixed where the old one was. Subclasses of
    torch's linear layer that compute as it does are swapped too, and Hugging Face's Conv1D; of a
    :class:`torch.nn.MultiheadAttention` that a rule names, or names a projection of (``.q_proj``, ``.k_proj``,
    ``.v_proj``, ``.out_proj``), the projections become layers first. Layers with other weights for products are named
    in the report, with the reason; fewer than `at_least` swapped are an error.
    """
    swaps: list[Swap] = []
    made: dict[int, nn.Module] = {}  # a layer that stands in several places stays one layer
    places: dict[str, nn.Module] = {}  # filled once all are made
    _check_rules(rules)
    attentions = _open_attentions(module, rules)
    holders = _holders(module)
    owned = {id(own.out_proj) for own in module.modules() if isinstance(own, nn.MultiheadAttention)}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        rule = _rule_for(module, name, rules)
        if name in attentions:
            weights = list(layer.parameters())
            count = sum(parameter.numel() for parameter in weights)
            swaps.append(Swap(name, *_sizes(layer, weights), attentions[name], count, count, 1.0))
            continue
        if rule is None or not name or isinstance(layer, KPDLinear | BlockLinear | BTTLinear):
            continue
        if id(layer) in made:
            places[name] = made[id(layer)]
            continue
        problem = _obstacle(layer, id(layer) in owned, convolutions)
        if problem is None and not _is_linear(layer) and not isinstance(layer, nn.Conv2d):
            continue
        weights = [parameter for parameter in layer.parameters(recurse=False) if not is_lazy(parameter)]
        dense = sum(parameter.numel() for parameter in weights)
        if problem is not None:
            swaps.append(Swap(name, *_sizes(layer, weights), problem, dense, dense, 1.0))
            continue
        linear = _as_linear(layer)
        size = (name, linear.in_features, linear.out_features)
        try:
            checked_block(linear.in_features, linear.out_features, rule.block)
            if len(holders[id(layer._parameters["weight"])]) > 1:
                raise InputError(SHARED)
        except InputError as error:
            swaps.append(Swap(*size, str(error), dense, dense, 1.0))
            continue
        if keep_weights and not bool(torch.isfinite(linear.weight).all()):
            raise InputError(f"layer '{name}': its weight is not finite; start afresh with keep_weights=False")
        with linear.weight.device:  # whatever the default is
            new = make(linear, rule)
        fit_error = _take_over(linear, new, keep_weights)
        own = sum(parameter.numel() for parameter in new.parameters())
        places[name] = made[id(layer)] = placed = _placed(layer, new)
        swaps.append(Swap(*size, None, own, dense, _cost(placed, own / dense), fit_error))
    for name, placed in places.items():
        module.set_submodule(name, placed)
    report = Report(tuple(swaps))
    if len(report.swapped) < at_least:
        reasons = "; ".join(f"layer '{swap.name}': {swap.problem}" for swap in swaps)
        if type(module) is nn.Linear:
            reasons = "a single linear layer has no name to swap it by; use KPDLinear.from_linear"
        if isinstance(module, nn.MultiheadAttention | nn.Conv2d):
            reasons = f"a {type(module).__name__} alone has no name to swap it by; put it into a torch.nn.Sequential"
        raise InputError(reasons or f"no linear layer has a name like {', '.join(rules) or '(no rule)'}")
    join(module)
    return report
