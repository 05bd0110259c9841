"""Block-sparse layers for inference: four exact forms, the fastest found by measuring, and export.

``dense``
    A plain linear layer; zero blocks are multiplied.
``bsr``
    torch's block-sparse row tensors.
``block-rows``
    The used columns of each block row side by side: one gathered product a block row.
``factored``
    For KPD layers: B_i first, then the non-zeros of S * A, n2 / r times fewer operations than blocks.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.errors import InputError, nearest
from pipeline.files import atomic_path
from pipeline.kpd.blocks import BlockLayer, block_layers
from pipeline.kpd.functional import HAS_FUSED
from pipeline.kpd.layer import KPDLinear

if HAS_FUSED:
    from pipeline.kpd import fused


class InferenceLayer(nn.Module):
    """Base of the sparse forms: no parameters, no gradients; a layer without bias gets zeros for one."""

    bias: Tensor
    has_kernel = False  #: whether :meth:`fill_rows` serves float32 on a CPU where Numba is there

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.B if isinstance(layer, KPDLinear) else layer.weight
        bias = weight.new_zeros(self.out_features) if layer.bias is None else layer.bias
        self.register_buffer("bias", bias.detach().clone())

    def map_rows(self, x: Tensor) -> Tensor:
        """(N, n) -> (N, m), with the bias, by torch's own products."""
        raise NotImplementedError

    def fill_rows(self, x: npt.NDArray[Any], y: npt.NDArray[Any], threads: int) -> None:
        """Fill y with what :meth:`map_rows` returns for x, both C-contiguous float32, by kernels of ours."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m)."""
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if self.has_kernel and _takes_fused(rows):
            y = torch.empty((len(rows), self.out_features))
            self.fill_rows(rows.detach().contiguous().numpy(), y.numpy(), torch.get_num_threads())
        else:
            with torch.no_grad():
                y = self.map_rows(rows)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)


class BSRLinear(InferenceLayer):
    """The weight as a :func:`torch.sparse_bsr_tensor`."""

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        if "bsr" not in forms_of(layer):
            raise InputError(f"form 'bsr': torch has no product for blocks of {layer.block} here; use block-rows")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse BSR tensor support is in beta")
            self.weight = layer.to_dense().weight.detach().to_sparse_bsr(layer.block)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply by torch's own kernel."""
        return (self.weight @ x.T).T + self.bias


class BlockRowsLinear(InferenceLayer):
    """The used columns of each block row, packed: one pass over all, or a gather and a product of torch's for each."""

    has_kernel = True

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        used = ~layer.zero_blocks()
        (m2, n2), (m1, _) = layer.block, layer.grid
        weight = layer.to_dense().weight.detach().view(m1, m2, -1)
        columns = used.repeat_interleave(n2, dim=1)
        self.columns = [row.nonzero().flatten() for row in columns]
        self.rows = [weight[a][:, at].contiguous() for a, at in enumerate(self.columns)]
        if HAS_FUSED:
            self.packed = fused.BlockRows.of(_arrays(self.rows), _arrays(self.columns), self.bias.cpu().numpy())

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply block row by block row."""
        parts = [x[:, at] @ row.T for at, row in zip(self.columns, self.rows, strict=True)]
        return torch.cat(parts, dim=1) + self.bias

    def fill_rows(self, x: npt.NDArray[Any], y: npt.NDArray[Any], threads: int) -> None:
        """Multiply in one pass."""
        fused.block_rows(x, self.packed, y, threads)


def _arrays(tensors: list[Tensor]) -> list[npt.NDArray[Any]]:
    return [tensor.cpu().numpy() for tensor in tensors]


class FactoredLinear(InferenceLayer):
    """B_i first, then the non-zeros of S * A."""

    has_kernel = True

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        if not isinstance(layer, KPDLinear):
            raise InputError(f"form 'factored' needs a KPD layer, not {type(layer).__name__}; use block-rows")
        (m1, n1), r = layer.grid, layer.rank
        self.block, self.rank = layer.block, r
        outer = layer.scaled().detach().transpose(0, 1).reshape(m1, r * n1)
        self.outer = outer.to_sparse_csr()
        self.B = layer.B.detach().contiguous()
        if HAS_FUSED:
            scaled, B, bias = _arrays([layer.scaled().detach().float(), self.B.float(), self.bias.float()])
            self.packed = fused.Factors.of(scaled, B, bias)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply by the factors."""
        (m2, n2), N = self.block, len(x)
        m1, n1 = self.out_features // m2, self.in_features // n2
        z = x.reshape(-1, n2) @ self.B.reshape(-1, n2).T  # (N n1, r m2)
        z = z.view(N, n1, self.rank, m2).permute(2, 1, 0, 3).reshape(self.rank * n1, N * m2)
        return (self.outer @ z).view(m1, N, m2).transpose(0, 1).reshape(N, self.out_features) + self.bias

    def fill_rows(self, x: npt.NDArray[Any], y: npt.NDArray[Any], threads: int) -> None:
        """Multiply by B and the coefficients tile by tile."""
        fused.factored(x, self.packed, y, threads)


FORMS: dict[str, Callable[[BlockLayer], nn.Module]] = {
    "dense": lambda layer: layer.to_dense(),
    "bsr": BSRLinear,
    "block-rows": BlockRowsLinear,
    "factored": FactoredLinear,
}


def forms_of(layer: BlockLayer) -> list[str]:
    """Names of the forms that `layer` can take where it lies.

    torch's block-sparse products need square blocks, on a GPU of a power of two from 16 on.
    """
    m2, n2 = layer.block
    fits_gpu = m2 >= 16 and m2 & (m2 - 1) == 0
    has_bsr = m2 == n2 and (layer.support.device.type == "cpu" or fits_gpu)
    absent = ([] if has_bsr else ["bsr"]) + ([] if isinstance(layer, KPDLinear) else ["factored"])
    return [name for name in FORMS if name not in absent]


def _takes_fused(x: Tensor) -> bool:
    if not x.is_cpu or x.dtype != torch.float32:
        return False
    if not HAS_FUSED:
        warnings.warn("Numba is missing: sparse layers use torch's own products, which are slower", stacklevel=2)
    return HAS_FUSED


@torch.no_grad()
def measure_forms(layer: BlockLayer, x: Tensor, repeats: int = 7) -> dict[str, float]:
    """Seconds of a forward of `layer` on `x` in every form it has, the best of `repeats`."""
    seconds = {}
    for name in forms_of(layer):
        form = FORMS[name](layer)
        times = []
        for _ in range(repeats + 1):  # the first call compiles or warms up
            started = time.perf_counter()
            form(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            times.append(time.perf_counter() - started)
        seconds[name] = min(times[1:])
    return seconds


@torch.no_grad()
def deploy(network: nn.Module, images: Tensor, form: str = "auto") -> tuple[nn.Module, dict[str, str]]:
    """Return a copy of `network` for inference and which form each block-sparse layer took.

    Parameters
    ----------
    network
        With :class:`KPDLinear` or :class:`BlockLinear` layers.
    images
        A typical batch: layers are measured on what reaches them from it.
    form
        One of :data:`FORMS` for all layers, or auto: each layer's fastest on this machine.

    Raises
    ------
    InputError
        An unknown form, or one that a layer does not have.
    """
    if form != "auto" and form not in FORMS:
        raise InputError(f"form '{form}' is unknown{nearest(form, ['auto', *FORMS])}")
    twin = copy.deepcopy(network).eval()
    inputs: dict[str, Tensor] = {}
    layers = block_layers(twin)
    hooks = [
        layer.register_forward_pre_hook(lambda _, arguments, name=name: inputs.update({name: arguments[0].detach()}))
        for name, layer in layers.items()
    ]
    twin(images)
    for hook in hooks:
        hook.remove()
    taken = {}
    for name, layer in layers.items():
        taken[name] = form
        if form == "auto":
            seconds = measure_forms(layer, inputs[name])
            taken[name] = min(seconds, key=seconds.__getitem__)
        twin.set_submodule(name, FORMS[taken[name]](layer))
    return twin, taken


def export_program(network: nn.Module, images: Tensor, path: str | Path) -> None:
    """Write the dense form as a :mod:`torch.export` program that takes batches of any size.

    ``torch.export.load(path).module()(images)`` runs it without Kronflow. `images` is a batch of at least two.
    """
    twin, _ = deploy(network, images, form="dense")
    batch = torch.export.Dim("batch", min=1)
    program: Any = torch.export.export(twin, (images,), dynamic_shapes=({0: batch},))
    with atomic_path(path) as temporary:
        torch.export.save(program, temporary)
