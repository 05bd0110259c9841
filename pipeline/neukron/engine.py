"""What an engine is: it gives a model's products at many cells, and their gradients. Needs no torch to answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.neukron.levels import Levels

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.neukron.model import Weights

Keys = npt.NDArray[np.int64]
Result = TypeVar("Result")


class Engine(ABC):
    """Evaluates a model with given level structure.

    Parameters
    ----------
    levels
        The level structure.
    hidden
        Hidden size h.
    chunk
        Cells evaluated together; a suitable number for the engine if left out.
    threads
        Chunks computed side by side; they do not change a bit of the results.
    """

    uses_torch: ClassVar[bool] = True

    @cached_property
    def device(self) -> torch.device:
        """Where it computes: the CPU, unless a subclass sets another."""
        import torch

        return torch.device("cpu")

    def __init__(self, levels: Levels, hidden: int, chunk: int | None = None, threads: int = 1) -> None:
        self.levels = levels
        self.hidden = hidden
        self.chunk = chunk or self.default_chunk()
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    @abstractmethod
    def default_chunk(self) -> int:
        """Cells in a chunk that keep its working set small and its matrix products large."""

    @abstractmethod
    def products(self, weights: Any, keys: Keys) -> npt.NDArray[Any]:
        """P of every key; `keys` (words, n) must be sorted. Returns (n,) float32, or what is finer.

        `weights` are torch's, or plain arrays where the engine does not use torch.
        """

    @abstractmethod
    def gradient(
        self, weights: Weights, keys: Keys, factors: npt.NDArray[np.float64]
    ) -> tuple[float, npt.NDArray[np.float32], list[Tensor]]:
        """Sum of ``factors * P``, P itself, and the sum's gradient by each of ``weights.tensors()``."""

    def pieces(self, count: int, most: int | None = None) -> Iterator[slice]:
        """Chunk borders for `count` keys; chunks of at most `most` keys."""
        chunk = min(self.chunk, most or self.chunk)
        for start in range(0, count, chunk):
            yield slice(start, min(start + chunk, count))

    def _on_threads(
        self, work: Callable[[slice], Result], pieces: list[slice], prepare: Callable[[], object] | None = None
    ) -> Iterator[Result]:
        """Run `work` on every piece, results in the order of the pieces; threads that are started `prepare` first."""
        if self.threads == 1 or len(pieces) == 1:
            yield from map(work, pieces)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, initializer=prepare)
            yield from self._pool.map(work, pieces)
