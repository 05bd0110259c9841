"""What a network costs. Operations are those of its matrix products: 2 a multiply-add."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from pipeline.kpd.layer import KPDLinear


def training_flops(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Operations of one training step (forward and backward, no optimiser) on a batch, as torch counts them."""
    twin = copy.deepcopy(network).train()
    with FlopCounterMode(display=False) as counter:
        cross_entropy(twin(images), labels).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


@torch.no_grad()
def inference_flops(network: nn.Module, images: Tensor) -> int:
    """Operations to classify a batch when zero blocks are skipped, each layer in its cheaper sparse form."""
    twin = copy.deepcopy(network).eval()
    saved = 0
    rows: dict[KPDLinear, int] = {}
    for layer in twin.modules():
        if isinstance(layer, KPDLinear):
            layer.register_forward_hook(
                lambda layer, inputs, _: rows.update({layer: inputs[0].numel() // layer.in_features})
            )
    with FlopCounterMode(display=False) as counter:
        twin(images)
    for layer, count in rows.items():
        saved += _kpd_flops(layer, count) - sparse_flops(layer, count)
    return int(counter.get_total_flops()) - saved


def sparse_flops(layer: KPDLinear, rows: int) -> int:
    """Operations of the cheaper of two exact forms of `layer` on `rows` rows, zero blocks skipped.

    Blocks of W: 2 m2 n2 a block and row. Factored: B_i first, 2 r m2 n2 a used column of blocks, then
    2 r m2 a block.
    """
    used = ~layer.zero_blocks()
    (m2, n2), blocks = layer.block, int(used.sum())
    columns = int(used.any(dim=0).sum())
    return 2 * rows * min(blocks * m2 * n2, layer.rank * (columns * m2 * n2 + blocks * m2))


def inference_parameters(network: nn.Module) -> int:
    """Reals that classification needs: blocks or factors of block-sparse layers, whichever are fewer, and the rest."""
    count = sum(parameter.numel() for parameter in network.parameters())
    for layer in network.modules():
        if isinstance(layer, KPDLinear):
            blocks, size = int((~layer.zero_blocks()).sum()), math.prod(layer.block)
            count -= layer.S.numel() + layer.A.numel() + layer.B.numel()
            count += min(blocks * size, layer.rank * (blocks + size))
    return count


def _kpd_flops(layer: KPDLinear, rows: int) -> int:
    (m1, n1), (m2, n2) = layer.grid, layer.block
    return 2 * rows * layer.rank * m2 * n1 * (m1 + n2)
