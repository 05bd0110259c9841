"""Trained networks as artifacts: zero blocks are left out of the file and come back as exact zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.errors import InputError, nearest
from pipeline.kpd.blocks import BlockLayer, BlockLinear, block_layers
from pipeline.kpd.conversion import open_holders
from pipeline.kpd.layer import KPDLinear
from pipeline.kpd.networks import build
from pipeline.kpd.settings import NETWORKS
from pipeline.runs.artifact import read_artifact, write_artifact
from pipeline.runs.contents import Contents

LARGEST_SIDE = 1 << 16  # of images
OWN = "own"  # in the place of a network's name: one that its owner makes
WEIGHTS = ("as they are", "float16")


class NetworkArtifact:
    """A trained network that classifies raw images; what :func:`pipeline.load` gives back for one.

    Parameters
    ----------
    network
        The module, on any device.
    name
        Its name in :data:`pipeline.kpd.settings.NETWORKS`.
    image_shape, classes
        Of what it was built for.
    scale
        Raw values are divided by it.
    trained_with
        The sparsity method and its settings, for people.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        image_shape: tuple[int, ...],
        classes: int,
        scale: float,
        trained_with: dict[str, Any],
    ) -> None:
        self.network = network.eval()
        self.name, self.image_shape, self.classes, self.scale = name, tuple(image_shape), classes, scale
        self.trained_with = trained_with

    def logits(self, images: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(count, classes) float32 for (count, *image_shape) raw images."""
        raw = np.asarray(images)
        if raw.shape[1:] != self.image_shape:
            raise InputError(f"images of shape {raw.shape}: this network takes (count, {str(self.image_shape)[1:]}")
        parameter = next(self.network.parameters())
        scaled = torch.from_numpy((raw / self.scale).astype(np.float32)).to(parameter.device)
        with torch.no_grad():
            result: npt.NDArray[np.float32] = self.network(scaled).cpu().numpy()
        return result

    def predict(self, images: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(count,) int64 classes of (count, *image_shape) raw images."""
        classes: npt.NDArray[np.int64] = self.logits(images).argmax(axis=1)
        return classes

    def save(self, path: str | Path) -> None:
        """Write the artifact."""
        tensors, layers = _parts(self.network)
        metadata = {
            "network": self.name,
            "image_shape": list(self.image_shape),
            "classes": self.classes,
            "scale": self.scale,
            "layers": layers,
            "trained_with": self.trained_with,
        }
        write_artifact(path, "kpd", tensors, metadata)

    @classmethod
    def from_artifact(cls, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Self:
        """Rebuild the network; pruned blocks are outside the support of its layers."""
        contents = Contents(tensors, metadata)
        if metadata.get("network") == OWN:
            raise InputError("it holds a network of one's own, which pipeline.kpd.load(path, model_factory) opens")
        name, scale = contents.choice("network", NETWORKS), contents.entry("scale")
        image_shape, classes = contents.wholes("image_shape", 1, LARGEST_SIDE), contents.whole("classes", 1)
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < math.inf:
            raise InputError(f"scale={str(scale)[:60]}: needs a positive number")
        for key, array in tensors.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InputError(f"array '{key}' has a number that is not finite")
        with torch.device("meta"):  # sizes before memory: three numbers of a short file may ask for all there is
            plan = build(name, image_shape, classes)
        reals = sum(parameter.numel() for parameter in plan.parameters())
        contents.permitted(4 * reals, f"network '{name}' for images of {image_shape} and {classes:,} classes")
        with torch.random.fork_rng():  # the fresh parameters are about to be replaced
            network = build(name, image_shape, classes)
        _fill(network, contents)
        return cls(
            network,
            name=metadata["network"],
            image_shape=image_shape,
            classes=classes,
            scale=scale,
            trained_with=metadata["trained_with"],
        )


def save(network: nn.Module, path: str | Path, weights: str = "as they are") -> None:
    """Write a network of one's own without the zero blocks of its block-sparse layers; :func:`load` opens it.

    Parameters
    ----------
    network
        With :class:`KPDLinear` or :class:`BlockLinear` layers, after :meth:`Sparsifier.finish`, before ``deploy``.
    path
        A safetensors file with a digest of its content.
    weights
        ``as they are``, or ``float16``: rounded to half of the bytes; measure what :func:`load` then gives back.

    Raises
    ------
    InputError
        A layer in its deployed form, a type of numbers that safetensors and NumPy do not share, or a number that
        float16 cannot hold.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights '{weights}' is unknown{nearest(weights, WEIGHTS)}")
    for name, layer in network.named_modules():
        if hasattr(layer, "map_rows"):
            raise InputError(f"layer '{name}' is deployed for this machine; save the network that was deployed")
    try:
        tensors, layers = _parts(network)
    except TypeError as error:
        raise InputError(f"the network has numbers that a file cannot hold ({error}); bring it to float32") from error
    if weights == "float16":
        for name, array in tensors.items():
            if array.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    tensors[name] = array.astype(np.float16)
                if not np.isfinite(tensors[name]).all():
                    raise InputError(f"array '{name}' has numbers that float16 cannot hold; save it as it is")
    write_artifact(path, "kpd", tensors, {"network": OWN, "layers": layers})


def load(path: str | Path, model_factory: Callable[[], nn.Module]) -> nn.Module:
    """Give back a network that :func:`save` wrote, for evaluation; ``deploy`` makes it fast on this machine.

    Parameters
    ----------
    path
        The file; a digest tells whether it is what was written.
    model_factory
        Makes the network with the dense layers it had before any was made block-sparse, in the wanted type.

    Raises
    ------
    InputError
        The file is damaged or no network of one's own, or does not fit the network made.
    """
    tensors, metadata = read_artifact(path)
    if metadata.get("network") != OWN or not isinstance(metadata.get("layers"), dict):
        raise InputError(f"{path}: holds no network of one's own; pipeline.load opens what Kronflow's steps wrote")
    network = model_factory()
    try:
        _fill(network, Contents(tensors, metadata))
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: does not fit the network that model_factory makes ({reason})") from error
    return network.eval()


def _parts(network: nn.Module) -> tuple[dict[str, npt.NDArray[Any]], dict[str, dict[str, Any]]]:
    """Arrays of a network, zero blocks left out, and the form of each block-sparse layer."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, layer in block_layers(network).items():
        tensors |= {f"{name}.{key}": value for key, value in _packed(layer).items()}
        layers[name] = {"block": list(layer.block)}
        if isinstance(layer, KPDLinear):
            layers[name] |= {"rank": layer.rank, "variant": layer.variant}
    for key, value in network.state_dict().items():
        if key.rpartition(".")[0] not in layers:
            tensors[key] = value.cpu().numpy()
    return tensors, layers


def _fill(network: nn.Module, contents: Contents) -> None:
    """Undo :func:`_parts` in a network with dense layers; pruned blocks are outside the support of its layers."""
    state = {key: torch.from_numpy(value) for key, value in contents.tensors.items()}
    open_holders(network, contents.metadata["layers"])
    for name, form in contents.metadata["layers"].items():
        dense = network.get_submodule(name)
        if not isinstance(dense, nn.Linear):
            raise InputError(f"layer '{name}' is no linear layer of network '{contents.metadata['network']}'")
        layer = _empty(dense, form, contents, name)
        own = {key: state.pop(f"{name}.{key}") for key in ("blocks", "values", "B", "bias") if f"{name}.{key}" in state}
        _unpack(layer, own)
        network.set_submodule(name, layer)
        state |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(" ".join(str(error).split())) from error


def _packed(layer: BlockLayer) -> dict[str, npt.NDArray[Any]]:
    """The layer without its zero blocks.

    ``blocks``: m1 n1 bits, which are not zero. ``values``: there, (r, count) of S * A with ``B`` beside it, or
    (count, m2, n2) of the weight. ``bias``.
    """
    used = ~layer.zero_blocks()
    packed = {"blocks": np.packbits(used.cpu().numpy())}
    if isinstance(layer, KPDLinear):
        packed["values"] = layer.scaled().detach()[:, used].cpu().numpy()
        packed["B"] = layer.B.detach().cpu().numpy()
    else:
        packed["values"] = layer.blocks(layer.weight.detach()).transpose(1, 2)[used].cpu().numpy()
    if layer.bias is not None:
        packed["bias"] = layer.bias.detach().cpu().numpy()
    return packed


def _empty(dense: nn.Linear, form: dict[str, Any], contents: Contents, name: str) -> BlockLayer:
    """Return a layer of this form in the place of `dense`."""
    if "rank" in form:  # as many patterns as are stored, before memory is taken for them
        own = Contents(contents.tensors, form)
        contents.permitted(
            8 * own.whole("rank", 1) * dense.weight.numel(), f"layer '{name}' of rank {own.whole('rank', 1):,}"
        )
        own.array(f"{name}.B", "f", (own.whole("rank", 1), None, None))
    block, has_bias = (form["block"][0], form["block"][1]), dense.bias is not None
    if "rank" in form:
        layer: BlockLayer = KPDLinear(
            dense.in_features, dense.out_features, block, form["rank"], has_bias, variant=form["variant"], path="shape"
        )
    else:
        layer = BlockLinear(dense.in_features, dense.out_features, block, has_bias)
    return layer.to(dense.weight.device, dense.weight.dtype)


@torch.no_grad()
def _unpack(layer: BlockLayer, packed: dict[str, torch.Tensor]) -> None:
    """Undo :func:`_packed`: S is 1 on the support, A holds S * A."""
    if packed["blocks"].shape != (-(-layer.support.numel() // 8),):
        raise InputError(
            f"bits of blocks of shape {tuple(packed['blocks'].shape)} for {layer.support.numel():,} blocks"
        )
    bits = np.unpackbits(packed["blocks"].numpy(), count=layer.support.numel())
    used = torch.from_numpy(bits.astype(bool).reshape(layer.grid))
    if isinstance(layer, KPDLinear):
        layer.A.zero_()
        layer.A[:, used] = packed["values"].to(layer.A)
        layer.B.copy_(packed["B"])
    else:
        layer.weight.zero_()
        layer.blocks(layer.weight).transpose(1, 2)[used] = packed["values"].to(layer.weight)
    if layer.bias is not None:
        layer.bias.copy_(packed["bias"])
    layer.set_support(used)
