"""T-SVD and CP with rounded, entropy-coded factors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.baselines import quantised_factors
from pipeline.baselines.cp import CP
from pipeline.baselines.q_cp import QuantisedCP
from pipeline.baselines.q_svd import QuantisedSVD
from pipeline.baselines.t_svd import TSVD
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def smooth(order: int = 2) -> SparseTensor:
    """A tensor of rank 3 with signs and noise, all cells there."""
    random = np.random.default_rng(0)
    shape = (30, 40) if order == 2 else (12, 10, 14)
    factors = [random.standard_normal((size, 3)) for size in shape]
    dense = np.einsum("ir,jr->ij", *factors) if order == 2 else np.einsum("ir,jr,kr->ijk", *factors)
    return SparseTensor.from_dense(dense + 0.01 * random.standard_normal(dense.shape))


@pytest.mark.parametrize("order", [2, 3])
def test_few_bits_lose_little_and_take_a_fraction(order: int) -> None:
    X = smooth(order)
    plain = (TSVD(rank=3) if order == 2 else CP(rank=3)).fit(X)
    kind = QuantisedSVD if order == 2 else QuantisedCP
    errors, sizes = [], []
    for bits in (3, 6, 12):
        model = kind(rank=3, bits=bits).fit(X)
        dense = np.zeros(X.shape)
        dense[tuple(X.coords.T)] = X.values
        cells = np.argwhere(np.ones(X.shape))
        brute = float(np.sum((dense.ravel() - model.predict(cells)) ** 2))
        assert model.error(X)["error"] == pytest.approx(brute, rel=1e-9)
        errors.append(brute / X.norm2)
        sizes.append(model.size()["bytes"])
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)
    unrounded = plain.error(X)["error"] / X.norm2
    assert errors[-1] < unrounded + 1e-4
    assert errors[1] < unrounded + 0.02 and sizes[1] < 0.3 * plain.size()["bytes_equal"]


def test_an_artifact_answers_alike_in_another_process(tmp_path: Path) -> None:
    X = smooth()
    model = QuantisedSVD(rank=2).fit(X)
    model.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < model.size()["bytes"] + 700
    again = pipeline.load(tmp_path / "m.safetensors")
    assert again.error(X)["error"] == pytest.approx(model.error(X)["error"], rel=1e-12)
    code = (
        "import sys, numpy as np, pipeline; "
        "print(pipeline.load(sys.argv[1]).predict(np.array([[3, 4], [29, 39]])).tobytes().hex())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.safetensors")], check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == model.predict([[3, 4], [29, 39]]).tobytes().hex()


def test_codes_of_factors_give_them_back_and_damage_is_told() -> None:
    random = np.random.default_rng(1)
    factors = [np.rint(random.laplace(scale=3, size=(size, 4))).astype(np.int64) for size in (5, 300)]
    factors[1][50:] = 0
    code = quantised_factors.encode(factors)
    again = quantised_factors.decode(code, (5, 300), 4)
    assert all(np.array_equal(one, other) for one, other in zip(again, factors, strict=True))
    assert len(code) < 800  # 1,220 entries, 1,000 of them zero rows
    with pytest.raises(InputError, match="damaged code of 0 bytes"):
        quantised_factors.decode(b"", (5, 300), 4)


def test_zero_bits_or_a_rank_too_high_are_refused() -> None:
    with pytest.raises(InputError, match="bits=1"):
        QuantisedSVD(bits=1).fit(smooth())
    with pytest.raises(InputError, match="rank=31"):
        QuantisedSVD(rank=31).fit(smooth())
    with pytest.raises(InputError, match="give one of them"):
        QuantisedSVD(bits=3, max_bytes=100).fit(smooth())


def test_a_size_is_met_closely_and_small_terms_fall_away() -> None:
    X = smooth()
    errors = []
    for limit in (60, 150, 400):
        model = QuantisedSVD(rank=12, max_bytes=limit).fit(X)
        assert 0.5 * limit < model.size()["bytes"] <= limit
        assert model.rank_ <= 12 and all(np.any(factor != 0, axis=0).all() for factor in model.factors_)
        errors.append(model.error(X)["error"])
    assert errors == sorted(errors, reverse=True)
    assert QuantisedSVD(rank=12, max_bytes=60).fit(X).rank_ < 12


def test_a_fit_whose_time_is_over_still_meets_its_size() -> None:
    X = smooth()
    for limit in (60, 400):
        hurried = QuantisedSVD(rank=12, max_bytes=limit, max_seconds=1e-9).fit(X)
        assert hurried.size()["bytes"] <= limit
        assert hurried.error(X)["error"] >= QuantisedSVD(rank=12, max_bytes=limit).fit(X).error(X)["error"]
