"""Lossless and truncation: exact codes of sparse tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.baselines.coding import gaps
from pipeline.baselines.coding.exact import CellTable
from pipeline.baselines.lossless import Lossless
from pipeline.baselines.truncation import Truncation
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from tests.codes import refused_or_whole

KINDS = {
    "ones": np.ones(1),
    "constant": np.full(1, 0.3),
    "whole": np.array([-3.0, 1.0, 2.0, 300.0, -(2.0**53)]),
    "real": np.array([0.1, -1e300, 5e-324, 2.0]),
}


def random_tensor(seed: int, order: int, kind: str) -> SparseTensor:
    random = np.random.default_rng(seed)
    shape = random.integers(1, 12, order)
    count = int(random.integers(1, 60))
    coords = np.unique(random.integers(0, shape, (count, order)), axis=0)
    return SparseTensor(coords, random.choice(KINDS[kind], len(coords)), shape.tolist())


@given(st.integers(0, 99), st.integers(1, 4), st.sampled_from(list(KINDS)))
@settings(deadline=None, max_examples=150)
def test_a_code_gives_back_what_was_coded(seed: int, order: int, kind: str) -> None:
    X = random_tensor(seed, order, kind)
    coords, values, shape = gaps.decode(gaps.encode(X.coords, X.values, X.shape))
    assert SparseTensor(coords, values, shape) == X


@given(st.integers(0, 99), st.integers(2, 4), st.sampled_from(list(KINDS)))
@settings(deadline=None, max_examples=60)
def test_lossless_is_lossless_in_memory_and_on_disk(seed: int, order: int, kind: str) -> None:
    import tempfile

    X = random_tensor(seed, order, kind)
    model = Lossless().fit(X)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        loaded = pipeline.load(path)
        model.save(path, orders=False)
        free = pipeline.load(path)
    for one in (model, loaded):
        assert np.array_equal(one.predict(X.coords), X.values)
        assert one.error(X) == {"error": 0.0}
    assert free.shape_ == X.shape
    places, values = free.cells_.coords, free.cells_.values
    assert free.size()["bytes"] == model.size()["bytes"]
    assert np.array_equal(np.sort(values), np.sort(X.values))
    for mode, size in enumerate(X.shape):  # the same tensor up to the orders of its modes
        counts = [np.sort(np.bincount(index[:, mode], minlength=size)) for index in (places, X.coords)]
        assert np.array_equal(*counts)


def test_lossless_counts_compressed_sparse_fibres() -> None:
    # Slices 0 and 1; fibres (0, 0), (1, 2); three leaves: 7 indices, 2 + 1 and 2 + 1 pointers, 3 reals.
    X = SparseTensor([[0, 0, 0], [0, 0, 1], [1, 2, 0]], [1.0, 1.0, 1.0], (2, 3, 4))
    assert Lossless().fit(X).history_[-1]["csf_bytes"] == 4 * (7 + 6 + 3)


def test_a_grid_beyond_64_bits() -> None:
    shape = (2**40, 2**41, 3)
    X = SparseTensor([[0, 2**41 - 1, 2], [2**40 - 1, 0, 0], [5, 7, 1]], [1.0, 2.0, 3.0], shape)
    cells = CellTable(X.coords, X.values)
    assert cells.look_up(np.array([[5, 7, 1], [5, 7, 2], [2**40 - 1, 0, 0]]))[0].tolist() == [3.0, 0.0, 2.0]


def test_free_orders_by_hand() -> None:
    # Rows by weight: 1 (3), 0 (2), 2 (1). Columns as sorted row positions: 0 -> (0, 1), 1 -> (0), 2 -> (0, 1, 2).
    X = SparseTensor([[0, 0], [0, 2], [1, 0], [1, 1], [1, 2], [2, 2]], np.ones(6), (3, 4))
    rows, columns = gaps.free_orders(X.coords, X.shape)
    assert rows.tolist() == [1, 0, 2]
    assert columns.tolist() == [1, 0, 2, 3]


def test_tokens_by_hand() -> None:
    # Slice 0 holds 0, 3; slice 1 holds 2: first child plus one, gap, end, first child plus one.
    assert gaps.to_tokens(np.array([[0, 0], [0, 3], [1, 2]])).tolist() == [1, 3, 0, 3]
    # Three modes: new slice closes two levels, a new fibre closes one.
    rows = np.array([[0, 0, 1], [0, 2, 0], [0, 2, 4], [3, 1, 1]])
    assert gaps.to_tokens(rows).tolist() == [1, 2, 0, 2, 1, 4, 0, 0, 2, 2]


@given(st.binary(max_size=80))
@settings(deadline=None, max_examples=100)
def test_a_damaged_code_is_refused(noise: bytes) -> None:
    code = gaps.encode(np.array([[0, 1], [1, 0], [1, 1]]), np.array([1.0, 2.0, 3.0]), (2, 2))
    for damaged in (noise[:12] + code[len(noise[:12]) + 1 :], code[:-3]):
        refused_or_whole(gaps.decode, damaged)


@given(st.lists(st.integers(0, 2**62), max_size=30))
@settings(deadline=None)
def test_varints_round_trip(numbers: list[int]) -> None:
    content = gaps.write_varints(np.array(numbers, dtype=np.int64)).tobytes()
    read, end = gaps.read_varints(content + b"\x01", len(numbers), 0)
    assert read.tolist() == numbers
    assert end == len(content)


def test_truncation_of_binary_data_keeps_the_heaviest_slices() -> None:
    X = SparseTensor([[0, 0], [1, 0], [1, 1], [1, 2], [2, 3], [2, 0]], np.ones(6), (3, 4))
    model = Truncation(keep=0.5).fit(X)
    assert model.error(X)["error"] == 3.0
    assert model.predict(X.coords).tolist() in ([0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0])  # row 1, or column 0


def test_truncation_of_weighted_data_keeps_the_largest_values() -> None:
    X = SparseTensor([[0, 0], [1, 0], [1, 1], [2, 3]], [1.0, -5.0, 1.0, 4.0], (3, 4))
    model = Truncation(keep=0.5).fit(X)
    assert model.predict(X.coords).tolist() == [0, -5, 0, 4]
    assert model.error(X)["error"] == 2.0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_truncation_keeps_the_share_that_was_asked_for(order: int) -> None:
    X = random_tensor(11, order, "ones")
    errors = [Truncation(keep=keep).fit(X).error(X)["error"] for keep in (0.01, 0.25, 0.5, 1.0)]
    assert errors == [X.nnz - max(1, round(keep * X.nnz)) for keep in (0.01, 0.25, 0.5, 1.0)]


@pytest.mark.parametrize("keep", [0.0, 1.5, -0.1, float("nan"), True, "half"])
def test_truncation_refuses_a_share_out_of_range(keep: object) -> None:
    with pytest.raises(InputError, match="keep="):
        Truncation(keep=keep).fit(random_tensor(0, 2, "ones"))  # type: ignore[arg-type]
