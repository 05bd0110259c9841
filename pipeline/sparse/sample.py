"""Uniform samples of the non-zeros, in bounded memory and the same on every machine.

Every non-zero draws a 64-bit key, and the k smallest keys win. The keys are the raw stream of a PCG64
generator, which NumPy keeps fixed between versions (unlike the streams of its distributions), and they
belong to positions, so that with one seed a smaller sample is part of a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.files import refuse_clashes
from pipeline.errors import InputError
from pipeline.sparse.labels import Label, LabelFiles
from pipeline.sparse.stream import TensorReader, TensorWriter

BLOCK = 1 << 20
BUCKET_BITS = 16

Keys = npt.NDArray[np.uint64]


def sample_count(nnz: int, fraction: float) -> int:
    """How many non-zeros a sample has: the nearest whole number (half to even), at least 1.

    Raises
    ------
    InputError
        A fraction that is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction}: must be above 0 and at most 1")
    return max(1, round(fraction * nnz))


class Sampler:
    """Tells position by position, in blocks of any size, whether a non-zero is in the sample.

    Each set of `count` of the `nnz` positions has the same chance.
    """

    def __init__(self, nnz: int, count: int, seed: int) -> None:
        self._threshold, self._ties = _smallest(nnz, count, seed)
        self._generator = np.random.PCG64(seed)

    def take(self, size: int) -> npt.NDArray[np.bool_]:
        """Return for the next `size` positions which ones are in the sample."""
        keys: Keys = self._generator.random_raw(size)
        chosen: npt.NDArray[np.bool_] = keys < self._threshold
        tied = np.flatnonzero(keys == self._threshold)[: self._ties]
        chosen[tied] = True
        self._ties -= len(tied)
        return chosen


def _keys(nnz: int, seed: int) -> Iterator[Keys]:
    generator = np.random.PCG64(seed)
    for start in range(0, nnz, BLOCK):
        yield generator.random_raw(min(BLOCK, nnz - start))


def _smallest(nnz: int, count: int, seed: int) -> tuple[np.uint64, int]:
    """Return the `count`-th smallest key and how many keys equal to it belong to the sample."""
    shift = np.uint64(64 - BUCKET_BITS)
    sizes = np.zeros(1 << BUCKET_BITS, dtype=np.int64)
    for keys in _keys(nnz, seed):
        sizes += np.bincount((keys >> shift).astype(np.int64), minlength=len(sizes))
    upto = np.cumsum(sizes)
    bucket = int(np.searchsorted(upto, count))
    rank = count - 1 - int(upto[bucket] - sizes[bucket])  # of the wanted key within its bucket
    inside = np.sort(np.concatenate([keys[keys >> shift == np.uint64(bucket)] for keys in _keys(nnz, seed)]))
    threshold = inside[rank]
    return threshold, rank + 1 - int(np.searchsorted(inside, threshold))


def sample_file(
    path: str | Path,
    output: str | Path,
    fraction: float,
    seed: int,
    labels: Mapping[int, Sequence[Label]] | None = None,
) -> int:
    """Write a uniform sample of the non-zeros of one Parquet sparse tensor to another; returns their number.

    Shape, mode names and the type of the values stay; ``sample`` in the metadata's source tells fraction and seed.

    Parameters
    ----------
    labels
        By mode, one an index, to be written beside the sample.

    Raises
    ------
    InputError
        A wrong fraction, a damaged tensor, no room, or somebody else's file where labels belong.
    """
    reader = TensorReader(path)
    count = sample_count(reader.nnz, fraction)
    source = reader.source | {"sample": {"fraction": fraction, "seed": seed}}
    columns = {mode: {"label": found} for mode, found in (labels or {}).items()}
    refuse_clashes([path], [output], LabelFiles(output, columns).marks)
    with TensorWriter(output, reader.shape, reader.value_type, reader.mode_names, source, columns) as writer:
        sampler = Sampler(reader.nnz, count, seed)
        for coords, values in reader.blocks():
            chosen = sampler.take(len(values))
            writer.write(coords[chosen], values[chosen])
    return count
