"""Sequence models, one step at a time: what a node of the prefix tree inherits from its parent.

The state of a node is a tuple of tensors with one row a node; the first of them is the output y that the
output layers read. :meth:`Cell.step` turns the states of parents into those of their children, so that the
tree's evaluation, its walk and a single sequence all run the same lines. Inputs enter by a table with a row
for each token, computed once from the embedding.

Arithmetic runs in the number type of the state; tables and matrices stay in theirs until they are used, so
that their gradients are summed in full precision.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

CellState = tuple[Tensor, ...]


class Cell(ABC):
    """A causal sequence model. Its parameters live in a torch module, its arithmetic here.

    Attributes
    ----------
    rate
        Its learning rate over that of an LSTM, where none is given.
    """

    rate: ClassVar[float] = 1.0

    @abstractmethod
    def module(self, hidden: int) -> nn.Module:
        """Fresh parameters for width `hidden`, as torch's own module of the same arithmetic."""

    @abstractmethod
    def table(self, module: nn.Module, embedding: Tensor) -> Tensor:
        """What each token contributes by itself, a row for each row of `embedding` (tokens, h)."""

    @abstractmethod
    def inner(self, module: nn.Module, depth: int) -> tuple[Tensor, ...]:
        """The other tensors of a step, for sequences of at most `depth` tokens."""

    @abstractmethod
    def start(self, table: Tensor, dtype: torch.dtype) -> CellState:
        """State before the first token, one row."""

    @abstractmethod
    def step(
        self, table: Tensor, inner: tuple[Tensor, ...], state: CellState, parent: Tensor, row: Tensor
    ) -> CellState:
        """States of children.

        Parameters
        ----------
        table, inner
            See the methods of those names.
        state
            Of the parents.
        parent, row
            (n,) int64: each child's parent in `state`, and its token's row in `table`.
        """

    @abstractmethod
    def numbers(self, hidden: int, depth: int) -> int:
        """Most numbers in the state of a node, which decides how many nodes are evaluated together."""


class LSTM(Cell):
    """``nn.LSTM`` of one layer; gates in torch's order (input, forget, cell, output)."""

    def module(self, hidden: int) -> nn.Module:
        """See :meth:`Cell.module`."""
        return nn.LSTM(hidden, hidden)

    def table(self, module: nn.Module, embedding: Tensor) -> Tensor:
        """Embedding times W_ih plus both biases, (tokens, 4h)."""
        weight, _, input_bias, recurrent_bias = _recurrent_weights(module)
        return embedding @ weight.T + (input_bias + recurrent_bias)

    def inner(self, module: nn.Module, depth: int) -> tuple[Tensor, ...]:
        """W_hh (4h, h)."""
        return (_recurrent_weights(module)[1],)

    def start(self, table: Tensor, dtype: torch.dtype) -> CellState:
        """Zero output and cell state."""
        zero = table.new_zeros(1, table.shape[1] // 4, dtype=dtype)
        return zero, zero

    def step(
        self, table: Tensor, inner: tuple[Tensor, ...], state: CellState, parent: Tensor, row: Tensor
    ) -> CellState:
        """The parent's recurrent product is computed once for all its children."""
        hidden, cell = state
        (weight,) = inner
        gates = table[row].to(hidden.dtype) + linear(hidden, weight.to(hidden.dtype))[parent]
        i, f, g, o = torch.chunk(gates, 4, dim=1)
        cell = torch.sigmoid(f) * cell[parent] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def numbers(self, hidden: int, depth: int) -> int:
        """Output and cell state."""
        return 2 * hidden


class GRU(Cell):
    """``nn.GRU`` of one layer; gates in torch's order (reset, update, new)."""

    def module(self, hidden: int) -> nn.Module:
        """See :meth:`Cell.module`."""
        return nn.GRU(hidden, hidden)

    def table(self, module: nn.Module, embedding: Tensor) -> Tensor:
        """Embedding times W_ih plus the biases that the reset gate does not touch, (tokens, 3h)."""
        weight, _, input_bias, recurrent_bias = _recurrent_weights(module)
        h = weight.shape[1]
        return embedding @ weight.T + input_bias + nn.functional.pad(recurrent_bias[: 2 * h], (0, h))

    def inner(self, module: nn.Module, depth: int) -> tuple[Tensor, ...]:
        """W_hh (3h, h) and the new gate's recurrent bias (h,)."""
        _, weight, _, recurrent_bias = _recurrent_weights(module)
        return weight, recurrent_bias[2 * weight.shape[1] :]

    def start(self, table: Tensor, dtype: torch.dtype) -> CellState:
        """Zero output."""
        return (table.new_zeros(1, table.shape[1] // 3, dtype=dtype),)

    def step(
        self, table: Tensor, inner: tuple[Tensor, ...], state: CellState, parent: Tensor, row: Tensor
    ) -> CellState:
        """The parent's recurrent product is computed once for all its children."""
        (hidden,) = state
        weight, bias = (tensor.to(hidden.dtype) for tensor in inner)
        h = hidden.shape[1]
        token = table[row].to(hidden.dtype)
        recurrent = linear(hidden, weight, nn.functional.pad(bias, (2 * h, 0)))[parent]
        reset, update = torch.chunk(torch.sigmoid(token[:, : 2 * h] + recurrent[:, : 2 * h]), 2, dim=1)
        new = torch.tanh(token[:, 2 * h :] + reset * recurrent[:, 2 * h :])
        return (new + update * (hidden[parent] - new),)

    def numbers(self, hidden: int, depth: int) -> int:
        """The output."""
        return hidden


class Transformer(Cell):
    """A causal layer of attention and feed-forward network, as ``nn.TransformerEncoderLayer`` under a causal mask.

    One head, width h, feed-forward width 2h, which makes about as many parameters as an LSTM has; residual
    connections followed by layer normalisation; sinusoidal position encodings, which cost no parameters
    (Vaswani et al., "Attention is all you need", NeurIPS 2017). A node attends over its ancestors and itself:
    their keys and values come down the tree with the state.
    """

    rate: ClassVar[float] = 0.3

    def module(self, hidden: int) -> nn.Module:
        """See :meth:`Cell.module`."""
        return nn.TransformerEncoderLayer(hidden, 1, 2 * hidden, dropout=0.0, batch_first=True)

    def table(self, module: nn.Module, embedding: Tensor) -> Tensor:
        """Embedding, and its query, key and value with their bias, (tokens, 4h)."""
        attention = cast(nn.TransformerEncoderLayer, module).self_attn
        projected = linear(embedding, attention.in_proj_weight, attention.in_proj_bias)
        return torch.cat([embedding, projected], dim=1)

    def inner(self, module: nn.Module, depth: int) -> tuple[Tensor, ...]:
        """What each position adds to a row of the table (depth, 4h); weights and biases of the rest of the layer."""
        layer = cast(nn.TransformerEncoderLayer, module)
        weight = layer.self_attn.in_proj_weight
        places = positions(depth, weight.shape[1]).to(weight)
        parts = (layer.self_attn.out_proj, layer.norm1, layer.linear1, layer.linear2, layer.norm2)
        rest = [tensor for part in parts for tensor in (part.weight, part.bias)]
        return torch.cat([places, places @ weight.T], dim=1), *rest

    def start(self, table: Tensor, dtype: torch.dtype) -> CellState:
        """An output that nothing reads, and no keys and values."""
        h = table.shape[1] // 4
        return table.new_zeros(1, h, dtype=dtype), table.new_zeros(1, 0, 2 * h, dtype=dtype)

    def step(
        self, table: Tensor, inner: tuple[Tensor, ...], state: CellState, parent: Tensor, row: Tensor
    ) -> CellState:
        """Attention over the ancestors' keys and values, which the state hands down, and over the node's own."""
        places, *rest = inner
        dtype, (_, above) = state[0].dtype, state
        out, out_bias, gain1, shift1, wide, wide_bias, back, back_bias, gain2, shift2 = (t.to(dtype) for t in rest)
        h = len(gain1)
        own = (table[row] + places[above.shape[1]]).to(dtype)
        x, query, pair = own[:, :h], own[:, h : 2 * h], own[:, 2 * h :]
        path = torch.cat([above[parent], pair[:, None]], dim=1)  # (n, k, 2h)
        scores = (path[:, :, :h] @ query[:, :, None])[:, :, 0] / math.sqrt(h)
        heard = (torch.softmax(scores, dim=1)[:, None] @ path[:, :, h:])[:, 0]
        x = layer_norm(x + linear(heard, out, out_bias), (h,), gain1, shift1)
        fed = linear(torch.relu(linear(x, wide, wide_bias)), back, back_bias)
        return layer_norm(x + fed, (h,), gain2, shift2), path

    def numbers(self, hidden: int, depth: int) -> int:
        """The output, and a key and a value for each token so far."""
        return hidden + 2 * hidden * depth


class SharedSeeds(Cell):
    """No sequence model at all: outputs of width 0, so that each output layer is the same for all prefixes.

    What is left is a Kronecker product of one seed for each alphabet, the ablation "N-A" of NeuKron.
    """

    def module(self, hidden: int) -> nn.Module:
        """Nothing."""
        return nn.Identity()

    def table(self, module: nn.Module, embedding: Tensor) -> Tensor:
        """Rows of width 0."""
        return embedding

    def inner(self, module: nn.Module, depth: int) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def start(self, table: Tensor, dtype: torch.dtype) -> CellState:
        """An output of width 0."""
        return (table.new_zeros(1, 0, dtype=dtype),)

    def step(
        self, table: Tensor, inner: tuple[Tensor, ...], state: CellState, parent: Tensor, row: Tensor
    ) -> CellState:
        """The same for every child."""
        return (state[0][parent],)

    def numbers(self, hidden: int, depth: int) -> int:
        """None."""
        return 0


def positions(count: int, width: int) -> Tensor:
    """Sinusoidal encodings of positions 0 .. count - 1, (count, width) float64.

    >>> positions(2, 3)[0].tolist()
    [0.0, 1.0, 0.0]
    """
    place = torch.arange(count, dtype=torch.float64)[:, None]
    column = torch.arange(width)
    angle = place / 10000.0 ** ((column - column % 2) / width)
    return torch.where(column % 2 == 0, torch.sin(angle), torch.cos(angle))


def _recurrent_weights(module: nn.Module) -> list[Tensor]:
    """W_ih, W_hh and the two biases of a recurrent layer."""
    return [parameter for _, parameter in module.named_parameters()]


CELLS: dict[str, Cell] = {"lstm": LSTM(), "gru": GRU(), "transformer": Transformer(), "seeds": SharedSeeds()}
