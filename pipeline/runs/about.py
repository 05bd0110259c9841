"""What an artifact tells about itself beside the model: where its tensor came from, its labels, what was reached."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import pipeline
from pipeline.core.sizes import EXPANSION, REMEDY, told_unpacked
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.labels import Label

LARGEST_LABELS = 1 << 28  # bytes of a mode's labels as JSON, in a file of any size


@dataclass
class About:
    """Facts that travel with a model.

    Attributes
    ----------
    nnz, norm2
        Of the fitted tensor; None where they are not known (older artifacts).
    mode_names
        Names of the modes; empty where they have none of their own.
    file, sha256
        The data's file name and the checksum of its content.
    error
        Squared error against the fitted tensor, as the artifact answers; None where it was not measured.
    settings
        Arguments of the method that differ from their defaults.
    program
        Version of the program that wrote it.
    labels
        By mode what its indices stand for, or the coded bytes of that.
    """

    nnz: int | None = None
    norm2: float | None = None
    mode_names: tuple[str, ...] = ()
    file: str | None = None
    sha256: str | None = None
    error: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    program: str | None = None
    labels: dict[int, Sequence[Label] | bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, X: SparseTensor) -> About:
        """What a tensor tells; ``file`` and ``sha256`` of its source where they are texts."""
        named = X.mode_names != tuple(f"mode_{mode}" for mode in range(X.order))
        norm2 = X.norm2 if math.isfinite(X.norm2) else None
        file, sha256 = (found if isinstance(found := X.source.get(key), str) else None for key in ("file", "sha256"))
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            sha256 = None
        names = X.mode_names if named else ()
        return cls(X.nnz, norm2, names, file, sha256, program=pipeline.__version__, labels=dict(X.labels))

    def labels_of(self, mode: int) -> Sequence[Label] | None:
        """Labels of a mode by index; None where it has none."""
        found = self.labels.get(mode)
        if isinstance(found, bytes):
            found = self.labels[mode] = decoded_labels(found, mode)
        return found

    def stored(self) -> dict[str, Any]:
        """Entries for an artifact's metadata, the labels left out; what is not known has none."""
        entries = {
            "nnz": self.nnz,
            "norm2": _short_float(self.norm2),
            "modes": list(self.mode_names),
            "file": self.file,
            "sha256": _base64(self.sha256),
            "error": _short_float(self.error),
            "set": self.settings,
            "by": self.program,
        }
        return {key: value for key, value in entries.items() if value not in (None, [], {})}

    def label_arrays(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Coded labels by the names of their arrays."""
        return {
            f"labels_{mode}": np.frombuffer(found if isinstance(found, bytes) else coded_labels(found), dtype=np.uint8)
            for mode, found in sorted(self.labels.items())
        }

    @classmethod
    def restored(cls, entries: Any, tensors: Mapping[str, npt.NDArray[Any]], order: int) -> About:
        """From metadata and arrays of an artifact, checked."""
        if not isinstance(entries, dict):
            raise InputError("its metadata has no usable 'about'")
        nnz, names, settings = entries.get("nnz"), entries.get("modes", []), entries.get("set", {})
        if nnz is not None and (not isinstance(nnz, int) or isinstance(nnz, bool) or nnz < 1):
            raise InputError(f"about: {nnz!r} non-zeros")
        if not isinstance(names, list) or len(names) not in (0, order) or not all(isinstance(n, str) for n in names):
            raise InputError(f"about: mode names for {order} modes are no list of so many texts")
        if not isinstance(settings, dict):
            raise InputError("about: its settings are no settings")
        labels: dict[int, Sequence[Label] | bytes] = {}
        for mode in range(order):
            array = tensors.get(f"labels_{mode}")
            if array is not None:
                if array.dtype != np.uint8 or array.ndim != 1:
                    raise InputError(f"labels of mode {mode}: of type {array.dtype}, no bytes")
                labels[mode] = array.tobytes()
        digest = _hexadecimal(_text(entries, "sha256"))
        return cls(
            nnz, _number(entries, "norm2"), tuple(names), _text(entries, "file"), digest,
            _number(entries, "error"), settings, _text(entries, "by"), labels,
        )  # fmt: skip


def coded_labels(labels: Sequence[Label]) -> bytes:
    """Labels as compressed JSON; whole numbers by their differences."""
    content: Any = list(labels)
    if len(content) > 1 and all(isinstance(label, int) and not isinstance(label, bool) for label in content):
        content = {"steps": [content[0], *(after - before for before, after in itertools.pairwise(content))]}
    return zlib.compress(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), 9)


def decoded_labels(code: bytes, mode: int) -> list[Label]:
    """Undo :func:`coded_labels`.

    Raises
    ------
    InputError
        No such code, or one out of all proportion to what it unpacks to.
    """
    unpacker = zlib.decompressobj()
    most = max(LARGEST_LABELS, EXPANSION * len(code), told_unpacked())
    try:
        text = unpacker.decompress(code, most)
        if unpacker.unconsumed_tail:
            raise InputError(f"labels of mode {mode}: more than {most:,} bytes; {REMEDY}")
        if not unpacker.eof:
            raise InputError(f"labels of mode {mode}: cut off")
        content = json.loads(text)
        json.dumps(content, ensure_ascii=False).encode()  # halves of characters cannot be shown
    except (zlib.error, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"labels of mode {mode}: cannot be read ({error})") from error
    if isinstance(content, dict):
        steps = content.get("steps")
        if not isinstance(steps, list) or not all(isinstance(one, int) for one in steps):
            raise InputError(f"labels of mode {mode}: no labels")
        numbers: list[Label] = np.cumsum(np.array(steps, dtype=object)).tolist()
        return numbers
    if not isinstance(content, list) or not all(isinstance(one, str | int) for one in content):
        raise InputError(f"labels of mode {mode}: no list of labels")
    return content


def _short_float(value: float | None) -> float | int | None:
    """The same number in fewer characters where it is whole."""
    return int(value) if value is not None and value.is_integer() and abs(value) < 2**53 else value


def _base64(digest: str | None) -> str | None:
    return None if digest is None else base64.b64encode(bytes.fromhex(digest)).decode().rstrip("=")


def _hexadecimal(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return base64.b64decode(f"{text}=", validate=True).hex()
    except ValueError as error:
        raise InputError(f"about: '{text[:60]}' is no checksum") from error


def _number(entries: dict[str, Any], name: str) -> float | None:
    value = entries.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise InputError(f"about: {name}={str(value)[:60]} is no number of at least 0")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"about: {name} is too large") from error


def _text(entries: dict[str, Any], name: str) -> str | None:
    value = entries.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"about: {name}={str(value)[:60]} is no text")
    return value
