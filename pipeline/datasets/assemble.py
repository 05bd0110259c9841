"""From raw entries to the sparse tensor: labels to indices, duplicates summed, modes ascending by size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.datasets.raw import Array, Mode, RawTensor
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

Labels = dict[str, Array]  # columns of a label file, one value an index


@dataclass(frozen=True)
class Assembled:
    """A tensor, the labels of each of its modes (None where there are none), and the number of raw entries."""

    tensor: SparseTensor
    labels: list[Labels | None]
    entries: int


def assemble(raw: RawTensor, source: dict[str, Any]) -> Assembled:
    """Build the tensor of a raw data set in memory.

    Parameters
    ----------
    source
        Metadata to store with the tensor, beside the notes of the reader.

    Raises
    ------
    InputError
        No entries, an index or a value that is not allowed.
    """
    blocks = list(raw.blocks)
    values = np.concatenate([values for _, values in blocks]) if blocks else np.empty(0)
    if len(values) == 0:
        raise InputError("empty tensor: the raw files have no entry")
    indexed = [
        _index(mode, np.concatenate([keys[position] for keys, _ in blocks])) for position, mode in enumerate(raw.modes)
    ]
    del blocks
    sizes = [size for _, size, _ in indexed]
    order = sorted(range(len(sizes)), key=lambda position: sizes[position])
    tensor = SparseTensor(
        np.stack([indexed[position][0] for position in order], axis=1),
        values,
        [sizes[position] for position in order],
        mode_names=[raw.modes[position].name for position in order],
        source=source | raw.notes,
    )
    return Assembled(tensor, [indexed[position][2] for position in order], len(values))


def _index(mode: Mode, keys: Array) -> tuple[Array, int, Labels | None]:
    """Return 0-based indices, the size of the mode and its labels."""
    if mode.indexed:
        return keys, mode.size or int(keys.max()) + 1, mode.labels
    import pandas as pd

    indices, labels = pd.factorize(keys, sort=True)
    return indices, len(labels), {"label": np.asarray(labels)}
