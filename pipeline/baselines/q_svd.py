"""Truncated singular value decomposition with rounded, entropy-coded vectors."""

from __future__ import annotations

from pipeline.baselines.quantised_factors import QuantisedFactors
from pipeline.baselines.t_svd import TSVD


class QuantisedSVD(QuantisedFactors, TSVD):
    """T-SVD as :class:`~pipeline.baselines.t_svd.TSVD`, its vectors rounded and coded: ``bytes`` is the code's length.

    Takes the arguments of both its bases.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> model = QuantisedSVD(rank=2, bits=8).fit(X)
    >>> model.error(X)["error"] < 0.01, len(model.code_) < 20
    (True, True)
    """

    name = "q-svd"
