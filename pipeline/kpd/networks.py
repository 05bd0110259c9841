"""The networks, dense; :func:`pipeline.kpd.convert.convert` swaps their layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from pipeline.errors import InputError, nearest


def linear(image_shape: Sequence[int], classes: int) -> nn.Module:
    """One layer from the pixels to the classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))


NETWORKS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {"linear": linear}


def build(name: str, image_shape: Sequence[int], classes: int) -> nn.Module:
    """Make a network by name, with fresh parameters from torch's global generator.

    Raises
    ------
    InputError
        An unknown name, or images the network cannot take.
    """
    if name not in NETWORKS:
        raise InputError(f"network '{name}' is unknown{nearest(name, NETWORKS)}")
    return NETWORKS[name](image_shape, classes)
