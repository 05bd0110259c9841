"""Block-sparse layers for inference: four exact forms, which can be exported; `deployment` finds the fastest.

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
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from pipeline.errors import InputError
from pipeline.kpd.blocks import BlockLayer, BlockLinear, of_columns, replaced
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.functional import (
    HAS_FUSED,
    as_array,
    check_alike,
    is_transformed,
    is_unwatched,
    kron_weight,
    side_by_side,
)
from pipeline.kpd.layer import (
    KPDLinear,
    WithDerivedWeight,
    as_node,
    autocast_type,
    check_width,
    keep_called,
    map_nested,
    without_autocast,
)

if HAS_FUSED:
    from pipeline.kpd import fused


class InferenceLayer(WithDerivedWeight):
    """Base of the sparse forms: no parameters; a layer without bias gets zeros for one.

    The buffers are all that a form knows, so that whatever is loaded or written into them is what it computes. The
    gradient of the input is that of the dense product, whose cost it has; the buffers get none.
    """

    bias: Tensor
    form = ""  #: name in :data:`FORMS`

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
        self.has_bias = layer.bias is not None
        bias = parameter.new_zeros(self.out_features) if layer.bias is None else layer.bias
        self.register_buffer("bias", bias.detach().clone())
        keep_called(self)

    @torch.no_grad()
    def to_layer(self) -> BlockLayer:
        """The layer with blocks that this form computes now."""
        layer = BlockLinear(self.in_features, self.out_features, self.block, self.has_bias)
        layer.to(self.bias.device, self.bias.dtype).approximate(self.to_matrix())
        layer.set_support(~layer.zero_blocks())
        if layer.bias is not None:
            layer.bias.copy_(self.bias)
        return layer

    def map_rows(self, x: Tensor) -> Tensor:
        """(N, n) -> (N, m), with the bias, by one operator that torch knows, from the buffers as they are."""
        raise NotImplementedError

    def operands(self) -> fused.Operands | None:
        """What this project's kernels need of the buffers as they are; None where they cannot take them."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n) to (..., m); under autocast in the layer's own type, and then lowered."""
        if isinstance(x, Proxy):
            return as_node(self, x)
        if x.is_nested:
            return map_nested(self.forward, x)
        check_width(x, self.in_features)
        lower = None if self.bias.dtype == torch.float64 else autocast_type(x.device.type)
        x = x if lower is None else x.to(self.bias.dtype)
        check_alike(x, self.bias)
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        own = self.operands() if is_free(x) else None
        if own is not None:
            (y,) = multiplied(rows, [own])
        elif is_transformed():  # torch.func's transforms take torch's own operations
            with without_autocast(x.device.type):
                y = functional.linear(rows, self.to_matrix(), self.bias)
        else:
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
        # clones, since torch.export takes no views of a sparse tensor
        self.register_buffer("starts", matrix.crow_indices().clone())
        self.register_buffer("columns", matrix.col_indices().clone())
        self.register_buffer("values", matrix.values().clone())

    def to_matrix(self) -> Tensor:
        """W from the buffers, (m, n)."""
        return _bsr_weight(self.values, self.columns, self.starts, self.in_features)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply by torch's own kernel."""
        y: Tensor = _bsr(x, self.values, self.columns, self.starts, self.bias)
        return y


class BlockRowsLinear(InferenceLayer):
    """The used columns of each block row, packed: one pass over all, or a gather and a product of torch's for each."""

    form = "block-rows"
    values: Tensor
    columns: Tensor
    starts: Tensor

    def __init__(self, layer: BlockLayer) -> None:
        super().__init__(layer)
        used = of_columns(layer, ~layer.zero_blocks())
        row, columns = used.nonzero(as_tuple=True)
        starts = columns.new_zeros(self.grid[0] + 1)
        starts[1:] = used.sum(dim=1).cumsum(dim=0)
        weight = layer.weight.detach().view(self.grid[0], self.block[0], -1)
        self.register_buffer("values", weight.transpose(1, 2)[row, columns])  # (used columns, m2)
        self.register_buffer("columns", columns)
        self.register_buffer("starts", starts)

    def to_matrix(self) -> Tensor:
        """W from the buffers, (m, n)."""
        return _block_rows_weight(self.values, self.columns, self.starts, self.in_features)

    def operands(self) -> fused.Operands | None:
        """The buffers, W's own numbers."""
        if not HAS_FUSED or not _takes(self.values, self.columns, self.starts, self.bias):
            return None
        none = self.values.new_empty(0, self.values.shape[1], 1)
        return operands(none, self.values, self.columns, self.starts, self.bias)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply in one pass, or block row by block row."""
        y: Tensor = _block_rows(x, self.values, self.columns, self.starts, self.bias)
        return y


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
        self.register_buffer("starts", outer.crow_indices().clone())
        self.register_buffer("columns", outer.col_indices().clone())
        self.register_buffer("values", outer.values().clone())

    def scaled(self) -> Tensor:
        """S * A_i, (r, m1, n1), zeros included."""
        return _scaled(self.values, self.columns, self.starts, len(self.B), self.grid[1])

    def to_matrix(self) -> Tensor:
        """W from the buffers, (m, n)."""
        return kron_weight(self.scaled(), self.B)

    @torch.no_grad()
    def to_layer(self) -> BlockLayer:
        """The layer with these factors, S being 1."""
        layer = KPDLinear(self.in_features, self.out_features, self.block, len(self.B), self.has_bias)
        layer.to(self.bias.device, self.bias.dtype)
        layer.A.copy_(self.scaled())
        layer.B.copy_(self.B)
        layer.set_support((layer.A != 0).any(dim=0))
        if layer.bias is not None:
            layer.bias.copy_(self.bias)
        return layer

    def operands(self) -> fused.Operands | None:
        """The buffers, factors and coefficients."""
        if not HAS_FUSED or not _takes(self.values, self.B, self.columns, self.starts, self.bias):
            return None
        return operands(self.B, self.values, self.columns, self.starts, self.bias)

    def map_rows(self, x: Tensor) -> Tensor:
        """Multiply by B and the coefficients, on a CPU tile by tile."""
        y: Tensor = _factored(x, self.B, self.values, self.columns, self.starts, self.bias)
        return y


@contextmanager
def _no_beta_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse [BC]SR tensor support is in beta")
        yield


def _bsr_matrix(values: Tensor, columns: Tensor, starts: Tensor, n: int) -> Tensor:
    size = ((len(starts) - 1) * values.shape[1], n)
    return torch.sparse_bsr_tensor(starts, columns, values, size, check_invariants=False)


def _outer_matrix(values: Tensor, columns: Tensor, starts: Tensor, width: int) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, (len(starts) - 1, width), check_invariants=False)


def _spread(values: Tensor, columns: Tensor, starts: Tensor, width: int) -> Tensor:
    """(count, ..) in compressed rows -> (rows, width, ..), zeros between them."""
    counts = starts.diff()
    row = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return values.new_zeros(len(counts), width, *values.shape[1:]).index_put((row, columns), values)


def _bsr_weight(values: Tensor, columns: Tensor, starts: Tensor, n: int) -> Tensor:
    return _spread(values, columns, starts, n // values.shape[2]).transpose(1, 2).reshape(-1, n)


def _block_rows_weight(values: Tensor, columns: Tensor, starts: Tensor, n: int) -> Tensor:
    return _spread(values, columns, starts, n).transpose(1, 2).reshape(-1, n)


def _scaled(values: Tensor, columns: Tensor, starts: Tensor, r: int, n1: int) -> Tensor:
    return _spread(values, columns, starts, r * n1).view(-1, r, n1).transpose(0, 1)


def lacks_sparse(x: Tensor) -> bool:
    """Whether torch's sparse products on a CPU do not know x's type: they are made in single precision then."""
    return x.is_cpu and x.dtype not in (torch.float32, torch.float64)


def operands(B: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> fused.Operands:
    """The buffers' own memory, as the kernels take it."""
    columns, starts = columns.long(), starts.long()  # a state may have brought others
    return fused.Operands(
        as_array(B), as_array(values).reshape(-1), as_array(columns), as_array(starts), as_array(bias)
    )


def multiplied(x: Tensor, layers: list[fused.Operands]) -> list[Tensor]:
    """(N, n) -> (N, m) for each of the layers, by this project's kernels."""
    outputs = [x.new_empty(len(x), len(layer.bias)) for layer in layers]
    fused.products(as_array(x), layers, [y.numpy() for y in outputs], torch.get_num_threads())
    return outputs


def is_free(x: Tensor) -> bool:
    """Whether a kernel may compute from `x` what has no gradient, without torch being told."""
    return is_unwatched(x) and not (torch.is_grad_enabled() and x.requires_grad)


def _takes(values: Tensor, *others: Tensor) -> bool:
    """Whether kernels may take buffers of this type: float32 and whole numbers on a CPU, none asks for gradients."""
    return (
        values.dtype == torch.float32
        and type(values) is Tensor
        and all(own.is_cpu and not own.requires_grad for own in (values, *others))
    )


@torch.library.custom_op("kronflow::bsr", mutates_args=())
def _bsr(x: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    if lacks_sparse(x):
        y: Tensor = _bsr(x.float(), values.float(), columns, starts, bias.float())
        return y.to(x.dtype)
    with without_autocast(x.device.type):
        y = (_bsr_matrix(values, columns, starts, x.shape[1]) @ x.T).add_(bias[:, None])
        return y.T.contiguous()


@torch.library.custom_op("kronflow::block_rows", mutates_args=())
def _block_rows(x: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    if takes_fused(x, values, bias):
        return multiplied(x, [operands(values.new_empty(0, values.shape[1], 1), values, columns, starts, bias)])[0]
    counts = starts.diff().tolist()
    parts = zip(torch.split(columns, counts), torch.split(values, counts), strict=True)
    with without_autocast(x.device.type):
        return torch.cat([x.index_select(1, at) @ part for at, part in parts], dim=1) + bias


@torch.library.custom_op("kronflow::factored", mutates_args=())
def _factored(x: Tensor, B: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    if takes_fused(x, values, bias):
        return multiplied(x, [operands(B, values, columns, starts, bias)])[0]
    if lacks_sparse(x):
        low: Tensor = _factored(x.float(), B.float(), values.float(), columns, starts, bias.float())
        return low.to(x.dtype)
    (r, m2, n2), m1, N = B.shape, len(starts) - 1, len(x)
    n1 = x.shape[1] // n2
    with without_autocast(x.device.type):
        z = x.reshape(-1, n2) @ B.reshape(-1, n2).T  # (N n1, r m2)
        z = z.view(N, n1, r, m2).permute(2, 1, 0, 3).reshape(r * n1, N * m2)
        outer = _outer_matrix(values, columns, starts, r * n1)
        return (outer @ z).view(m1, N, m2).transpose(0, 1).reshape(N, m1 * m2) + bias


@_bsr.register_fake
def _(x: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], bias.shape[0])


@_block_rows.register_fake
def _(x: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], bias.shape[0])


@_factored.register_fake
def _(x: Tensor, B: Tensor, values: Tensor, columns: Tensor, starts: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], bias.shape[0])


def _keep_weights(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    if any(ctx.needs_input_grad[1:]):
        raise InputError("the buffers of a deployed layer get no gradients; train the network it was made of")
    ctx.save_for_backward(*inputs[1:])
    ctx.features = inputs[0].shape[1]


def _bsr_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None]:
    values, columns, starts, _ = ctx.saved_tensors
    return dy @ _bsr_weight(values, columns, starts, ctx.features), None, None, None, None


def _block_rows_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None]:
    values, columns, starts, _ = ctx.saved_tensors
    return dy @ _block_rows_weight(values, columns, starts, ctx.features), None, None, None, None


def _factored_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None, None, None]:
    B, values, columns, starts, _ = ctx.saved_tensors
    scaled = _scaled(values, columns, starts, len(B), ctx.features // B.shape[2])
    return dy @ kron_weight(scaled, B), None, None, None, None, None


_bsr.register_autograd(_bsr_gradient, setup_context=_keep_weights)
_block_rows.register_autograd(_block_rows_gradient, setup_context=_keep_weights)
_factored.register_autograd(_factored_gradient, setup_context=_keep_weights)


@register_flop_formula([torch.ops.kronflow.bsr, torch.ops.kronflow.block_rows])
def _blocks_flops(x: list[int], values: list[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * math.prod(values)


@register_flop_formula(torch.ops.kronflow.factored)
def _factored_flops(x: list[int], B: list[int], values: list[int], *_: Any, **__: Any) -> int:
    # From the sizes alone: as if every column of blocks were used.
    return 2 * x[0] * (x[1] * B[0] * B[1] + values[0] * B[1])


FORMS: dict[str, Callable[[BlockLayer], nn.Module]] = {
    "dense": lambda layer: layer.to_dense(),
    "bsr": BSRLinear,
    "block-rows": BlockRowsLinear,
    "factored": FactoredLinear,
}


def forms_of(layer: BlockLayer) -> list[str]:
    """Names of the forms that `layer` can take where it lies.

    torch's block-sparse products need square blocks of inputs that lie side by side, on a GPU of a power of two from 16
    on, and its sparse products on a CPU single or double precision.
    """
    m2, n2 = layer.block
    on_cpu = layer.support.is_cpu
    fits_gpu = m2 >= 16 and m2 & (m2 - 1) == 0
    has_sparse = not on_cpu or next(layer.parameters()).dtype in (torch.float32, torch.float64)
    is_ordered = layer._buffers.get("order") is not None
    has_bsr = has_sparse and m2 == n2 and (on_cpu or fits_gpu) and not is_ordered
    has_factored = has_sparse and isinstance(layer, KPDLinear)
    absent = ([] if has_bsr else ["bsr"]) + ([] if has_factored else ["factored"])
    return [name for name in FORMS if name not in absent]


def takes_fused(*tensors: Tensor) -> bool:
    """Whether this project's own kernels take these: float32 on a CPU, with Numba."""
    if not all(tensor.is_cpu and tensor.dtype == torch.float32 for tensor in tensors):
        return False
    if not HAS_FUSED:
        warnings.warn("Numba is missing: sparse layers use torch's own products, which are slower", stacklevel=2)
    return HAS_FUSED


def dense_twin(network: nn.Module) -> nn.Module:
    """Return a copy of `network` with plain layers of the same weights in the places of its layers of all kinds."""
    twin = copy.deepcopy(network)
    for layer in list(twin.modules()):
        if isinstance(layer, InferenceLayer):
            twin = replaced(twin, layer, layer.to_layer().to_dense())
        elif isinstance(layer, BlockLayer | BTTLinear):
            twin = replaced(twin, layer, layer.to_dense())
    return twin
