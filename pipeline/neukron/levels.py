"""How a cell of a tensor becomes a sequence of tokens: one token a level, one bit of every mode still in play.

Modes are those of the encoded tensor, in ascending size. Mode d has ``l_d = ceil(log2 N_d)`` bits and is
padded to ``2 ** l_d`` positions. Positions are read from the most significant bit; level k (from 1) takes
one bit of every mode with ``l_d >= k``, so the alphabet of level k has ``2 ** (number of such modes)``
tokens (NeuKron, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

LARGEST_ORDER = 16  # modes: a node of the tree has up to two to this power children
WORD_BITS = 63  # keys are compared as signed integers


@dataclass(frozen=True)
class Levels:
    """The level structure of a tensor of given mode sizes (ascending).

    Parameters
    ----------
    shape
        Sizes of the D modes in ascending order.

    Examples
    --------
    >>> levels = Levels((3, 5))
    >>> levels.bits, levels.depth, levels.alphabets
    ((2, 3), 3, (4, 4, 2))
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse sizes that are not ascending."""
        if list(self.shape) != sorted(self.shape) or not self.shape or self.shape[0] < 1:
            raise InputError(f"mode sizes {self.shape}: need at least one, ascending, each at least 1")

    @cached_property
    def bits(self) -> tuple[int, ...]:
        """l_d of every mode; the largest mode has at least one bit."""
        bits = [(size - 1).bit_length() for size in self.shape]
        bits[-1] = max(bits[-1], 1)
        return tuple(bits)

    @property
    def depth(self) -> int:
        """Number of levels L."""
        return self.bits[-1]

    @cached_property
    def active(self) -> tuple[int, ...]:
        """Number of modes that give a bit, for each level 1..L."""
        return tuple(sum(bits >= level for bits in self.bits) for level in range(1, self.depth + 1))

    @cached_property
    def alphabets(self) -> tuple[int, ...]:
        """Number of tokens of each level 1..L; never rises from one level to the next."""
        return tuple(2**active for active in self.active)

    @cached_property
    def head_alphabets(self) -> tuple[int, ...]:
        """Alphabets of levels 2..L, largest first: each needs one output layer."""
        return tuple(sorted(set(self.alphabets[1:]), reverse=True))

    @cached_property
    def embedding_rows(self) -> int:
        """Rows of the token embedding: all alphabets of up to D modes, 2 (2^D - 1)."""
        return (2 << len(self.shape)) - 2

    def embedding_offset(self, level: int) -> int:
        """First embedding row of the alphabet that `level` (1..L) uses; the largest alphabet comes first."""
        offset: int = (2 << len(self.shape)) - 2 * self.alphabets[level - 1]
        return offset

    @cached_property
    def packing(self) -> tuple[tuple[int, int], ...]:
        """For each level the key word that holds its token and the token's shift within that word.

        Levels fill words from the most significant end; no token straddles two words.
        """
        places: list[tuple[int, int]] = []
        word, used = 0, 0
        for active in self.active:
            if active > WORD_BITS:
                raise InputError(f"{len(self.shape)} modes: more than {WORD_BITS} are not supported")
            if used + active > WORD_BITS:
                word, used = word + 1, 0
            used += active
            places.append((word, WORD_BITS - used))
        return tuple(places)

    @property
    def words(self) -> int:
        """Number of 63-bit words in a key."""
        return self.packing[-1][0] + 1

    @cached_property
    def spread(self) -> tuple[npt.NDArray[np.int64], ...]:
        """For each mode, (words, 2^l_d) int64: a position's bits at the places they take in the key.

        Within a token the first mode's bit is the most significant.
        """
        tables = []
        for mode, bits in enumerate(self.bits):
            positions = np.arange(2**bits, dtype=np.int64)
            table = np.zeros((self.words, 2**bits), dtype=np.int64)
            for level in range(1, bits + 1):
                word, shift = self.packing[level - 1]
                rank = sum(other >= level for other in self.bits[mode + 1 :])
                table[word] |= ((positions >> (bits - level)) & 1) << (shift + rank)
            tables.append(table)
        return tuple(tables)

    def keys(
        self, coords: npt.NDArray[np.integer], orders: Sequence[npt.NDArray[np.int64]] | None = None
    ) -> npt.NDArray[np.int64]:
        """Encode cells as keys whose lexicographic order is that of their token sequences.

        Parameters
        ----------
        coords
            (n, D) indices.
        orders
            For each mode the position of every index, int64; identity if left out.

        Returns
        -------
        (words, n) int64.
        """
        keys = np.zeros((self.words, len(coords)), dtype=np.int64)
        for mode, spread in enumerate(self.spread):
            table = spread if orders is None else spread[:, orders[mode]]
            for word in range(self.words):
                if table[word].any():
                    keys[word] |= table[word][coords[:, mode]]
        return keys

    def sorted_keys(
        self, coords: npt.NDArray[np.integer], orders: Sequence[npt.NDArray[np.int64]] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Keys of cells, sorted, and which cell each of them belongs to; equal ones keep their sequence.

        See :meth:`keys`. Where a cell's number fits into the bits that a key leaves free, plain numbers are
        sorted, which takes a fifth of the time of sorting indices.
        """
        keys = self.keys(coords, orders)
        last_shift = self.packing[-1][1]
        if self.words == 1 and len(coords) <= 1 << last_shift:
            keys[0] |= np.arange(len(coords))
            keys[0].sort()
            below = np.int64((1 << last_shift) - 1)
            return keys & ~below, keys[0] & below
        permutation = np.argsort(keys[0], kind="stable") if self.words == 1 else np.lexsort(keys[::-1])
        return np.ascontiguousarray(keys[:, permutation]), permutation

    def tokens(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens of each key, (n, L) int64 (for tests and the reference; the engine reads them from the keys)."""
        return np.stack(
            [
                (keys[word] >> shift) & (alphabet - 1)
                for (word, shift), alphabet in zip(self.packing, self.alphabets, strict=True)
            ],
            axis=1,
        )
