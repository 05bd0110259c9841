"""Orders stay permutations, and every accepted swap changes the loss by exactly its Delta."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.neukron.cells import CELLS
from pipeline.neukron.dispatch import products_at
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.order_search import initial_orders, propose, reorder_mode
from pipeline.neukron.torch_engine import TorchEngine
from pipeline.sparse.orders import accept

SHAPES = st.lists(st.integers(2, 40), min_size=2, max_size=4).map(lambda sizes: tuple(sorted(sizes)))


def random_cells(shape: tuple[int, ...], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    coords = np.unique(np.stack([rng.integers(0, size, count) for size in shape], axis=1), axis=0)
    return coords, rng.integers(1, 9, len(coords)).astype(float)


class Problem:
    def __init__(self, shape: tuple[int, ...], seed: int, cell: str = "lstm") -> None:
        self.levels = Levels(shape)
        self.coords, self.values = random_cells(shape, 60, seed)
        self.weights = Weights.of(SequenceModel(self.levels, 4, seed, cell=cell))
        self.engine = TorchEngine(self.levels, 4)
        self.rng = np.random.default_rng(seed)
        self.orders = initial_orders("random", self.levels, self.coords, self.values, self.rng)

    def evaluate(self, orders: list[np.ndarray]) -> np.ndarray:
        return products_at(self.engine, self.weights, self.coords, orders)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), by_shingle=st.booleans())
def test_proposals_are_disjoint_swaps(shape: tuple[int, ...], seed: int, by_shingle: bool) -> None:
    problem = Problem(shape, seed)
    for mode, order in enumerate(problem.orders):
        proposal = propose(problem.levels, mode, problem.coords, problem.orders, problem.rng, by_shingle)
        assert sorted(proposal.position) == list(range(len(order)))
        moved = np.flatnonzero(proposal.swap >= 0)
        assert np.array_equal(np.bincount(proposal.swap[moved], minlength=proposal.count), np.full(proposal.count, 2))
        for number in range(proposal.count):
            a, b = np.flatnonzero(proposal.swap == number)
            assert (proposal.position[a], proposal.position[b]) == (order[b], order[a])


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), cell=st.sampled_from(sorted(CELLS)))
def test_delta_of_each_swap_is_the_difference_of_losses(shape: tuple[int, ...], seed: int, cell: str) -> None:
    problem = Problem(shape, seed, cell)
    mode = seed % len(shape)
    before = problem.evaluate(problem.orders)
    proposal = propose(problem.levels, mode, problem.coords, problem.orders, problem.rng)
    gain = 2.0 * problem.values
    whole = list(problem.orders)
    whole[mode] = proposal.position
    change = gain * (before - problem.evaluate(whole))
    part = proposal.swap[problem.coords[:, mode]]
    delta = np.bincount(part[part >= 0], weights=change[part >= 0], minlength=proposal.count)
    for number in range(proposal.count):
        single = list(problem.orders)
        single[mode] = np.where(proposal.swap == number, proposal.position, problem.orders[mode])
        recomputed = float(np.dot(gain, before - problem.evaluate(single)))
        assert delta[number] == pytest.approx(recomputed, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), gamma=st.sampled_from([1.0, 10.0, math.inf]))
def test_reordering_keeps_permutations_and_products(shape: tuple[int, ...], seed: int, gamma: float) -> None:
    problem = Problem(shape, seed)
    gain = 2.0 * problem.values
    products = problem.evaluate(problem.orders)
    for mode in range(len(shape)):
        before = float(np.dot(gain, products))
        products = reorder_mode(
            mode, problem.levels, problem.coords, gain, problem.orders, products, problem.evaluate, gamma, problem.rng
        )
        assert sorted(problem.orders[mode]) == list(range(2 ** problem.levels.bits[mode]))
        np.testing.assert_allclose(products, problem.evaluate(problem.orders), rtol=1e-5)
        if math.isinf(gamma):
            assert float(np.dot(gain, products)) >= before - 1e-9


def test_acceptance_follows_the_published_rule() -> None:
    levels = Levels((4, 4))
    coords = np.array([[row, row] for row in range(4)])
    orders = [np.arange(4), np.arange(4)]
    proposal = propose(levels, 0, coords, orders, np.random.default_rng(0))
    always, taken = accept(proposal, orders[0], coords[:, 0], np.full(4, -5.0), 10.0, np.random.default_rng(1))
    assert np.array_equal(always, proposal.position) and taken.all()
    never, taken = accept(proposal, orders[0], coords[:, 0], np.full(4, 50.0), 10.0, np.random.default_rng(1))
    assert np.array_equal(never, orders[0]) and not taken.any()
    rate = np.mean(
        [
            accept(proposal, orders[0], coords[:, 0], np.full(4, 0.25), 1.0, np.random.default_rng(seed))[1].mean()
            for seed in range(400)
        ]
    )
    assert rate == pytest.approx(math.exp(-0.5), abs=0.05)


def test_equal_slices_have_equal_shingles_and_are_paired() -> None:
    # rows 0 and 5 hold the same columns, all other rows different ones
    columns = {0: [1, 6], 5: [1, 6], 1: [0], 2: [2], 3: [3], 4: [4], 6: [5], 7: [7]}
    coords = np.array([[row, column] for row, kept in columns.items() for column in kept])
    levels = Levels((8, 8))
    orders = [np.arange(8), np.arange(8)]
    together = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        proposal = propose(levels, 0, coords, orders, rng)
        position = proposal.position
        together += any(
            {0, 5} <= set(np.flatnonzero(np.isin(position, [p, p ^ bit]))) or (position[0] ^ 5) in (1, 2, 4)
            for p in range(8)
            for bit in (1, 2, 4)
        )
    assert together > 60


def test_degree_order_by_hand() -> None:
    levels = Levels((3, 4))
    coords = np.array([[0, 1], [1, 0], [1, 1], [1, 3], [2, 1], [2, 3]])
    orders = initial_orders("degree", levels, coords, np.ones(6), np.random.default_rng(0))
    assert orders[0].tolist() == [2, 0, 1, 3]  # degrees 1, 3, 2, padding last
    assert orders[1].tolist() == [2, 0, 3, 1]  # degrees 1, 3, 0, 2


def test_lexicographic_order_by_hand() -> None:
    levels = Levels((2, 4))
    # rows by degree: row 1 (3 entries) first, row 0 second; columns sorted by their rows' positions
    coords = np.array([[0, 0], [0, 3], [1, 1], [1, 2], [1, 3]])
    orders = initial_orders("lexicographic", levels, coords, np.ones(5), np.random.default_rng(0))
    assert orders[0].tolist() == [1, 0]
    assert orders[1].tolist() == [3, 0, 1, 2]  # column 1 and 2: [0]; column 3: [0, 1]; column 0: [1]


def test_four_modes_of_2_to_the_16_do_not_overflow() -> None:
    levels = Levels((2**16,) * 4)
    coords, values = random_cells(levels.shape, 3000, 0)
    orders = initial_orders("random", levels, coords, values, np.random.default_rng(0))
    for mode in range(4):
        proposal = propose(levels, mode, coords, orders, np.random.default_rng(mode))
        assert np.array_equal(np.sort(proposal.position), np.arange(2**16))
    keys = levels.keys(coords, orders)
    assert keys.shape[0] == 2 and len(np.unique(keys, axis=1).T) == len(coords)


def test_bisection_brings_equal_slices_together() -> None:
    # two kinds of rows that share no column, shuffled: a bisection separates them
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1], 16))
    coords = np.array(
        [[row, 16 * kind[row] + column] for row in range(32) for column in range(16) if rng.random() < 0.7]
    )
    levels = Levels((32, 32))
    orders = initial_orders("bisection", levels, coords, np.ones(len(coords)), rng)
    half = orders[0] // 16
    assert len(set(half[kind == 0])) == len(set(half[kind == 1])) == 1
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(32))


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 99), kind=st.sampled_from(["degree", "lexicographic", "bisection", "random"]))
def test_initial_orders_are_permutations(shape: tuple[int, ...], seed: int, kind: str) -> None:
    levels = Levels(shape)
    coords, values = random_cells(shape, 50, seed)
    orders = initial_orders(kind, levels, coords, values, np.random.default_rng(seed))
    for order, bits in zip(orders, levels.bits, strict=True):
        assert sorted(order) == list(range(2**bits))
