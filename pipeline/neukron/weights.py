"""A model's weights as plain arrays: which there are, and one run of numbers for all of them in an artifact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.neukron.levels import Levels

Arrays = dict[str, npt.NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]
LSTMState = tuple[npt.NDArray[Any], npt.NDArray[Any]]
CELL_NAMES = ("lstm", "gru", "transformer", "seeds")


def weight_shapes(levels: Levels, hidden: int, heads: Sequence[int], cell: str) -> Shapes:
    """Name and shape of every weight but ``log_q``, as torch's modules have them, found without building any.

    Examples
    --------
    >>> weight_shapes(Levels((3, 5)), 2, (4, 2), "seeds")
    {'first': (4,), 'seeds.2': (2,)}
    """
    h, first = hidden, levels.alphabets[0]
    if cell == "seeds":
        return {"first": (first,), **{f"seeds.{size}": (size,) for size in heads if size != first}}
    found: Shapes = {"first": (first,), "embedding": (levels.embedding_rows, h)}
    found |= {f"rnn.{name}": shape for name, shape in _cell_shapes(h, cell).items()}
    for size in heads:
        found |= {f"heads.{size}.weight": (size, h), f"heads.{size}.bias": (size,)}
    return found


def _cell_shapes(h: int, cell: str) -> Shapes:
    if cell in ("lstm", "gru"):
        gates = 4 * h if cell == "lstm" else 3 * h
        return {
            "weight_ih_l0": (gates, h), "weight_hh_l0": (gates, h), "bias_ih_l0": (gates,), "bias_hh_l0": (gates,),
        }  # fmt: skip
    parts = {
        "self_attn.in_proj_": (3 * h, h), "self_attn.out_proj.": (h, h), "linear1.": (2 * h, h), "linear2.": (h, 2 * h),
    }  # fmt: skip
    found: Shapes = {}
    for name, (rows, columns) in parts.items():
        found |= {f"{name}weight": (rows, columns), f"{name}bias": (rows,)}
    return found | {f"{name}.{part}": (h,) for name in ("norm1", "norm2") for part in ("weight", "bias")}


def count(shapes: Shapes) -> int:
    """Number of reals."""
    return sum(math.prod(shape) for shape in shapes.values())


class PlainWeights(NamedTuple):
    """What the compiled engine needs of an LSTM, as :class:`pipeline.neukron.model.Weights` has it, in float32."""

    first: npt.NDArray[Any]
    table: npt.NDArray[Any]
    recurrent: npt.NDArray[Any]
    heads: dict[int, tuple[npt.NDArray[Any], npt.NDArray[Any]]]

    @classmethod
    def of(cls, arrays: Arrays, heads: Sequence[int]) -> PlainWeights:
        """Of the weights of a model with an LSTM."""
        first = arrays["first"].astype(np.float64)
        seed = np.where(first > 20, first, np.log1p(np.exp(np.minimum(first, 20))))
        with np.errstate(over="ignore", invalid="ignore"):  # of weights that were changed; answers are looked at
            table = arrays["embedding"] @ arrays["rnn.weight_ih_l0"].T
            table += arrays["rnn.bias_ih_l0"] + arrays["rnn.bias_hh_l0"]
        layers = {size: (arrays[f"heads.{size}.weight"], arrays[f"heads.{size}.bias"]) for size in heads}
        unit = (seed / np.linalg.norm(seed)).astype(np.float32)
        return cls(unit, table, arrays["rnn.weight_hh_l0"], layers)

    def in_double(self) -> PlainWeights:
        """The same in float64."""
        first, table, recurrent = (part.astype(np.float64) for part in self[:3])
        pairs = {
            size: (weight.astype(np.float64), bias.astype(np.float64)) for size, (weight, bias) in self.heads.items()
        }
        return PlainWeights(first, table, recurrent, pairs)


class PlainSteps:
    """An LSTM a step at a time without torch, for :mod:`pipeline.neukron.walk` and for few cells.

    Parameters
    ----------
    weights
        Of the model; arithmetic is in their number type.
    """

    def __init__(self, weights: PlainWeights) -> None:
        self.weights = weights
        self.first = weights.first

    def start(self) -> LSTMState:
        """Zero output and cell state, one row."""
        zero = np.zeros((1, self.weights.recurrent.shape[1]), dtype=self.weights.recurrent.dtype)
        return zero, zero

    def step(self, state: LSTMState, parent: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> LSTMState:
        """Outputs and cell states of children of the rows `parent` by the tokens of the rows `row` of the table."""
        hidden, cell = state
        gates = self.weights.table[row] + (hidden @ self.weights.recurrent.T)[parent]
        entry, forget, new, out = np.split(gates, 4, axis=1)
        cell = _sigmoid(forget) * cell[parent] + _sigmoid(entry) * np.tanh(new)
        return _sigmoid(out) * np.tanh(cell), cell

    def factors(self, alphabet: int, state: LSTMState) -> npt.NDArray[Any]:
        """Normalised factors K / ||K||_F at nodes of these states, (n, alphabet)."""
        weight, bias = self.weights.heads[alphabet]
        factors = np.logaddexp(np.zeros(1, bias.dtype), state[0] @ weight.T + bias)
        unit: npt.NDArray[Any] = factors / np.linalg.norm(factors, axis=1, keepdims=True)
        return unit


def _sigmoid(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    half: npt.NDArray[Any] = x.dtype.type(0.5)
    result: npt.NDArray[Any] = half + half * np.tanh(half * x)
    return result


def joined(arrays: Arrays, names: Sequence[str]) -> npt.NDArray[Any]:
    """All numbers of some arrays in one run."""
    return np.concatenate([arrays[name].ravel() for name in names])


def split(numbers: npt.NDArray[Any], shapes: Shapes) -> Arrays:
    """Undo :func:`joined`."""
    if numbers.shape != (count(shapes),):
        raise InputError(f"{numbers.size:,} numbers where {count(shapes):,} weights belong")
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(numbers, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
