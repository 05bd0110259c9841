"""The whole tensor, exactly."""

from __future__ import annotations

import numpy as np

from pipeline.baselines.coding import blocks
from pipeline.baselines.coding.exact import ExactCells
from pipeline.core.settings import setting
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


class Lossless(ExactCells):
    """All non-zeros, coded exactly in orders of the code's own choice.

    The shortest of six codes (``docs/codes.md``), each in the orders that suit it: gaps between sorted indices
    through LZMA; sets of children in the tensor's prefix tree through a range coder
    (:mod:`pipeline.baselines.coding.fibres`); for matrices with few rows the columns by a model that learns which
    rows meet (:mod:`pipeline.baselines.coding.column_sets`); for matrices in free orders counts of what is alike
    (:mod:`pipeline.baselines.coding.unlabelled`); in the tensor's own orders sets of children by a mixture of
    contexts (:mod:`pipeline.baselines.coding.mixed`), or of n-grams and other windows on a sequence from urns of what
    overlaps (:mod:`pipeline.baselines.coding.overlaps`). ``bytes`` is the length of that code, which tells the tensor
    up to the orders of its modes; ``bytes_with_order`` is the cheapest code that tells the indices too. ``history_``
    has ``csf_bytes`` beside it: the tensor in compressed sparse fibres, :func:`csf_bytes`.

    Parameters
    ----------
    blocks
        Whether to code a matrix so that a cell is answered without decoding the others
        (:mod:`pipeline.baselines.coding.blocks`): some per cent more bytes, and orders are always stored.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> model = Lossless().fit(X)
    >>> model.error(X)["error"], model.predict([[1, 1], [1, 0]]).tolist()
    (0.0, [4.0, 0.0])
    """

    name = "lossless"
    takes_any_values = True

    blocks: bool = setting(False)

    def _fit(self, X: SparseTensor) -> None:
        if self.blocks and not blocks.able(X.coords, X.shape):
            raise InputError("lossless: blocks=true: needs a matrix whose modes are not much longer than its cells")
        self._store(X.coords, X.values, self.blocks)
        self._record(0.0, csf_bytes=csf_bytes(X))


def csf_bytes(X: SparseTensor) -> int:
    """Bytes of the tensor in compressed sparse fibres (Smith et al., 2015), the usual format in memory.

    Modes in ascending size; 4 bytes for each node's index, each node's pointer to its children, each real.

    >>> csf_bytes(SparseTensor([[0, 0, 0], [0, 0, 1], [1, 2, 0]], [1.0, 1.0, 1.0], (2, 3, 4)))
    64
    """
    rows = X.coords[:, np.argsort(X.shape, kind="stable")]
    rows = rows[np.lexsort(rows.T[::-1])]
    differs = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    nodes = 1 + np.count_nonzero(differs, axis=0)  # of each level; those of the last are the non-zeros
    pointers = int(np.sum(nodes[:-1] + 1))
    return 4 * (int(nodes.sum()) + pointers + X.nnz)
