"""Networks as named arrays without the zero blocks of their layers, as they are, in float16 or in int8, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.kpd.blocks import BlockLayer, BlockLinear, replaced
from pipeline.kpd.btt import BTTLinear
from pipeline.kpd.conversion import open_holders
from pipeline.kpd.inference import FORMS, InferenceLayer, dense_twin, forms_of
from pipeline.kpd.layer import KPDLinear
from pipeline.runs.contents import Contents

Arrays = dict[str, npt.NDArray[Any]]

WEIGHTS = ("as they are", "float16", "int8")
LARGEST_SIDE = 1 << 24  # of a grid of blocks
STEPS = 127  # of an int8 on each side of zero
SCALE = "/scale"  # after the name of an int8 array: the name of its rows' factors
ODD = "/odd"  # after the name of a buffer: the name of what says which of its numbers are among these
NOT_FINITE = np.array([0.0, math.inf, -math.inf, math.nan])  # masks hold them; 0: a finite one


def parts(
    network: nn.Module, forms: Mapping[str, tuple[str, BlockLayer]] | None = None
) -> tuple[Arrays, dict[str, dict[str, Any]]]:
    """Arrays of a network, zero blocks left out, and how each block-sparse layer was: block, rank, variant, form.

    A layer in one of `forms`, given by its name, is kept as the layer it was made of, as long as that still makes the
    same form; else as the blocks or factors it has now. Where a buffer has numbers that are not finite it holds zeros,
    and another array says which they are.
    """
    buffers = buffer_names(network)
    tensors: Arrays = {}
    layers: dict[str, dict[str, Any]] = {}
    skipped = set()  # all names of the layers
    for module, names in _places(network).items():
        name = names[0]
        form, origin = (forms or {}).get(name, (None, None))
        layer = None
        if form is not None and origin is not None and _makes(origin, form, module):
            layer = origin
        elif isinstance(module, InferenceLayer):
            layer, form = module.to_layer(), module.form
        elif isinstance(module, BlockLayer):
            layer, form = module, None
        if isinstance(module, BTTLinear):  # its factors are as they are in the state
            layers[name] = {"block": list(module.block), "grid": list(module.grid), "slices": module.rank}
        if layer is None:
            continue
        skipped |= {f"{own}." if own else "" for own in names}
        tensors |= {_joined(name, key): value for key, value in _packed(layer).items()}
        layers[name] = {"block": list(layer.block), "grid": list(layer.grid)}
        if isinstance(layer, KPDLinear):
            layers[name] |= {"rank": layer.rank, "variant": layer.variant}
        if form is not None:
            layers[name]["form"] = form
    for key, value in network.state_dict().items():
        if not any(key.startswith(prefix) for prefix in skipped):
            array = value.cpu().numpy()
            tensors[key] = array
            if key in buffers and array.dtype.kind == "f" and not np.isfinite(array).all():
                tests = (array == math.inf, array == -math.inf, np.isnan(array))
                odd = np.select(tests, [np.uint8(kind) for kind in (1, 2, 3)], np.uint8(0))
                tensors |= {key: np.where(odd == 0, array, array.dtype.type(0)), key + ODD: odd}
    return tensors, layers


def buffer_names(network: nn.Module) -> set[str]:
    """Of all that is no parameter nor of a block-sparse layer, in every place where it stands."""
    return {
        _joined(place, name)
        for module, places in _places(network).items()
        if not isinstance(module, BlockLayer | InferenceLayer)
        for name, _ in module.named_buffers(recurse=False)
        for place in places
    }


def fill(network: nn.Module, contents: Contents) -> nn.Module:
    """Undo :func:`parts` in a network with dense layers, which may be a single one; return it.

    Pruned blocks are outside the support of its layers.
    """
    layers = contents.metadata["layers"]
    tensors = _decoded(contents, layers)
    state = {key: torch.from_numpy(value) for key, value in tensors.items()}
    open_holders(network, layers)
    for name, form in layers.items():
        dense = network.get_submodule(name)
        if not isinstance(dense, nn.Linear):
            raise InputError(f"layer '{name}' is no linear layer of network '{contents.metadata['network']}'")
        new: nn.Module
        if "slices" in form:
            new = _slices(dense, form, contents, name)
            places = next(names for module, names in _places(network).items() if module is dense)
            network = replaced(network, dense, new)
            continue
        layer = _empty(dense, form, contents, name)
        keys = {key: _joined(name, key) for key in ("blocks", "values", "B", "bias", "order")}
        _unpack(layer, {key: state.pop(own) for key, own in keys.items() if own in state})
        new = layer
        if "form" in form:
            new = FORMS[Contents(tensors, form).choice("form", forms_of(layer))](layer)
        places = next(names for module, names in _places(network).items() if module is dense)
        network = replaced(network, dense, new)
        state |= {_joined(place, key): value for place in places for key, value in new.state_dict().items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(" ".join(str(error).split())) from error
    return network


def dense_reals(network: nn.Module) -> int:
    """Bytes of what the state of `network` would be with dense layers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in dense_twin(network).state_dict().values())


def coded(tensors: Arrays, layers: Mapping[str, dict[str, Any]], weights: str, buffers: set[str]) -> Arrays:
    """The arrays of :func:`parts` in the way `weights` asks for, one of :data:`WEIGHTS`.

    `buffers`, which are masks and statistics, become float16 at most, and stay where that cannot hold them.
    """
    if weights == "as they are":
        return tensors
    result: Arrays = {}
    for name, array in tensors.items():
        is_matrix = array.ndim > 1 and name.rpartition(".")[2] != "B" and name not in buffers
        if array.dtype.kind != "f":
            result[name] = array
        elif weights == "int8" and is_matrix and array.size:
            rows, of_row = _rows_of_scales(name, array.shape, tensors, layers)
            result[name], result[name + SCALE] = _quantised(array.reshape(len(of_row), -1), of_row, rows)
            result[name] = result[name].reshape(array.shape)
        else:
            with np.errstate(over="ignore"):
                result[name] = array.astype(np.float16)
            if name in buffers and not np.isfinite(result[name]).all():
                result[name] = array
            if not np.isfinite(result[name]).all():
                raise InputError(f"array '{name}' has numbers that float16 cannot hold; save it as it is")
    return result


def _decoded(contents: Contents, layers: Mapping[str, dict[str, Any]]) -> Arrays:
    """Undo int8 of :func:`coded`, and give buffers their numbers that are not finite."""
    tensors = contents.tensors
    result = {name: array for name, array in tensors.items() if not name.endswith((SCALE, ODD))}
    for name, array in result.items():
        if name + SCALE in tensors:
            contents.array(name, "i")
            rows, of_row = _rows_of_scales(name, array.shape, tensors, layers)
            scale = contents.array(name + SCALE, "f", (rows,)).astype(np.float32)
            flat = array.reshape(len(of_row), -1) * scale[of_row][:, None]
            result[name] = flat.reshape(array.shape).astype(np.float32)
        if name + ODD in tensors:
            odd = contents.array(name + ODD, "u", array.shape)
            if odd.size and int(odd.max()) >= len(NOT_FINITE):
                raise InputError(f"array '{name + ODD}' has {int(odd.max())}, which stands for no number")
            result[name] = np.where(odd == 0, array, NOT_FINITE[odd].astype(array.dtype))
    return result


def _quantised(flat: npt.NDArray[Any], of_row: npt.NDArray[np.int64], rows: int) -> tuple[Any, Any]:
    """Whole numbers of (count, any) reals, and the factor, float32, of each of `rows` groups of their rows."""
    peak = np.zeros(rows)
    np.maximum.at(peak, of_row, np.abs(flat).max(axis=1))
    scale = np.where(peak > 0, peak / STEPS, 1.0).astype(np.float32)
    return np.rint(flat / scale[of_row][:, None]).clip(-STEPS, STEPS).astype(np.int8), scale


def _rows_of_scales(
    name: str, shape: tuple[int, ...], tensors: Arrays, layers: Mapping[str, dict[str, Any]]
) -> tuple[int, npt.NDArray[np.int64]]:
    """How many factors an int8 array of this name and shape has, and which one belongs to each of its rows.

    A row of a matrix is all but its first index. Of a layer's ``values`` a row is an output of a block, (count m2),
    with a factor for each of the m outputs, or, where there are factors, a single one, (r count), with a factor
    for each row of blocks and term.
    """
    layer, _, own = name.rpartition(".")
    if own != "values" or layer not in layers:
        return shape[0], np.arange(shape[0])
    m1, n1 = Contents(tensors, layers[layer]).wholes("grid", 1, LARGEST_SIDE)
    used = _bits(tensors[_joined(layer, "blocks")], (m1, n1))
    at = np.nonzero(used)[0]  # the row of each block
    if "rank" in layers[layer]:
        rows, of_row = shape[0] * m1, (np.arange(shape[0])[:, None] * m1 + at).ravel()
    else:
        rows, of_row = m1 * shape[1], (at[:, None] * shape[1] + np.arange(shape[1])).ravel()
    if math.prod(shape[:-1] if "rank" not in layers[layer] else shape) != len(of_row):
        raise InputError(f"array '{name}' of shape {shape} for {len(at):,} blocks")
    return rows, of_row


def _bits(packed: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(m1, n1): which blocks are kept."""
    if packed.dtype != np.uint8 or packed.shape != (-(-math.prod(grid) // 8),):
        raise InputError(f"bits of blocks of shape {packed.shape} for {math.prod(grid):,} blocks")
    return np.unpackbits(packed, count=math.prod(grid)).astype(bool).reshape(grid)


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _places(network: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module of `network` and the names of the places where it stands."""
    places: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(name)
    return places


def _makes(layer: BlockLayer, form: str, module: nn.Module) -> bool:
    """Whether `layer` in its `form` is what `module` is now."""
    if form not in forms_of(layer):
        return False
    own, now = FORMS[form](layer).state_dict(), module.state_dict()
    return own.keys() == now.keys() and all(torch.equal(own[key], now[key].to(own[key].device)) for key in own)


def _packed(layer: BlockLayer) -> Arrays:
    """The layer without its zero blocks.

    ``blocks``: m1 n1 bits, which are not zero. ``values``: there, (r, count) of S * A with ``B`` beside it, or
    (count, m2, n2) of the weight. ``bias``. ``order``: of
    the inputs, if it is not their own.
    """
    used = ~layer.zero_blocks()
    packed = {"blocks": np.packbits(used.cpu().numpy())}
    if isinstance(layer, KPDLinear):
        packed["values"] = layer.scaled().detach()[:, used].cpu().numpy()
        packed["B"] = layer.B.detach().cpu().numpy()
    else:
        packed["values"] = layer.blocks(layer.weight.detach()).transpose(1, 2)[used].cpu().numpy()
        if layer.order is not None:
            packed["order"] = layer.order.cpu().numpy().astype(np.min_scalar_type(layer.in_features - 1))
    if layer.bias is not None:
        packed["bias"] = layer.bias.detach().cpu().numpy()
    return packed


def _permutation(order: Tensor, features: int) -> Tensor:
    """(n,) int64, each input once."""
    order = order.long()
    if order.shape != (features,) or not torch.equal(order.sort().values, torch.arange(features)):
        raise InputError(f"an order of inputs of shape {tuple(order.shape)} is no permutation of {features:,}")
    return order


def _empty(dense: nn.Linear, form: dict[str, Any], contents: Contents, name: str) -> BlockLayer:
    """Return a layer of this form in the place of `dense`."""
    if "rank" in form:  # as many patterns as are stored, before memory is taken for them
        own = Contents(contents.tensors, form)
        contents.permitted(
            8 * own.whole("rank", 1) * dense.weight.numel(), f"layer '{name}' of rank {own.whole('rank', 1):,}"
        )
        own.array(_joined(name, "B"), "f", (own.whole("rank", 1), None, None))
    block, has_bias = (form["block"][0], form["block"][1]), dense.bias is not None
    if "rank" in form:
        layer: BlockLayer = KPDLinear(
            dense.in_features, dense.out_features, block, form["rank"], has_bias, variant=form["variant"], path="shape"
        )
    else:
        layer = BlockLinear(dense.in_features, dense.out_features, block, has_bias)
    return layer.to(dense.weight.device, dense.weight.dtype)


def _slices(dense: nn.Linear, form: dict[str, Any], contents: Contents, name: str) -> BTTLinear:
    """A block tensor train in the place of `dense`, as large as its arrays are."""
    own = Contents(contents.tensors, form)
    rank, block = own.whole("slices", 1), own.wholes("block", 1, LARGEST_SIDE)
    contents.permitted(8 * rank * dense.weight.numel(), f"layer '{name}' of rank {rank:,}")
    sizes = (dense.in_features, dense.out_features, (block[0], block[1]), rank, dense.bias is not None)
    return BTTLinear(*sizes).to(dense.weight.device, dense.weight.dtype)


@torch.no_grad()
def _unpack(layer: BlockLayer, packed: dict[str, Tensor]) -> None:
    """Undo :func:`_packed`: S is 1 on the support, A holds S * A."""
    used = torch.from_numpy(_bits(packed["blocks"].numpy(), layer.grid))
    if isinstance(layer, KPDLinear):
        layer.A.zero_()
        layer.A[:, used] = packed["values"].to(layer.A)
        layer.B.copy_(packed["B"])
    else:
        if "order" in packed:
            layer.register_buffer("order", _permutation(packed["order"], layer.in_features).to(layer.weight.device))
        blocks = layer.weight.new_zeros(*layer.grid, *layer.block)
        blocks[used] = packed["values"].to(layer.weight)
        layer.set_blocks(blocks.transpose(1, 2))
    if layer.bias is not None:
        layer.bias.copy_(packed["bias"])
    layer.set_support(used)
