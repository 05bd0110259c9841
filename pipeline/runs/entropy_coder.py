"""The one place that calls constriction: a range coder in either direction, and asymmetric numeral systems.

Chances may be float32 or float64, and each gives its own bits: a code is read with the type it was written with.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Chances = npt.NDArray[np.floating[Any]]


class Coder(Protocol):
    """Either direction: an encoder takes the symbols and gives them back, a decoder ignores them and finds them."""

    def one(self, chances: Chances, symbol: int) -> int:
        """Code one of ``len(chances)`` symbols."""

    def repeat(self, chances: Chances, symbols: Integers) -> Integers:
        """Code (n,) symbols that share the (K,) `chances`."""

    def choose(self, chances: Chances, symbols: Integers) -> Integers:
        """Code (n,) symbols, each with its own row of the (n, K) `chances`."""


class Encoder:
    """Range encoder."""

    def __init__(self) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeEncoder()
        self._model = constriction.stream.model.Categorical

    def one(self, chances: Chances, symbol: int) -> int:
        """Encode `symbol`."""
        self._coder.encode(symbol, self._model(chances, perfect=False))
        return symbol

    def repeat(self, chances: Chances, symbols: Integers) -> Integers:
        """Encode `symbols`, all by the same chances."""
        self._coder.encode(symbols.astype(np.int32), self._model(chances, perfect=False))
        return symbols

    def choose(self, chances: Chances, symbols: Integers) -> Integers:
        """Encode `symbols`, each by its own row."""
        self._coder.encode(symbols.astype(np.int32), self._model(perfect=False), chances)
        return symbols

    def words(self) -> Words:
        """The code so far, lowest byte first."""
        return np.asarray(self._coder.get_compressed(), dtype="<u4")


class Decoder:
    """Range decoder of the bytes of :meth:`Encoder.words`."""

    def __init__(self, code: bytes) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(code, dtype="<u4").astype(np.uint32))
        self._model = constriction.stream.model.Categorical

    def one(self, chances: Chances, symbol: int) -> int:
        """Decode a symbol."""
        return int(self._coder.decode(self._model(chances, perfect=False)))

    def repeat(self, chances: Chances, symbols: Integers) -> Integers:
        """Decode as many symbols as there are in `symbols`."""
        return np.asarray(self._coder.decode(self._model(chances, perfect=False), len(symbols))).astype(np.int64)

    def choose(self, chances: Chances, symbols: Integers) -> Integers:
        """Decode one symbol a row."""
        return np.asarray(self._coder.decode(self._model(perfect=False), chances)).astype(np.int64)


def encode_stack(symbols: Integers, frequencies: npt.NDArray[Any]) -> Words:
    """Code whole numbers by their `frequencies` with asymmetric numeral systems."""
    import constriction

    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols.astype(np.int32), _categorical(frequencies))
    return np.asarray(coder.get_compressed(), dtype=np.uint32)


def decode_stack(words: Words, frequencies: npt.NDArray[Any], count: int) -> Integers:
    """Undo :func:`encode_stack`."""
    import constriction

    coder = constriction.stream.stack.AnsCoder(words)
    return np.asarray(coder.decode(_categorical(frequencies), count)).astype(np.int64)


def _categorical(frequencies: npt.NDArray[Any]) -> Any:
    import constriction

    return constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)
