"""CP decomposition with rounded, entropy-coded factors."""

from __future__ import annotations

from pipeline.baselines.cp import CP
from pipeline.baselines.quantised_factors import QuantisedFactors
from pipeline.core.settings import setting


class QuantisedCP(QuantisedFactors, CP):
    """CP as :class:`~pipeline.baselines.cp.CP`, its factors rounded and coded: ``bytes`` is the code's length.

    Takes the arguments of both its bases.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0, 0], [0, 1, 0], [2, 0, 0]], [1.0, 2.0, 3.0], (3, 2, 2))
    >>> model = QuantisedCP(rank=2, bits=8).fit(X)
    >>> model.size()["bytes"] < 40 and model.error(X)["error"] < X.norm2
    True
    """

    name = "q-cp"

    max_sweeps: int = setting(20, at_least=1)
