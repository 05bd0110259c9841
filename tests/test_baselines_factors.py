"""T-SVD and CP against dense float64 oracles."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines import mode_views
from pipeline.baselines.cp import CP
from pipeline.baselines.mode_views import ModeView
from pipeline.baselines.t_svd import TSVD
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def sparse(seed: int, shape: tuple[int, ...], density: float = 0.3) -> SparseTensor:
    random = np.random.default_rng(seed)
    dense = random.normal(size=shape) * (random.uniform(size=shape) < density)
    dense[(0,) * len(shape)] = 1.0
    return SparseTensor.from_dense(dense)


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-40, 1.0, 1e40]))
@settings(deadline=None, max_examples=60)
def test_t_svd_is_the_best_approximation(seed: int, rows: int, columns: int, rank: int, scale: float) -> None:
    X = sparse(seed, (rows, columns))
    X = SparseTensor(X.coords, X.values * scale, X.shape)
    rank = min(rank, *X.shape)
    sigma = np.linalg.svd(X.to_dense(), compute_uv=False)
    model = TSVD(rank=rank).fit(X)
    assert model.weights_ == pytest.approx(sigma[:rank], rel=1e-7, abs=1e-7 * sigma[0])
    best = float(np.sum(sigma[rank:] ** 2))
    assert model.history_[0]["error"] == pytest.approx(best, abs=1e-12 * X.norm2)
    assert model.error(X)["error"] == pytest.approx(best, abs=1e-7 * X.norm2)  # factors of 4-byte reals


def test_t_svd_error_falls_with_rank() -> None:
    X = sparse(3, (20, 30))
    errors = [TSVD(rank=rank).fit(X).error(X)["error"] for rank in range(1, 21)]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] == pytest.approx(0.0, abs=1e-9)


def test_t_svd_finds_a_planted_rank() -> None:
    random = np.random.default_rng(0)
    X = SparseTensor.from_dense(random.normal(size=(15, 2)) @ random.normal(size=(2, 11)))
    assert TSVD(rank=2).fit(X).error(X)["error"] < 1e-9 * X.norm2


def test_t_svd_published_size_of_email(email: SparseTensor) -> None:
    X = email
    model = TSVD(rank=10).fit(X)
    assert model.size() == {"bytes": 2_154_000, "bytes_equal": 1_077_000, "bytes_with_order": 1_077_000}
    assert model.error(X)["error"] == pytest.approx(77_600, rel=1e-3)  # the published figure


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "many", 4])
def test_t_svd_refuses_a_rank_that_does_not_fit(rank: object) -> None:
    with pytest.raises(InputError, match="rank="):
        TSVD(rank=rank).fit(sparse(0, (3, 5)))  # type: ignore[arg-type]


@given(st.integers(0, 99), st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(1, 4), st.booleans())
@settings(deadline=None, max_examples=60)
def test_mttkrp_against_its_definition(seed: int, sizes: list[int], rank: int, compiled: bool) -> None:
    shape = tuple(sizes)
    X = sparse(seed, shape)
    random = np.random.default_rng(seed)
    factors = [random.normal(size=(size, rank)) for size in shape]
    letters = "abcde"[: len(shape)]
    for mode in range(len(shape)):
        view = ModeView(X, mode)
        with mock.patch.object(mode_views, "HAS_NUMBA", compiled and mode_views.HAS_NUMBA):
            product = view.mttkrp(factors)
        others = [other for other in range(len(shape)) if other != mode]
        formula = ",".join([letters] + [f"{letters[other]}r" for other in others]) + f"->{letters[mode]}r"
        expected = np.einsum(formula, X.to_dense(), *(factors[other] for other in others))
        assert product == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_cp_by_hand() -> None:
    # 3 x 4 x 2 and rank one: (1, 0, 2) o (0, 3, 0, 1) o (1, -1); norm2 = 5 * 10 * 2.
    dense = np.einsum("i,j,k->ijk", [1.0, 0.0, 2.0], [0.0, 3.0, 0.0, 1.0], [1.0, -1.0])
    X = SparseTensor.from_dense(dense)
    assert (X.nnz, X.norm2) == (8, 100.0)
    model = CP(rank=1).fit(X)
    assert model.predict([[0, 1, 0], [2, 1, 1], [1, 1, 1]]) == pytest.approx([3.0, -6.0, 0.0], abs=1e-5)
    assert model.error(X)["error"] == pytest.approx(0.0, abs=1e-9)
    assert model.size() == {"bytes": 72, "bytes_equal": 36, "bytes_with_order": 36}


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8), (4, 5, 6, 3)])
def test_cp_takes_the_same_way_as_pyttb(shape: tuple[int, ...]) -> None:
    ttb = pytest.importorskip("pyttb")
    X = sparse(5, shape)
    random = np.random.default_rng(1)
    first = [random.uniform(size=(size, 3)) for size in shape]  # as CP draws them
    tensor = ttb.sptensor(X.coords, X.values[:, None], shape)
    start = ttb.ktensor([factor.copy(order="F") for factor in first])
    theirs, _, _ = ttb.cp_als(tensor, 3, init=start, stoptol=0.0, maxiters=12, printitn=0)
    model = CP(rank=3, max_sweeps=12, tolerance=0.0, seed=1).fit(X)
    expected = np.sum((X.to_dense() - theirs.full().data) ** 2)
    assert model.history_[-1]["error"] == pytest.approx(expected, rel=1e-6)


def test_cp_error_never_rises_from_sweep_to_sweep() -> None:
    X = sparse(2, (9, 8, 7))
    errors = [row["error"] for row in CP(rank=4, tolerance=0.0).fit(X).history_]
    assert len(errors) == 50
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(errors))


def test_cp_finds_a_planted_model() -> None:
    random = np.random.default_rng(3)
    planted = [random.uniform(size=(size, 2)) * (random.uniform(size=(size, 2)) < 0.5) for size in (9, 8, 7)]
    X = SparseTensor.from_dense(np.einsum("ir,jr,kr->ijk", *planted))
    assert CP(rank=2, max_sweeps=500, tolerance=1e-12).fit(X).error(X)["error"] < 1e-6 * X.norm2


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"max_sweeps": 0}, {"tolerance": -1.0}])
def test_cp_refuses_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        CP(**wrong).fit(sparse(0, (3, 4, 5)))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5, 7), (300, 4), (3, 200_000, 6), (9, 4, 7, 5), (2, 3, 70_000, 5)])
def test_a_view_holds_the_non_zeros_by_its_mode_then_fibre_then_leaf(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    coords = np.stack([random.integers(0, size, 500) for size in shape], axis=1)
    X = SparseTensor(coords, np.ones(500), shape)
    for mode in range(X.order):
        view = ModeView(X, mode)
        modes = [mode, *view.middle, view.leaf_mode]
        wanted = X.coords[np.lexsort(X.coords[:, modes].T[::-1])][:, modes]
        of_fibre = np.repeat(np.arange(len(view.upper)), np.diff(view.fibre_start))
        of_slice = np.repeat(view.slice_index, np.diff(view.slice_start))
        assert np.array_equal(wanted, np.column_stack((of_slice[of_fibre], view.upper[of_fibre], view.leaf)))
        fibres = np.column_stack((of_slice, view.upper))
        assert len(np.unique(fibres, axis=0)) == len(fibres)


def test_a_stable_order_of_numbers_of_any_size() -> None:
    random = np.random.default_rng(1)
    for bound in (2, 2**16, 2**16 + 1, 2**40):
        numbers = random.integers(0, bound, 1000)
        numbers[::3] = bound - 1
        assert np.array_equal(mode_views.stable_order(numbers), np.argsort(numbers, kind="stable"))
