"""Truncated singular value decomposition with rounded, entropy-coded vectors."""

from __future__ import annotations

from pipeline.baselines.quantised_factors import QuantisedFactors
from pipeline.baselines.t_svd import TSVD


class QuantisedSVD(QuantisedFactors, TSVD):
    """T-SVD as :class:`~pipeline.baselines.t_svd.TSVD`, its vectors rounded and coded: ``bytes`` is the code's length.

    Parameters
    ----------
    rank
        As of T-SVD.
    bits
        Of the largest entry of all, with its sign; smaller ones take fewer. None and no size: 5.
    max_bytes
        Bytes of code and weights at most, which then decide the bits; its artifact's header not counted.
    max_seconds
        After so many no further number of bits is tried; None: as many as are wanted. Results depend on the machine.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> model = QuantisedSVD(rank=2, bits=8).fit(X)
    >>> model.error(X)["error"] < 0.01, len(model.code_) < 20
    (True, True)
    """

    name = "q-svd"
