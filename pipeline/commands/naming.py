"""What the indices of a compressed tensor are called, and which index a user's word means."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.files import read_text
from pipeline.core.step import SHOWN, whole_number
from pipeline.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.runs.compressor import Compressor
    from pipeline.sparse.labels import Label


SEVERAL = -1  # in place of an index


class Naming:
    """Names of modes and labels of indices of a model; labels answer unless it is asked `by_index`."""

    def __init__(self, model: Compressor, by_index: bool) -> None:
        self.shape = model.shape_
        self.names = model.about_.mode_names or tuple(f"mode_{mode}" for mode in range(len(self.shape)))
        self.labels: dict[int, Sequence[Label]] = {}
        if not by_index and model.own_indices_:
            found = {mode: model.about_.labels_of(mode) for mode in range(len(self.shape))}
            self.labels = {mode: labels for mode, labels in found.items() if labels is not None}
        for mode, labels in self.labels.items():
            if len(labels) != self.shape[mode]:
                raise InputError(f"{len(labels):,} labels for {self.shape[mode]:,} indices of mode {mode}; --index")
        self._places: dict[int, tuple[dict[str, int], dict[str, int]]] = {}

    def tell(self, values: Any) -> None:
        """Say on standard error what a cell is given by, and where `values` may be rounded whole numbers."""
        modes = ", ".join(
            f"{name} by {'label' if mode in self.labels else 'index from 0'}" for mode, name in enumerate(self.names)
        )
        from pipeline.sparse.reals import beyond_whole_numbers, in_reals

        print(modes, file=sys.stderr)
        if line := in_reals(beyond_whole_numbers(values)):
            print(line, file=sys.stderr)

    def mode(self, text: str) -> int:
        """A mode by its name or number; blanks around a name do not count."""
        plain, wanted = [_plain(name) for name in self.names], _plain(text)
        if plain.count(wanted) > 1:
            raise InputError(f"mode '{text}': there are several of that name; give its number, from 0")
        if wanted in plain:
            return plain.index(wanted)
        number = whole_number(text)
        if number is not None and 0 <= number < len(self.shape):
            return number
        raise InputError(f"mode '{text}': there is none of that name{nearest(text, self.names)}")

    def index(self, mode: int, text: str) -> int:
        """The index that a word means in a mode."""
        if mode in self.labels:
            exact, plain = self._places_of(mode)
            place = exact.get(text, plain.get(_plain(text)))
            if place == SEVERAL:
                raise InputError(f"{self.names[mode]} '{text}': several labels read so; --index asks by position")
            if place is None:
                known = [str(label) for label in self.labels[mode][:1000]]
                hint = nearest(text, known) if len(known) < 20 else ""
                raise InputError(f"{self.names[mode]} '{text}': no such label{hint}; --index asks by position")
            return place
        number = whole_number(text)
        if number is None:
            if text.strip().isascii() and text.strip().lstrip("+-").isdecimal():
                raise InputError(f"{text[:SHOWN]}: outside a tensor of shape {self.shape}")
            raise InputError(
                f"{self.names[mode]} '{text[:SHOWN]}': this artifact has no labels of it, so indices are whole numbers "
                "from 0"
            )
        if not 0 <= number < self.shape[mode]:
            raise InputError(f"index {number} in mode {mode} is outside 0..{self.shape[mode] - 1}; indices are 0-based")
        return number

    def cell(self, words: Sequence[str]) -> list[int]:
        """The indices of a cell."""
        if len(words) != len(self.shape):
            raise InputError(
                f"{' '.join(words)}: {len(words)} words for {len(self.shape)} modes ({', '.join(self.names)})"
            )
        return [self.index(mode, word) for mode, word in enumerate(words)]

    def words(self, cell: Sequence[int]) -> list[str]:
        """What a cell is called, each word without a blank that is not within quotes."""
        return [_word(str(self.labels[mode][index])) if mode in self.labels else str(index)
                for mode, index in enumerate(cell)]  # fmt: skip

    def column(self, mode: int, index: Any) -> list[Any]:
        """What indices of a mode are called."""
        if mode not in self.labels:
            return list(index.tolist())
        return [self.labels[mode][one] for one in index.tolist()]

    def fixed(self, pairs: Sequence[str]) -> dict[int, int]:
        """Read ``MODE=INDEX`` arguments."""
        found: dict[int, int] = {}
        for pair in pairs:
            name, separator, word = pair.partition("=")
            if not separator or not name or not word:
                raise InputError(f"--at {pair}: write MODE=INDEX, for example --at 0=3 for row 3, or --at item=book")
            mode = self.mode(name)
            if mode in found:
                raise InputError(f"--at {pair}: mode {name} is given twice")
            found[mode] = self.index(mode, word)
        return found

    def file(self, path: Path) -> Any:
        """Cells of a text file, one a line, words separated by commas, tabs, semicolons or blanks; (n, D).

        A first line of the modes' names is a header.
        """
        import numpy as np

        try:
            lines = read_text(path, "utf-8-sig").split("\n")  # a label may have other ends of lines in it
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: no text file ({error}); write one cell a line, for example '3, 17'") from error
        rows: list[list[int]] = []
        for number, line in enumerate(lines, start=1):
            text = line.strip() if self.labels else line.partition("#")[0].strip()
            if text and not text.startswith("#"):
                words = _words(text)
                if not rows and words == [name.strip() for name in self.names] and not self._is_cell(words):
                    continue  # a header
                try:
                    rows.append(self.cell(words))
                except InputError as error:
                    raise InputError(f"{path}:{number}: {error}") from error
        if not rows:
            raise InputError(f"{path}: no cells in it; write one a line, for example '3, 17'")
        return np.array(rows, dtype=np.int64)

    def _is_cell(self, words: Sequence[str]) -> bool:
        try:
            return bool(self.cell(words))
        except InputError:
            return False

    def _places_of(self, mode: int) -> tuple[dict[str, int], dict[str, int]]:
        """Indices by label, as it is and as :func:`_plain` has it; SEVERAL where more than one reads so."""
        if mode not in self._places:
            exact: dict[str, int] = {}
            plain: dict[str, int] = {}
            for index, label in enumerate(map(str, self.labels[mode])):
                exact[label] = SEVERAL if label in exact else index
                bare = _plain(label)
                plain[bare] = SEVERAL if bare in plain else index
            self._places[mode] = exact, plain
        return self._places[mode]


def _plain(text: str) -> str:
    """A label or a name without the blanks around it, its letters composed as keyboards write them (NFC)."""
    return unicodedata.normalize("NFC", text.strip())


def _word(label: str) -> str:
    """A label as it is, or as a JSON text where it is empty, has blanks, quotes or what ends a line."""
    plain = label and not any(letter.isspace() or letter in '"\\' or not letter.isprintable() for letter in label)
    return label if plain else json.dumps(label, ensure_ascii=False)


def _words(line: str) -> list[str]:
    for separator in ",\t;":
        if separator in line:
            return [word.strip() for word in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
    return line.split()


def number(value: float) -> str:
    """The shortest text that gives a value back.

    >>> number(1234567891.0), number(0.1), number(1e300), number(2.0**64)
    ('1234567891', '0.1', '1e+300', '18446744073709551616')
    """
    value = float(value)
    return min([str(int(value))] * value.is_integer() + [repr(value)], key=len)
