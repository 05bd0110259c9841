"""From raw entries to the sparse tensor: labels to indices, duplicates summed, modes ascending by size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.datasets.raw import Array, Keys, Mode, RawTensor
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

Labels = dict[str, Any]  # columns of a label file (NumPy or Arrow arrays), one value an index
PLAIN_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"


@dataclass(frozen=True)
class Assembled:
    """A tensor, the labels of each of its modes (None where there are none), and the number of raw entries."""

    tensor: SparseTensor
    labels: list[Labels | None]
    entries: int


def assemble(raw: RawTensor, source: dict[str, Any], ascending: bool = True) -> Assembled:
    """Build the tensor of a raw data set in memory.

    Parameters
    ----------
    source
        Metadata to store with the tensor, beside the notes of the reader.
    ascending
        Whether to sort the modes by size; without it they stay as the file has them.

    Raises
    ------
    InputError
        No entries, an index or a value that is not allowed.
    """
    blocks = list(raw.blocks)
    values = np.concatenate([values for _, values in blocks]) if blocks else np.empty(0)
    if len(values) == 0:
        raise InputError("empty tensor: the raw files have no entry")
    indexed = [_index(mode, [keys[position] for keys, _ in blocks]) for position, mode in enumerate(raw.modes)]
    del blocks
    sizes = [size for _, size, _ in indexed]
    order = sorted(range(len(sizes)), key=lambda position: sizes[position] if ascending else position)
    tensor = SparseTensor(
        np.stack([indexed[position][0] for position in order], axis=1),
        values,
        [sizes[position] for position in order],
        mode_names=[raw.modes[position].name for position in order],
        source=source | raw.notes,
    )
    return Assembled(tensor, [indexed[position][2] for position in order], len(values))


def _index(mode: Mode, parts: list[Keys]) -> tuple[Array, int, Labels | None]:
    """Return 0-based indices, the size of the mode and its labels."""
    if mode.indexed:
        indices = np.concatenate(parts)
        return indices, mode.size or int(indices.max()) + 1, mode.labels
    import pyarrow as pa

    encoded = pa.chunked_array([pa.array(part) for part in parts]).dictionary_encode().combine_chunks()
    labels, order = sort_labels(encoded.dictionary)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[encoded.indices.to_numpy()], len(order), {"label": labels}


def sort_labels(labels: Any) -> tuple[Any, Array]:
    """Return an Arrow array of distinct labels in ascending order, and where each stood.

    Texts that are all whole numbers in plain notation become numbers, so that 9 comes before 10.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(labels.type) and pc.all(pc.match_substring_regex(labels, PLAIN_NUMBER)).as_py():
        labels = labels.cast(pa.int64())
    order = pc.sort_indices(labels).to_numpy()
    return labels.take(pa.array(order)), order
