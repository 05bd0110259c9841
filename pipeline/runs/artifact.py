"""Artifacts: one safetensors file a fitted model, with JSON metadata; loading one runs no code from it.

Metadata of the file: ``kronflow``, JSON with short names for what all methods have. Since format version 2 its last
entry is ``digest``, the SHA-256 of the text without it and of every array's name, type, shape and bytes, which loading
checks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.files import atomic_path
from pipeline.errors import InputError

FORMAT_VERSION = 2
DIGEST_SINCE = 2  # earlier files have none
LARGEST_METADATA = 1 << 24  # characters of JSON: some of its parsed forms take fifty times as much
DIGEST = re.compile(r',"digest":"([A-Za-z0-9+/]{43})"}\Z')
TYPES = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
SHORT = {"version": "v", "method": "m", "shape": "s", "orders": "o", "about": "a", "frame": "f"}  # names in the file
LONG = {short: name for name, short in SHORT.items()}


def artifact_bytes(method: str, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> bytes:
    """The whole content of an artifact.

    Raises
    ------
    InputError
        A real that is not finite: such a model would answer nothing.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if (name := _not_finite(arrays)) is not None:
        raise InputError(f"{method}: '{name}' has a number that is not finite; the fit failed, nothing was saved")
    header: dict[str, Any] = {"version": FORMAT_VERSION, "method": method}
    header |= {key: value for key, value in metadata.items() if key not in header}
    short = {SHORT.get(key, key): value for key, value in header.items()}
    text = json.dumps(short, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return save(arrays, metadata={"kronflow": signed(text, arrays)})


def write_artifact(
    path: str | Path, method: str, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]
) -> None:
    """Write arrays and JSON metadata as one safetensors file, whole or not at all; see :func:`artifact_bytes`."""
    content = artifact_bytes(method, tensors, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def signed(text: str, tensors: dict[str, npt.NDArray[Any]]) -> str:
    """Metadata's text with the digest of it and all arrays as its last entry."""
    return f'{text[:-1]},"digest":"{_digest(text, tensors)}"}}'


def _digest(text: str, tensors: dict[str, npt.NDArray[Any]]) -> str:
    total = hashlib.sha256(text.encode())
    for name, array in sorted(tensors.items()):
        total.update(f"\n{name} {array.dtype.str} {list(array.shape)}\n".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b"")
    return base64.b64encode(total.digest()).decode().rstrip("=")


def read_artifact(path: str | Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return the arrays and the metadata of an artifact.

    Raises
    ------
    InputError
        The file is missing, damaged, changed since it was written, no Kronflow artifact, or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; 'dvc pull' fetches shared artifacts"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
            names = list(file.keys())
            for name in names:
                if (kind := file.get_slice(name).get_dtype()) not in TYPES:
                    raise InputError(f"{path}: array '{name}' is of type {kind}; no method writes that")
            tensors = {name: file.get_tensor(name) for name in names}
        text: str = entries["kronflow"]
        metadata = _parsed(text)
    except InputError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, OSError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{path}: no readable Kronflow artifact ({reason}); fetch or make it again") from error
    version = metadata.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{path}: its metadata names no format version; make it again")
    if version > FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}, this program reads up to {FORMAT_VERSION}; update it")
    if version >= DIGEST_SINCE or "digest" in metadata:  # a damaged version takes no check away
        match = DIGEST.search(text)
        if match is None or match[1] != _digest(text[: match.start()] + "}", tensors):
            raise InputError(f"{path}: its content is not what was written (checksum differs); fetch or make it again")
        del metadata["digest"]
    if (damaged := _not_finite(tensors)) is not None:
        raise InputError(f"{path}: array '{damaged}' has a number that is not finite; make it again")
    return tensors, metadata


def _not_finite(arrays: dict[str, npt.NDArray[Any]]) -> str | None:
    """Name of the first array with NaN or infinity: a model of it would answer such numbers."""
    found = (name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all())
    return next(found, None)


def _parsed(text: str) -> dict[str, Any]:
    """Metadata with its long names."""
    if len(text) > LARGEST_METADATA:
        raise ValueError(f"{len(text):,} characters of metadata")
    metadata: Any = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no JSON object")
    json.dumps(metadata, ensure_ascii=False).encode()  # halves of characters cannot be shown
    content: dict[str, Any] = metadata
    return {LONG.get(key, key): value for key, value in content.items()}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} in its metadata")


def restored(path: str | Path, kind: Any, tensors: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> Any:
    """Rebuild a model of a class; whatever does not fit is one line that names the file."""
    try:
        return kind.from_artifact(tensors, metadata)
    except Exception as error:
        reason = str(error) or type(error).__name__
        method = metadata["method"]
        raise InputError(f"{path}: contents do not fit a '{method}' artifact ({reason}); make it again") from error
