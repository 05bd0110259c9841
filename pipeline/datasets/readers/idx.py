"""The idx format of MNIST: a big-endian header of sizes, then one byte a pixel or label."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from pipeline.datasets.images import image_tensor
from pipeline.datasets.raw import Array, Files, RawTensor, file_named, open_raw
from pipeline.errors import InputError

UNSIGNED_BYTE = 0x08
SPLITS = {"train": "train", "t10k": "test"}  # the file's prefix -> the name of the split


def read(files: Files) -> RawTensor:
    """Read the four files ``{train,t10k}-{images,labels}-idx*-ubyte`` (.gz); test images follow the training ones."""
    images, labels, split = [], [], []
    for prefix, name in SPLITS.items():
        path = file_named(files, prefix, "images")
        images.append(read_idx(path, dimensions=3))
        labels.append(read_idx(file_named(files, prefix, "labels"), dimensions=1))
        if len(images[-1]) != len(labels[-1]):
            raise InputError(f"{path}: {len(images[-1]):,} images for {len(labels[-1]):,} labels; download it again")
        if images[-1].shape[1:] != images[0].shape[1:]:
            raise InputError(f"{path}: images of {images[-1].shape[1:]}, those of 'train' have {images[0].shape[1:]}")
        split += [name] * len(labels[-1])
    columns = {"label": np.concatenate(labels).astype(np.int64), "split": np.array(split, dtype=object)}
    return image_tensor(np.concatenate(images), columns, maximum=255)


def read_idx(path: Path, dimensions: int) -> Array:
    """Read one idx file of unsigned bytes with the given number of dimensions.

    Raises
    ------
    InputError
        Another type or number of dimensions, or fewer or more bytes than the header promises.
    """
    with open_raw(path) as stream:
        content = stream.read()
    start = 4 + 4 * dimensions
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != magic or len(content) < start:
        raise InputError(f"{path}: starts with {content[:4].hex()}, an idx file of bytes here with {magic.hex()}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise InputError(
            f"{path}: {len(content) - start:,} bytes of data where its header {shape} asks for {math.prod(shape):,}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
