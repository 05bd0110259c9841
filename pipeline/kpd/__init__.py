"""Block-sparse training by Kronecker product decomposition (KPD)."""

from __future__ import annotations

from pipeline.kpd.layer import KPDLinear

__all__ = ["KPDLinear"]
