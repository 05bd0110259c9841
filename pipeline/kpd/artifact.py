"""Trained networks as artifacts: zero blocks are left out of the file and come back as exact zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.errors import InputError, nearest
from pipeline.kpd.blocks import BlockLayer, called, logits_of
from pipeline.kpd.inference import dense_twin
from pipeline.kpd.networks import build
from pipeline.kpd.packing import WEIGHTS, buffer_names, coded, dense_reals, fill, parts
from pipeline.kpd.settings import NETWORKS
from pipeline.kpd.together import join
from pipeline.runs.artifact import read_artifact, write_artifact
from pipeline.runs.contents import Contents

LARGEST_SIDE = 1 << 16  # of images
OWN = "own"  # in the place of a network's name: one that its owner makes


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
        tensors, layers = parts(self.network)
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
        return cls(
            fill(network, contents),
            name=metadata["network"],
            image_shape=image_shape,
            classes=classes,
            scale=scale,
            trained_with=metadata["trained_with"],
        )


@dataclass(frozen=True)
class Saved:
    """What :func:`save` wrote; printing it gives a line.

    Attributes
    ----------
    bytes, dense_bytes
        Of the file, and of all reals of the network in its own type with dense layers.
    accuracy, accuracy_before
        Shares of the data given that what the file gives back, and the network itself, put into the right class;
        None without data.
    """

    bytes: int
    dense_bytes: int
    accuracy: float | None = None
    accuracy_before: float | None = None

    def __str__(self) -> str:
        line = f"{self.bytes:,} bytes, dense: {self.dense_bytes:,}"
        if self.accuracy is not None:
            line += f"; accuracy {self.accuracy:.2%}, before: {self.accuracy_before:.2%}"
        return line


class Deployed(tuple[nn.Module, dict[str, str]]):
    """What :func:`pipeline.kpd.deploy` gives: ``network, forms = deploy(..)``, or ``deploy(..).save(path)``.

    Attributes
    ----------
    layers
        The layers the forms were made of, by name: where a form still is what they make, a file keeps them, which
        are smaller.
    """

    layers: dict[str, BlockLayer]

    def __new__(cls, network: nn.Module, forms: dict[str, str], layers: dict[str, BlockLayer]) -> Self:
        """Make the pair."""
        deployed = super().__new__(cls, (network, forms))
        deployed.layers = layers
        return deployed

    @property
    def network(self) -> nn.Module:
        """For inference."""
        return self[0]

    @property
    def forms(self) -> dict[str, str]:
        """Name of the form, see :data:`pipeline.kpd.inference.FORMS`, by each block-sparse layer's name."""
        return self[1]

    def save(self, path: str | Path, weights: str = "as they are", data: Any = None) -> Saved:
        """Write the network with its forms, see :func:`save`."""
        return save(self, path, weights, data)


def save(network: nn.Module | Deployed, path: str | Path, weights: str = "as they are", data: Any = None) -> Saved:
    """Write a network of one's own without the zero blocks of its block-sparse layers; :func:`load` opens it.

    Parameters
    ----------
    network
        With :class:`KPDLinear` or :class:`BlockLinear` layers, after :meth:`Sparsifier.finish`, or what ``deploy``
        gave, whose forms are kept.
    path
        A safetensors file with a digest of its content.
    weights
        ``as they are``; ``float16``: rounded to half of the bytes; ``int8``: matrices in whole numbers from -127 to
        127, with a factor for each row (of factors: for each row of blocks and term), the rest as float16. Buffers that
        float16 cannot hold stay as they are.
    data
        Inputs and labels (a pair, or an iterable of pairs such as a DataLoader): what the accuracy is measured on,
        before and as the file gives the network back.

    Returns
    -------
    Saved
        Bytes and accuracy.

    Raises
    ------
    InputError
        A type of numbers that safetensors and NumPy do not share, a weight that is not finite or, outside buffers, too
        large for float16.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights '{weights}' is unknown{nearest(weights, WEIGHTS)}")
    deployed = network if isinstance(network, Deployed) else Deployed(network, {}, {})
    whole, forms = deployed.network, {name: (form, deployed.layers[name]) for name, form in deployed.forms.items()}
    try:
        tensors, layers = parts(whole, forms)
    except TypeError as error:
        raise InputError(f"the network has numbers that a file cannot hold ({error}); bring it to float32") from error
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"array '{name}' has a number that is not finite; nothing was saved")
    tensors = coded(tensors, layers, weights, buffer_names(whole))
    metadata = {"network": OWN, "layers": layers}
    reals = dense_reals(whole)
    write_artifact(path, "kpd", tensors, metadata)
    written = Path(path).stat().st_size
    if data is None:
        return Saved(written, reals)
    pairs = [data] if isinstance(data, tuple | list) and len(data) == 2 and torch.is_tensor(data[1]) else list(data)
    again = fill(dense_twin(whole), Contents(tensors, metadata))
    return Saved(written, reals, _accuracy(again, pairs), _accuracy(whole, pairs))


@torch.no_grad()
def _accuracy(network: nn.Module, pairs: list[Any]) -> float:
    """Share of labels that are the largest of their logits (.., classes), in evaluation."""
    was_training = network.training
    network.eval()
    right = [logits_of(called(network, inputs)).argmax(dim=-1) == labels for inputs, labels in pairs]
    network.train(was_training)
    return float(torch.cat([own.flatten() for own in right]).double().mean())


def load(path: str | Path, model_factory: Callable[[], nn.Module]) -> nn.Module:
    """Give back a network that :func:`save` wrote, for evaluation, its layers in the forms it was deployed with.

    A network that was saved before ``deploy`` has its block-sparse layers, which ``deploy`` makes fast on this machine.

    Parameters
    ----------
    path
        The file; a digest tells whether it is what was written.
    model_factory
        Makes the network with the dense layers it had before any was made block-sparse, in the wanted type.

    Raises
    ------
    InputError
        The file is damaged or no network of one's own, or does not fit the network made; nothing that makes one.
    """
    if isinstance(model_factory, nn.Module) or not callable(model_factory):
        raise InputError(
            f"model_factory: a {type(model_factory).__name__}; give what makes the network, such as its class"
        )
    tensors, metadata = read_artifact(path)
    if metadata.get("network") != OWN or not isinstance(metadata.get("layers"), dict):
        raise InputError(f"{path}: holds no network of one's own; pipeline.load opens what Kronflow's steps wrote")
    network = model_factory()
    try:
        network = fill(network, Contents(tensors, metadata))
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: does not fit the network that model_factory makes ({reason})") from error
    return join(network.eval())
