"""NeuKron straight from its equations: torch's own layer over every non-zero's whole token sequence.

Oracle and yardstick: nothing is shared, nothing is compiled, every value is recomputed when it is needed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel
from pipeline.neukron.order_search import propose
from pipeline.sparse.orders import accept


def values(model: SequenceModel, tokens: Tensor) -> Tensor:
    """x~ of n cells given their (n, L) tokens: K_1 is free, K_k comes from the sequence model's output y_k."""
    levels = model.levels
    first = torch.nn.functional.softplus(model.first)
    value = torch.exp(0.5 * levels.depth * model.log_q).to(first) * first[tokens[:, 0]] / first.norm()
    if levels.depth == 1:
        return value
    if model.cell == "seeds":
        return value * _shared_seeds(model, tokens)
    offsets = torch.tensor([levels.embedding_offset(level) for level in range(1, levels.depth)])
    outputs = _outputs(model, model.embedding[tokens[:, :-1] + offsets])  # (n, L - 1, h)
    for step in range(1, levels.depth):
        head = model.heads[str(levels.alphabets[step])]
        factor = torch.nn.functional.softplus(head(outputs[:, step - 1]))  # (n, a)
        value = value * factor.gather(1, tokens[:, step : step + 1])[:, 0] / factor.norm(dim=1)
    return value


def _outputs(model: SequenceModel, embedded: Tensor) -> Tensor:
    """Outputs of the sequence model for whole sequences, (n, L - 1, h) to (n, L - 1, h)."""
    if model.cell != "transformer":
        return model.rnn(embedded.transpose(0, 1))[0].transpose(0, 1)
    _, length, width = embedded.shape
    encoding = torch.zeros(length, width)
    for place in range(length):
        for column in range(width):
            angle = place / 10000 ** ((column // 2 * 2) / width)
            encoding[place, column] = math.cos(angle) if column % 2 else math.sin(angle)
    mask = torch.triu(torch.full((length, length), -math.inf), diagonal=1).to(embedded)
    return model.rnn(embedded + encoding.to(embedded), src_mask=mask, is_causal=True)


def _shared_seeds(model: SequenceModel, tokens: Tensor) -> Tensor:
    """Product over levels 2..L of one normalised seed an alphabet."""
    value = torch.ones(len(tokens), dtype=model.first.dtype)
    for step in range(1, model.levels.depth):
        alphabet = model.levels.alphabets[step]
        free = model.first if alphabet == model.levels.alphabets[0] else model.seeds[str(alphabet)]
        factor = torch.nn.functional.softplus(free)
        value = value * factor[tokens[:, step]] / factor.norm()
    return value


def loss(model: SequenceModel, tokens: Tensor, entries: Tensor) -> Tensor:
    """Squared error over the padded grid by Lemma 1: q^L + sum over non-zeros of (x - x~)^2 - x~^2."""
    approximation = values(model, tokens).double()
    scale = torch.exp(model.levels.depth * model.log_q)
    return scale + ((entries - approximation) ** 2 - approximation**2).sum()


def all_tokens(levels: Levels) -> Tensor:
    """Tokens of every cell of the padded grid, in row-major order."""
    grids = torch.meshgrid(*(torch.arange(2**bits) for bits in levels.bits), indexing="ij")
    coords = torch.stack([grid.flatten() for grid in grids], dim=1).numpy()
    return torch.from_numpy(levels.tokens(levels.keys(coords)))


def epoch(
    model: SequenceModel,
    optimiser: torch.optim.Optimizer,
    coords: np.ndarray,
    entries: np.ndarray,
    orders: list[np.ndarray],
    rng: np.random.Generator,
    gamma: float = 10.0,
    rounds: int = 2,
) -> float:
    """One published epoch: rounds of reordering every mode, one full-batch step, one check of the loss.

    Both the present and the proposed order of a mode are evaluated, every non-zero by itself. `orders` is
    changed in place; returns the loss after the step.
    """
    levels = model.levels

    def evaluate(candidates: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return values(model, torch.from_numpy(levels.tokens(levels.keys(coords, candidates)))).double().numpy()

    for _ in range(rounds):
        for mode in range(len(orders)):
            proposal = propose(levels, mode, coords, orders, rng)
            proposed = [proposal.position if other == mode else order for other, order in enumerate(orders)]
            change = 2.0 * entries * (evaluate(orders) - evaluate(proposed))
            orders[mode], _ = accept(proposal, orders[mode], coords[:, mode], change, gamma, rng)
    tokens = torch.from_numpy(levels.tokens(levels.keys(coords, orders)))
    target = torch.from_numpy(entries)
    optimiser.zero_grad()
    loss(model, tokens, target).backward()
    optimiser.step()
    with torch.no_grad():
        return float(loss(model, tokens, target))
