"""Light-IT: CP whose factors share one vocabulary, the words Huffman-coded."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.baselines.base import Integers, Reals, as_stored, stored_type
from pipeline.baselines.cp import CP
from pipeline.baselines.mode_views import ModeView
from pipeline.baselines.quantised_factors import QuantisedFactors
from pipeline.core.settings import setting
from pipeline.errors import InputError
from pipeline.runs.contents import Contents
from pipeline.sparse import SparseTensor

LARGEST_VOCABULARY = 1 << 12
LONGEST = 32  # bits of a word's code
BITS_AN_ENTRY = 1.5  # of a search
ROUNDS = 20  # of k-means
REFITS = 3  # of factors to the vocabulary


class LightIT(QuantisedFactors, CP):
    """CP whose entries, of all factors and modes, come from one vocabulary of V reals, Huffman-coded.

    After what is said of Light-IT (KDD 2024): CP factors share a vocabulary and are Huffman-coded. How words are found
    is ours. In units in which all entries count alike for the error (those of
    :class:`~pipeline.baselines.quantised_factors.QuantisedFactors`), k-means in one dimension gives the words, 0 among
    them; then the factors of each mode are solved for anew, given the others as coded, and go to their nearest words,
    as long as the error falls. Nothing dense is made: the error, the weights and the factors follow from the
    non-zeros and R x R Gram matrices.

    Takes the arguments of both its bases; `bits` is log2 V, and `max_bytes` decides it where it is given.

    Examples
    --------
    >>> from pipeline.sparse import SparseTensor
    >>> X = SparseTensor([[0, 0, 0], [0, 1, 0], [2, 0, 0]], [1.0, 2.0, 3.0], (3, 2, 2))
    >>> model = LightIT(rank=2, bits=3).fit(X)
    >>> model.size()["bytes"] < 80 and model.error(X)["error"] < X.norm2
    True
    """

    name = "light-it"

    max_sweeps: int = setting(20, at_least=1)

    words_: Reals  # (V,) rising
    lengths_: npt.NDArray[np.uint8]  # (V,) bits of each word's code

    @classmethod
    def settings_within(cls, X: SparseTensor, size: float, orders: bool) -> dict[str, Any] | None:
        """The size itself, and as many terms as it holds at 1.5 bits an entry: none takes less than one."""
        settings = super().settings_within(X, size, orders)
        rank = int(8 * size / (BITS_AN_ENTRY * sum(X.shape)))
        return settings and settings | {"rank": min(max(rank, 1), settings["rank"])}

    def _fit(self, X: SparseTensor) -> None:
        self._views = [ModeView(X, mode) for mode in range(X.order)]
        super()._fit(X)
        del self._views

    def _take(self, X: SparseTensor, shares: list[Reals], bits: float) -> int:
        """A vocabulary for the entries, factors of its words, weights and code; the bytes of all of these."""
        count = min(round(2**bits), LARGEST_VOCABULARY)
        words = vocabulary(np.concatenate([share.ravel() for share in shares]), count)
        factors = [words[nearest(words, share)] for share in shares]
        there = np.all([np.any(factor != 0, axis=0) for factor in factors], axis=0)
        if not there.any():
            factors[0][0, 0] = factors[1][0, 0] = words[-1]
            there[0] = True
        factors = [np.ascontiguousarray(factor[:, there]) for factor in factors]
        weights, error = self._weighed(X, factors)
        for _ in range(REFITS):
            if not self._in_time():
                break
            again = self._refitted(factors, weights, words)
            found = self._weighed(X, again)
            if not found[1] < error or not all(np.any(factor != 0) for factor in again):
                break
            factors, (weights, error) = again, found
        self.factors_, self.weights_, self.rank_ = factors, as_stored(weights), factors[0].shape[1]
        self.words_ = words
        self.code_, self.lengths_ = encode([nearest(words, factor) for factor in factors], len(words))
        return self._size()["bytes"]

    def _refitted(self, factors: list[Reals], weights: Reals, words: Reals) -> list[Reals]:
        """Each mode's factors solved for, given the others, and rounded to words."""
        again = list(factors)
        for mode, view in enumerate(self._views):
            others = [factor for other, factor in enumerate(again) if other != mode]
            gram = np.prod([factor.T @ factor for factor in others], axis=0) * np.outer(weights, weights)
            solved = (view.mttkrp(again) * weights) @ np.linalg.pinv(gram, rcond=1e-9, hermitian=True)
            again[mode] = words[nearest(words, solved)]
        return again

    def _decoded(self) -> list[Reals]:
        shape = tuple(self.inner_shape_)
        return [self.words_[numbers] for numbers in decode(self.code_, self.lengths_, shape, self.rank_)]

    def _size(self) -> dict[str, int]:
        """The code, a 4-byte weight a term, and 4 bytes and the length of its code for each word."""
        return {name: size + 5 * len(self.words_) for name, size in super()._size().items()}

    def _least_arrays(self, shape: tuple[int, ...], orders: bool) -> dict[str, int]:
        return {"weights": 4, "code": 1, "words": 4, "lengths": 1}

    def _contents(self, orders: bool) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """It has no orders: with or without, it answers in the tensor's own indices."""
        tensors, content = super()._contents(orders)
        return tensors | {"words": stored_type(self.words_), "lengths": self.lengths_}, content

    def _take_factors(self, contents: Contents) -> None:
        self.words_ = contents.reals("words", (None,))
        self.lengths_ = contents.array("lengths", "u", (len(self.words_),)).astype(np.uint8)
        contents.permitted(16.0 * self.rank_ * sum(self.shape_), "its factors")
        self.code_ = contents.code("code")
        self.factors_ = self._decoded()


def vocabulary(entries: Reals, count: int) -> Reals:
    """At most `count` words for numbers, 0 among them, by k-means: each the mean of the numbers nearest to it.

    Rounded to 4-byte reals; it starts from the cube-root rule (Panter and Dite, 1951): as many words to each range as
    the cube root of the numbers' density asks for.
    """
    there = np.sort(entries[entries != 0])
    if len(there) == 0:
        return np.zeros(1)
    density, edges = np.histogram(there, bins=4 * count)
    grown = np.concatenate(([0.0], np.cumsum(np.cbrt(density))))
    words = np.unique(np.append(np.interp((np.arange(count - 1) + 0.5) / (count - 1) * grown[-1], grown, edges), 0.0))
    for _ in range(ROUNDS):
        number = nearest(words, there)
        times = np.bincount(number, minlength=len(words))
        sums = np.bincount(number, there, minlength=len(words))
        means = np.where((times > 0) & (words != 0), sums / np.maximum(times, 1), words)
        moved = np.unique(means[(times > 0) | (words == 0)])
        if np.array_equal(moved, words):
            break
        words = moved
    return np.unique(as_stored(words))


def nearest(words: Reals, entries: Reals) -> Integers:
    """Numbers of the nearest of rising words."""
    return np.searchsorted((words[1:] + words[:-1]) / 2, entries)


def code_lengths(times: Integers) -> npt.NDArray[np.uint8]:
    """Bits of Huffman's code (1952) for symbols that occur so often; 0 for one that does not occur.

    >>> code_lengths(np.array([5, 1, 0, 2])).tolist()
    [1, 2, 0, 2]
    """
    lengths = np.zeros(len(times), dtype=np.uint8)
    heap = [(int(times[symbol]), int(symbol), [int(symbol)]) for symbol in np.flatnonzero(times)]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (one, first, left), (other, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[left + right] += 1
        heapq.heappush(heap, (one + other, first, left + right))
    return lengths


def canonical(lengths: npt.NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """(bits, code, symbol) of each symbol: codes rise by length, then by symbol.

    Raises
    ------
    InputError
        The lengths are those of no code.
    """
    codes, code, before = [], 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)).tolist():
        bits = int(lengths[symbol])
        if not bits:
            continue
        code <<= bits - before
        if bits > LONGEST or code >> bits:
            raise InputError("a damaged vocabulary (no such lengths of codes); fetch or make it again")
        codes.append((bits, code, symbol))
        code, before = code + 1, bits
    return codes


def encode(factors: Sequence[Integers], count: int) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """Huffman code of D arrays (N_d, R) of numbers below `count`, and the lengths of its words."""
    numbers = np.concatenate([factor.ravel() for factor in factors])
    lengths = code_lengths(np.bincount(numbers, minlength=count))
    words = np.zeros(count, dtype=np.int64)
    for _, code, symbol in canonical(lengths):
        words[symbol] = code
    bits = lengths[numbers].astype(np.int64)
    places = np.arange(int(bits.max()))
    shift = bits[:, None] - 1 - places
    stream = (words[numbers][:, None] >> np.maximum(shift, 0)) & 1
    return np.packbits(stream[shift >= 0].astype(np.uint8)).tobytes(), lengths


def decode(code: bytes, lengths: npt.NDArray[np.uint8], shape: tuple[int, ...], rank: int) -> list[Integers]:
    """Undo :func:`encode`.

    Raises
    ------
    InputError
        The code is damaged.
    """
    symbols = {(bits, word): symbol for bits, word, symbol in canonical(lengths)}
    total = rank * sum(shape)
    stream = np.unpackbits(np.frombuffer(code, dtype=np.uint8)).tolist()
    numbers, word, bits = [], 0, 0
    if total <= len(stream):
        for bit in stream:
            word, bits = word << 1 | bit, bits + 1
            symbol = symbols.get((bits, word))
            if symbol is not None:
                numbers.append(symbol)
                word = bits = 0
                if len(numbers) == total:
                    break
    if len(numbers) != total:
        raise InputError(
            f"a damaged code of {len(code)} bytes ({total:,} entries belong there); fetch or make it again"
        )
    ends = np.cumsum([size * rank for size in shape])[:-1]
    return [part.reshape(-1, rank) for part in np.split(np.array(numbers, dtype=np.int64), ends)]
