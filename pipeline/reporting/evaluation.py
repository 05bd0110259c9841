"""What a fitted compressor keeps of a tensor, beyond one number: errors by the size of a value, singular values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.baselines.yardsticks import general
from pipeline.errors import InputError
from pipeline.runs.compressor import Compressor, cells_within, clipped_error
from pipeline.runs.memory import check_memory
from pipeline.sparse import SparseTensor

BLOCK_CELLS = 1 << 20  # answered at a time
MOST_CELLS = 1 << 28  # of a matrix whose every cell is answered
SINGULAR_VALUES = 10


class TooManyCellsError(InputError):
    """A matrix of which not every cell can be answered."""


class ValueBin(NamedTuple):
    """Cells whose value's size is in [low, high); the first bin, from 0 to 0, holds the cells without a value."""

    low: float
    high: float
    cells: int
    norm2: float  # sum of the squared values
    error: float  # sum of the squared errors


def error_by_value(model: Compressor, X: SparseTensor) -> list[ValueBin]:
    """Where the error lies: a bin of the zero cells, then bins of the non-zeros by powers of two of their size.

    What the zeros add is the whole error less that of the non-zeros, which are all answered; it is sampled where
    the whole error is. Takes O(nnz) answers.

    Parameters
    ----------
    model
        Fitted to `X`, or to a tensor of its shape.
    X
        The tensor to compare with.

    Raises
    ------
    InputError
        The tensor has another shape.
    """
    model.check_shape(X)
    values = X.values
    errors = np.zeros(X.nnz)
    for start in range(0, X.nnz, BLOCK_CELLS):
        part = slice(start, start + BLOCK_CELLS)
        errors[part] = (model.predict(X.coords[part]) - values[part]) ** 2
    exponents = np.frexp(np.abs(values))[1] - 1
    whole = float(model.error(X)["error"])
    zeros = clipped_error(whole - math.fsum(errors), X.norm2)
    bins = [ValueBin(0.0, 0.0, math.prod(X.shape) - X.nnz, 0.0, zeros)]
    for exponent in np.unique(exponents):
        own = exponents == exponent
        bins.append(
            ValueBin(
                math.ldexp(1.0, int(exponent)),
                math.ldexp(2.0, int(exponent)),
                int(own.sum()),
                math.fsum(values[own] ** 2),
                math.fsum(errors[own]),
            )
        )
    return bins


def leading_singular_values(X: SparseTensor, count: int = SINGULAR_VALUES) -> list[float]:
    """The `count` largest singular values of a sparse matrix, largest first; fewer where a side is shorter."""
    from scipy.sparse.linalg import svds

    matrix = X.to_scipy().tocsr().astype(np.float64)
    short = min(X.shape)
    if count >= short:
        wide = matrix if X.shape[0] <= X.shape[1] else matrix.T
        return _from_gram((wide @ wide.T).toarray(), count)
    start = np.random.default_rng(0).standard_normal(short)
    found = svds(matrix, k=count, v0=start, return_singular_vectors=False)
    return sorted(map(float, found), reverse=True)


def kept_singular_values(model: Compressor, count: int = SINGULAR_VALUES) -> list[float]:
    """The `count` largest singular values of the matrix that `model` answers, largest first.

    From the cells that it holds, where it holds cells one by one; else from the Gram matrix of its shorter side, for
    which every cell is answered once, a block at a time.

    Raises
    ------
    TooManyCellsError
        Every cell would have to be answered, and there are more than `MOST_CELLS`.
    InputError
        No matrix, or one with so long a shorter side that this does not fit.
    """
    shape = model.shape_
    if len(shape) != 2:
        raise InputError(f"singular values are those of a matrix, not of a tensor of shape {shape}")
    held = model.held_cells()
    if held is not None:
        cells, values = held
        if not len(values):
            return [0.0] * min(count, *shape)
        return leading_singular_values(SparseTensor(cells, values, shape), count)
    if math.prod(shape) > MOST_CELLS:
        raise TooManyCellsError(
            f"{math.prod(shape):,} cells: more than {MOST_CELLS:,} are not answered for singular values"
        )
    short, long = sorted(shape)
    check_memory("singular values", 16.0 * short**2, "take a method that holds its cells one by one")
    lines = max(1, BLOCK_CELLS // short)
    gram = np.zeros((short, short))
    for start in range(0, long, lines):
        along = range(start, min(start + lines, long))
        ranges = (range(short), along) if shape[0] <= shape[1] else (along, range(short))
        block = model.predict(cells_within(ranges)).reshape(len(ranges[0]), len(ranges[1]))
        wide = block if shape[0] <= shape[1] else block.T
        gram += wide @ wide.T
    return _from_gram(gram, count)


def _from_gram(gram: npt.NDArray[np.float64], count: int) -> list[float]:
    squares = np.linalg.eigvalsh(gram)[::-1][:count]
    return [math.sqrt(max(0.0, float(square))) for square in squares]


def evaluate(model: Compressor, X: SparseTensor) -> dict[str, Any]:
    """All of it, as ``evaluation.json`` has it.

    ``values``, the bins; of a matrix ``singular_values`` (of the ``data``, of the ``model``), or why they are not there
    as ``without_singular_values``; of an exact artifact ``formats``, bytes of the same tensor in usual formats and
    general compressors.
    """
    bins = error_by_value(model, X)
    result: dict[str, Any] = {"values": [bin_._asdict() for bin_ in bins]}
    if not any(bin_.error for bin_ in bins):
        result["formats"] = {name: size for name, size in general(X).items() if size is not None}
    if X.order == 2:
        try:
            kept = kept_singular_values(model)
        except TooManyCellsError as error:
            result["without_singular_values"] = str(error)
        else:
            result["singular_values"] = {"data": leading_singular_values(X), "model": kept}
    return result
