"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): channel x row x column x image, from either published archive.

The binary archives are the ones that ``params.yaml`` names: they are plain records. The Python archives hold pickles.
Who has one of those has it read by an unpickler that knows no class but inert stand-ins for the four names that occur
in them, once every operation was looked at, so that nothing in a file can run code or take memory out of proportion to
it; the arrays are made afterwards from plain bytes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.datasets.images import image_tensor
from pipeline.datasets.raw import Array, Files, RawTensor, each_member, only_file, telling_damage
from pipeline.errors import InputError

IMAGE = (3, 32, 32)  # channel, row, column
PIXELS = 3072
PYTHON_PARTS = {
    "cifar-10-batches-py": [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"],
    "cifar-100-python": ["train", "test"],
}
BINARY_PARTS = {
    "cifar-10-batches-bin": [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"],
    "cifar-100-binary": ["train.bin", "test.bin"],
}
LABEL_COLUMNS = {10: ["label"], 100: ["coarse", "label"]}  # in the order of the bytes of a binary record
PICKLED_LABELS = {10: ["labels"], 100: ["coarse_labels", "fine_labels"]}


def read(files: Files) -> RawTensor:
    """Read ``cifar-10-binary.tar.gz``, ``cifar-100-binary.tar.gz`` or one of the ``-python`` archives.

    Training images come first. The label file of CIFAR-100 has the fine class as ``label`` and ``coarse``.
    """
    path = only_file(files)
    held = _batches(path)
    folder, parts = _layout(path, held)
    classes = 100 if "100" in folder else 10
    decode = _decode_pickle if folder in PYTHON_PARTS else _decode_binary
    pixels, columns, split = [], [], []
    for part in parts:
        name, content = held.pop((folder, part))
        images, labels = decode(f"{path}:{name}", content, classes)
        pixels.append(images)
        columns.append(labels)
        split += ["test" if part.startswith("test") else "train"] * len(images)
    stacked = np.concatenate(columns).astype(np.int64)
    labelled = {name: stacked[:, column] for column, name in enumerate(LABEL_COLUMNS[classes])}
    labelled["split"] = np.array(split, dtype=object)
    return image_tensor(np.concatenate(pixels), labelled, 255, ("channel", "row", "column"))


def _batches(path: Path) -> dict[tuple[str, ...], tuple[str, bytes]]:
    """Full name and content of each batch by folder and file, in one pass: looking one up by name is another."""
    wanted = {(folder, part) for folder, parts in (PYTHON_PARTS | BINARY_PARTS).items() for part in parts}
    held: dict[tuple[str, ...], tuple[str, bytes]] = {}
    for name, stream in each_member(path, "*"):
        place = PurePosixPath(name).parts[-2:]
        if place in wanted and place not in held:
            with telling_damage(path):
                held[place] = name, stream.read()
    return held


def _layout(path: Path, held: Collection[tuple[str, ...]]) -> tuple[str, list[str]]:
    for folder, parts in (PYTHON_PARTS | BINARY_PARTS).items():
        if all((folder, part) in held for part in parts):
            return folder, parts
    raise InputError(f"{path}: holds none of the folders {sorted(PYTHON_PARTS | BINARY_PARTS)} with all their files")


def _decode_binary(name: str, content: bytes, classes: int) -> tuple[Array, Array]:
    """Records of one or two label bytes and 3,072 pixels."""
    width = len(LABEL_COLUMNS[classes])
    if not content or len(content) % (width + PIXELS):
        raise InputError(f"{name}: {len(content):,} bytes are no records of {width + PIXELS:,}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, width + PIXELS)
    return records[:, width:].reshape(-1, *IMAGE), _checked(name, records[:, :width], classes)


def _decode_pickle(name: str, content: bytes, classes: int) -> tuple[Array, Array]:
    try:
        _check_operations(content)
        batch = _PlainUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels = batch[b"data"].to_numpy()
        labels = np.array([_flat(batch[key.encode()]) for key in PICKLED_LABELS[classes]])
    except InputError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(f"{name}: not a batch of CIFAR-{classes} ({type(error).__name__}: {error})") from error
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS or labels.shape != (len(PICKLED_LABELS[classes]), len(pixels)):
        raise InputError(f"{name}: images of {pixels.shape} with labels of {labels.shape}")
    return pixels.reshape(-1, *IMAGE), _checked(name, labels.T, classes)


def _check_operations(content: bytes) -> None:
    """Look at a pickle without running it: each operation is whole, and no place in its memo is beyond its size.

    Python's unpickler makes room for a memo of any size, and for strings of any length, on the word of a few bytes.
    """
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) < len(content):
            raise ValueError(f"a memo of {int(argument or 0):,} in {len(content):,} bytes")


def _flat(labels: Any) -> list[int]:
    """A list of whole numbers, not of lists that hold each other."""
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("labels that are no list of whole numbers")
    return labels


def _checked(name: str, labels: Array, classes: int) -> Array:
    limits = [10] if classes == 10 else [20, 100]
    if len(labels) == 0 or labels.min() < 0 or np.any(labels.max(axis=0) >= limits):
        raise InputError(f"{name}: labels outside 0..{limits[-1] - 1}, or no images")
    return labels


class _PickledArray:
    """What a pickle says about a NumPy array of bytes, without building one."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> Array:
        """Return the array; the state is (version, shape, type, Fortran order, bytes)."""
        _, shape, kind, fortran, content = self.state
        if kind.name not in (b"u1", "u1") or fortran or not isinstance(content, bytes):
            raise ValueError("an array that is not of unsigned bytes in C order")
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


class _PickledType:
    """What a pickle says about a NumPy type."""

    def __init__(self, name: Any = None, *arguments: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _latin1_bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin-1")


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler for which NumPy's names mean the stand-ins above, and any other name is an error."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Return the stand-in for a global name."""
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledType,
            ("_codecs", "encode"): _latin1_bytes,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a batch of images does not need")
        return allowed[module, name]
