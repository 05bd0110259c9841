"""The prefix-tree engines against the reference, which evaluates every non-zero by itself."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.neukron import evaluation
from pipeline.neukron.cells import CELLS
from pipeline.neukron.compiled_engine import CompiledEngine
from pipeline.neukron.evaluation import weighted_sum
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, TorchSteps, Weights
from pipeline.neukron.numpy_engine import NumpyEngine
from pipeline.neukron.torch_engine import TorchEngine
from pipeline.neukron.walk import Walker
from pipeline.neukron.weights import PlainWeights
from tests.reference import neukron as reference

SHAPES = st.lists(st.integers(1, 70), min_size=2, max_size=4).map(lambda sizes: tuple(sorted(sizes)))


def random_keys(levels: Levels, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coords = np.stack([rng.integers(0, size, count) for size in levels.shape], axis=1)
    keys = levels.keys(coords)
    return np.ascontiguousarray(keys[:, np.lexsort(keys[::-1])])


def all_engines(levels: Levels, hidden: int, cell: str = "lstm") -> list[evaluation.Engine]:
    compiled = [CompiledEngine(levels, hidden, threads=2, chunk=37)] if cell == "lstm" else []
    return [*compiled, TorchEngine(levels, hidden, chunk=53, threads=2)]


@settings(max_examples=120, deadline=None)
@given(shape=SHAPES, hidden=st.integers(1, 20), seed=st.integers(0, 99), cell=st.sampled_from(sorted(CELLS)))
def test_products_equal_the_reference(shape: tuple[int, ...], hidden: int, seed: int, cell: str) -> None:
    levels = Levels(shape)
    model = SequenceModel(levels, hidden, seed, cell=cell)
    keys = random_keys(levels, 100, seed)
    with torch.no_grad():
        expected = reference.values(model, torch.from_numpy(levels.tokens(keys))).numpy()
        for engine in all_engines(levels, hidden, cell):
            np.testing.assert_allclose(engine.products(Weights.of(model), keys), expected, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, hidden=st.integers(1, 20), seed=st.integers(0, 99))
def test_few_cells_without_kernels_equal_reference_and_kernels(shape: tuple[int, ...], hidden: int, seed: int) -> None:
    levels = Levels(shape)
    model = SequenceModel(levels, hidden, seed)
    keys = random_keys(levels, 50, seed)
    arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    plain = PlainWeights.of(arrays, levels.head_alphabets)
    found = NumpyEngine(levels, hidden).products(plain, keys)
    with torch.no_grad():
        expected = reference.values(model.double(), torch.from_numpy(levels.tokens(keys))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(found, CompiledEngine(levels, hidden).products(plain, keys), rtol=1e-5)


def reference_answers(model: SequenceModel, tokens: torch.Tensor, factors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Values of the reference, and the gradients of their sum weighted by `factors`, in the model's own precision."""
    model.zero_grad()
    values = reference.values(model, tokens)
    torch.dot(factors, values.double()).backward()
    gradients = {name: each.grad.double() for name, each in model.named_parameters() if each.grad is not None}
    return {"values": values.detach().double()} | gradients


def rounding(model: SequenceModel, tokens: torch.Tensor, factors: torch.Tensor) -> dict[str, float]:
    """Largest difference between the reference's answers in 32 and 64 bits, on weights that are a rounding apart.

    A transformer's norms magnify rounding, of one to three numbers by up to 300 each: code in 32 bits cannot be closer.
    """
    largest: dict[str, float] = {}
    for seed in range(3):
        near = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in near.parameters():
                parameter *= 1 + 2.0**-23 * (2 * torch.rand(parameter.shape, generator=generator) - 1)
        short = reference_answers(near, tokens, factors)
        exact = reference_answers(near.double(), tokens, factors)
        for name, answer in exact.items():
            largest[name] = max(largest.get(name, 0.0), float((short[name] - answer).abs().max()))
    return largest


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, hidden=st.integers(1, 12), seed=st.integers(0, 99), cell=st.sampled_from(sorted(CELLS)))
def test_gradients_equal_the_reference(shape: tuple[int, ...], hidden: int, seed: int, cell: str) -> None:
    levels = Levels(shape)
    model = SequenceModel(levels, hidden, seed, cell=cell)
    keys = random_keys(levels, 100, seed)
    tokens, factors = torch.from_numpy(levels.tokens(keys)), np.random.default_rng(seed).normal(size=keys.shape[1])
    of_32_bits = rounding(model, tokens, torch.from_numpy(factors))
    expected = reference_answers(copy.deepcopy(model).double(), tokens, torch.from_numpy(factors))
    shares = factors * expected["values"].numpy()
    for engine in all_engines(levels, hidden, cell):
        model.zero_grad()
        total, products = weighted_sum(engine, model, keys, factors)
        total.backward()
        found = {name: each.grad.double() for name, each in model.named_parameters() if each.grad is not None}
        assert float(total.detach()) == pytest.approx(float(shares.sum()), abs=1e-5 * float(np.abs(shares).sum()))
        np.testing.assert_allclose(products, expected["values"].numpy(), rtol=1e-5, atol=10 * of_32_bits["values"])
        for name in expected.keys() - {"values", "log_q"}:
            near = 1e-5 * float(expected[name].abs().max()) + 1e-6  # some are zero but for rounding
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=near + 10 * of_32_bits[name])


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck_in_float64(cell: str) -> None:
    levels = Levels((3, 6))
    model = SequenceModel(levels, 3, 0, cell=cell).double()
    keys = random_keys(levels, 12, 0)
    factors = np.linspace(-1.0, 1.0, keys.shape[1])
    weights = Weights.of(model)
    engine = TorchEngine(levels, 3)
    leaves = [tensor.detach().clone().requires_grad_() for tensor in weights.tensors()]

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        return evaluation.WeightedSum.apply(engine, weights, keys, factors, [], *tensors)

    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4).map(sorted),
    seed=st.integers(0, 99),
    cell=st.sampled_from(sorted(CELLS)),
)
def test_lemma_1_squares_over_the_padded_grid_sum_to_one(shape: list[int], seed: int, cell: str) -> None:
    levels = Levels(tuple(shape))
    model = SequenceModel(levels, 5, seed, cell=cell)
    model.set_scale(3.0)
    with torch.no_grad():
        total = float((reference.values(model, reference.all_tokens(levels)).double() ** 2).sum())
    assert total == pytest.approx(9.0, rel=1e-5)


@pytest.mark.parametrize("cell", ["compiled", *CELLS])
def test_results_do_not_depend_on_threads(cell: str) -> None:
    levels = Levels((50, 300))
    model = SequenceModel(levels, 7, 0, cell="lstm" if cell == "compiled" else cell)
    keys = random_keys(levels, 3000, 1)
    factors = np.random.default_rng(0).normal(size=keys.shape[1])
    results = []
    for threads in (1, 2, 3):
        engine: evaluation.Engine = (
            CompiledEngine(levels, 7, threads, chunk=256)
            if cell == "compiled"
            else TorchEngine(levels, 7, chunk=256, threads=threads)
        )
        results.append(engine.gradient(Weights.of(model), keys, factors))
    for total, products, gradients in results[1:]:
        assert total == results[0][0]
        assert np.array_equal(products, results[0][1])
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][2], strict=True))


def test_repeated_keys_are_evaluated_once_and_answered_each() -> None:
    levels = Levels((4, 4))
    model = SequenceModel(levels, 4, 0)
    keys = levels.keys(np.array([[0, 0], [1, 2], [1, 2], [3, 3]]))
    for engine in all_engines(levels, 4):
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
    order = np.lexsort(keys[::-1])
    tokens = levels.tokens(keys)[order]
    assert tokens.tolist() == sorted(tokens.tolist())


@settings(max_examples=50, deadline=None)
@given(bits=st.lists(st.integers(1, 17), min_size=2, max_size=6).map(sorted), seed=st.integers(0, 99))
def test_cells_are_sorted_by_key_and_equal_ones_keep_their_sequence(bits: list[int], seed: int) -> None:
    levels = Levels(tuple(2**size for size in bits))
    rng = np.random.default_rng(seed)
    coords = np.stack([rng.integers(0, 2**size, 200) for size in bits], axis=1)[rng.integers(0, 200, 300)]
    orders = [rng.permutation(2**size) for size in bits]
    keys = levels.keys(coords, orders)
    expected = np.lexsort(keys[::-1])  # stable
    got, permutation = levels.sorted_keys(coords, orders)
    assert permutation.tolist() == expected.tolist()
    assert got.tolist() == keys[:, expected].tolist()


def test_published_sizes_of_email() -> None:
    sizes = [4 * SequenceModel(Levels((1005, 25919)), h, 0).parameter_count() for h in (5, 10, 15, 20, 25, 30)]
    assert sizes == [1244, 4044, 8444, 14444, 22044, 31244]


def test_parameters_of_each_cell_by_hand() -> None:
    # 1005 x 25919: alphabets 4 and 2, h = 5: table 6 x 5, heads 4 x 6 and 2 x 6, first 4, scale 1
    levels = Levels((1005, 25919))
    count = {cell: SequenceModel(levels, 5, 0, cell=cell).parameter_count() for cell in CELLS}
    around = 30 + 36 + 5
    assert count["lstm"] == around + 8 * 25 + 8 * 5
    assert count["gru"] == around + 6 * 25 + 6 * 5
    assert count["transformer"] == around + 8 * 25 + 11 * 5
    assert count["seeds"] == 4 + 2 + 1


def test_a_node_depends_on_its_path_alone() -> None:
    levels = Levels((16, 16))
    for cell in CELLS:
        model = SequenceModel(levels, 4, 0, cell=cell)
        walker = Walker(levels, TorchSteps(Weights.of(model)))
        nodes, outputs = walker.root(), []
        for tokens in ([0, 1, 2, 3], [0, 2]):
            parent = np.zeros(len(tokens), dtype=np.intp)
            nodes = walker.step(nodes, parent, np.array(tokens), np.ones(len(tokens), np.float32))
            outputs.append(nodes.state[0])
        alone = walker.step(walker.root(), np.zeros(1, dtype=np.intp), np.array([0]), np.ones(1, np.float32))
        torch.testing.assert_close(alone.state[0][0], outputs[0][0])
        alone = walker.step(alone, np.zeros(1, dtype=np.intp), np.array([2]), np.ones(1, np.float32))
        torch.testing.assert_close(alone.state[0][0], outputs[1][1])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("cell", CELLS)
def test_short_numbers_answer_nearly_the_same(cell: str, precision: str) -> None:
    levels = Levels((50, 300))
    model = SequenceModel(levels, 8, 0, cell=cell)
    keys = random_keys(levels, 500, 1)
    factors = np.random.default_rng(0).uniform(1.0, 2.0, size=keys.shape[1])
    weights = Weights.of(model)
    short = TorchEngine(levels, 8, precision=precision)
    total, products, gradients = TorchEngine(levels, 8).gradient(weights, keys, factors)
    for scale in (1.0, 1e-12, 1e12):  # tiny and huge sums neither vanish nor overflow
        close, near, roughly = short.gradient(weights, keys, scale * factors)
        tolerance = 0.1 if precision == "bfloat16" else 0.02
        np.testing.assert_allclose(near, products, rtol=5 * tolerance)
        assert close == pytest.approx(scale * total, rel=tolerance)
        whole, rough = (torch.cat([part.flatten() for part in parts]) for parts in (gradients, roughly))
        assert float((rough / scale - whole).norm()) <= tolerance * float(whole.norm())
    if cell != "seeds":
        assert not np.array_equal(near, products)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="ascending"):
        Levels((5, 3))


def test_scale_keeps_its_value_in_log_space() -> None:
    model = SequenceModel(Levels((8, 16)), 3, 0)
    for scale in (1e-6, 1.0, 1e9):
        model.set_scale(scale)
        assert math.isclose(model.scale(), scale, rel_tol=1e-12)
