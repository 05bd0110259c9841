"""NeuKron's model: an auto-regressive sequence model that emits one small Kronecker factor a level.

With tokens t_1..t_L of a cell and scale s = sqrt(q)^L,

    x~ = s * prod_k K_k[t_k] / ||K_k||_F,   K_1 = softplus(free vector),  K_k = softplus(W_a y_k + b_a),

where y_2..y_L are the outputs of a one-layer LSTM fed with embeddings of t_1..t_{L-1} from a zero state
(NeuKron, section 4.1). Squares over the padded grid sum to s^2 = q^L (Lemma 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.neukron.levels import Levels


class SequenceModel(nn.Module):
    """Parameters of the model; evaluation on many cells is the engine's work.

    Parameters
    ----------
    levels
        The level structure of the tensor.
    hidden
        Width h of the embedding and of the LSTM.
    seed
        Seed of the initial values.
    head_alphabets
        Alphabets that get an output layer; those of levels 2..L if left out.

    Attributes
    ----------
    first
        (2^a_1,) free vector of K_1.
    embedding
        (2(2^D - 1), h), rows ordered by alphabet, largest first.
    rnn
        ``nn.LSTM``, gates in torch's order (input, forget, cell, output).
    heads
        Output layer for each alphabet size, h -> alphabet.
    log_q
        log q, float64: the scale is learned without ever leaving q > 0.
    """

    def __init__(self, levels: Levels, hidden: int, seed: int, head_alphabets: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.levels = levels
        self.hidden = hidden
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Parameter(torch.randn(levels.alphabets[0]))
            self.embedding = nn.Parameter(torch.randn(levels.embedding_rows, hidden))
            self.rnn = nn.LSTM(hidden, hidden)
            self.heads = nn.ModuleDict(
                {str(size): nn.Linear(hidden, size) for size in head_alphabets or levels.head_alphabets}
            )
            self.log_q = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def set_scale(self, scale: float) -> None:
        """Set s = sqrt(q)^L."""
        with torch.no_grad():
            self.log_q.fill_(2.0 * math.log(scale) / self.levels.depth)

    def scale(self) -> float:
        """Return s = sqrt(q)^L, the Frobenius norm of the approximation over the padded grid."""
        return math.exp(0.5 * self.levels.depth * float(self.log_q.detach()))

    def input_table(self) -> Tensor:
        """Every token's share of the gates, (2(2^D - 1), 4h): embedding times W_ih, plus both biases."""
        weight, _, input_bias, recurrent_bias = self.rnn_weights()
        return self.embedding @ weight.T + (input_bias + recurrent_bias)

    def rnn_weights(self) -> list[Tensor]:
        """W_ih (4h, h), W_hh (4h, h) and the two biases (4h,) of the LSTM."""
        return [parameter for _, parameter in self.rnn.named_parameters()]

    def first_factor(self) -> Tensor:
        """K_1 / ||K_1||, (2^a_1,)."""
        return nn.functional.normalize(nn.functional.softplus(self.first), dim=0)

    def heads_by_alphabet(self) -> dict[int, nn.Linear]:
        """Output layer for each alphabet size."""
        return {int(size): head for size, head in self.heads.items() if isinstance(head, nn.Linear)}

    def parameter_count(self) -> int:
        """Number of reals: 2(2^D-1)h + 8h^2 + 8h + sum_a a(h+1) + 2^D + 1."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass
class Weights:
    """What evaluation needs of the model: float32 tensors, or gradients by them.

    ``first`` (a_1,) is the normalised first factor, ``table`` (2(2^D-1), 4h) every token's share of the
    gates, ``recurrent`` (4h, h) the matrix W_hh, ``heads`` the weight (a, h) and bias (a,) for each alphabet.
    """

    first: Tensor
    table: Tensor
    recurrent: Tensor
    heads: dict[int, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: SequenceModel) -> Weights:
        """The model's weights, still attached to its parameters."""
        heads: dict[int, tuple[Tensor, Tensor]] = {
            size: (head.weight, head.bias) for size, head in model.heads_by_alphabet().items()
        }
        return cls(model.first_factor(), model.input_table(), model.rnn_weights()[1], heads)

    def tensors(self) -> list[Tensor]:
        """All of them in a fixed order."""
        return [self.first, self.table, self.recurrent, *(tensor for pair in self.heads.values() for tensor in pair)]

    def replace(self, tensors: list[Tensor]) -> Weights:
        """The same structure with other tensors, given in the order of :meth:`tensors`."""
        first, table, recurrent, *rest = tensors
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return Weights(first, table, recurrent, dict(zip(self.heads, pairs, strict=True)))
