"""Sets of labelled images as tensors: what the readers of image formats share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.datasets.raw import Array, Block, Mode, RawTensor

IMAGES_PER_BLOCK = 10_000


def image_tensor(
    pixels: Array, labels: dict[str, Array], maximum: int, names: Sequence[str] = ("row", "column")
) -> RawTensor:
    """Make the raw tensor of a set of images.

    Parameters
    ----------
    pixels
        (n, rows, columns), or with more axes, whole numbers of 0..`maximum`, kept as they are.
    labels
        Columns of (n,): ``label``, the class of each image; ``split``, whether it is for ``train`` or ``test``.
    maximum
        The value of a white pixel; in the metadata as ``maximum``, to scale pixels to [0, 1].
    names
        Of the axes after the first.
    """
    modes = [Mode(name, indexed=True, size=size) for name, size in zip(names, pixels.shape[1:], strict=True)]
    modes.append(Mode("image", indexed=True, size=len(pixels), labels=labels))
    return RawTensor(modes, _blocks(pixels), {"maximum": maximum})


def _blocks(pixels: Array) -> Iterator[Block]:
    for start in range(0, len(pixels), IMAGES_PER_BLOCK):
        part = pixels[start : start + IMAGES_PER_BLOCK]
        image, *places = np.nonzero(part)
        yield [*places, image + start], part[(image, *places)].astype(np.float64)
