"""Labelled images in memory, split into training, validation and test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.kpd.settings import AUGMENTATIONS

TEST_SHARE = 0.2  # of all images, where no test split is published
VALIDATION_SHARE = 0.1  # of what is not test


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes
    ----------
    images
        (count, ...) float32, each divided by `scale`.
    labels
        (count,) int64, 0..classes-1.
    scale
        Largest raw value; raw images divided by it are what a network sees.
    train, validation, test
        Indices of the three disjoint parts.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: int
    scale: float
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.images.shape[1:]


def labelled_images(
    images: npt.NDArray[Any],
    labels: npt.NDArray[np.integer],
    *,
    seed: int,
    published_test: npt.NDArray[np.bool_] | None = None,
) -> LabelledImages:
    """Scale images to [0, 1] and split them.

    Parameters
    ----------
    images
        (count, ...) raw values, not negative.
    labels
        (count,) classes from 0 on.
    seed
        Decides the split.
    published_test
        (count,) which images the data's authors set apart for testing; without it a fifth, by `seed`.
        The validation part is always taken from the rest.

    Raises
    ------
    InputError
        Counts that do not match, a negative label, an all-zero set, or too few images to split.
    """
    count = len(images)
    if labels.shape != (count,):
        raise InputError(f"{labels.shape} labels for {count} images: needs one for each")
    if count == 0 or labels.min() < 0:
        raise InputError("labels: needs at least one image, and classes counted from 0")
    scale = float(images.max())
    if not scale > 0:
        raise InputError("images: all values are zero; check the tensor")
    order = np.random.default_rng([seed, count]).permutation(count)
    if published_test is None:
        test, rest = np.split(order, [round(TEST_SHARE * count)])
    else:
        test, rest = order[published_test[order]], order[~published_test[order]]
    validation, train = np.split(rest, [round(VALIDATION_SHARE * len(rest))])
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if len(part) == 0:
            raise InputError(f"{count} images leave no {name} part; take a larger set")
    return LabelledImages(
        images=np.divide(images, scale, dtype=np.float32),
        labels=labels.astype(np.int64),
        classes=int(labels.max()) + 1,
        scale=scale,
        train=np.sort(train),
        validation=np.sort(validation),
        test=np.sort(test),
    )


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each of (N, rows, columns, ...) images by up to an eighth of its side, zeros coming in."""
    result = torch.zeros_like(images)
    rows, columns = images.shape[1:3]
    reach = max(1, rows // 8)
    moves = torch.randint(-reach, reach + 1, (len(images), 2), generator=generator)
    for down, right in torch.unique(moves, dim=0).tolist():
        chosen = ((moves[:, 0] == down) & (moves[:, 1] == right)).to(images.device)
        source = images[chosen, max(0, -down) : rows - max(0, down), max(0, -right) : columns - max(0, right)]
        target = torch.zeros_like(images[chosen])
        target[:, max(0, down) : rows - max(0, -down), max(0, right) : columns - max(0, -right)] = source
        result[chosen] = target
    return result


def shifted_and_flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift as :func:`shifted`, and mirror every other image left to right."""
    flips = torch.rand(len(images), generator=generator) < 0.5
    shape = (-1, *[1] * (images.ndim - 1))
    return shifted(torch.where(flips.view(shape).to(images.device), images.flip(2), images), generator)


def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness and contrast of each image by a factor of 0.7 to 1.3, within [0, 1]."""
    shape = (-1, *[1] * (images.ndim - 1))
    draws = 0.7 + 0.6 * torch.rand(2, len(images), generator=generator)
    brightness, contrast = (draw.view(shape).to(images.device) for draw in draws)
    bright = images * brightness
    mean = bright.flatten(1).mean(dim=1).view(shape)
    result: Tensor = (mean + contrast * (bright - mean)).clamp(0.0, 1.0)
    return result


def erased(images: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a rectangle of every fourth image by noise (random erasing, Zhong et al. 2020).

    It covers 2 to 33 % of the image and is 0.3 to 3.3 times as high as wide, as far as it fits.
    """
    rows, columns = images.shape[1:3]
    area = rows * columns * (0.02 + 0.31 * torch.rand(len(images), generator=generator))
    aspect = torch.exp(math.log(3.3) * (2.0 * torch.rand(len(images), generator=generator) - 1.0))
    heights = (area * aspect).sqrt().round().clamp(1, rows)
    widths = (area / aspect).sqrt().round().clamp(1, columns)
    places = torch.rand(2, len(images), generator=generator)
    tops, lefts = (places[0] * (rows - heights + 1)).floor(), (places[1] * (columns - widths + 1)).floor()
    chosen = torch.rand(len(images), generator=generator) < 0.25

    def inside(first: Tensor, size: Tensor, side: int) -> Tensor:
        places = torch.arange(side)
        return (places >= first[:, None]) & (places < (first + size)[:, None])

    box = inside(tops, heights, rows)[:, :, None] & inside(lefts, widths, columns)[:, None, :] & chosen[:, None, None]
    box = box.view(*box.shape, *[1] * (images.ndim - 3)).to(images.device)
    noise = torch.rand(images.shape, generator=generator).to(images.device)
    return torch.where(box, noise, images)


def mixed(images: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Mix each image with another of the batch: a share of the first, the rest of the second.

    Returns the images, the index of each one's second image, and the share, drawn from Beta(alpha, alpha).
    """
    seed = int(torch.randint(1 << 62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    return share * images + (1.0 - share) * images[partner], partner, share


def augmented(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """Return a batch (N, rows, columns[, channels]) changed as :data:`pipeline.kpd.settings.AUGMENTATIONS` says."""
    for each in AUGMENTATIONS[name]:
        images = globals()[each](images, generator)
    return images
