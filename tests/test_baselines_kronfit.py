"""KronFit against explicit Kronecker powers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines import kronfit
from pipeline.baselines.kronfit import Grid, KronFit
from pipeline.errors import InputError
from pipeline.runs.compressor import order_bytes
from pipeline.sparse import SparseTensor


def cells(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1)


def sparse(seed: int, shape: tuple[int, int]) -> SparseTensor:
    random = np.random.default_rng(seed)
    dense = random.integers(1, 5, shape) * (random.uniform(size=shape) < 0.3)
    dense[0, 0] = 1
    return SparseTensor.from_dense(dense)


def power(model: KronFit) -> np.ndarray:
    return functools.reduce(np.kron, [model.seed_] * model.grid_.power)


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 30), st.integers(2, 4))
@settings(deadline=None, max_examples=30)
def test_predictions_and_both_errors_are_those_of_the_explicit_power(
    seed: int, rows: int, columns: int, exponent: int
) -> None:
    X = sparse(seed, (rows, columns))
    model = KronFit(seed_power=exponent, max_sweeps=3, seed=seed).fit(X)
    whole = power(model)
    assert whole.shape == model.grid_.shape
    real = whole[np.ix_(*model.positions_)]
    assert model.predict(cells(X.shape)).reshape(X.shape) == pytest.approx(real, rel=1e-9, abs=1e-12)
    errors = model.error(X)
    assert errors["error"] == pytest.approx(np.sum((X.to_dense() - real) ** 2), rel=1e-9)
    padded = np.zeros(whole.shape)
    padded[np.ix_(*model.positions_)] = X.to_dense()
    assert errors["error_padded"] == pytest.approx(np.sum((padded - whole) ** 2), rel=1e-9)
    assert all(len(np.unique(position)) == len(position) for position in model.positions_)


def test_a_planted_kronecker_power_is_found() -> None:
    seed = np.array([[0.9, 0.5, 0.1], [0.4, 0.2, 0.0]])
    X = SparseTensor.from_dense(np.round(1000 * functools.reduce(np.kron, [seed] * 3)))
    model = KronFit(seed_power=3, gamma=np.inf, max_sweeps=200, tolerance=0.0).fit(X)
    assert model.error(X)["error"] < 0.02 * X.norm2


def test_the_gradient_is_that_of_the_inner_product() -> None:
    X = sparse(1, (8, 27))
    search = kronfit.Search(X, Grid((2, 3), 3), 10.0, np.random.default_rng(0))
    search.direction = np.random.default_rng(1).uniform(0.1, 1.0, (2, 3))
    cell = search.cells(search.orders)
    search.products = search.evaluate(search.orders, search.direction)
    gradient = search.gradient_of(cell)
    for place in np.ndindex(2, 3):
        step = np.zeros((2, 3))
        step[place] = 1e-6
        moved = [X.values @ search.evaluate(search.orders, search.direction + sign * step) for sign in (1, -1)]
        assert gradient[place] == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-6)


def test_hill_climbing_never_raises_the_loss() -> None:
    X = sparse(2, (15, 60))
    history = KronFit(seed_power=2, gamma=np.inf, max_sweeps=15, tolerance=0.0).fit(X).history_
    errors = np.array([row["error"] for row in history])
    assert np.all(np.diff(errors) <= 1e-9 * X.norm2)
    assert errors[-1] < errors[0]


@given(st.integers(0, 99), st.integers(2, 5), st.integers(1, 4))
@settings(deadline=None)
def test_pairs_are_disjoint_and_differ_in_one_digit(seed: int, side: int, exponent: int) -> None:
    random = np.random.default_rng(seed)
    position = random.permutation(side**exponent)
    chosen, mate = kronfit.digit_pairs(position, side, exponent, random)
    both = np.concatenate((chosen, mate))
    assert len(np.unique(both)) == len(both) == side ** (exponent - 1) * (side // 2) * 2
    grid = Grid((1, side), exponent)
    apart = kronfit.digits(grid, 1, position[chosen]) != kronfit.digits(grid, 1, position[mate])
    assert np.all(apart.sum(axis=1) == 1)


@pytest.mark.parametrize(("exponent", "published"), [(10, 48), (5, 256), (4, 624), (3, 2640), (2, 41216)])
def test_published_sizes_of_email(exponent: int, published: int) -> None:
    assert 8 * kronfit.root(1005, exponent) * kronfit.root(25919, exponent) == published


@pytest.mark.parametrize(
    ("shape", "exponent", "published"),
    [((1083, 38333), 7, 120), ((2293, 61858), 8, 96), ((2293, 61858), 3, 4480), ((1083, 38333), 2, 51744)],
)
def test_published_sizes_of_other_data(shape: tuple[int, int], exponent: int, published: int) -> None:
    assert 8 * kronfit.root(shape[0], exponent) * kronfit.root(shape[1], exponent) == published


def test_size_charges_the_seed_and_the_orders() -> None:
    X = sparse(0, (4, 9))
    size = KronFit(seed_power=2, max_sweeps=1).fit(X).size()
    assert size == {"bytes": 48, "bytes_equal": 24, "bytes_with_order": 24 + order_bytes((4, 9))}


@pytest.mark.parametrize("wrong", [{"seed_power": 1}, {"seed_power": 0}, {"gamma": -1.0}, {"max_sweeps": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        KronFit(**wrong).fit(sparse(0, (4, 9)))  # type: ignore[arg-type]
