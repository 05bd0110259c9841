"""ACCAMS and bACCAMS against brute force over the dense residual."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines import stencils
from pipeline.baselines.accams import ACCAMS
from pipeline.baselines.baccams import BACCAMS
from pipeline.baselines.stencils import Stencil
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

CLUSTERS = 3


def sparse(seed: int, shape: tuple[int, int] = (9, 13)) -> SparseTensor:
    random = np.random.default_rng(seed)
    dense = random.integers(1, 5, shape) * (random.uniform(size=shape) < 0.3)
    dense[0, 0] = 1
    return SparseTensor.from_dense(dense)


def random_stencil(random: np.random.Generator, shape: tuple[int, int]) -> Stencil:
    rows, columns = (random.integers(0, CLUSTERS, size) for size in shape)
    return Stencil(rows, columns, random.normal(size=(CLUSTERS, CLUSTERS)))


def dense(stencil: Stencil) -> np.ndarray:
    return stencil.blocks[stencil.rows][:, stencil.columns]


@given(st.integers(0, 99), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_sums_means_and_costs_against_the_dense_residual(seed: int, others: int) -> None:
    random = np.random.default_rng(seed)
    X = sparse(seed)
    fitted = [random_stencil(random, X.shape) for _ in range(others)]
    residual = X.to_dense() - sum((dense(stencil) for stencil in fitted), np.zeros(X.shape))
    rows, columns, blocks = random_stencil(random, X.shape)
    A = X.to_scipy().tocsr()

    sums = stencils.residual_sums(A, fitted, columns, CLUSTERS)
    expected = np.stack([residual[:, columns == c].sum(axis=1) for c in range(CLUSTERS)], axis=1)
    assert sums == pytest.approx(expected, abs=1e-9)
    turned = stencils.residual_sums(A.T.tocsr(), [stencil.transposed for stencil in fitted], rows, CLUSTERS)
    assert turned == pytest.approx(
        np.stack([residual[rows == c].sum(axis=0) for c in range(CLUSTERS)], axis=1), abs=1e-9
    )

    means = stencils.block_means(sums, rows, columns)
    for i, j in itertools.product(range(CLUSTERS), repeat=2):
        block = residual[np.ix_(rows == i, columns == j)]
        assert means[i, j] == pytest.approx(block.mean() if block.size else 0.0, abs=1e-9)

    costs = stencils.assignment_costs(sums, blocks, columns)
    for cluster in range(CLUSTERS):
        brute = np.sum((residual - blocks[cluster][columns]) ** 2 - residual**2, axis=1)
        assert costs[:, cluster] == pytest.approx(brute, abs=1e-9)


@pytest.mark.parametrize("method", [ACCAMS, BACCAMS])
def test_a_planted_co_clustering_is_found(method: type[ACCAMS | BACCAMS]) -> None:
    random = np.random.default_rng(5)
    rows, columns = random.integers(0, 3, 40), random.integers(0, 3, 60)
    values = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    X = SparseTensor.from_dense(values[rows][:, columns])
    assert method(stencils=1, clusters=3).fit(X).error(X)["error"] < 1e-6 * X.norm2


def test_more_stencils_and_more_clusters_help() -> None:
    X = sparse(3, (30, 40))
    by_stencils = [ACCAMS(stencils=count, clusters=3).fit(X).error(X)["error"] for count in (1, 3, 9)]
    by_clusters = [ACCAMS(stencils=2, clusters=count).fit(X).error(X)["error"] for count in (1, 4, 12)]
    for errors in (by_stencils, by_clusters):
        assert errors[0] > errors[1] > errors[2]
    assert by_clusters[0] == pytest.approx(X.norm2 - X.values.sum() ** 2 / 1200, rel=1e-6)  # one mean for all


def test_backfitting_never_raises_the_error() -> None:
    X = sparse(4, (30, 40))
    errors = [row["error"] for row in ACCAMS(stencils=4, clusters=4, tolerance=0.0, max_sweeps=8).fit(X).history_]
    assert len(errors) == 8
    assert all(later <= earlier + 1e-5 for earlier, later in itertools.pairwise(errors))


def test_a_residual_that_vanishes_ends_the_stencils() -> None:
    X = SparseTensor.from_dense(np.ones((4, 5)))
    model = ACCAMS(stencils=7, clusters=2).fit(X)
    assert len(model.stencils_) == 1
    assert model.error(X)["error"] == pytest.approx(0.0, abs=1e-9)


def test_equal_clusters_have_the_published_size() -> None:
    # email, s = 5, k = 4: assignments of two bits each, published as 33,950 bytes.
    model = ACCAMS()
    model.shape_, model.clusters_ = (1004, 25920), 4
    rows, columns = np.arange(1004) % 4, np.arange(25920) % 4
    model.stencils_ = [Stencil(rows, columns, np.zeros((4, 4)))] * 5
    assert model.size()["bytes"] == 5 * ((1004 + 25920) * 2 + 32 * 16) // 8 == 33_975


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_clusters_survive_their_code(seed: int, count: int, clusters: int) -> None:
    assigned = np.random.default_rng(seed).integers(0, clusters, count)
    counts = np.bincount(assigned, minlength=clusters)
    code = stencils.encode_clusters(assigned, counts)
    assert np.array_equal(stencils.decode_clusters(code, counts), assigned)
    assert 32 * len(code) <= stencils.entropy_bits(assigned, clusters) + 96


def test_entropy_by_hand() -> None:
    assert stencils.entropy_bits(np.array([0, 0, 1, 2]), 4) == pytest.approx(2 * 1 + 2 * 2)


def test_kmeans_separates_what_is_apart() -> None:
    points = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.1, 9.0], [0.0, 9.0]])
    found = stencils.kmeans(points, 3, np.random.default_rng(0))
    assert found[0] == found[1] and found[2] == found[3]
    assert len({found[0], found[2], found[4]}) == 3


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (2, 2)])
def test_tiny_matrices(shape: tuple[int, int]) -> None:
    X = SparseTensor.from_dense(np.arange(1.0, 1 + np.prod(shape)).reshape(shape))
    for method in (ACCAMS, BACCAMS):
        assert method(stencils=2, clusters=2).fit(X).error(X)["error"] < X.norm2


@pytest.mark.parametrize("wrong", [{"stencils": 0}, {"clusters": 0}, {"max_sweeps": 0}, {"tolerance": -1.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BACCAMS(**wrong).fit(sparse(0))  # type: ignore[arg-type]
