"""CUR and CMD against their explicit dense definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.baselines.cmd import CMD
from pipeline.baselines.cur import CUR
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def sparse(seed: int, shape: tuple[int, int] = (12, 17)) -> SparseTensor:
    random = np.random.default_rng(seed)
    dense = random.integers(1, 5, shape) * (random.uniform(size=shape) < 0.3)
    dense[0, 0] = 1
    return SparseTensor.from_dense(dense)


def cells(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1)


def explicit(X: SparseTensor, model: CUR, rank: int | None = None) -> np.ndarray:
    """C C+ X R+ R from the columns and rows drawn, each as often as drawn and weighted by its probability."""
    A = X.to_dense()
    drawn = []
    for matrix, index, copies in ((A.T, model.columns_, model.column_copies_), (A, model.rows_, model.row_copies_)):
        chance = np.sum(matrix**2, axis=1) / X.norm2
        repeated = np.repeat(index, copies)
        drawn.append(matrix[repeated] / np.sqrt(len(repeated) * chance[repeated])[:, None])
    left, right = drawn[0].T, drawn[1]
    left_vectors, left_values, _ = np.linalg.svd(left, full_matrices=False)
    _, right_values, right_vectors = np.linalg.svd(right, full_matrices=False)
    keep = [min(rank or len(s), np.count_nonzero(s > 1e-6 * s[0])) for s in (left_values, right_values)]
    left_basis, right_basis = left_vectors[:, : keep[0]], right_vectors[: keep[1]]
    return left_basis @ left_basis.T @ A @ right_basis.T @ right_basis


@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 30), st.sampled_from([CUR, CMD]))
@settings(deadline=None, max_examples=60)
def test_predictions_are_the_best_for_the_draw(seed: int, rows: int, columns: int, method: type[CUR]) -> None:
    X = sparse(seed)
    model = method(rows=rows, columns=columns, seed=seed).fit(X)
    assert (model.row_copies_.sum(), model.column_copies_.sum()) == (rows, columns)
    expected = explicit(X, model)
    assert model.predict(cells(X.shape)).reshape(X.shape) == pytest.approx(expected, abs=1e-3)
    assert model.error(X)["error"] == pytest.approx(np.sum((X.to_dense() - expected) ** 2), abs=2e-6 * X.norm2)


@pytest.mark.parametrize("rank", [1, 3])
def test_pseudo_inverses_are_cut_at_the_rank(rank: int) -> None:
    X = sparse(4)
    model = CUR(rows=8, columns=9, rank=rank).fit(X)
    expected = explicit(X, model, rank)
    assert model.predict(cells(X.shape)).reshape(X.shape) == pytest.approx(expected, abs=1e-4)


def test_a_matrix_of_low_rank_is_recovered() -> None:
    random = np.random.default_rng(0)
    X = SparseTensor.from_dense(random.integers(0, 3, (20, 2)) @ random.integers(0, 3, (2, 30)))
    assert CUR(rows=8, columns=8).fit(X).error(X)["error"] < 1e-5 * X.norm2


def test_cmd_charges_a_column_drawn_twice_once() -> None:
    X = sparse(1, (6, 5))
    cur, cmd = (method(rows=9, columns=12, seed=3).fit(X) for method in (CUR, CMD))
    assert np.array_equal(cur.predict(cells(X.shape)), cmd.predict(cells(X.shape)))
    A = X.to_dense()
    once = np.count_nonzero(A[:, cmd.columns_]) + len(cmd.columns_) * len(cmd.rows_) + np.count_nonzero(A[cmd.rows_])
    assert cmd.size()["bytes"] == 8 * once
    often = np.count_nonzero(A[:, np.repeat(cur.columns_, cur.column_copies_)])
    often += 9 * 12 + np.count_nonzero(A[np.repeat(cur.rows_, cur.row_copies_)])
    assert cur.size()["bytes"] == 8 * often > cmd.size()["bytes"]


def test_heavy_columns_are_drawn_in_proportion_to_their_squared_norm() -> None:
    X = SparseTensor([[0, 0], [0, 1], [0, 2]], [1.0, 2.0, 2.0], (2, 3))  # shares 1, 4 and 4 of 9
    model = CUR(rows=1, columns=9000).fit(X)
    assert model.column_copies_ == pytest.approx([1000, 4000, 4000], abs=200)


def test_leverage_draws_by_the_leading_singular_vectors_and_each_index_once() -> None:
    X = sparse(7)
    left, _, right = np.linalg.svd(X.to_dense(), full_matrices=False)
    first = np.zeros(12), np.zeros(17)
    for seed in range(400):
        model = CUR(rows=1, columns=1, leverage=2, seed=seed).fit(X)
        first[0][model.rows_] += 1 / 400
        first[1][model.columns_] += 1 / 400
    for drawn, vectors in zip(first, (left[:, :2], right[:2].T), strict=True):
        assert drawn == pytest.approx(np.sum(vectors**2, axis=1) / 2, abs=0.1)
    model = CUR(rows=9, columns=40, leverage=5).fit(X)
    assert len(model.rows_) == 9 and len(model.columns_) == np.count_nonzero(np.any(X.to_dense(), axis=0))
    assert set(model.row_copies_) == set(model.column_copies_) == {1}
    with pytest.raises(InputError, match=r"leverage=13: .* has 12 singular vectors"):
        CUR(leverage=13).fit(X)


def test_leverage_of_a_matrix_of_low_rank_ignores_empty_directions() -> None:
    X = SparseTensor.from_dense(np.outer([1.0, 0.0, 2.0], [3.0, 0.0, 0.0, 1.0]))
    model = CUR(rows=20, columns=20, leverage=3).fit(X)
    assert set(model.rows_) <= {0, 2} and set(model.columns_) <= {0, 3}
    assert model.error(X)["error"] < 1e-6 * X.norm2


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"columns": 1.5}, {"rank": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        CMD(**wrong).fit(sparse(0))
