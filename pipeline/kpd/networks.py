"""The networks, dense; sparsity methods swap their linear layers.

Images come as (N, rows, columns) or (N, rows, columns, channels), scaled to [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import InputError, nearest
from pipeline.kpd.settings import NETWORKS


class Channels(nn.Module):
    """(N, rows, columns[, channels]) -> (N, channels, rows, columns), enlarged to at least `smallest` pixels a side."""

    def __init__(self, image_shape: Sequence[int], smallest: int) -> None:
        super().__init__()
        if len(image_shape) not in (2, 3):
            raise InputError(f"images of shape {tuple(image_shape)}: this network needs rows and columns")
        rows, columns = image_shape[:2]
        self.size = (max(rows, smallest), max(columns, smallest))
        self.channels = image_shape[2] if len(image_shape) == 3 else 1

    def forward(self, x: Tensor) -> Tensor:
        """Bring the channels to the front."""
        x = x.unsqueeze(1) if x.ndim == 3 else x.movedim(-1, 1)
        if tuple(x.shape[2:]) != self.size:
            x = nn.functional.interpolate(x, size=self.size, mode="bilinear")
        return x


def linear(image_shape: Sequence[int], classes: int) -> nn.Module:
    """One layer from the pixels to the classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))


def mlp(image_shape: Sequence[int], classes: int) -> nn.Module:
    """Two hidden layers of 1024 with ReLU: wide enough that what zero blocks save can be timed."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(image_shape), 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, classes),
    )


def lenet5(image_shape: Sequence[int], classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and maximum pooling; its three last layers are linear.

    Smaller images are enlarged to 28 x 28.
    """
    channels = Channels(image_shape, 28)
    flat = 16 * math.prod(((side // 2) - 4) // 2 for side in channels.size)
    return nn.Sequential(
        channels,
        nn.Conv2d(channels.channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def _declare_operators() -> None:
    """Make :mod:`torchvision`, which timm imports, importable where its compiled part does not load.

    The registry's builds are for torch with CUDA and do not load beside a torch for CPUs; torchvision then stops at
    operators it has not declared. No transformer computes with them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _OPERATORS.define(schema)  # type: ignore[no-untyped-call]


def _timm(model: str, pixels: int) -> Callable[[Sequence[int], int], nn.Module]:
    """A model of timm for images of `pixels` a side; smaller ones are enlarged."""

    def make(image_shape: Sequence[int], classes: int) -> nn.Module:
        try:
            _declare_operators()
            import timm
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"network '{model}' needs timm and torchvision ({error}): pip install -e '.[vit]' in Kronflow's folder"
            ) from error
        channels = Channels(image_shape, pixels)
        network: nn.Module = timm.create_model(
            model, pretrained=False, num_classes=classes, in_chans=channels.channels, img_size=channels.size
        )
        return nn.Sequential(channels, network)

    return make


vit_tiny = _timm("vit_tiny_patch16_224", 224)
vit_base = _timm("vit_base_patch16_224", 224)
swin_tiny = _timm("swin_tiny_patch4_window7_224", 224)


def build(name: str, image_shape: Sequence[int], classes: int) -> nn.Module:
    """Make a network of :data:`pipeline.kpd.settings.NETWORKS`, with fresh parameters from torch's global generator.

    Raises
    ------
    InputError
        An unknown name, images the network cannot take, or a missing extra.
    """
    if name not in NETWORKS:
        raise InputError(f"network '{name}' is unknown{nearest(name, NETWORKS)}")
    make: Callable[[Sequence[int], int], nn.Module] = globals()[name.replace("-", "_")]
    return make(image_shape, classes)
