"""What a user would choose instead of NeuKron: one file a method, all of one shape.

The class of method ``t-svd`` is in :mod:`pipeline.baselines.t_svd`, and so on: modules are imported when a method is
asked for, so that a fit rests on its own file and not on those of the others. ``METHODS`` holds all classes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.core.settings import check_given
from pipeline.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.baselines.base import Baseline

    METHODS: dict[str, type[Baseline]]

NAMES = ("t-svd", "cur", "cmd", "accams", "baccams", "kronfit", "cp", "tucker", "lossless", "truncation")


def module_of(name: str) -> str:
    """Module that holds the class of a baseline.

    >>> module_of("t-svd")
    'pipeline.baselines.t_svd'
    """
    return f"pipeline.baselines.{name.replace('-', '_')}"


def find(name: str) -> type[Baseline]:
    """Class of a baseline.

    Raises
    ------
    InputError
        There is none of that name; the message tells the nearest.
    """
    if name not in NAMES:
        raise InputError(f"method '{name}' is no baseline{nearest(name, NAMES)}")
    found: list[type[Baseline]] = [
        each for each in vars(import_module(module_of(name))).values() if getattr(each, "name", None) == name
    ]
    return found[0]


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
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    methods = {each: find(each) for each in NAMES}
    globals()["METHODS"] = methods
    return methods
