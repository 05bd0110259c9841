"""Which block and rank each layer of a trained network can take, for an error or a size."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.errors import InputError, is_whole
from pipeline.kpd.conversion import Rule, predicted_cost, swap_layers
from pipeline.kpd.layer import KPDLinear, checked_block, kronecker_spectrum

BLOCKS = ((2, 2), (4, 4), (8, 8), (16, 16), (32, 32))
HALVINGS = 60  # of the price of a byte


@dataclass(frozen=True)
class Choice:
    """What one layer may become.

    Attributes
    ----------
    rule
        Block and rank; None: it stays dense.
    error
        ||W - W'||_F / ||W||_F of the nearest W' of this form.
    bytes
        Of its factors as :func:`pipeline.kpd.save` writes them, S times A and B, or of W; without the bias.
    cost
        Multiply-adds beside dense, see :class:`pipeline.kpd.conversion.Swap`.
    """

    rule: Rule | None
    error: float
    bytes: int
    cost: float


@dataclass(frozen=True)
class Plan:
    """What :func:`plan` chose; printing it gives a table, ``convert(model, plan.rules, keep_weights=True)`` does it.

    Attributes
    ----------
    choices
        By the layers' names.
    dense
        What they are now.
    others
        Bytes of all that is planned nothing for: other layers, biases, buffers.
    problems
        Why a layer cannot be planned for, by name.
    """

    choices: dict[str, Choice]
    dense: dict[str, Choice]
    others: int
    problems: dict[str, str]

    @property
    def rules(self) -> dict[str, Rule | None]:
        """For :func:`pipeline.kpd.convert`."""
        return {name: choice.rule for name, choice in self.choices.items()}

    @property
    def bytes(self) -> int:
        """Of the whole network."""
        return self.others + sum(choice.bytes for choice in self.choices.values())

    def __str__(self) -> str:
        lines = ["layer                          block   rank    error   kilobytes   of dense   cost beside dense"]
        for name, choice in self.choices.items():
            before = self.dense[name].bytes
            form = "dense       -" if choice.rule is None else _form(choice.rule)
            lines.append(
                f"{name:<30} {form}  {choice.error:7.4f}  {choice.bytes / 1e3:10.2f}  {choice.bytes / before:9.3f}"
                f"   {choice.cost:.3f}"
            )
        lines += [f"{name:<30} left dense: {problem}" for name, problem in self.problems.items()]
        total = self.others + sum(choice.bytes for choice in self.dense.values())
        lines.append(f"whole network: {self.bytes / 1e3:.2f} of {total / 1e3:.2f} kilobytes")
        return "\n".join(lines)


def _form(rule: Rule) -> str:
    return f"{'x'.join(map(str, rule.block)):<7} {rule.rank:>5}"


def plan(
    model: nn.Module,
    *,
    error: float | None = None,
    bytes: int | None = None,
    cost: float = math.inf,
    blocks: Sequence[tuple[int, int]] = BLOCKS,
    layers: str = "*",
    convolutions: bool = False,
) -> Plan:
    """Choose block and rank of each linear layer of a trained network, from the spectrum of its weight.

    Parameters
    ----------
    model
        Stays as it is.
    error
        The most that any layer's relative error ||W - W'||_F / ||W||_F may be: each takes the fewest bytes for it.
    bytes
        The most that the whole network may take: the layers share it so that the sum of their squared relative errors
        is least for the price of a byte at which it fits (a Lagrange multiplier). Give one of both.
    cost
        The most multiply-adds beside dense that a form may take; 1 leaves out those that a small file would slow down.
    blocks
        Candidates; each layer considers those that divide it.
    layers
        Pattern of the layers' names.
    convolutions
        As in :func:`pipeline.kpd.convert`.

    Raises
    ------
    InputError
        Both limits or none, no layer that fits, or fewer bytes than the least that can be had, which is told.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 16, bias=False))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.kron(torch.randn(4, 4), torch.randn(4, 4)))
    >>> plan(model, error=0.01).rules
    {'0': Rule(block=(4, 4), rank=1, variant='selector')}
    """
    if (error is None) == (bytes is None):
        raise InputError("error, bytes: give one of both, for example error=0.1 or bytes=100_000")
    if error is not None and not 0 <= error < math.inf:
        raise InputError(f"error={error}: needs a share of the weights' norm, for example 0.1")
    if bytes is not None and not is_whole(bytes, 1):
        raise InputError(f"bytes={bytes}: needs a whole number of bytes")
    found, problems = _layers(model, layers, convolutions)
    options = {
        name: [choice for choice in _options(layer, blocks) if choice.rule is None or choice.cost <= cost]
        for name, layer in found.items()
    }
    dense = {name: own[0] for name, own in options.items()}
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    others = held - sum(choice.bytes for choice in dense.values())
    if error is not None:
        chosen = {
            name: min((choice for choice in own if choice.error <= error), key=lambda choice: choice.bytes)
            for name, own in options.items()
        }
    else:
        chosen = _within(options, bytes - others)
    return Plan(chosen, dense, others, problems)


def _layers(model: nn.Module, layers: str, convolutions: bool) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """The linear layers that can be swapped, by name, and why others cannot."""
    found: list[nn.Linear] = []

    def record(layer: nn.Linear, _: Rule) -> nn.Module:
        found.append(layer)
        return copy.deepcopy(layer)

    report = swap_layers(copy.deepcopy(model), {layers: Rule((1, 1))}, record, convolutions=convolutions)
    problems = {swap.name: swap.problem for swap in report.swaps if swap.problem is not None}
    return dict(zip(report.swapped, found, strict=True)), problems


@torch.no_grad()
def _options(layer: nn.Linear, blocks: Sequence[tuple[int, int]]) -> list[Choice]:
    """Dense, and every block with every rank that takes fewer bytes."""
    weight = layer.weight
    size = weight.element_size()
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"the weight of a layer of {layer.in_features} -> {layer.out_features} is not finite")
    options = [Choice(None, 0.0, weight.numel() * size, 1.0)]
    for block in blocks:
        try:
            m2, n2 = checked_block(layer.in_features, layer.out_features, block)
        except InputError:
            continue
        squares = kronecker_spectrum(weight, (m2, n2))
        left = squares.flip(0).cumsum(0).flip(0) / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
        places = weight.numel() // (m2 * n2)
        for rank in range(1, len(squares) + 1):
            taken = size * rank * (places + m2 * n2) + -(-places // 8)
            if taken >= options[0].bytes:
                break
            remains = float(left[rank]) if rank < len(squares) else 0.0
            with torch.device("meta"):
                cost = predicted_cost(KPDLinear(layer.in_features, layer.out_features, (m2, n2), rank))
            options.append(Choice(Rule((m2, n2), rank), math.sqrt(max(0.0, remains)), taken, cost))
    return options


def _within(options: dict[str, list[Choice]], room: int) -> dict[str, Choice]:
    """The choices of the least sum of squared errors plus a price times bytes, at the least price that fits `room`."""

    def at(price: float) -> dict[str, Any]:
        def paid(choice: Choice) -> tuple[float, int]:
            return choice.error**2 + price * choice.bytes, choice.bytes

        return {name: min(own, key=paid) for name, own in options.items()}

    def taken(chosen: dict[str, Choice]) -> int:
        return sum(choice.bytes for choice in chosen.values())

    low, high = 0.0, 1.0  # at a price of 1 a byte is worth more than all errors
    if taken(at(0.0)) <= room:
        return at(0.0)
    if taken(at(high)) > room:
        short = taken(at(high)) - room
        raise InputError(f"bytes: too few by {short:,}; smaller layers need other blocks or fewer layers left dense")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if taken(at(middle)) <= room else (middle, high)
    return at(high)
