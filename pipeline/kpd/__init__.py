"""Block-sparse training by Kronecker product decomposition (KPD).

What is exported is imported when it is asked for: the settings of the methods are read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.kpd.artifact import load, save
    from pipeline.kpd.conversion import Rule, convert
    from pipeline.kpd.deployment import deploy
    from pipeline.kpd.layer import KPDLinear
    from pipeline.kpd.planning import Plan, plan
    from pipeline.kpd.sparsifier import Sparsifier

__all__ = ["KPDLinear", "Plan", "Rule", "Sparsifier", "convert", "deploy", "load", "plan", "save"]

_MODULES = {
    "KPDLinear": "layer",
    "Plan": "planning",
    "Rule": "conversion",
    "Sparsifier": "sparsifier",
    "convert": "conversion",
    "deploy": "deployment",
    "load": "artifact",
    "plan": "planning",
    "save": "artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
