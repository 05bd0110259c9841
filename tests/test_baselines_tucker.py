"""Tucker against dense float64 oracles."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines import mode_views
from pipeline.baselines.mode_views import ModeView
from pipeline.baselines.tucker import Tucker, ranks_within
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def sparse(seed: int, shape: tuple[int, ...], density: float = 0.3) -> SparseTensor:
    random = np.random.default_rng(seed)
    dense = random.normal(size=shape) * (random.uniform(size=shape) < density)
    dense[(0,) * len(shape)] = 1.0
    return SparseTensor.from_dense(dense)


@given(st.integers(0, 99), st.lists(st.integers(1, 5), min_size=2, max_size=5), st.booleans())
@settings(deadline=None, max_examples=60)
def test_ttmc_against_its_definition(seed: int, sizes: list[int], compiled: bool) -> None:
    shape = tuple(sizes)
    X = sparse(seed, shape)
    random = np.random.default_rng(seed)
    factors = [random.normal(size=(size, random.integers(1, 4))) for size in shape]
    letters, ranks = "abcde"[: len(shape)], "vwxyz"[: len(shape)]
    for mode in range(len(shape)):
        view = ModeView(X, mode)
        with mock.patch.object(mode_views, "HAS_NUMBA", compiled and mode_views.HAS_NUMBA):
            product = view.ttmc(factors)
        others = [other for other in range(len(shape)) if other != mode]
        result = "".join(letters[d] if d == mode else ranks[d] for d in range(len(shape)))
        formula = ",".join([letters] + [letters[other] + ranks[other] for other in others]) + "->" + result
        expected = np.einsum(formula, X.to_dense(), *(factors[other] for other in others))
        assert view.to_tensor(product, factors) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8), (4, 5, 6, 3)])
def test_tucker_takes_the_same_way_as_pyttb(shape: tuple[int, ...]) -> None:
    ttb = pytest.importorskip("pyttb")
    X = sparse(5, shape)
    random = np.random.default_rng(1)
    noise = [random.standard_normal((size, 2)) for size in shape]  # as Tucker draws it
    first = []
    for mode in range(len(shape)):  # ranges of the matricised tensor times Khatri-Rao products
        other = "abcd"[: len(shape)].replace("abcd"[mode], "")
        formula = f"{'abcd'[: len(shape)]},{','.join(letter + 'r' for letter in other)}->{'abcd'[mode]}r"
        sketch = np.einsum(formula, X.to_dense(), *(noise["abcd".index(letter)] for letter in other))
        first.append(np.linalg.qr(sketch)[0])
    tensor = ttb.sptensor(X.coords, X.values[:, None], shape)
    start = [factor.copy(order="F") for factor in first]
    theirs, _, _ = ttb.tucker_als(tensor, 2, init=start, stoptol=0.0, maxiters=8, printitn=0)
    model = Tucker(rank=2, max_sweeps=8, tolerance=0.0, seed=1).fit(X)
    expected = np.sum((X.to_dense() - theirs.full().data) ** 2)
    assert model.history_[-1]["error"] == pytest.approx(expected, rel=1e-6)


def test_a_matrix_gets_its_best_approximation() -> None:
    X = sparse(1, (9, 14))
    sigma = np.linalg.svd(X.to_dense(), compute_uv=False)
    model = Tucker(rank=3, max_sweeps=500, tolerance=1e-12).fit(X)
    assert model.error(X)["error"] == pytest.approx(np.sum(sigma[3:] ** 2), rel=1e-6)


def test_factors_are_orthonormal_and_the_error_never_rises() -> None:
    X = sparse(2, (9, 8, 7))
    model = Tucker(rank=3, tolerance=0.0, max_sweeps=20).fit(X)
    for factor in model.factors_:
        assert factor.T @ factor == pytest.approx(np.eye(3), abs=1e-6)
    errors = [row["error"] for row in model.history_]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(errors))


def test_tucker_finds_a_planted_model() -> None:
    random = np.random.default_rng(3)
    factors = [random.normal(size=(size, 2)) * (random.uniform(size=(size, 1)) < 0.6) for size in (12, 11, 10)]
    X = SparseTensor.from_dense(np.einsum("abc,ia,jb,kc->ijk", random.normal(size=(2, 2, 2)), *factors))
    assert Tucker(rank=2).fit(X).error(X)["error"] < 1e-9 * X.norm2


def test_a_core_as_large_as_the_tensor_is_exact() -> None:
    X = sparse(0, (3, 4, 2))
    model = Tucker(rank=4).fit(X)
    assert model.core_.shape == (3, 4, 2)
    assert model.error(X)["error"] == pytest.approx(0.0, abs=1e-9)


def test_sizes_by_hand() -> None:
    assert ranks_within((3, 4, 2), 2) == [2, 2, 2]
    assert ranks_within((9, 2, 2), 5) == [4, 2, 2]  # a 9 x 4 matricisation has rank 4 at most
    X = sparse(0, (3, 4, 2))
    assert Tucker(rank=2).fit(X).size() == {"bytes": 208, "bytes_equal": 104, "bytes_with_order": 104}  # 9 * 2 + 8


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"max_sweeps": 0}, {"tolerance": -1.0}])
def test_tucker_refuses_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Tucker(**wrong).fit(sparse(0, (3, 4, 5)))  # type: ignore[arg-type]
