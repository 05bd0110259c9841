"""Synthetic tensors by recursive choice of a corner (R-MAT, Chakrabarti et al., SDM 2004), of any order.

An entry is drawn by halving the index range of every mode again and again. Each time the lower half of
all modes together, the first corner, is chosen with probability `skew`, and else one of the other corners
with equal chances. With `skew` at 1 / (number of corners) entries are uniform; the larger it is, the more
they gather in few rows of every mode, within few blocks of few blocks, as a Kronecker power does.

The random numbers are the raw stream of a PCG64 generator, which NumPy keeps fixed between versions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, nearest
from pipeline.sparse.tensor import SparseTensor

BLOCK = 1 << 18  # entries drawn at a time


@dataclass(frozen=True)
class Recipe:
    """What determines a synthetic tensor.

    Attributes
    ----------
    sizes
        Of the modes. A size that is no power of two is cut out of the next one: draws beyond are repeated.
    entries
        Number of draws, the sum of the tensor's entries.
    skew
        Probability of the first corner.
    seed
        Of the generator.
    """

    sizes: tuple[int, ...]
    entries: int
    skew: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 2 or math.prod(self.sizes) >= 2**63:
            raise InputError(f"sizes {list(self.sizes)}: at least one, each at least 2, fewer than 2^63 cells")
        if self.entries < 1 or self.seed < 0:
            raise InputError(f"entries {self.entries}, seed {self.seed}: at least 1 and at least 0")
        if not 0 <= self.skew <= 1:
            raise InputError(f"skew {self.skew}: a probability")

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Read a recipe such as ``sizes=8x4x4,entries=100,skew=0.7,seed=1``.

        >>> Recipe.parse("sizes=8x4x4,entries=100,skew=0.7")
        Recipe(sizes=(8, 4, 4), entries=100, skew=0.7, seed=0)
        """
        readers: dict[str, Callable[[str], Any]] = {
            "sizes": lambda value: tuple(map(int, value.split("x"))),
            "entries": int,
            "skew": float,
            "seed": int,
        }
        given = {}
        for pair in text.split(","):
            key, _, value = pair.partition("=")
            if key not in readers:
                raise InputError(f"synth:{text}: unknown part '{key}'{nearest(key, readers)}")
            try:
                given[key] = readers[key](value)
            except ValueError as error:
                raise InputError(f"synth:{text}: '{value}' is no value of {key}") from error
        if missing := {"sizes", "entries", "skew"} - given.keys():
            raise InputError(f"synth:{text}: {', '.join(sorted(missing))} missing")
        return cls(**given)


def draw(recipe: Recipe) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the drawn coordinates in blocks of (n, D), 0-based, one row for each unit of an entry."""
    generator = np.random.PCG64(recipe.seed)
    left = recipe.entries
    while left:
        coords = _draw_block(generator, recipe, min(BLOCK, left))
        left -= len(coords)
        if len(coords):
            yield coords


def synthetic(sizes: Sequence[int], entries: int, skew: float, seed: int = 0) -> SparseTensor:
    """Return a synthetic tensor with the given sizes; `entries` is the sum of its values.

    >>> X = synthetic((4, 4, 4), entries=50, skew=0.8)
    >>> X.shape, int(X.values.sum())
    ((4, 4, 4), 50)
    """
    recipe = Recipe(tuple(sizes), entries, skew, seed)
    coords = np.concatenate(list(draw(recipe)))
    return SparseTensor(coords, np.ones(len(coords)), recipe.sizes)


def _draw_block(generator: np.random.PCG64, recipe: Recipe, count: int) -> npt.NDArray[np.int64]:
    bits = [(size - 1).bit_length() for size in recipe.sizes]
    coords = np.zeros((count, len(bits)), dtype=np.int64)
    for level in range(max(bits)):
        halved = [mode for mode, depth in enumerate(bits) if level < depth]
        corner = _corners(generator.random_raw(count), recipe.skew, 1 << len(halved))
        for position, mode in enumerate(halved):
            coords[:, mode] = 2 * coords[:, mode] + (corner >> position & 1)
    return coords[np.all(coords < recipe.sizes, axis=1)]


def _corners(raw: npt.NDArray[np.uint64], skew: float, corners: int) -> npt.NDArray[np.int64]:
    """Turn random bits into corners 0 .. corners - 1."""
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    if skew == 1:
        return np.zeros(len(raw), dtype=np.int64)
    other = 1 + ((uniform - skew) * ((corners - 1) / (1 - skew))).astype(np.int64)
    return np.where(uniform < skew, 0, np.minimum(other, corners - 1))
