"""Block-sparse training by Kronecker product decomposition (KPD)."""

from __future__ import annotations

from pipeline.kpd.conversion import Rule, convert
from pipeline.kpd.layer import KPDLinear

__all__ = ["KPDLinear", "Rule", "convert"]
