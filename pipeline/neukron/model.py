"""NeuKron's model: an auto-regressive sequence model that emits one small Kronecker factor a level.

With tokens t_1..t_L of a cell and scale s = sqrt(q)^L,

    x~ = s * prod_k K_k[t_k] / ||K_k||_F,   K_1 = softplus(free vector),  K_k = softplus(W_a y_k + b_a),

where y_2..y_L are the outputs of a causal sequence model (an LSTM as published) fed with embeddings of
t_1..t_{L-1} (NeuKron, section 4.1). Squares over the padded grid sum to s^2 = q^L (Lemma 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, softplus

from pipeline.neukron.cells import CELLS, Cell, CellState
from pipeline.neukron.levels import Levels


class SequenceModel(nn.Module):
    """Parameters of the model; evaluation on many cells is the engine's work.

    Parameters
    ----------
    levels
        The level structure of the tensor.
    hidden
        Width h of the embedding and of the sequence model.
    seed
        Seed of the initial values.
    head_alphabets
        Alphabets that get an output layer; those of levels 2..L if left out.
    cell
        Name of the sequence model in :data:`pipeline.neukron.cells.CELLS`.

    Attributes
    ----------
    first
        (2^a_1,) free vector of K_1.
    embedding
        (2(2^D - 1), h), rows ordered by alphabet, largest first.
    rnn
        The sequence model's parameters: ``nn.LSTM``, ``nn.GRU`` or ``nn.TransformerEncoderLayer``.
    heads
        Output layer for each alphabet size, h -> alphabet.
    seeds
        Of ``cell="seeds"`` alone, in place of the three before: one free vector for each alphabet but the
        first level's, whose factors are all K_1.
    log_q
        log q, float64: the scale is learned without ever leaving q > 0.
    """

    def __init__(
        self,
        levels: Levels,
        hidden: int,
        seed: int,
        head_alphabets: tuple[int, ...] | None = None,
        cell: str = "lstm",
    ) -> None:
        super().__init__()
        self.levels = levels
        self.hidden = hidden
        self.cell = cell
        self.head_alphabets = head_alphabets or levels.head_alphabets
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Parameter(torch.randn(levels.alphabets[0]))
            if cell == "seeds":
                rest = [size for size in self.head_alphabets if size != levels.alphabets[0]]
                self.seeds = nn.ParameterDict({str(size): nn.Parameter(torch.randn(size)) for size in rest})
            else:
                self.embedding = nn.Parameter(torch.randn(levels.embedding_rows, hidden))
                self.rnn = CELLS[cell].module(hidden)
                self.heads = nn.ModuleDict({str(size): nn.Linear(hidden, size) for size in self.head_alphabets})
            self.log_q = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def set_scale(self, scale: float) -> None:
        """Set s = sqrt(q)^L."""
        with torch.no_grad():
            self.log_q.fill_(2.0 * math.log(scale) / self.levels.depth)

    def scale(self) -> float:
        """Return s = sqrt(q)^L, the Frobenius norm of the approximation over the padded grid."""
        return math.exp(0.5 * self.levels.depth * float(self.log_q.detach()))

    def first_factor(self) -> Tensor:
        """K_1 / ||K_1||, (2^a_1,)."""
        return normalize(softplus(self.first), dim=0)

    def output_layers(self) -> dict[int, tuple[Tensor, Tensor]]:
        """For each alphabet size a the weight (a, h) and bias (a,) of its output layer."""
        if self.cell == "seeds":
            bias = {int(size): seed for size, seed in self.seeds.items()} | {len(self.first): self.first}
            return {size: (self.first.new_zeros(size, 0), bias[size]) for size in self.head_alphabets}
        heads = {int(size): head for size, head in self.heads.items() if isinstance(head, nn.Linear)}
        return {size: (head.weight, head.bias) for size, head in heads.items()}

    def parameter_count(self) -> int:
        """Number of reals; with an LSTM 2(2^D-1)h + 8h^2 + 8h + sum_a a(h+1) + 2^D + 1."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass
class Weights:
    """What evaluation needs of the model: float32 tensors, or gradients by them.

    ``first`` (a_1,) is the normalised first factor, ``table`` (2(2^D-1), ..) every token's share of a step,
    ``inner`` the other tensors of a step of ``cell``, ``heads`` the weight (a, h) and bias (a,) for each alphabet.
    """

    cell: Cell
    first: Tensor
    table: Tensor
    inner: tuple[Tensor, ...]
    heads: dict[int, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: SequenceModel) -> Weights:
        """The model's weights, still attached to its parameters."""
        cell, first, heads = CELLS[model.cell], model.first_factor(), model.output_layers()
        if model.cell == "seeds":
            return cls(cell, first, first.new_zeros(model.levels.embedding_rows, 0), (), heads)
        table, inner = cell.table(model.rnn, model.embedding), cell.inner(model.rnn, model.levels.depth)
        return cls(cell, first, table, inner, heads)

    @property
    def recurrent(self) -> Tensor:
        """The matrix W_hh (4h, h) of an LSTM."""
        return self.inner[0]

    def tensors(self) -> list[Tensor]:
        """All of them in a fixed order."""
        return [self.first, self.table, *self.inner, *(tensor for pair in self.heads.values() for tensor in pair)]

    def replace(self, tensors: list[Tensor]) -> Weights:
        """The same structure with other tensors, given in the order of :meth:`tensors`."""
        count = len(self.inner)
        first, table, inner, rest = tensors[0], tensors[1], tuple(tensors[2 : 2 + count]), tensors[2 + count :]
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return Weights(self.cell, first, table, inner, dict(zip(self.heads, pairs, strict=True)))

    def factors(self, alphabet: int, output: Tensor) -> Tensor:
        """Normalised factors K / ||K||_F at nodes whose sequence model gives `output` (n, h); (n, alphabet).

        The product is taken in the number type of `output`, all else in that of the weights.
        """
        weight, bias = (tensor.to(output.dtype) for tensor in self.heads[alphabet])
        return normalize(softplus(linear(output, weight, bias).to(self.first.dtype)), dim=1)


class TorchSteps:
    """A model a step at a time for :mod:`pipeline.neukron.walk`, every cell, on the CPU and without gradients."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights.replace([tensor.detach().cpu() for tensor in weights.tensors()])

    @property
    def first(self) -> npt.NDArray[np.float32]:
        """The normalised first factor."""
        return self.weights.first.numpy()

    def start(self) -> CellState:
        """See :meth:`pipeline.neukron.cells.Cell.start`."""
        return self.weights.cell.start(self.weights.table, self.weights.table.dtype)

    def step(self, state: CellState, parent: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> CellState:
        """See :meth:`pipeline.neukron.cells.Cell.step`."""
        weights = self.weights
        return weights.cell.step(weights.table, weights.inner, state, torch.from_numpy(parent), torch.from_numpy(row))

    def factors(self, alphabet: int, state: CellState) -> npt.NDArray[np.float32]:
        """Normalised factors at nodes of these states."""
        factors: npt.NDArray[np.float32] = self.weights.factors(alphabet, state[0]).numpy()
        return factors
