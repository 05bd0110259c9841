"""Which inputs of a layer share a block: an order of the inputs that lets the blocks to be kept hold the most."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipeline.kpd.blocks import BlockLinear
from pipeline.kpd.layer import input_squares

Reals = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@torch.no_grad()
def learn_order(layer: BlockLinear, kept: int) -> None:
    """Put those inputs into one block that let the `kept` best blocks hold the most; the weight stays.

    What a block holds is its score squared. In turn, the best blocks for the inputs and the best inputs for those
    blocks (a linear assignment) are chosen, which can only gain, from the order there is and from that by the inputs'
    sums, until nothing changes. Permuting the inputs of a pruned layer: Pool and Yu (2021), there by exchanges of
    pairs.
    """
    squares = layer.by_rows(layer.weight).double().square().sum(dim=1)  # (m1, n)
    if (weights := input_squares(layer)) is not None:
        squares = squares * weights
    energy = squares.cpu().numpy()
    present = cast("Tensor", layer.order).cpu().numpy()
    starts = (present, np.argsort(-energy.sum(axis=0), kind="stable"))
    found = [_improved(energy, start, layer.block[1], kept) for start in starts]
    cast("Tensor", layer.order).copy_(torch.from_numpy(max(found, key=lambda pair: pair[0])[1]))


def _improved(energy: Reals, order: Places, width: int, kept: int) -> tuple[float, Places]:
    """What the `kept` best blocks of `width` inputs hold, (m1, n) each, and the order, from an order of the inputs."""
    best = -math.inf
    while True:
        blocks = energy[:, order].reshape(len(energy), -1, width).sum(axis=2)  # (m1, n1)
        chosen = np.argpartition(blocks.ravel(), blocks.size - kept)[blocks.size - kept :]
        held = float(blocks.ravel()[chosen].sum())
        if held <= best * (1 + 1e-9):
            return best, order
        best = held
        is_kept = np.zeros(blocks.shape)
        is_kept.ravel()[chosen] = 1.0
        gains = np.repeat(is_kept.T @ energy, width, axis=0)  # (place, input)
        order = linear_sum_assignment(gains, maximize=True)[1]
