"""Settings and tensors at the ends of what numbers hold, for every compressor: a line, or a right result."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.baselines import make
from pipeline.core.settings import check_given, settings_of
from pipeline.methods import COMPRESSORS, METHODS
from pipeline.neukron import NeuKron
from pipeline.sparse import SparseTensor
from tests.fuzz import Target, outcomes
from tests.quick import QUICK

NUMBERS = [10**9, 1e308, math.inf, math.nan, -1, 0, 10**400]
FEW = {"max_epochs": 1, "max_sweeps": 2}


def model_of(name: str, settings: dict[str, Any]) -> Any:
    """A compressor as a step makes it, with few epochs or sweeps where nothing says how many."""
    kind = METHODS[name].load()
    quick = {key: value for key, value in FEW.items() if key in settings_of(kind)}
    quick |= QUICK["hybrid"] if name == "hybrid" else {}
    if name != "neukron":
        return make(name, quick | settings)
    check_given(NeuKron, settings, name)
    return NeuKron(threads=1, device="cpu", **quick | {"hidden": 3, "order_init": "degree"} | settings)


def answers(model: Any, X: SparseTensor) -> Any:
    """What a fitted model says, which its artifact must say too; an error that its answers have."""
    with np.errstate(over="ignore"):
        values = model.predict(X.coords)
    error = model.error(X)["error"]
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        model.save(file.name)
        loaded = pipeline.load(file.name)
    np.testing.assert_allclose(loaded.predict(X.coords), values, rtol=1e-4, atol=1e-6 * float(np.abs(values).max()))
    scale = float(np.abs(X.values).max())
    missed = float(np.sum(((values - X.values) / scale) ** 2))
    assert error / scale / scale >= missed * (1 - 1e-3) - 1e-5 * X.nnz  # zero cells add to it
    return values, error


def asked(name: str, X: SparseTensor, paths: dict[str, Path]) -> Any:
    (path,) = paths.values()
    return answers(model_of(name, json.loads(path.read_text())).fit(X), X)


def small() -> SparseTensor:
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 8, (25, 2)), axis=0)
    return SparseTensor(coords, rng.integers(1, 6, len(coords)), (8, 8))


def numeric(name: str) -> Iterator[dict[str, Any]]:
    """Every numeric setting at every number."""
    for setting, entry in settings_of(METHODS[name].load()).items():
        if not entry.choices and not isinstance(entry.default, bool):
            yield from ({setting: number} for number in NUMBERS if setting not in FEW or number != 10**9)
    if name == "neukron":
        yield {"hidden": 3000}


def wrong(target: Target, cases: list[dict[str, bytes]]) -> list[str]:
    found = zip(cases, outcomes(target, cases), strict=True)
    return [f"{target.name} {case}: {state} {detail}" for case, (state, detail) in found
            if state not in ("refused", "answered")]  # fmt: skip


@pytest.mark.parametrize("name", COMPRESSORS)
def test_settings_at_the_ends(name: str) -> None:
    target = Target(
        "settings", name, {"settings.json": b"{}"}, lambda content, rng: content, partial(asked, name, small())
    )
    cases = [{"settings.json": json.dumps(settings).encode()} for settings in numeric(name)]
    assert not wrong(target, cases)


def extremes() -> dict[str, SparseTensor]:
    """Tensors at the ends: values, sizes, orders."""
    rng = np.random.default_rng(1)
    coords = np.unique(rng.integers(0, (9, 7), (25, 2)), axis=0)
    values = rng.integers(1, 6, len(coords)).astype(float)
    ends = np.array([[0, 5], [1, 0], [2**20 - 1, 2**20 - 1], [7, 9]])
    found = {f"{scale:g}": SparseTensor(coords, values * scale, (9, 7)) for scale in (1e-200, 1e200, 3e307)}
    found |= {"mixed": SparseTensor(coords, np.where(np.arange(len(values)) % 2, 1e-200, 1e200), (9, 7))}
    found |= {"signs": SparseTensor(coords, values * np.where(np.arange(len(values)) % 2, 1e200, -1e200), (9, 7))}
    for bits in (20, 40, 62):
        found[f"2^{bits}"] = SparseTensor(ends % 2**bits * 2 ** (bits - 20), [1.0, 2, 3, 4], (2**bits, 2**bits))
    for order in (1, 20, 33):
        cells = np.unique(rng.integers(0, 2, (12, order)), axis=0)
        found[f"order {order}"] = SparseTensor(cells, np.arange(1.0, len(cells) + 1), (2,) * order)
    found["one cell"] = SparseTensor([[0, 0]], [3.0], (1, 1))
    found["one row"] = SparseTensor([[0, 3], [0, 99]], [3.0, -1], (1, 100))
    return found


@pytest.mark.parametrize("name", COMPRESSORS)
def test_tensors_at_the_ends(name: str) -> None:
    tensors = extremes()

    def ask(paths: dict[str, Path]) -> Any:
        (path,) = paths.values()
        X = tensors[path.read_text()]
        return answers(model_of(name, {}).fit(X), X)

    target = Target("tensors", name, {"tensor": b""}, lambda content, rng: content, ask)
    assert not wrong(target, [{"tensor": key.encode()} for key in tensors])
