"""Settings with which each compressor fits a small tensor within a second."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, dict[str, Any]] = {
    "neukron": {"max_epochs": 3, "hidden": 4},
    "t-svd": {"rank": 3},
    "cp": {"rank": 3, "max_sweeps": 5},
    "cur": {"rows": 6, "columns": 8},
    "cmd": {"rows": 6, "columns": 8},
    "accams": {"stencils": 3, "clusters": 3},
    "baccams": {"stencils": 3, "clusters": 3},
    "kronfit": {"seed_power": 2, "max_sweeps": 10},
    "tucker": {"rank": 3, "max_sweeps": 5},
    "truncation": {"keep": 0.5},
    "hybrid": {"share": 0.5, "rank": 2},  # without a share it fits three times, with 32 terms
}
