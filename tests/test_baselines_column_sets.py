"""The learning code for the columns of a matrix."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines.coding import column_sets, exact, gaps, loops
from pipeline.baselines.lossless import Lossless
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole


def random_matrix(seed: int, weighted: bool = False) -> SparseTensor:
    random = np.random.default_rng(seed)
    shape = random.integers(1, 14, 2)
    coords = np.unique(random.integers(0, shape, (int(random.integers(1, 90)), 2)), axis=0)
    values = random.choice([0.5, 2.0, -1.0], len(coords)) if weighted else np.ones(len(coords))
    return SparseTensor(coords, values, shape.tolist())


@given(st.integers(0, 99), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_matrix_survives_its_code(seed: int, weighted: bool, free: bool) -> None:
    X = random_matrix(seed, weighted)
    code, orders = column_sets.pack(X.coords, X.values, X.shape, free)
    places, values, shape = column_sets.unpack(code)
    assert set(orders) == ({0, 1} if free else {1 - gaps.top_mode(X.shape)})
    full = [orders.get(mode, np.arange(size)) for mode, size in enumerate(X.shape)]
    assert all(np.array_equal(np.sort(order), np.arange(size)) for order, size in zip(full, X.shape, strict=True))
    coords = np.stack([order[places[:, mode]] for mode, order in enumerate(full)], axis=1)
    assert SparseTensor(coords, values, shape) == X


def chances_of(model: column_sets.Meetings, prefix: list[int], low: int, remaining: int, count: int) -> np.ndarray:
    return model.next_row(np.array(prefix, dtype=np.int64), low, remaining, count)


def test_the_next_row_of_a_root_follows_the_degrees() -> None:
    model = column_sets.Meetings(np.array([1, 1, 2]))
    single = chances_of(model, [], 0, 1, 1)
    assert single == pytest.approx([0.25, 0.25, 0.5], abs=1e-3)
    # The smallest of two draws: 1 - (3/4)^2, (3/4)^2 - (1/2)^2, (1/2)^2.
    assert chances_of(model, [], 0, 1, 2) == pytest.approx([7 / 16, 5 / 16, 4 / 16], abs=1e-3)
    # Two rows to come: row 2 cannot be the first of them.
    assert chances_of(model, [], 0, 2, 1) == pytest.approx([7 / 12, 5 / 12], abs=1e-3)


def test_rows_that_met_expect_each_other() -> None:
    model = column_sets.Meetings(np.array([10, 10, 10, 10]))
    before = chances_of(model, [0], 1, 1, 1)
    model.learn(np.array([0]), 2, 5)
    after = chances_of(model, [0], 1, 1, 1)
    assert before == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert after[1] > 0.8
    assert model.left.tolist() == [10, 10, 5, 10]


@given(st.integers(1, 40), st.floats(0.0, 1.0), st.integers(1, 4))
@settings(deadline=None)
def test_the_number_of_columns_is_beta_binomial(count: int, above: float, remaining: int) -> None:
    chances = np.empty(count)
    loops.column_count_chances(1.0, above, remaining, 50.0, chances)
    chance = min(max(1 - above**remaining, 1e-9), 1 - 1e-9)
    a, b = 50 * chance, 50 * (1 - chance)

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    logs = [math.log(math.comb(count, k)) + log_beta(k + a, count - k + b) for k in range(1, count + 1)]
    expected = np.exp(np.array(logs) - max(logs))
    assert chances == pytest.approx(expected / expected.sum(), abs=1e-5)


def test_the_number_of_columns_among_very_many_stays_finite() -> None:
    chances = np.empty(100_000)
    loops.column_count_chances(1.0, 0.3, 1, 100.0, chances)
    assert np.all(np.isfinite(chances)) and chances.sum() == pytest.approx(1.0, abs=1e-3)


@given(st.floats(0.0, 1.0), st.integers(0, 3000))
@settings(deadline=None)
def test_powers(base: float, exponent: int) -> None:
    assert loops.power(base, exponent) == pytest.approx(base**exponent, rel=1e-9, abs=1e-300)


def test_two_steps_by_hand() -> None:
    pairs = np.array([[0.0, 2.0, 0.0], [2.0, 0.0, 6.0], [0.0, 6.0, 0.0]])
    result = np.empty(3)
    loops.two_steps(pairs, pairs.sum(axis=1), 0, result)
    assert result == pytest.approx([0.25, 0.0, 0.75])  # 0 -> 1, and from there to 0 or 2


def test_the_order_of_columns_costs_nothing() -> None:
    # All 120 triples of ten rows: as a set they need far less than the log2(120!) / 8 = 83 bytes of an order.
    triples = np.array(list(itertools.combinations(range(10), 3)))
    coords = np.stack([triples.ravel(), np.repeat(np.arange(len(triples)), 3)], axis=1)
    free, kept = (len(column_sets.pack(coords, np.ones(360), (10, 120), free)[0]) for free in (True, False))
    assert kept - free > 60


def test_communities_are_learned() -> None:
    random = np.random.default_rng(0)
    group = random.integers(0, 20, 400)
    rows = np.stack(
        [5 * group + random.permuted(np.tile(np.arange(5), (400, 1)), axis=1)[:, k] for k in range(3)], axis=1
    )
    coords = np.stack([rows.ravel(), np.repeat(np.arange(400), 3)], axis=1)
    X = SparseTensor(coords, np.ones(1200), (100, 400))
    scattered = SparseTensor(
        np.stack([random.permutation(100)[rows].ravel() * 0 + random.integers(0, 100, 1200), coords[:, 1]], axis=1),
        np.ones(1200), (100, 400),
    )  # fmt: skip
    sizes = [len(column_sets.pack(Y.coords, np.ones(Y.nnz), Y.shape, True)[0]) for Y in (X, scattered)]
    assert sizes[0] < 0.6 * sizes[1]


def test_matrices_beyond_the_model_take_the_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    X = random_matrix(3)
    assert column_sets.able(X.coords, X.shape)
    monkeypatch.setattr(column_sets, "MOST_ROWS", 0)
    assert not column_sets.able(X.coords, X.shape)
    assert exact.free_code(X.coords, X.values, X.shape)[0][:1] != column_sets.FREE
    assert Lossless().fit(X).error(X) == {"error": 0.0}
    assert not column_sets.able(np.zeros((1, 3), dtype=np.int64), (2, 2, 2))


@given(st.integers(0, 60), st.binary(min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_a_damaged_code_is_refused_or_still_a_matrix(place: int, noise: bytes) -> None:
    code, _ = column_sets.pack(*_parts(random_matrix(5)), True)
    place = min(place, len(code) - 1)
    damaged = code[:1] + (code[:place] + noise + code[place + len(noise) :])[1:]
    for content in (damaged, code[: max(1, place)]):
        refused_or_whole(column_sets.unpack, content)


def _parts(X: SparseTensor) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    return X.coords, X.values, X.shape


def test_part_of_email_needs_half_of_what_gaps_need(email: SparseTensor) -> None:
    part = email.coords[:, 1] < 4000
    coords, values, shape = email.coords[part], email.values[part], (email.shape[0], 4000)
    code, orders = column_sets.pack(coords, values, shape, True)
    assert len(code) < 0.65 * len(exact.gap_code(coords, values, shape)[0])
    places, found, _ = column_sets.unpack(code)
    again = np.stack([orders[mode][places[:, mode]] for mode in (0, 1)], axis=1)
    assert SparseTensor(again, found, shape) == SparseTensor(coords, values, shape)
