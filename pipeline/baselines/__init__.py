"""What a user would choose instead of NeuKron: one file a method, all of one shape, listed in ``METHODS``."""

from __future__ import annotations

from pipeline.baselines.accams import ACCAMS
from pipeline.baselines.baccams import BACCAMS
from pipeline.baselines.base import Baseline
from pipeline.baselines.cmd import CMD
from pipeline.baselines.cp import CP
from pipeline.baselines.cur import CUR
from pipeline.baselines.kronfit import KronFit
from pipeline.baselines.lossless import Lossless
from pipeline.baselines.t_svd import TSVD
from pipeline.baselines.truncation import Truncation
from pipeline.baselines.tucker import Tucker

METHODS: dict[str, type[Baseline]] = {
    method.name: method
    for method in (
        TSVD,
        CUR,
        CMD,
        ACCAMS,
        BACCAMS,
        KronFit,
        CP,
        Tucker,
        Lossless,
        Truncation,
    )
}

__all__ = ["METHODS", "Baseline"]
