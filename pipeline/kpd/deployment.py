"""A network for inference: each block-sparse layer in the form that is fastest on this machine, found by measuring."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError, nearest
from pipeline.kpd.artifact import Deployed
from pipeline.kpd.blocks import BlockLayer, block_layers, called, layer_inputs, replaced
from pipeline.kpd.inference import FORMS, forms_of, takes_fused
from pipeline.kpd.layer import KPDLinear
from pipeline.kpd.together import join

SAMPLE = 4  # layers of one kind that are measured
REPEATS = 4  # rounds of measuring
HOPELESS = 2.0  # a form this many times slower than the fastest is not tried again
WORTH = 0.95  # of dense's time: a form that takes more is not worth it


@torch.no_grad()
def measure_forms(samples: Sequence[tuple[BlockLayer, Tensor]], repeats: int = REPEATS) -> dict[str, float]:
    """Seconds of a forward in each form, the best of `repeats`, summed over alike layers with an input each.

    Forms take turns, each going through all layers, so that a layer finds its weights in the cache as seldom as in
    the network. torch's ``bsr`` is left out where this project's own kernel, always faster, does the same product.
    """
    layer, x = samples[0]
    names = forms_of(layer)
    if "bsr" in names and takes_fused(x, layer.support.new_empty(0, dtype=next(layer.parameters()).dtype)):
        names.remove("bsr")
    forms = {name: [FORMS[name](layer) for layer, _ in samples] for name in names}
    for own in forms.values():  # compiles, warms up
        own[0](x)
    best = {name: [math.inf] * len(samples) for name in names}
    for _ in range(repeats):
        totals = {name: sum(own) for name, own in best.items()}
        for name in [name for name in names if totals[name] <= HOPELESS * min(totals.values())]:
            for index, (form, (_, given)) in enumerate(zip(forms[name], samples, strict=True)):
                best[name][index] = min(best[name][index], seconds_of(form, given))
    return {name: sum(own) for name, own in best.items()}


def seconds_of(network: nn.Module, inputs: Any) -> float:
    """Seconds of one call of `network`, see :func:`pipeline.kpd.blocks.called`.

    On one thread of a CPU what the thread computes, which other work on the machine does not lengthen.
    """
    is_cuda = any(tensor.is_cuda for tensor in (*network.parameters(), *network.buffers()))
    clock = time.perf_counter if is_cuda or torch.get_num_threads() > 1 else time.thread_time
    started = clock()
    called(network, inputs)
    if is_cuda:
        torch.cuda.synchronize()
    return clock() - started


def fastest_forms(layers: Mapping[str, BlockLayer], inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """The form of each layer, by measuring some of every kind: same sizes, about as many blocks, as many rows.

    A layer without an input stays dense, and so does one that no sparse form makes faster by a twentieth.
    """
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, x in inputs.items():
        layer = layers[name]
        share = round(20 * float(layer.zero_blocks().float().mean()))
        rank = layer.rank if isinstance(layer, KPDLinear) else None
        sizes = (layer.in_features, layer.out_features, layer.block, rank, x.numel(), x.dtype, x.device)
        kinds.setdefault((sizes, share), []).append(name)
    taken = dict.fromkeys(layers, "dense")
    for names in kinds.values():
        seconds = measure_forms([(layers[name], inputs[name]) for name in names[:SAMPLE]])
        best = min(seconds, key=seconds.__getitem__)
        taken |= dict.fromkeys(names, best if seconds[best] < WORTH * seconds["dense"] else "dense")
    return taken


@torch.no_grad()
def deploy(network: nn.Module, images: Any, form: str = "auto") -> Deployed:
    """Return a copy of `network` for inference and which form each block-sparse layer took.

    Parameters
    ----------
    network
        With :class:`KPDLinear` or :class:`BlockLinear` layers.
    images
        A typical batch, a tensor or a tuple or mapping of what the network takes: layers are measured on what
        reaches them from it; one that it does not reach stays dense.
    form
        One of :data:`FORMS` for all layers, or auto: each layer's fastest on this machine, with torch's threads as
        they are, see :func:`fastest_forms`. Then the whole network is timed beside the dense one, in evaluation
        without gradients, where torch may run dense layers otherwise: where dense is faster all layers are dense.

    Returns
    -------
    Deployed
        ``network, forms = deploy(..)``; its ``save`` writes both.

    Raises
    ------
    InputError
        An unknown form, or one that a layer does not have; an empty batch.
    """
    if form != "auto" and form not in FORMS:
        raise InputError(f"form '{form}' is unknown{nearest(form, ['auto', *FORMS])}")
    twin = copy.deepcopy(network).eval()
    layers = block_layers(twin)
    if form != "auto":
        return _in_forms(twin, layers, dict.fromkeys(layers, form))
    inputs = layer_inputs(twin, layers, images)
    if inputs and not any(x.numel() for x in inputs.values()):
        raise InputError("images: an empty batch, on which no form can be measured; give a typical one")
    taken = fastest_forms(layers, inputs)
    plain = _in_forms(copy.deepcopy(twin), layers, dict.fromkeys(layers, "dense"))
    if set(taken.values()) <= {"dense"}:
        return plain
    sparse = _in_forms(twin, layers, taken)
    seconds = [[seconds_of(each.network, images) for each in (plain, sparse)] for _ in range(REPEATS)][1:]
    dense_best, sparse_best = (min(own) for own in zip(*seconds, strict=True))
    return sparse if sparse_best <= dense_best else plain


def _in_forms(network: nn.Module, layers: dict[str, BlockLayer], forms: dict[str, str]) -> Deployed:
    """Put the forms in the places of the block-sparse layers of `network`, which are those of `layers` by name."""
    for name, layer in block_layers(network).items():
        network = replaced(network, layer, FORMS[forms[name]](layers[name]))
    return Deployed(join(network), forms, layers)
