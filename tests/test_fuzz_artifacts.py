"""Artifacts of every method, damaged by chance and by design: a model or an InputError, never anything else.

With the digest kept no answer may change; with the digest made anew none may crash, hang, raise anything but an
InputError, take more than 1 GiB or answer what is not finite. How that is counted: :mod:`tests.fuzz`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import pipeline
from pipeline.baselines import METHODS
from pipeline.baselines.coding import column_sets, fibres, gaps, mixed, overlaps, unlabelled
from pipeline.baselines.coding.exact import Labelled
from pipeline.commands.info import artifact_info
from pipeline.kpd.artifact import NetworkArtifact
from pipeline.kpd.layer import KPDLinear
from pipeline.kpd.networks import build
from pipeline.neukron import NeuKron
from pipeline.runs.artifact import read_artifact, signed
from pipeline.runs.compressor import Compressor
from pipeline.sparse import SparseTensor
from tests.fuzz import Target, check
from tests.test_baselines_overlaps import windows

CELLS = 50
OLD = Path(__file__).parent / "artifacts"
NUMBERS = [0, 1, -1, 2, 3, 12, 40000, 10**9, 2**31, 2**33, 2**62, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308]
OTHERS = [None, True, "", "a", [], {}, [1], {"0": 1}, [2**33, 2**33], [[[[]]]], "\u0000", ["a", "b"]]


def tensor() -> SparseTensor:
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, (12, 9), (40, 2)), axis=0)
    return SparseTensor(coords, rng.integers(1, 6, len(coords)), (12, 9), mode_names=["user", "item"])


SETTINGS: dict[str, dict[str, Any]] = {
    "t-svd": {"rank": 2}, "cp": {"rank": 2}, "tucker": {"rank": 2}, "cur": {"rows": 4, "columns": 4},
    "cmd": {"rows": 4, "columns": 4}, "accams": {"stencils": 2, "clusters": 3, "max_sweeps": 3},
    "baccams": {"stencils": 2, "clusters": 3, "max_sweeps": 3}, "kronfit": {"seed_power": 2, "max_sweeps": 3},
    "truncation": {"keep": 0.5},
}  # fmt: skip
CODES: dict[str, Callable[..., bytes | None]] = {
    "gaps": gaps.encode,
    "columns": lambda *cells: column_sets.pack(*cells, free=False)[0],
    "free columns": lambda *cells: column_sets.pack(*cells, free=True)[0],
    "fibres": lambda *cells: fibres.pack(*cells, free=False)[0],
    "free fibres": lambda *cells: fibres.pack(*cells, free=True)[0],
    "mixed": mixed.pack,
    "windows": overlaps.pack,
    "without names": lambda *cells: (unlabelled.pack(*cells) or (None,))[0],
    "kept names": unlabelled.pack_kept,
}
OLD_ONES = ("cur", "accams", "kronfit", "neukron-lstm", "neukron-int8", "lossless", "tucker")
# Of every method, with and without orders, of a framed tensor, and of format version 1.
ORIGINALS = (
    *METHODS, "kronfit, no orders", "lossless, no orders", "neukron lstm", "neukron seeds", "neukron int8",
    "neukron float16, no orders", "t-svd, framed", "network", *(f"{name}, version 1" for name in OLD_ONES),
)  # fmt: skip


@cache
def original(name: str) -> bytes:
    """The artifact of a name."""
    first, _, last = name.partition(", ")
    if last == "version 1":
        return (OLD / f"{first}.safetensors").read_bytes()
    if last == "framed":
        coords = [[1, 5], [10**8, 7 * 10**7], [3 * 10**8 - 1, 0]]
        return METHODS[first](rank=1).fit(SparseTensor(coords, [1e100, 2e100, 3e100], (3 * 10**8, 10**8))).artifact()
    if last in CODES:
        return coded(last).artifact()
    if name == "network":
        with tempfile.TemporaryDirectory() as folder:
            _network().save(Path(folder) / "a.safetensors")
            return (Path(folder) / "a.safetensors").read_bytes()
    return fitted(first).artifact(orders=last != "no orders")


@cache
def fitted(name: str) -> Compressor:
    """A method, or NeuKron by its cell or the type of its weights, fitted to the small tensor."""
    X = tensor()
    if name in METHODS:
        model: Compressor = METHODS[name](**SETTINGS.get(name, {})).fit(X)
        model.about_.labels = {0: [f"u{index}" for index in range(12)], 1: list(range(3, 12))}
        return model
    kind = name.removeprefix("neukron ")
    if kind == "float16":
        return fitted("neukron lstm").quantised(kind)
    if kind == "int8":
        wider = NeuKron(hidden=16, max_epochs=1, threads=1, device="cpu").fit(X).quantised(kind)
        assert wider.weights_ == kind
        return wider
    return NeuKron(hidden=3, cell=kind, max_epochs=1, threads=1, device="cpu").fit(X)


def coded(name: str) -> Compressor:
    """The same tensor held by a code of exact cells; for windows on a sequence one of a sequence."""
    X = windows(3, length=100, words=12, sentences=2) if name == "windows" else tensor()
    code = CODES[name](X.coords, X.values, X.shape)
    assert code is not None
    model = METHODS["lossless"]().fit(X)
    model.labelled_ = Labelled(code, {}, {})
    return model


def _network() -> NetworkArtifact:
    """A small network with a layer of zero blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build("linear", (4, 4), 4)
        layer = KPDLinear(16, 4, (2, 2), 2, True, path="shape")
        layer.set_support(torch.rand(layer.grid) < 0.5)
    network[1] = layer
    return NetworkArtifact(network, name="linear", image_shape=(4, 4), classes=4, scale=16.0, trained_with={"a": 1})


# ------------------------------------------------------------------------------------------------------ damage


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, other bytes, parts cut out, doubled, moved or cut off; the digest stays as it was."""
    data = bytearray(content)
    kind = rng.integers(6)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    if kind <= 1:
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data[start : start + length] = rng.bytes(length)
    elif kind == 3:
        del data[start : start + length]
    elif kind == 4:
        data[start:start] = data[start : start + length]
    else:
        del data[start:]
    return bytes(data)


def damaged_content(content: bytes, rng: np.random.Generator) -> bytes:
    """Other numbers, types, shapes, names and metadata within a file that is well-formed; the digest made anew."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        Path(file.name).write_bytes(content)
        tensors, metadata = read_artifact(file.name)
    short = {"version": "v", "method": "m", "shape": "s", "orders": "o", "about": "a", "frame": "f"}
    if metadata["version"] > 1:
        metadata = {short.get(key, key): value for key, value in metadata.items()}
    tensors = {name: array.copy() for name, array in tensors.items()}
    for _ in range(int(rng.integers(1, 3))):
        if rng.random() < 0.6:
            change_array(tensors, rng)
        else:
            change_entry(metadata, rng)
    text = json.dumps(metadata)
    return save(tensors, metadata={"kronflow": signed(text, tensors) if metadata else text})


def change_array(tensors: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    name = str(rng.choice(sorted(tensors)))
    array = tensors[name]
    kind = rng.integers(8)
    if kind <= 3 and array.size:
        place = int(rng.integers(array.size))
        raw = bytearray(array.tobytes())
        if kind == 0:
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            raw[place * array.itemsize : (place + 1) * array.itemsize] = rng.bytes(array.itemsize)
        elif kind == 2:
            raw[:] = rng.bytes(len(raw))
        else:
            special = [np.nan, np.inf, -np.inf, 1e300, -1.0, 12.0, 255.0, 0.0, 2.0**31]
            with np.errstate(all="ignore"):
                flat = array.ravel().astype(np.float64)
                flat[place] = special[int(rng.integers(len(special)))]
                raw = bytearray(flat.astype(array.dtype).tobytes())
        tensors[name] = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
    elif kind == 4:
        tensors[name] = array.ravel()[: int(rng.integers(array.size + 1))]
    elif kind == 5:
        tensors[name] = np.concatenate((array.ravel(), array.ravel()))
    elif kind == 6:
        types = [np.int8, np.uint8, np.uint16, np.int64, np.uint64, np.float16, np.float64, np.bool_]
        with np.errstate(all="ignore"):
            tensors[name] = array.astype(types[int(rng.integers(len(types)))])
    else:
        other = str(rng.choice(sorted(tensors)))
        tensors[name], tensors[other] = tensors[other], array
        if rng.random() < 0.3 and len(tensors) > 1:
            del tensors[name]


def change_entry(metadata: Any, rng: np.random.Generator) -> None:
    """Set, remove or nest one entry, however deep it lies; the version stays, which decides what is checked."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            if key not in ("v", "version"):
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    visit(node[key])

    visit(metadata)
    node, key = places[int(rng.integers(len(places)))]
    kind = rng.integers(5)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = OTHERS[int(rng.integers(len(OTHERS)))]
    elif kind == 2 and isinstance(node[key], list) and node[key]:
        node[key] = node[key][:-1] if rng.random() < 0.5 else node[key] * 2
    elif kind == 3 and isinstance(node[key], int):
        node[key] += int(rng.integers(-2, 3))
    else:
        node[key] = NUMBERS[int(rng.integers(len(NUMBERS)))]


# ------------------------------------------------------------------------------------------------------ asking


def asked(paths: dict[str, Path]) -> Any:
    """Load a file and ask it all that a user may."""
    (path,) = paths.values()
    model = pipeline.load(path)
    info = json.loads(json.dumps(artifact_info(path), allow_nan=False))
    if isinstance(model, NetworkArtifact):
        images = np.random.default_rng(1).random((3, *model.image_shape))
        return model.image_shape, model.logits(images), model.classes, model.scale
    rng = np.random.default_rng(1)
    coords = np.stack([rng.integers(0, size, CELLS) for size in model.shape_], axis=1)
    values = model.predict(coords)
    labels = [model.about_.labels_of(mode) for mode in range(len(model.shape_))]
    return model.shape_, values, model.size(), info.get("error"), labels, model.held_cells()


def targets(names: Sequence[str] = (*ORIGINALS, *(f"lossless, {name}" for name in CODES))) -> list[Target]:
    """Each artifact, those of every code too, twice: with its digest kept, which version 1 has not, and made anew."""
    found = []
    for name in names:
        files, old = {"a.safetensors": original(name)}, "version 1" in name
        found += [
            Target(f"artifact, {'no digest' if old else 'digest kept'}", name, files, damaged_bytes, asked, not old),
            Target("artifact, digest made anew", name, files, damaged_content, asked),
        ]
    return found


@pytest.mark.parametrize("name", ORIGINALS)
def test_damaged_artifacts_are_refused_or_answer(name: str) -> None:
    check(targets([name]))


@pytest.mark.parametrize("name", [*METHODS, "neukron lstm"])
def test_orders_free_never_take_more_than_orders_stored(name: str) -> None:
    size = fitted(name).size()
    assert size["bytes_equal"] <= size["bytes_with_order"]
