"""Swap the linear layers of any module for block-sparse ones, by rules, and say what it costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast

import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd.layer import KPDLinear, checked_block


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
    module: nn.Module, rules: Mapping[str, Rule | None], *, keep_weights: bool = False, path: str = "auto"
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

    def factored(layer: nn.Linear, rule: Rule) -> KPDLinear:
        return KPDLinear(
            layer.in_features,
            layer.out_features,
            rule.block,
            rule.rank,
            layer.bias is not None,
            variant=rule.variant,
            path=path,
        )

    report = swap_layers(module, rules, factored, keep_weights)
    for swap in report.swaps:
        if swap.problem is None and swap.predicted_cost > 1:
            warnings.warn(
                f"layer '{swap.name}' costs {swap.predicted_cost:.2f} times its dense twin; "
                "a larger block or a lower rank costs less",
                stacklevel=2,
            )
    return report


HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
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
    new.train(old.training)
    for name, parameter in new.named_parameters():
        source = old.bias if name == "bias" else weight
        parameter.requires_grad_(source.requires_grad)
    for name in HOOKS:
        getattr(new, name).update(getattr(old, name))
    return error


def swap_layers(
    module: nn.Module,
    rules: Mapping[str, Rule | None],
    make: Callable[[nn.Linear, Rule], nn.Module],
    keep_weights: bool = False,
) -> Report:
    """Swap every linear layer that a rule asks for by what `make` returns; see :func:`convert`.

    The new layer takes over type, device, mode and hooks, and stays fixed where the old one was.
    """
    swaps: list[Swap] = []
    made: dict[int, nn.Module] = {}  # a layer that stands in several places stays one layer
    holders: dict[int, set[int]] = {}  # modules by the parameter they hold
    for holder in module.modules():
        for parameter in holder.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(id(holder))
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        pattern = next((pattern for pattern in rules if fnmatchcase(name, pattern)), None)
        rule = None if pattern is None else rules[pattern]
        if not isinstance(rule, Rule | None):
            raise InputError(f"rule for '{pattern}': {rule!r} is no Rule, for example Rule(block=(2, 4))")
        if type(layer) is not nn.Linear or rule is None or not name:
            continue
        if id(layer) in made:
            module.set_submodule(name, made[id(layer)])
            continue
        dense = sum(parameter.numel() for parameter in layer.parameters())
        size = (name, layer.in_features, layer.out_features)
        try:
            checked_block(layer.in_features, layer.out_features, rule.block)
            if len(holders[id(layer.weight)]) > 1:
                raise InputError("its weight is shared with another layer")
        except InputError as error:
            swaps.append(Swap(*size, str(error), dense, dense, 1.0))
            continue
        made[id(layer)] = new = make(layer, rule)
        fit_error = _take_over(layer, new, keep_weights)
        module.set_submodule(name, new)
        own = sum(parameter.numel() for parameter in new.parameters())
        cost = predicted_cost(new) if isinstance(new, KPDLinear) else 1.0
        swaps.append(Swap(*size, None, own, dense, cost, fit_error))
    report = Report(tuple(swaps))
    if not report.swapped:
        reasons = "; ".join(f"layer '{swap.name}': {swap.problem}" for swap in swaps)
        if type(module) is nn.Linear:
            reasons = "a single linear layer has no name to swap it by; use KPDLinear.from_linear"
        raise InputError(reasons or f"no linear layer has a name like {', '.join(rules) or '(no rule)'}")
    return report
