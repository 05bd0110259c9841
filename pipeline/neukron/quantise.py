"""Fewer bits a weight: float16, or int8 with a scale a row and an entropy coder."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, nearest

KINDS = ("float32", "float16", "int8")
LEVELS = 127  # int8 codes are -127 .. 127

Arrays = dict[str, npt.NDArray[Any]]


def encode(weights: Arrays, kind: str) -> Arrays:
    """Turn float32 weights into the arrays that an artifact stores.

    ``float16`` rounds each weight; ``int8`` rounds to 127 steps either side of zero, with one float16 scale for
    each row of a matrix and for each vector, and codes all steps by their frequencies (asymmetric numeral
    systems, ``constriction``). A scale parameter (float64) stays as it is.

    Raises
    ------
    InputError
        Unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"weights '{kind}' are unknown{nearest(kind, KINDS)}")
    if kind == "float32":
        return dict(weights)
    exact = {name: array for name, array in weights.items() if array.dtype == np.float64}
    rounded = {name: array for name, array in weights.items() if name not in exact}
    if kind == "float16":
        return exact | {name: array.astype(np.float16) for name, array in rounded.items()}
    scales = {name: _row_scales(array) for name, array in rounded.items()}
    steps = [_steps(array, scales[name]).ravel() for name, array in rounded.items()]
    symbols = np.concatenate(steps).astype(np.int32) + LEVELS
    counts = np.bincount(symbols, minlength=2 * LEVELS + 1)
    frequencies = np.maximum(counts * (65535 / counts.max()), counts > 0).astype(np.uint16)
    import constriction

    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols, _model(frequencies))
    return exact | {
        "codes": coder.get_compressed(),
        "frequencies": frequencies,
        **{f"scale:{name}": scale for name, scale in scales.items()},
    }


def decode(stored: Arrays, kind: str, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    """Undo :func:`encode`: float32 weights (float64 for the scale parameter) of the given shapes.

    Raises
    ------
    InputError
        Unknown kind.
    KeyError, ValueError
        Arrays that do not fit the shapes.
    """
    if kind not in KINDS:
        raise InputError(f"weights '{kind}' are unknown{nearest(kind, KINDS)}")
    if kind != "int8":
        return {
            name: stored[name] if stored[name].dtype == np.float64 else stored[name].astype(np.float32)
            for name in shapes
        }
    coded = [name for name in shapes if name not in stored]
    sizes = [int(np.prod(shapes[name])) for name in coded]
    import constriction

    coder = constriction.stream.stack.AnsCoder(stored["codes"])
    symbols = np.asarray(coder.decode(_model(stored["frequencies"]), sum(sizes))) - LEVELS
    weights = {name: stored[name] for name in shapes if name in stored}
    for name, part in zip(coded, np.split(symbols, np.cumsum(sizes)[:-1]), strict=True):
        steps = part.reshape(shapes[name]).astype(np.float32)
        weights[name] = (steps * stored[f"scale:{name}"].astype(np.float32)).astype(np.float32)
    return weights


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


def _model(frequencies: npt.NDArray[np.uint16]) -> Any:
    import constriction

    return constriction.stream.model.Categorical(frequencies.astype(np.float32), perfect=False)
