"""A model of the whole and coded cells on top of it, within one size."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Baseline, Integers, Reals
from pipeline.baselines.elicit import ELiCiT
from pipeline.baselines.kruskal import largest_rank
from pipeline.baselines.rate_distortion import AUTOMATIC_BITS, STEP_BYTES, RateDistortion
from pipeline.core.settings import seed, setting
from pipeline.errors import InputError
from pipeline.runs.compressor import clipped_error
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

FIRST_SHARES = (0.25, 0.5)  # of the bytes, for the model
BESIDE = {0.25: 0.125, 0.5: 0.75}  # which one is tried after these, by the better of them
PARTS = 6  # of its seconds: a model and cells for each of three shares
SMALLEST = 1e-30


class Split(NamedTuple):
    """One way to divide the bytes, and what came of it."""

    share: float
    model: ELiCiT
    cells: RateDistortion
    bytes: int
    error: float


class Hybrid(Baseline):
    """:class:`~pipeline.baselines.elicit.ELiCiT`, and by rate-distortion what it leaves in the non-zeros.

    The model tells where many cells are alike in few bytes; cells that it misses by more than their bits are worth are
    added, each by its position and a whole number of steps. Both answer in the tensor's own indices, so that there are
    no orders to leave out: all sizes are of the file that a user keeps.

    Parameters
    ----------
    max_bytes
        Bytes of both codes at most, the artifact's header not counted. None: 0.8 bits a non-zero.
    share
        Of these for the model. None: a fourth and a half are tried, then an eighth or three fourths beside the better.
    rank
        Features of the model at most.
    seed
        Of the first factors of tensors.
    max_seconds
        Of the fit, about; None: as many as it takes. It makes results depend on the machine.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0], [1, 1], [2, 1]], [3.0, 4.0, 3.0], (3, 2))
    >>> Hybrid(max_bytes=200).fit(X).error(X)["error"] < 0.1
    True
    """

    name = "hybrid"
    stochastic = True
    least_order = 2
    largest_order = ELiCiT.largest_order

    max_bytes: float | None = setting(None, at_least=1)
    share: float | None = setting(None, above=0, below=1)
    rank: int = setting(32, at_least=1)
    seed: int = seed()
    max_seconds: float | None = setting(None, above=0, is_setting=False)

    model_: ELiCiT
    cells_: RateDistortion

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The size itself."""
        return {"max_bytes": size} if size >= 1 else None

    def _fit(self, X: SparseTensor) -> None:
        limit = max(1.0, AUTOMATIC_BITS * X.nnz / 8) if self.max_bytes is None else self.max_bytes
        shares = list(FIRST_SHARES) if self.share is None else [self.share]
        best: Split | None = None
        while shares:
            split = self._split(X, limit, shares.pop(0))
            if best is None or (split.bytes > limit, split.error) < (best.bytes > limit, best.error):
                best = split
            self._record(split.error, share=split.share, code_bytes=split.bytes)
            if len(self.history_) == len(FIRST_SHARES) and self.share is None:
                shares.append(BESIDE[best.share])
            if self.max_seconds and self._fitted_for() > self.max_seconds:
                break
        assert best is not None  # noqa: S101 - there is at least one share
        self.model_, self.cells_ = best.model, best.cells
        if split is not best:
            self._record(best.error, share=best.share, code_bytes=best.bytes)

    def _split(self, X: SparseTensor, limit: float, share: float) -> Split:
        """The model in its share of the bytes, and the cells in what is left."""
        rank = min(self.rank, largest_rank(X.shape, X.nnz))
        seconds = self.max_seconds / PARTS if self.max_seconds else None
        model = ELiCiT(rank=rank, max_bytes=max(1.0, share * limit), seed=self.seed, max_seconds=seconds).fit(X)
        missed = X.values - model.predict(X.coords)
        if not np.any(missed):
            missed[0] = SMALLEST  # a code holds at least one cell
        left = max(1.0, limit - model.size()["bytes"] - STEP_BYTES)
        rest = SparseTensor(X.coords, missed, X.shape)
        cells = RateDistortion(max_bytes=left, orders=True, max_seconds=seconds).fit(rest)
        size = model.size()["bytes"] + cells.size()["bytes_with_order"]
        return Split(share, model, cells, size, _error(X, model, cells))

    def _predict(self, index: Integers) -> Reals:
        return self.model_.predict(index) + self.cells_.predict(index)

    def _squared_error(self, X: SparseTensor) -> float:
        return _error(X, self.model_, self.cells_)

    def parameter_count(self) -> int:
        """Those of the model."""
        return self.model_.parameter_count()

    def _size(self) -> dict[str, int]:
        """Both codes, the cells' with its orders."""
        size = self.model_.size()["bytes"] + self.cells_.size()["bytes_with_order"]
        return {"bytes": size, "bytes_equal": size, "bytes_with_order": size}

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        return {"weights": 4, "features": 4, "code": 4, "step": 8}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """It has no orders to leave out: it always answers in the tensor's own indices."""
        model, features = self.model_._contents(True)
        tensors, cells = self.cells_._contents(True)
        tensors |= {"weights": model["weights"], "features": model["code"]}
        return tensors, cells | features

    @classmethod
    def _from_contents(cls, contents: Contents) -> Self:
        model = cls()
        features = {"weights": contents.reals("weights", (None,)), "code": contents.array("features", "u", (None,))}
        model.model_ = ELiCiT.from_artifact(features, {name: contents.entry(name) for name in ("shape", "rank")})
        cells = {name: array for name, array in contents.tensors.items() if name not in ("weights", "features")}
        told = {name: value for name, value in contents.metadata.items() if name not in ("frame", "about")}
        model.cells_ = RateDistortion.from_artifact(cells, told)
        model.shape_ = model.model_.shape_
        if model.cells_.shape_ != model.shape_:
            raise InputError(f"cells of shape {model.cells_.shape_} beside a model of shape {model.shape_}")
        return model


def _error(X: SparseTensor, model: ELiCiT, cells: RateDistortion) -> float:
    """Squared error of the sum: the model's, less what the cells take off it."""
    coords, values = cells.held_cells()
    inner = float(X.values @ cells.predict(X.coords)) - float(values @ model.predict(coords))
    return clipped_error(model.error(X)["error"] - 2 * inner + float(values @ values), X.norm2)
