"""What a user would choose instead of NeuKron: one file a method, all of one shape.

The class of method ``t-svd`` is in :mod:`pipeline.baselines.t_svd`, and so on: modules are imported when a method is
asked for, so that a fit rests on its own file and not on those of the others. ``METHODS`` holds all classes.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.settings import check_given
from pipeline.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.baselines.base import Baseline

    METHODS: dict[str, type[Baseline]]


def module_of(name: str) -> str:
    """Module that holds the class of a baseline.

    >>> module_of("t-svd")
    'pipeline.baselines.t_svd'
    """
    return f"pipeline.baselines.{name.replace('-', '_')}"


def _is_there(name: str) -> bool:
    return Path(__file__).with_name(f"{name.replace('-', '_')}.py").is_file()


def names() -> tuple[str, ...]:
    """Names of all baselines."""
    from pipeline.methods import BASELINES

    return BASELINES


def find(name: str) -> type[Baseline]:
    """Class of a baseline.

    Raises
    ------
    InputError
        There is none of that name; the message tells the nearest.
    """
    module = import_module(module_of(name)) if re.fullmatch("[a-z-]+", name) and _is_there(name) else None
    found = [each for each in vars(module).values() if getattr(each, "name", None) == name] if module else []
    if not found:
        raise InputError(f"method '{name[:60]}' is no baseline{nearest(name[:60], names())}")
    kind: type[Baseline] = found[0]
    return kind


def make(method: str, settings: dict[str, Any], seed: int = 0) -> Baseline:
    """Return an unfitted baseline.

    Parameters
    ----------
    method
        Its name.
    settings
        Keyword arguments of its constructor; what is left out keeps its default.
    seed
        For methods that draw random numbers; the others ignore it.

    Raises
    ------
    InputError
        No such method or setting; the message suggests the nearest name.
    """
    kind = find(method)
    check_given(kind, settings, kind.__name__)
    if kind.stochastic:
        settings = settings | {"seed": seed}
    return kind(**settings)


def __getattr__(name: str) -> Any:
    """``METHODS``, all classes by name, and ``Baseline``, made when they are first asked for."""
    if name == "METHODS":
        globals()[name] = {each: find(each) for each in names()}
    elif name == "Baseline":
        globals()[name] = import_module("pipeline.baselines.base").Baseline
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
