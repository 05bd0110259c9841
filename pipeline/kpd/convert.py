"""Swap the linear layers of a module for KPD layers."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from pipeline.errors import InputError
from pipeline.kpd.layer import KPDLinear


def linear_layers(module: nn.Module, pattern: str = "*") -> Iterator[tuple[str, nn.Linear]]:
    """Yield (name, layer) of the linear layers of `module` whose dotted name matches `pattern`."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and fnmatchcase(name, pattern):
            yield name, layer


def convert(module: nn.Module, block: tuple[int, int], rank: int, pattern: str = "*") -> list[str]:
    """Swap, in place, every linear layer that `pattern` matches for a fresh KPD layer; return their names.

    Raises
    ------
    InputError
        No layer matches, or the block does not divide one that does.
    """
    names = []
    for name, layer in list(linear_layers(module, pattern)):
        try:
            new = KPDLinear(
                layer.in_features, layer.out_features, block, rank, layer.bias is not None, layer.weight.device
            )
        except InputError as error:
            raise InputError(f"layer '{name}': {error}") from error
        module.set_submodule(name, new)
        names.append(name)
    if not names:
        raise InputError(f"no linear layer has a name like '{pattern}'")
    return names
