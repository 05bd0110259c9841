"""The contract that every baseline keeps: fit, predict, error, size, save and load."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

import pipeline
from pipeline.baselines import METHODS, Baseline, module_of
from pipeline.config import load_config
from pipeline.core.settings import settings_of
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from tests.quick import QUICK
from tests.test_baselines_overlaps import windows


def matrix(seed: int = 0) -> SparseTensor:
    random = np.random.default_rng(seed)
    dense = random.integers(1, 5, (12, 17)) * (random.uniform(size=(12, 17)) < 0.3)
    return SparseTensor.from_dense(dense)


def small(method: str, **settings: object) -> Baseline:
    return METHODS[method](**QUICK.get(method, {}), **settings)


def cells(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=1)


@pytest.mark.parametrize("method", METHODS)
def test_error_is_that_of_the_predictions_over_all_cells(method: str) -> None:
    X = matrix()
    model = small(method).fit(X)
    dense = model.predict(cells(X.shape)).reshape(X.shape)
    assert model.error(X)["error"] == pytest.approx(np.sum((X.to_dense() - dense) ** 2), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_error_against_another_tensor_of_the_same_shape(method: str) -> None:
    X, other = matrix(), matrix(1)
    model = small(method).fit(X)
    dense = model.predict(cells(X.shape)).reshape(X.shape)
    assert model.error(other)["error"] == pytest.approx(np.sum((other.to_dense() - dense) ** 2), rel=1e-9)
    with pytest.raises(InputError, match="shape"):
        model.error(SparseTensor([[0, 0]], [1.0], (2, 2)))


@pytest.mark.parametrize("orders", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_artifact_answers_like_the_model(method: str, orders: bool, tmp_path: Path) -> None:
    X = matrix()
    model = small(method).fit(X)
    model.save(tmp_path / "model.safetensors", orders=orders)
    loaded = pipeline.load(tmp_path / "model.safetensors")
    assert type(loaded) is METHODS[method]
    answers, expected = loaded.predict(cells(loaded.shape_)), model.predict(cells(X.shape))
    if not orders:  # the same cells in the model's own indices; where it pads, among others
        answers = np.sort(answers)
        answers = answers[np.minimum(np.searchsorted(answers, expected - 1e-12), len(answers) - 1)]
    else:
        assert loaded.shape_ == X.shape
    assert answers == pytest.approx(expected, rel=1e-12, abs=1e-12)
    if orders:
        assert loaded.error(X)["error"] == pytest.approx(model.error(X)["error"], rel=1e-12, abs=1e-12)
        assert loaded.size() == model.size()
        assert loaded.parameter_count() == model.parameter_count()


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_records_its_course_and_its_size(method: str) -> None:
    X = matrix()
    seen: list[dict[str, float]] = []
    model = small(method).fit(X, progress=seen.append)
    assert seen == model.history_
    assert [row["epoch"] for row in seen] == list(range(1, len(seen) + 1))
    fitted = model.error(X)
    best = min(row["error"] for row in seen)
    assert best == pytest.approx(fitted.get("error_padded", fitted["error"]), rel=1e-5, abs=1e-5)
    assert all(row["seconds"] >= 0 for row in seen)
    size = model.size()
    assert set(size) == {"bytes", "bytes_equal", "bytes_with_order"}
    assert 0 < size["bytes_equal"] <= min(size["bytes"], size["bytes_with_order"])


def banded(size: int, width: int) -> SparseTensor:
    row, column = np.indices((size, size))
    return SparseTensor.from_dense((1 + row * column % 3) * (np.abs(row - column) <= width))


def graph(nodes: int, edges: int, order: int, seed: int) -> SparseTensor:
    random = np.random.default_rng(seed)
    coords = np.unique(random.integers(0, nodes, (edges, order)), axis=0)
    return SparseTensor(coords, random.integers(1, 4, len(coords)), (nodes,) * order)


@pytest.mark.parametrize("method", METHODS)
def test_orders_never_cost_less_than_none(method: str, tmp_path: Path) -> None:
    given: dict[str, list[dict[str, Any]]] = {"truncation": [{"keep": 0.5}, {"keep": 1.0}], "hybrid": [QUICK["hybrid"]]}
    tensors = [banded(size, width) for size in (5, 40, 90) for width in (0, 1, 3)]
    tensors += [graph(8, 10, 2, 0), graph(60, 150, 2, 1), graph(9, 40, 3, 2), graph(5, 60, 4, 3)]
    tensors.append(windows(3, length=300, words=12))  # sequences have a code of their own
    for X in tensors:
        if X.order > 2 and METHODS[method].matrices_only:
            continue
        for settings in given.get(method, [{}]):
            few = {"max_sweeps": 2} if "max_sweeps" in METHODS[method].declared else {}
            model = METHODS[method](**settings, **few).fit(X)
            size = model.size()
            assert size["bytes_equal"] <= size["bytes_with_order"], X
            assert len(model.artifact(orders=False)) <= len(model.artifact()), X
            if method in ("lossless", "truncation"):
                model.save(tmp_path / "free.safetensors", orders=False)
                free = pipeline.load(tmp_path / "free.safetensors")
                without = {} if free.own_indices_ else {"bytes_with_order": size["bytes"]}
                assert free.size() == size | without
                assert np.array_equal(np.sort(free.held_cells()[1]), np.sort(model.held_cells()[1]))


@pytest.mark.parametrize("name", ["USAir97", "YeastS", "Erdos"])
def test_orders_never_cost_less_than_none_on_real_graphs(name: str, mirror: Path) -> None:
    if not (mirror / "szip-graphs").is_dir():
        pytest.skip(f"no szip-graphs in {mirror}")
    with ZipFile(mirror / "szip-graphs" / f"{name}.zip") as archive:
        edges = np.loadtxt(archive.open(f"{name}/{name}_A.txt"), delimiter=",", dtype=np.int64) - 1
    X = SparseTensor(edges, np.ones(len(edges)), (int(edges.max()) + 1,) * 2)
    for method in (METHODS["lossless"](), METHODS["truncation"](keep=0.3)):
        size = method.fit(X).size()
        assert size["bytes"] == size["bytes_equal"] <= size["bytes_with_order"]


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_models(method: str) -> None:
    X = matrix()
    seed = {"seed": 7} if METHODS[method].stochastic else {}
    first, second = (small(method, **seed).fit(X) for _ in range(2))
    assert np.array_equal(first.predict(cells(X.shape)), second.predict(cells(X.shape)))


@pytest.mark.parametrize("method", METHODS)
def test_made_without_arguments_it_fits(method: str) -> None:
    X = matrix()
    assert METHODS[method]().fit(X).error(X)["error"] <= X.norm2


@pytest.mark.parametrize("method", METHODS)
def test_bad_coordinates_are_refused(method: str) -> None:
    model = small(method).fit(matrix())
    with pytest.raises(InputError, match=r"index 17 in mode 1 is outside 0\.\.16"):
        model.predict([[0, 17]])
    with pytest.raises(InputError, match="integers"):
        model.predict([[0.5, 1.0]])


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_method_refuses_a_tensor(method: str) -> None:
    X = SparseTensor([[0, 0, 0], [1, 2, 1]], [1.0, 2.0], (3, 4, 2))
    if METHODS[method].matrices_only:
        with pytest.raises(InputError, match=f"{method} needs a matrix"):
            small(method).fit(X)
    else:
        assert METHODS[method]().fit(X).error(X)["error"] <= X.norm2


def test_configuration_and_artifacts_know_every_baseline(root: Path) -> None:
    config = load_config(root / "params.yaml")
    for name, method in METHODS.items():
        assert method.__module__ == module_of(name)
        parameters = inspect.signature(method).parameters.values()
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
        known = settings_of(method)
        defaults = {parameter.name: parameter.default for parameter in parameters if parameter.name in known}
        assert config.method_defaults(name) == defaults


def test_a_baseline_needs_neither_torch_nor_the_orchestrators() -> None:
    code = (
        "import sys, pipeline.baselines, pipeline.fit_baseline\n"
        "heavy = {'torch', 'numba', 'pydantic', 'snakemake', 'dvc', 'pipeline.config'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
