"""Labelled images in memory, split into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

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
    images: npt.NDArray[np.floating],
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
        images=(images / scale).astype(np.float32),
        labels=labels.astype(np.int64),
        classes=int(labels.max()) + 1,
        scale=scale,
        train=np.sort(train),
        validation=np.sort(validation),
        test=np.sort(test),
    )
