"""A part of the non-zeros, exactly, and zero elsewhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.baselines.base import Integers
from pipeline.baselines.coding import gaps
from pipeline.baselines.coding.exact import ExactCells, quick_code
from pipeline.core.settings import setting
from pipeline.sparse import SparseTensor

AUTOMATIC_KEEP = 0.1


class Truncation(ExactCells):
    """The largest non-zeros, coded like :class:`~pipeline.baselines.lossless.Lossless`; what is dropped is the error.

    Non-zeros are kept by falling size, and those of one size (all of them in binary data) by the weight of
    their slice, heaviest first: whole slices of one mode stay, the last of them in part. The mode is the one
    that gives the shortest code, since all give the same error.

    Parameters
    ----------
    keep
        Share of the non-zeros kept; at least one stays. None: 0.1.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> model = Truncation(keep=0.4).fit(X)
    >>> model.error(X)["error"], model.predict([[1, 1], [0, 0]]).tolist()
    (18.0, [4.0, 0.0])
    """

    name = "truncation"
    fits_to_meet_a_size = 7

    keep: float | None = setting(None, above=0, at_most=1)

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The share that fits, at the bits of one index a non-zero, or half of that where orders are free."""
        bits = max(1.0, math.log2(max(X.shape)) * (1.0 if orders else 0.5))
        return {"keep": float(np.clip(8 * size / (X.nnz * bits), 1 / X.nnz, 1.0))}

    @classmethod
    def settings_for_error(cls, X: SparseTensor, error: float, orders: bool) -> dict[str, Any] | None:
        """The share that explains enough, the largest kept first."""
        with np.errstate(over="ignore"):
            explained = np.cumsum(np.sort(X.values**2)[::-1])
        count = int(np.searchsorted(explained, (1 - error) * explained[-1] * (1 - 1e-12))) + 1
        return {"keep": min(1.0, count / X.nnz)}

    def _fit(self, X: SparseTensor) -> None:
        share = AUTOMATIC_KEEP if self.keep is None else self.keep
        count = max(1, round(share * X.nnz))
        candidates = [np.sort(heaviest(X, mode)[:count]) for mode in range(X.order)]
        kept = min(_distinct(candidates), key=lambda rows: len(quick_code(X.coords[rows], X.values[rows], X.shape)))
        self._store(X.coords[kept], X.values[kept])
        self._record(self._squared_error(X), kept=count)


def heaviest(X: SparseTensor, mode: int) -> Integers:
    """Numbers of the non-zeros by falling size, then by falling weight of their slice of `mode`, slices together."""
    index = X.coords[:, mode]
    place = gaps.positions(gaps.by_degree(index, X.shape[mode]))[index]
    return np.lexsort((place, -np.abs(X.values)))


def _distinct(candidates: list[Integers]) -> list[Integers]:
    return list({rows.tobytes(): rows for rows in candidates}.values())
