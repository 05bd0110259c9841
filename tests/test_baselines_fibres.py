"""The code of a tensor's fibres: sets of children, halved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.baselines.coding import exact, fibres, loops
from pipeline.baselines.lossless import Lossless
from pipeline.runs.entropy_coder import Decoder, Encoder
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole

VALUES = {
    "ones": [1.0],
    "constant": [0.3],
    "whole": [-3.0, 1.0, 2.0, 11.0, 12.0, 13.0, 14.0, 300.0, -(2.0**53)],
    "real": [0.1, -1e300, 5e-324, 2.0],
}


def random_tensor(seed: int, order: int, kind: str) -> SparseTensor:
    random = np.random.default_rng(seed)
    shape = random.integers(1, 12, order)
    coords = np.unique(random.integers(0, shape, (int(random.integers(1, 90)), order)), axis=0)
    return SparseTensor(coords, random.choice(VALUES[kind], len(coords)), shape.tolist())


def back(code: bytes, orders: dict[int, np.ndarray], shape: tuple[int, ...]) -> SparseTensor:
    places, values, found = fibres.unpack(code)
    assert found == shape
    full = [orders.get(mode, np.arange(size)) for mode, size in enumerate(shape)]
    assert all(np.array_equal(np.sort(order), np.arange(size)) for order, size in zip(full, shape, strict=True))
    return SparseTensor(np.stack([order[places[:, mode]] for mode, order in enumerate(full)], axis=1), values, shape)


@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from(list(VALUES)), st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_tensor_survives_its_code(seed: int, order: int, kind: str, free: bool) -> None:
    X = random_tensor(seed, order, kind)
    code, orders = fibres.pack(X.coords, X.values, X.shape, free)
    assert set(orders) == (set(range(order)) if free else set())
    assert back(code, orders, X.shape) == X


def test_the_tree_by_hand() -> None:
    rows = np.array([[0, 0, 1], [0, 2, 0], [0, 2, 4], [3, 1, 1]])
    tree = fibres.tree_of(rows, (4, 3, 5))
    assert [part.tolist() for part in tree.sizes] == [[2, 0, 0, 1], [1, 2, 1]]
    assert [part.tolist() for part in tree.children] == [[0, 2, 1], [1, 0, 4, 1]]
    assert [part.tolist() for part in tree.weights] == [[1, 1, 1], [1, 2, 0, 0, 1]]
    assert np.array_equal(fibres.rows_of(tree), rows)


@pytest.mark.parametrize(("number", "left", "right"), [(1, 3, 4), (5, 3, 4), (6, 3, 4), (4, 9, 1)])
def test_distinct_children_follow_fishers_distribution(number: int, left: int, right: int) -> None:
    chance = np.concatenate((np.full(left, 0.3), np.full(right, 0.6)))
    mass = np.concatenate(([0.0], np.cumsum(chance)))
    least, most = max(0, number - right), min(number, left)
    table = np.zeros((1, most - least + 1))
    one = [np.array([value]) for value in (0, left + right, number, left, least, most)]
    loops.half_chances(*one, mass, True, table)
    odds = (0.3 / 0.7) / (0.6 / 0.4)
    expected = stats.nchypergeom_fisher.pmf(np.arange(least, most + 1), left + right, left, number, odds)
    assert table[0] == pytest.approx(expected, abs=1e-6)


def test_repeated_children_follow_the_binomial() -> None:
    mass = np.array([0.0, 1.0, 2.0, 4.0])
    table = np.zeros((1, 41))
    one = [np.array([value]) for value in (0, 3, 40, 2, 0, 40)]
    loops.half_chances(*one, mass, False, table)
    assert table[0] == pytest.approx(stats.binom.pmf(np.arange(41), 40, 0.5), abs=1e-6)


def test_the_smallest_of_some_draws() -> None:
    tail = np.array([4.0, 3.0, 2.0, 0.0])  # weights 1, 1, 2
    mass = np.zeros(4)
    loops.smallest_mass(tail, 2, mass)
    assert mass == pytest.approx([0.0, 7 / 16, 12 / 16, 1.0])


def test_a_set_costs_its_choice_without_a_sequence() -> None:
    random = np.random.default_rng(0)
    flat = np.concatenate([np.sort(random.choice(256, 16, replace=False)) for _ in range(200)])
    coder = Encoder()
    fibres.code_sets(np.full(200, 16), np.zeros(200, dtype=np.int64), flat, np.full(256, 13), coder)
    ideal = 200 * math.log2(math.comb(256, 16))
    assert 8 * len(coder.words().tobytes()) == pytest.approx(ideal, rel=0.01)


def test_the_free_order_of_slices_is_taken_out() -> None:
    # 4,000 slices with one child each among 1,000 rows of 2,000: log2(4000!) bits of order.
    random = np.random.default_rng(1)
    rows = random.integers(0, 1000, 4000)
    X = SparseTensor(np.stack((rows, np.arange(4000)), axis=1), np.ones(4000), (1000, 4000))
    free, kept = (len(fibres.pack(X.coords, X.values, X.shape, free)[0]) for free in (True, False))
    assert kept == pytest.approx(4000 * math.log2(1000) / 8, rel=0.15)
    assert free < kept - 0.8 * math.lgamma(4001) / math.log(2) / 8


@given(st.lists(st.integers(0, 2**54), min_size=1, max_size=40), st.integers(0, 3))
@settings(deadline=None)
def test_numbers_survive_their_code(numbers: list[int], seed: int) -> None:
    given = np.array(numbers, dtype=np.int64)
    contexts = np.random.default_rng(seed).integers(0, 3, len(given))
    histogram = fibres.histogram_of(given, contexts)
    coder = Encoder()
    fibres.code_numbers(given.copy(), contexts, histogram, coder)
    found = np.zeros_like(given)
    fibres.code_numbers(found, contexts, histogram, Decoder(coder.words().tobytes()))
    assert np.array_equal(found, given)


def test_lossless_takes_it_where_it_is_shortest() -> None:
    random = np.random.default_rng(3)
    weights = 1.0 / np.arange(1, 61)
    coords = np.stack([random.choice(60, 3000, p=weights / weights.sum()) for _ in range(3)], axis=1)
    coords, counts = np.unique(coords, axis=0, return_counts=True)
    X = SparseTensor(coords, counts, (60, 60, 60))
    model = Lossless().fit(X)
    assert model.size()["bytes"] == len(fibres.pack(X.coords, X.values, X.shape, free=True)[0])
    assert model.size()["bytes"] < 0.9 * len(exact.gap_code(X.coords, X.values, X.shape)[0])
    stored = fibres.pack(X.coords, X.values, X.shape, free=False)[0]
    assert stored[:1] == fibres.KEPT
    assert len(model.labelled_.code) <= len(stored) and not model.labelled_.orders


@given(st.integers(0, 200), st.binary(min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_a_damaged_code_is_refused_or_gives_cells_of_the_shape(at: int, noise: bytes) -> None:
    X = random_tensor(5, 3, "whole")
    code = fibres.pack(X.coords, X.values, X.shape, True)[0]
    at = 1 + at % (len(code) - 1)
    for damaged in (code[:at] + noise + code[at + len(noise) :], code[:at]):
        refused_or_whole(fibres.unpack, damaged)
