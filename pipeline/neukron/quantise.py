"""Fewer bits a weight: float16, or int8 with a scale a row and an entropy coder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, nearest
from pipeline.neukron.weights import Arrays, Shapes, count, joined, split
from pipeline.runs.contents import Contents
from pipeline.runs.entropy_coder import decode_stack, encode_stack

KINDS = ("float32", "float16", "int8")
LEVELS = 127  # int8 codes are -127 .. 127
FEW_WEIGHTS = 1 << 13  # for whose codes rough frequencies are as good as fine ones
LARGEST_LOG = 709.0  # exp of more is beyond 64-bit reals


def encode(weights: Arrays, kind: str, names: Sequence[str]) -> Arrays:
    """Turn float32 weights into the arrays that an artifact stores: each kind of number in one run.

    ``float16`` rounds each weight; ``int8`` rounds to 127 steps either side of zero, with one float16 scale for
    each row of a matrix and for each vector, and codes all steps by their frequencies (asymmetric numeral
    systems).

    Parameters
    ----------
    names
        Of the weights to store, in the order in which they are stored.

    Raises
    ------
    InputError
        Unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"weights '{kind}' are unknown{nearest(kind, KINDS)}")
    if kind != "int8":
        return {"weights": joined(weights, names).astype(np.dtype(kind))}
    scales = {name: _row_scales(weights[name]) for name in names}
    steps = {name: _steps(weights[name], scales[name]) for name in names}
    symbols = joined(steps, names).astype(np.int64) + LEVELS
    counts = np.bincount(symbols, minlength=2 * LEVELS + 1)
    kind_of_frequencies, largest = (np.uint8, 255) if symbols.size < FEW_WEIGHTS else (np.uint16, 65535)
    frequencies = np.maximum(counts * (largest / counts.max()), counts > 0).astype(kind_of_frequencies)
    low, high = np.flatnonzero(frequencies)[[0, -1]]
    return {
        "codes": encode_stack(symbols, frequencies),
        "frequencies": np.concatenate(([low], frequencies[low : high + 1])).astype(kind_of_frequencies),
        "scales": joined(scales, names),
    }


def decode(stored: Arrays, kind: str, shapes: Shapes) -> Arrays:
    """Undo :func:`encode`: float32 weights of the given shapes.

    Raises
    ------
    InputError
        Arrays that do not fit the shapes.
    """
    contents = Contents(stored, {})
    if kind != "int8":
        weights = split(contents.array("weights", "f", (count(shapes),)), shapes)
        return {name: array.astype(np.float32) for name, array in weights.items()}
    span = contents.array("frequencies", "u", (None,))
    low, frequencies = int(span[0]) if len(span) else 0, np.zeros(2 * LEVELS + 1, dtype=np.uint16)
    if not 2 <= len(span) <= 2 * LEVELS + 2 - low:
        raise InputError(f"frequencies of {len(span) - 1} steps from step {low} on")
    frequencies[low : low + len(span) - 1] = span[1:]
    scale_shapes = {name: _scale_shape(shape) for name, shape in shapes.items()}
    scales = split(contents.array("scales", "f", (count(scale_shapes),)), scale_shapes)
    return _from_steps(contents.array("codes", "u", (None,)), frequencies, scales, shapes)


def restored_weights(contents: Contents, kind: str, shapes: Shapes) -> Arrays:
    """The weights in an artifact, ``log_q`` among them, checked; those of format version 1 are arrays by name."""
    if "log_q" in contents.metadata:
        log_q = contents.metadata["log_q"]
        if not isinstance(log_q, int | float) or isinstance(log_q, bool):
            raise InputError(f"log_q={str(log_q)[:60]}: needs a number")
        arrays = decode(contents.tensors, kind, shapes)
    else:
        log_q = float(contents.reals("log_q", (1,))[0])
        arrays = _first_version(contents, kind, shapes)
    if not abs(log_q) < LARGEST_LOG:
        raise InputError(f"log_q={log_q!r}: no scale that 64-bit reals hold")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError("a weight is not finite")
    return arrays | {"log_q": np.array(log_q, dtype=np.float64)}


def _first_version(contents: Contents, kind: str, shapes: Shapes) -> Arrays:
    if kind != "int8":
        found = {name: contents.array(name, "f", shape) for name, shape in shapes.items()}
        return {name: array.astype(np.float32) for name, array in found.items()}
    frequencies = contents.array("frequencies", "u", (2 * LEVELS + 1,))
    scales = {name: contents.array(f"scale:{name}", "f", _scale_shape(shape)) for name, shape in shapes.items()}
    return _from_steps(contents.array("codes", "u", (None,)), frequencies, scales, shapes)


def _from_steps(codes: npt.NDArray[Any], frequencies: npt.NDArray[Any], scales: Arrays, shapes: Shapes) -> Arrays:
    if not frequencies.any() or codes.dtype != np.uint32:
        raise InputError(f"codes of type {codes.dtype} with {np.count_nonzero(frequencies)} frequencies")
    symbols = decode_stack(codes, frequencies, count(shapes)) - LEVELS
    steps = split(symbols.astype(np.float32), shapes)
    return {name: (part * scales[name].astype(np.float32)).astype(np.float32) for name, part in steps.items()}


def _scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], 1)


def stored_bytes(arrays: Arrays) -> int:
    """Bytes of the arrays themselves."""
    return sum(array.nbytes for array in arrays.values())


def _row_scales(array: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Size of one step, float16, broadcasting against the array."""
    largest = np.abs(array).max(axis=-1, keepdims=True) if array.ndim == 2 else np.abs(array).max(keepdims=True)
    scales: npt.NDArray[np.float16] = np.maximum(largest / LEVELS, 1e-7).astype(np.float16)
    return scales


def _steps(array: npt.NDArray[Any], scale: npt.NDArray[np.float16]) -> npt.NDArray[Any]:
    return np.clip(np.rint(array / scale.astype(np.float32)), -LEVELS, LEVELS)
