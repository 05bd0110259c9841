"""What a network costs. Operations are those of its matrix products: 2 a multiply-add."""

from __future__ import annotations

import copy
import math
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from pipeline.kpd.blocks import BlockLayer, block_layers, layer_inputs, replaced
from pipeline.kpd.convolution import PatchConv2d
from pipeline.kpd.layer import KPDLinear


def training_flops(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Operations of one training step (forward and backward, no optimiser) on a batch, as torch counts them.

    Every matrix product, convolution and attention that runs is counted, what is made again in the backward
    included, and each KPD layer by the way it takes.
    """
    twin = copy.deepcopy(network).train()
    cross_entropy(twin(images), labels).backward()  # type: ignore[no-untyped-call]  # measures, uncounted
    twin.zero_grad()
    with FlopCounterMode(display=False) as counter:
        cross_entropy(twin(images), labels).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


@torch.no_grad()
def inference_flops(network: nn.Module, images: Tensor) -> int:
    """Operations to classify a batch when zero blocks are skipped, each layer in its cheaper sparse form."""
    layers = block_layers(network)
    twin = copy.deepcopy(network).eval()
    rows: dict[str, int] = {}
    for name, layer in block_layers(twin).items():
        plain = layer.to_dense()
        twin = replaced(twin, layer, plain)
        holder = twin.get_submodule(name.rpartition(".")[0]) if name else twin
        called = holder if isinstance(holder, PatchConv2d) else plain  # which multiplies by the layer's weight
        called.register_forward_hook(
            lambda _, __, outputs, name=name, width=layer.out_features: rows.update(
                {name: rows.get(name, 0) + outputs.numel() // width}
            )
        )
    with FlopCounterMode(display=False) as counter:
        twin(images)
    total = int(counter.get_total_flops())
    for name, count in rows.items():
        layer = layers[name]
        total += sparse_flops(layer, count) - 2 * count * layer.in_features * layer.out_features
    return total


def sparse_flops(layer: BlockLayer, rows: int) -> int:
    """Operations of the cheaper of the exact forms of `layer` on `rows` rows, zero blocks skipped.

    Blocks of W: 2 m2 n2 a block and row. Factored, for a KPD layer: B_i first, 2 r m2 n2 a used column of
    blocks, then 2 r m2 a block.
    """
    used = ~layer.zero_blocks()
    (m2, n2), blocks = layer.block, int(used.sum())
    whole = blocks * m2 * n2
    if not isinstance(layer, KPDLinear):
        return 2 * rows * whole
    columns = int(used.any(dim=0).sum())
    return 2 * rows * min(whole, layer.rank * (columns * m2 * n2 + blocks * m2))


def inference_parameters(network: nn.Module) -> int:
    """Reals that classification needs: blocks or factors of block-sparse layers, whichever are fewer, and the rest."""
    count = sum(parameter.numel() for parameter in network.parameters())
    for layer in block_layers(network).values():
        blocks, size = int((~layer.zero_blocks()).sum()), math.prod(layer.block)
        bias = 0 if layer.bias is None else layer.bias.numel()
        count -= sum(parameter.numel() for parameter in layer.parameters()) - bias
        count += min(blocks * size, layer.rank * (blocks + size)) if isinstance(layer, KPDLinear) else blocks * size
    return count


def measured_costs(network: nn.Module, images: Tensor, repeats: int = 9) -> dict[str, tuple[float, float]]:
    """Seconds of a forward and backward of every block-sparse layer and of its dense twin, by the layer's name.

    Each layer gets what reaches it from `images`, one that nothing reaches is left out; both are timed in turn,
    medians of `repeats`.
    """
    twin = copy.deepcopy(network).train()
    layers = block_layers(twin)
    costs = {}
    for name, x in layer_inputs(twin, layers, images).items():
        x, layer = x.requires_grad_(), layers[name]
        pair = (layer, layer.to_dense())
        times: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats + 2):
            for module, own in zip(pair, times, strict=True):
                seconds = _step_seconds(module, x)
                if repeat >= 2:  # the first ones warm up
                    own.append(seconds)
        costs[name] = (statistics.median(times[0]), statistics.median(times[1]))
    return costs


def _step_seconds(layer: nn.Module, x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    started = time.perf_counter()
    y = layer(x)
    torch.autograd.grad(y, (x, *layer.parameters()), torch.ones_like(y))
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - started


def training_memory(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, int]:
    """Bytes of a training step: ``parameters``, ``optimizer`` (AdamW's two moments), ``activations``.

    Activations are what the forward keeps for the backward, each storage once, parameters not counted.
    """
    twin = copy.deepcopy(network).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in twin.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    twin(images)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cross_entropy(twin(images), labels)
    size = sum(parameter.numel() * parameter.element_size() for parameter in twin.parameters())
    return {"parameters": size, "optimizer": 2 * size, "activations": sum(kept.values())}
