"""Labels of a mode as codes while they are read, and as indices in the order of the labels after that."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.datasets.raw import Array, Keys
from pipeline.errors import InputError

Labels = dict[str, Any]  # columns of a label file (NumPy or Arrow arrays), one value an index
PLAIN_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"
MERGE = 64  # blocks whose whole numbers are merged at a time
LARGEST = (1 << 63) - 1
DENSE = 1 << 26  # labels from 0 up to here are marked in a table


class LabelCodes:
    """Collects the labels of one mode.

    A block of whole numbers, or of texts that all are whole numbers in plain notation, stays as numbers.
    Other labels get a code each when they first occur. Only the distinct labels are kept.
    """

    def __init__(self) -> None:
        self._present = np.zeros(0, dtype=np.bool_)  # whether each number occurs, from 0 on
        self._numbers: list[npt.NDArray[np.int64]] = []  # distinct ones that have no place there
        self._codes: dict[Any, int] = {}
        self._type: Any = None  # Arrow type of the labels with codes

    def encode(self, keys: Keys) -> Array:
        """Return int32 or int64 numbers, or uint32 codes where the labels are no numbers: the type tells which."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
            return self._add_numbers(keys)
        encoded = pa.array(keys) if isinstance(keys, np.ndarray) else keys
        if not pa.types.is_dictionary(encoded.type):
            encoded = encoded.dictionary_encode()
        distinct = encoded.dictionary
        if pa.types.is_uint64(distinct.type) and pc.max(distinct).as_py() > LARGEST:
            raise InputError(f"label {pc.max(distinct)} does not fit 64 bits with a sign; make it text")
        if pa.types.is_integer(distinct.type):
            numbers: Any = distinct.cast(pa.int64())
        elif pa.types.is_string(distinct.type) and pc.all(pc.match_substring_regex(distinct, PLAIN_NUMBER)).as_py():
            numbers = distinct.cast(pa.int64())
        else:
            codes: Array = self._add_texts(distinct)[encoded.indices.to_numpy()]
            return codes
        values: Array = self._add_numbers(numbers.to_numpy())[encoded.indices.to_numpy()]
        return values

    def _add_numbers(self, numbers: Array) -> Array:
        low, high = int(numbers.min()), int(numbers.max())
        if low >= 0 and high < DENSE:
            if high >= len(self._present):
                grown = np.zeros(min(DENSE, max(high + 1, 2 * len(self._present))), dtype=np.bool_)
                grown[: len(self._present)] = self._present
                self._present = grown
            self._present[numbers] = True
            return numbers.astype(np.int32)
        self._numbers.append(np.unique(numbers.astype(np.int64)))
        if len(self._numbers) == MERGE:
            self._numbers = [np.unique(np.concatenate(self._numbers))]
        return numbers.astype(np.int64)

    def _add_texts(self, distinct: Any) -> npt.NDArray[np.uint32]:
        if self._type is None:
            self._type = distinct.type
        codes = self._codes
        return np.array([codes.setdefault(label, len(codes)) for label in distinct.to_pylist()], dtype=np.uint32)

    def ranks(self) -> Ranks:
        """Return the indices of all labels so far."""
        import pyarrow as pa
        import pyarrow.compute as pc

        numbers = np.flatnonzero(self._present)
        if self._numbers:
            numbers = np.unique(np.concatenate([numbers, *self._numbers]))
        if not self._codes:
            return Ranks(pa.array(numbers), numbers, np.arange(len(numbers)), np.empty(0, np.int64))
        texts = pa.array(list(self._codes), self._type)
        if len(numbers):  # some blocks were all numbers, others not
            texts = pa.concat_arrays([pa.array(numbers).cast(pa.string()), texts.cast(pa.string())])
        encoded = texts.dictionary_encode()
        order = pc.sort_indices(encoded.dictionary).to_numpy()
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        ranks = place[encoded.indices.to_numpy()]
        labels = encoded.dictionary.take(pa.array(order))
        return Ranks(labels, numbers, ranks[: len(numbers)], ranks[len(numbers) :])


def alike(labels: Any) -> list[str]:
    """Texts among a mode's labels that are another one but for blanks around them or the form of Unicode.

    >>> import pyarrow
    >>> alike(pyarrow.array(["ann", "ann ", "Zo\u00eb", "Zoe\u0308", "bob "]))
    ['ann ', 'Zoe\u0308']
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = labels.type if isinstance(labels, pa.Array) else pa.null()
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return []
    suspect = pc.or_(pc.invert(pc.string_is_ascii(labels)), pc.match_substring_regex(labels, r"^\s|\s$"))
    found = labels.filter(suspect)
    plain = pc.utf8_normalize(pc.utf8_trim_whitespace(found), form="NFC")
    seen = set(plain.filter(pc.is_in(plain, labels)).to_pylist())
    told = []
    for label, text in zip(found.to_pylist(), plain.to_pylist(), strict=True):
        if text in seen and text != label:
            told.append(label)
        seen.add(text)
    return told


class Ranks:
    """The indices of the labels of one mode.

    Attributes
    ----------
    size
        Number of distinct labels.
    labels
        Columns of the mode's label file.
    """

    def __init__(
        self,
        labels: Any,
        numbers: npt.NDArray[np.int64],
        of_numbers: npt.NDArray[np.int64],
        of_codes: npt.NDArray[np.int64],
    ) -> None:
        self.size = len(labels)
        self.labels: Labels = {"label": labels}
        self._numbers = numbers
        kind = np.min_scalar_type(max(self.size - 1, 0))
        self._of_numbers = of_numbers.astype(kind)
        self._of_codes = of_codes.astype(kind)
        below = int(np.searchsorted(numbers, 0)), int(np.searchsorted(numbers, DENSE))
        dense = numbers[slice(*below)]
        self._table = np.zeros(int(dense[-1]) + 1 if len(dense) else 0, dtype=kind)  # index of each dense number
        self._table[dense] = self._of_numbers[slice(*below)]

    def __call__(self, coded: Array) -> Array:
        """Return the 0-based indices of what :meth:`LabelCodes.encode` gave, in the narrowest type."""
        if coded.dtype == np.uint32:
            return self._of_codes[coded]
        if coded.dtype == np.int32:
            return self._table[coded]
        return self._of_numbers[np.searchsorted(self._numbers, coded)]
