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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.core.files import atomic_path
from pipeline.errors import InputError, nearest
from pipeline.kpd.blocks import BlockLayer, block_layers, layer_inputs, replaced
from pipeline.kpd.functional import HAS_FUSED, kron_weight, side_by_side
from pipeline.kpd.layer import KPDLinear, check_width

if HAS_FUSED:
    from pipeline.kpd import fused


class InferenceLayer(nn.Module):
    """Base of the sparse forms: no parameters, no gradients; a layer without bias gets zeros for one."""

    bias: Tensor
    form = ""  #: name in :data:`FORMS`
    has_kernel = False  #: whether :meth:`fill_rows` serves float32 on a CPU where Numba is there

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__()
        parameter = next(layer.parameters())
        if self.form not in forms_of(layer):
            m2, n2 = layer.block
            raise InputError(
                f"form '{self.form}': a {type(layer).__name__} with blocks of {m2} x {n2}, {parameter.dtype}, "
                f"has only {', '.join(forms_of(layer))} on {parameter.device.type}"
            )
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.block, self.grid = layer.block, layer.grid
        bias = parameter.new_zeros(self.out_features) if layer.bias is None else layer.bias
        self.register_buffer("bias", bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The dense W, (m, n), made anew on every access."""
        raise NotImplementedError

    def map_rows(self, x: Tensor) -> Tensor:
        """(N, n) -> (N, m), with the bias, by torch's own products."""
        raise NotImplementedError

    def fill_rows(self, x: npt.NDArray[Any], y: npt.NDArray[Any], threads: int) -> None:
        """Fill y with what :meth:`map_rows` returns for x, both C-contiguous float32, by kernels of ours."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m); under autocast in the layer's own type, and then lowered."""
        check_width(x, self.in_features)
        kind, lower = x.device.type, None
        if torch.is_autocast_enabled(kind) and self.bias.dtype != torch.float64:
            lower, x = torch.get_autocast_dtype(kind), x.to(self.bias.dtype)
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if self.has_kernel and self.bias.is_cpu and self.bias.dtype == torch.float32 and _takes_fused(rows):
            y = torch.empty((len(rows), self.out_features))
            self.fill_rows(rows.detach().contiguous().numpy(), y.numpy(), torch.get_num_threads())
        else:
            with torch.no_grad(), torch.autocast(kind, enabled=False):
                y = self.map_rows(rows)
        y = y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)
        return y if lower is None else y.to(lower)


class BSRLinear(InferenceLayer):
    """The weight as a :func:`torch.sparse_bsr_tensor`."""

    form = "bsr"
    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        with _no_beta_warnings():
            matrix = layer.weight.detach().to_sparse_bsr(layer.block)
        self.register_buffer("starts", matrix.crow_indices())
        self.register_buffer("columns", matrix.col_indices())
        self.register_buffer("values", matrix.values())

    def matrix(self) -> Tensor:
        """W in torch's form, on the storage of the buffers."""
        size = (self.out_features, self.in_features)
        return torch.sparse_bsr_tensor(self.starts, self.columns, self.values, size, check_invariants=False)

    @property
    def weight(self) -> Tensor:
        """The dense W, (m, n), made anew on every access."""
        return self.matrix().to_dense()

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply by torch's own kernel."""
        return (self.matrix() @ x.T).T + self.bias


class BlockRowsLinear(InferenceLayer):
    """The used columns of each block row, packed: one pass over all, or a gather and a product of torch's for each."""

    form = "block-rows"
    has_kernel = True
    values: Tensor
    columns: Tensor

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        used = (~layer.zero_blocks()).repeat_interleave(self.block[1], dim=1)
        weight = layer.weight.detach().view(self.grid[0], self.block[0], -1)
        columns = [row.nonzero().flatten() for row in used]
        rows = [weight[a][:, at] for a, at in enumerate(columns)]
        self.counts = [len(at) for at in columns]
        self.register_buffer("values", torch.cat([row.flatten() for row in rows]))
        self.register_buffer("columns", torch.cat(columns))
        if HAS_FUSED:
            self.packed = fused.BlockRows.of(_arrays(rows), _arrays(columns), _arrays([self.bias])[0])

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Of each block row its used columns and W there, (m2, used columns)."""
        m2 = self.block[0]
        rows = torch.split(self.values, [m2 * count for count in self.counts])
        columns = torch.split(self.columns, self.counts)
        return [(at, row.view(m2, len(at))) for at, row in zip(columns, rows, strict=True)]

    @property
    def weight(self) -> Tensor:
        """The dense W, (m, n), made anew on every access."""
        weight = self.values.new_zeros(self.grid[0], self.block[0], self.in_features)
        for a, (at, row) in enumerate(self.parts()):
            weight[a][:, at] = row
        return weight.view(self.out_features, self.in_features)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply block row by block row."""
        return torch.cat([x[:, at] @ row.T for at, row in self.parts()], dim=1) + self.bias

    def fill_rows(self, x: npt.NDArray[Any], y: npt.NDArray[Any], threads: int) -> None:
        """Multiply in one pass."""
        fused.block_rows(x, self.packed, y, threads)


class FactoredLinear(InferenceLayer):
    """B_i first, then the non-zeros of S * A."""

    form = "factored"
    has_kernel = True
    B: Tensor
    starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        factors = cast("KPDLinear", layer)  # no other layer has this form
        scaled = factors.scaled().detach()
        with _no_beta_warnings():
            outer = side_by_side(scaled).to_sparse_csr()
        self.register_buffer("B", factors.B.detach().clone())
        self.register_buffer("starts", outer.crow_indices())
        self.register_buffer("columns", outer.col_indices())
        self.register_buffer("values", outer.values())
        if HAS_FUSED:
            self.packed = fused.Factors.of(*_arrays([scaled, self.B, self.bias]))

    def outer(self) -> Tensor:
        """S * A_i side by side, (m1, r n1), on the storage of the buffers."""
        size = (self.grid[0], len(self.B) * self.grid[1])
        return torch.sparse_csr_tensor(self.starts, self.columns, self.values, size, check_invariants=False)

    @property
    def weight(self) -> Tensor:
        """The dense W, (m, n), made anew on every access."""
        m1, n1 = self.grid
        return kron_weight(self.outer().to_dense().view(m1, -1, n1).transpose(0, 1), self.B)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply by the factors."""
        (r, m2, n2), (m1, n1), N = self.B.shape, self.grid, len(x)
        z = x.reshape(-1, n2) @ self.B.reshape(-1, n2).T  # (N n1, r m2)
        z = z.view(N, n1, r, m2).permute(2, 1, 0, 3).reshape(r * n1, N * m2)
        return (self.outer() @ z).view(m1, N, m2).transpose(0, 1).reshape(N, self.out_features) + self.bias

    def fill_rows(self, x: npt.NDArray[Any], y: npt.NDArray[Any], threads: int) -> None:
        """Multiply by B and the coefficients tile by tile."""
        fused.factored(x, self.packed, y, threads)


@contextmanager
def _no_beta_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse [BC]SR tensor support is in beta")
        yield


def _arrays(tensors: list[Tensor]) -> list[npt.NDArray[Any]]:
    return [tensor.cpu().float().numpy() if tensor.is_floating_point() else tensor.cpu().numpy() for tensor in tensors]


FORMS: dict[str, Callable[[BlockLayer], nn.Module]] = {
    "dense": lambda layer: layer.to_dense(),
    "bsr": BSRLinear,
    "block-rows": BlockRowsLinear,
    "factored": FactoredLinear,
}


def forms_of(layer: BlockLayer) -> list[str]:
    """Names of the forms that `layer` can take where it lies.

    torch's block-sparse products need square blocks, on a GPU of a power of two from 16 on, and its sparse
    products on a CPU single or double precision.
    """
    m2, n2 = layer.block
    on_cpu = layer.support.is_cpu
    fits_gpu = m2 >= 16 and m2 & (m2 - 1) == 0
    has_sparse = not on_cpu or next(layer.parameters()).dtype in (torch.float32, torch.float64)
    has_bsr = has_sparse and m2 == n2 and (on_cpu or fits_gpu)
    has_factored = has_sparse and isinstance(layer, KPDLinear)
    absent = ([] if has_bsr else ["bsr"]) + ([] if has_factored else ["factored"])
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
        A typical batch: layers are measured on what reaches them from it; one that it does not reach stays dense.
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
    layers = block_layers(twin)
    inputs = layer_inputs(twin, layers, images) if form == "auto" else {}
    taken = {}
    for name, layer in layers.items():
        taken[name] = form
        if form == "auto":
            seconds = measure_forms(layer, inputs[name]) if name in inputs else {"dense": 0.0}
            taken[name] = min(seconds, key=seconds.__getitem__)
        twin = replaced(twin, layer, FORMS[taken[name]](layer))
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
