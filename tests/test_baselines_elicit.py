"""ELiCiT beside dense brute force on small input."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.baselines import elicit
from pipeline.baselines.elicit import ELiCiT
from pipeline.baselines.q_svd import QuantisedSVD
from pipeline.errors import InputError
from pipeline.runs.artifact import read_artifact
from pipeline.sparse import SparseTensor


def dense_terms(factors: list[np.ndarray]) -> np.ndarray:
    """Every term over all cells, one by one: (sets, R, cells)."""
    order, rank = len(factors), factors[0].shape[1]
    shape = tuple(len(factor) for factor in factors)
    terms = np.zeros((2**order, rank, *shape))
    for number, members in enumerate(itertools.product((0, 1), repeat=order)):
        for feature in range(rank):
            for cell in np.ndindex(*shape):
                inside = [factors[mode][cell[mode], feature] for mode in range(order) if members[mode]]
                terms[(number, feature, *cell)] = np.prod(inside)
    return terms.reshape(2**order, rank, -1)


def random_features(shape: tuple[int, ...], rank: int) -> list[np.ndarray]:
    random = np.random.default_rng(len(shape))
    return [random.integers(-2, 3, (size, rank)).astype(float) for size in shape]


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 5), (2, 3, 2, 4)])
def test_gram_matrices_and_cells_are_those_of_the_dense_terms(shape: tuple[int, ...]) -> None:
    factors = random_features(shape, 3)
    terms = dense_terms(factors)
    assert elicit.grams(factors) == pytest.approx(np.einsum("sjc,tkc->sjtk", terms, terms), rel=1e-12)
    weights = np.random.default_rng(9).standard_normal((2 ** len(shape), 3))
    cells = np.argwhere(np.ones(shape))
    assert elicit.evaluate(cells, weights, factors) == pytest.approx(np.einsum("sj,sjc->c", weights, terms), rel=1e-12)


def planted(shape: tuple[int, ...]) -> SparseTensor:
    """A tensor that is multilinear in two features of two bits, with noise."""
    factors = random_features(shape, 2)
    weights = np.random.default_rng(3).standard_normal((2 ** len(shape), 2))
    cells = np.argwhere(np.ones(shape))
    noise = 0.01 * np.random.default_rng(4).standard_normal(len(cells))
    return SparseTensor(cells, elicit.evaluate(cells, weights, factors) + noise, shape)


@pytest.mark.parametrize("shape", [(30, 40), (8, 9, 10)])
def test_the_error_is_that_of_all_cells_and_falls_with_bits(shape: tuple[int, ...]) -> None:
    X = planted(shape)
    errors, sizes = [], []
    for bits in (2, 4, 8):
        model = ELiCiT(rank=6, bits=bits).fit(X)
        cells = np.argwhere(np.ones(shape))
        missed = float(np.sum((X.to_dense().ravel() - model.predict(cells)) ** 2))
        assert model.error(X)["error"] == pytest.approx(missed, rel=1e-8)
        assert max(float(np.abs(factor).max()) for factor in model.factors_) <= 2 ** (bits - 1)
        errors.append(missed / X.norm2)
        sizes.append(model.size()["bytes"])
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("shape", [(6, 8), (4, 5, 6)])
def test_coefficients_are_the_least_squares_solution_over_all_cells(shape: tuple[int, ...]) -> None:
    X = planted(shape)
    model = ELiCiT(rank=3, bits=6).fit(X)
    left = model.weights_ != 0
    terms = dense_terms(model.factors_)[left]
    best = np.linalg.lstsq(terms.T, X.to_dense().ravel(), rcond=None)[0]
    least = float(np.sum((X.to_dense().ravel() - best @ terms) ** 2))
    assert model.error(X)["error"] == pytest.approx(least, rel=1e-6)


def test_a_co_clustering_into_two_by_two_blocks_takes_one_feature_of_two_values() -> None:
    rows, columns = np.arange(40) % 3 == 0, np.arange(60) % 4 == 0
    X = SparseTensor.from_dense(np.where(rows[:, None] == columns, 5.0, 1.0))
    model = ELiCiT(rank=1, bits=4).fit(X)
    assert model.error(X)["error"] < 1e-6 * X.norm2
    assert all(len(np.unique(factor)) == 2 for factor in model.factors_)
    assert model.size()["bytes"] < 60


def test_a_size_is_met_and_beats_rounded_singular_vectors() -> None:
    random = np.random.default_rng(0)
    chance = np.outer(random.pareto(1.5, 60), random.pareto(1.5, 90)) * 0.02
    X = SparseTensor.from_dense((random.uniform(size=chance.shape) < chance).astype(float))
    for limit in (100, 300):
        model = ELiCiT(rank=8, max_bytes=limit).fit(X)
        assert 0.5 * limit < model.size()["bytes"] <= limit
        rival = QuantisedSVD(rank=8, max_bytes=limit).fit(X)
        assert model.error(X)["error"] < rival.error(X)["error"] < X.norm2


def test_an_artifact_answers_alike_in_another_process(tmp_path: Path) -> None:
    X = planted((8, 9, 10))
    model = ELiCiT(rank=3).fit(X)
    path = tmp_path / "m.safetensors"
    model.save(path)
    assert path.stat().st_size < model.size()["bytes"] + 700
    again = pipeline.load(path)
    assert again.error(X) == model.error(X) and again.size() == model.size()
    code = (
        "import sys, numpy as np, pipeline; "
        "print(pipeline.load(sys.argv[1]).predict(np.array([[3, 4, 5], [7, 8, 9]])).tobytes().hex())"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == model.predict([[3, 4, 5], [7, 8, 9]]).tobytes().hex()


def test_a_short_code_or_too_many_modes_are_refused(tmp_path: Path) -> None:
    ELiCiT(rank=2).fit(planted((6, 8))).save(tmp_path / "m.safetensors")
    tensors, metadata = read_artifact(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="damaged code of 0 bytes"):
        ELiCiT.from_artifact(tensors | {"code": tensors["code"][:0]}, metadata)
    with pytest.raises(InputError, match="up to 8 modes"):
        ELiCiT.from_artifact(tensors, metadata | {"shape": [1] * 9})


def test_a_fit_whose_time_is_over_still_meets_its_size() -> None:
    X = planted((30, 40))
    hurried = ELiCiT(rank=4, max_bytes=200, max_seconds=1e-9).fit(X)
    assert hurried.size()["bytes"] <= 200
    assert hurried.error(X)["error"] >= ELiCiT(rank=4, max_bytes=200).fit(X).error(X)["error"]
