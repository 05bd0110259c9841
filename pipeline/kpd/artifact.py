"""Trained networks as artifacts: zero blocks are left out of the file and come back as exact zeros."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd.blocks import BlockLayer, BlockLinear, block_layers
from pipeline.kpd.layer import KPDLinear
from pipeline.kpd.networks import build
from pipeline.kpd.settings import NETWORKS
from pipeline.runs.artifact import write_artifact
from pipeline.runs.contents import Contents

LARGEST_SIDE = 1 << 16  # of images


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
        tensors: dict[str, npt.NDArray[Any]] = {}
        layers: dict[str, dict[str, Any]] = {}
        for name, layer in block_layers(self.network).items():
            tensors |= {f"{name}.{key}": value for key, value in _packed(layer).items()}
            layers[name] = {"block": list(layer.block)}
            if isinstance(layer, KPDLinear):
                layers[name] |= {"rank": layer.rank, "variant": layer.variant}
        for key, value in self.network.state_dict().items():
            if key.rpartition(".")[0] not in layers:
                tensors[key] = value.cpu().numpy()
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
        state = {key: torch.from_numpy(value) for key, value in tensors.items()}
        for name, form in metadata["layers"].items():
            dense = network.get_submodule(name)
            if not isinstance(dense, nn.Linear):
                raise InputError(f"layer '{name}' is no linear layer of network '{metadata['network']}'")
            layer = _empty(dense, form, contents, name)
            own = {
                key: state.pop(f"{name}.{key}") for key in ("blocks", "values", "B", "bias") if f"{name}.{key}" in state
            }
            _unpack(layer, own)
            network.set_submodule(name, layer)
            state |= {f"{name}.{key}": value for key, value in layer.state_dict().items()}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(" ".join(str(error).split())) from error
        return cls(
            network,
            name=metadata["network"],
            image_shape=image_shape,
            classes=classes,
            scale=scale,
            trained_with=metadata["trained_with"],
        )


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
        return KPDLinear(
            dense.in_features, dense.out_features, block, form["rank"], has_bias, variant=form["variant"], path="shape"
        )
    return BlockLinear(dense.in_features, dense.out_features, block, has_bias)


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
        layer.A[:, used] = packed["values"]
        layer.B.copy_(packed["B"])
    else:
        layer.weight.zero_()
        layer.blocks(layer.weight).transpose(1, 2)[used] = packed["values"]
    if layer.bias is not None:
        layer.bias.copy_(packed["bias"])
    layer.set_support(used)
