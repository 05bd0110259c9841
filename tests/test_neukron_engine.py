"""The prefix-tree engines against the reference, which evaluates every non-zero by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.neukron import engine as engines
from pipeline.neukron.engine import CompiledEngine, weighted_sum
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.torch_engine import TorchEngine
from tests.reference import neukron as reference

SHAPES = st.lists(st.integers(1, 70), min_size=2, max_size=4).map(lambda sizes: tuple(sorted(sizes)))


def random_keys(levels: Levels, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coords = np.stack([rng.integers(0, size, count) for size in levels.shape], axis=1)
    keys = levels.keys(coords)
    return np.ascontiguousarray(keys[:, levels.sort_order(keys)])


def both_engines(levels: Levels, hidden: int) -> list[engines.Engine]:
    return [CompiledEngine(levels, hidden, threads=2, chunk=37), TorchEngine(levels, hidden, chunk=53)]


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES, hidden=st.integers(1, 20), seed=st.integers(0, 99))
def test_products_equal_the_reference(shape: tuple[int, ...], hidden: int, seed: int) -> None:
    levels = Levels(shape)
    model = SequenceModel(levels, hidden, seed)
    keys = random_keys(levels, 100, seed)
    with torch.no_grad():
        expected = reference.values(model, torch.from_numpy(levels.tokens(keys))).numpy()
        for engine in both_engines(levels, hidden):
            np.testing.assert_allclose(engine.products(Weights.of(model), keys), expected, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, hidden=st.integers(1, 12), seed=st.integers(0, 99))
def test_gradients_equal_the_reference(shape: tuple[int, ...], hidden: int, seed: int) -> None:
    levels = Levels(shape)
    model = SequenceModel(levels, hidden, seed)
    keys = random_keys(levels, 100, seed)
    factors = np.random.default_rng(seed).normal(size=keys.shape[1])
    values = reference.values(model, torch.from_numpy(levels.tokens(keys)))
    torch.dot(torch.from_numpy(factors), values.double()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if name != "log_q"}
    for engine in both_engines(levels, hidden):
        model.zero_grad()
        total, products = weighted_sum(engine, model, keys, factors)
        total.backward()
        assert float(total.detach()) == pytest.approx(float(np.dot(factors, values.detach().numpy())), abs=1e-5)
        np.testing.assert_allclose(products, values.detach().numpy(), rtol=1e-5)
        for name, parameter in model.named_parameters():
            if name in expected and expected[name] is not None:
                scale = float(expected[name].abs().max()) + 1e-6
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4 * scale)


def test_gradcheck_in_float64() -> None:
    levels = Levels((3, 6))
    model = SequenceModel(levels, 3, 0).double()
    keys = random_keys(levels, 12, 0)
    factors = np.linspace(-1.0, 1.0, keys.shape[1])
    weights = Weights.of(model)
    engine = TorchEngine(levels, 3)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in weights.tensors()]

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        return engines.WeightedSum.apply(engine, weights, keys, factors, [], *tensors)

    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 9), min_size=2, max_size=4).map(sorted), seed=st.integers(0, 99))
def test_lemma_1_squares_over_the_padded_grid_sum_to_one(shape: list[int], seed: int) -> None:
    levels = Levels(tuple(shape))
    model = SequenceModel(levels, 5, seed)
    model.set_scale(3.0)
    with torch.no_grad():
        total = float((reference.values(model, reference.all_tokens(levels)).double() ** 2).sum())
    assert total == pytest.approx(9.0, rel=1e-5)


def test_results_do_not_depend_on_threads() -> None:
    levels = Levels((50, 300))
    model = SequenceModel(levels, 7, 0)
    keys = random_keys(levels, 3000, 1)
    factors = np.random.default_rng(0).normal(size=keys.shape[1])
    results = [
        CompiledEngine(levels, 7, threads, chunk=256).gradient(Weights.of(model), keys, factors)
        for threads in (1, 2, 3)
    ]
    for total, products, gradients in results[1:]:
        assert total == results[0][0]
        assert np.array_equal(products, results[0][1])
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][2], strict=True))


def test_repeated_keys_are_evaluated_once_and_answered_each() -> None:
    levels = Levels((4, 4))
    model = SequenceModel(levels, 4, 0)
    keys = levels.keys(np.array([[0, 0], [1, 2], [1, 2], [3, 3]]))
    for engine in both_engines(levels, 4):
        products = engine.products(Weights.of(model), keys)
        assert products[1] == products[2]
        total, _, _ = engine.gradient(Weights.of(model), keys, np.ones(4))
        assert total == pytest.approx(float(products.sum()))


def test_levels_of_a_matrix_by_hand() -> None:
    # 3 x 5: two bits and three; position (2, 3) = 10, 011 -> tokens (1,0), (0,1), (1)
    levels = Levels((3, 5))
    assert levels.alphabets == (4, 4, 2)
    assert levels.tokens(levels.keys(np.array([[2, 3]]))).tolist() == [[2, 1, 1]]
    assert [levels.embedding_offset(level) for level in (1, 2, 3)] == [0, 0, 4]


@settings(max_examples=50, deadline=None)
@given(bits=st.lists(st.integers(1, 17), min_size=2, max_size=6).map(sorted), seed=st.integers(0, 99))
def test_keys_are_distinct_and_ordered_like_their_tokens(bits: list[int], seed: int) -> None:
    levels = Levels(tuple(2**size for size in bits))
    rng = np.random.default_rng(seed)
    coords = np.unique(np.stack([rng.integers(0, 2**size, 200) for size in bits], axis=1), axis=0)
    keys = levels.keys(coords)
    assert len(np.unique(keys, axis=1).T) == len(coords)
    order = levels.sort_order(keys)
    tokens = levels.tokens(keys)[order]
    assert tokens.tolist() == sorted(tokens.tolist())


def test_published_sizes_of_email() -> None:
    sizes = [4 * SequenceModel(Levels((1005, 25919)), h, 0).parameter_count() for h in (5, 10, 15, 20, 25, 30)]
    assert sizes == [1244, 4044, 8444, 14444, 22044, 31244]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="ascending"):
        Levels((5, 3))


def test_scale_keeps_its_value_in_log_space() -> None:
    model = SequenceModel(Levels((8, 16)), 3, 0)
    for scale in (1e-6, 1.0, 1e9):
        model.set_scale(scale)
        assert math.isclose(model.scale(), scale, rel_tol=1e-12)
