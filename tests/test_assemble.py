"""Assembling by pieces gives what assembling at once gives, whatever the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import assemble as assembling
from pipeline.datasets.assemble import assemble
from pipeline.datasets.labels import LabelCodes
from pipeline.datasets.raw import Block, Mode, RawTensor
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor


def indexed(shape: tuple[int, ...], blocks: list[Block]) -> RawTensor:
    return RawTensor([Mode(f"m{mode}", indexed=True, size=size) for mode, size in enumerate(shape)], blocks)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 60),
    st.integers(0, 2**32),
    st.sampled_from(["one", "counts", "signed", "real", "huge"]),
    st.sampled_from([1 << 30, 400, 0]),
    st.integers(1, 30),
)
def test_same_as_the_plain_way(
    tmp_path_factory: pytest.TempPathFactory,
    shape: list[int],
    count: int,
    seed: int,
    kind: str,
    budget: int,
    block: int,
) -> None:
    rng = np.random.default_rng(seed)
    coords = np.stack([rng.integers(0, size, count) for size in shape], axis=1)
    values = {
        "one": np.ones(count),
        "counts": rng.integers(1, 300, count).astype(float),
        "signed": rng.integers(-2, 3, count).astype(float),
        "real": rng.standard_normal(count),
        "huge": rng.integers(1, 2**46, count).astype(float),
    }[kind]
    blocks = [
        (list(coords[start : start + block].T), values[start : start + block]) for start in range(0, count, block)
    ]
    folder = tmp_path_factory.mktemp("spill")
    order = sorted(range(len(shape)), key=lambda mode: shape[mode])
    try:
        expected = SparseTensor(coords, values, shape).permute_modes(order)
    except InputError:
        with pytest.raises(InputError, match="empty tensor"):
            assemble(indexed(tuple(shape), blocks), {}, folder, max(budget, 16))
        return
    result = assemble(indexed(tuple(shape), blocks), {}, folder, max(budget, 16))
    found = result.tensor
    assert found.shape == expected.shape
    assert found.coords.tolist() == expected.coords.tolist()
    assert np.allclose(found.values, expected.values, rtol=1e-12, atol=1e-12)
    if kind != "real":
        assert found.values.tolist() == expected.values.tolist()
    assert result.nnz == expected.nnz
    assert result.norm2 == pytest.approx(expected.norm2)
    result.write(folder / "x.parquet")
    assert SparseTensor.read_parquet(folder / "x.parquet") == found
    assert [path.name for path in folder.iterdir()] == ["x.parquet"]


def test_counts_of_duplicates_and_zeros() -> None:
    keys = [np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0])]
    result = assemble(indexed((3, 2), [(keys, np.array([1.0, 2, 5, -5, 4]))]), {})
    assert (result.entries, result.nnz, result.duplicates, result.zeros) == (5, 2, 2, 1)
    assert result.value_type == np.uint8


def test_grid_beyond_64_bits() -> None:
    shape = (2**40, 2**40)
    keys = [np.array([2**40 - 1, 5, 5]), np.array([0, 2**40 - 1, 2**40 - 1])]
    result = assemble(indexed(shape, [(keys, np.array([1.0, 2, 3]))]), {})
    assert result.tensor.coords.tolist() == [[5, 2**40 - 1], [2**40 - 1, 0]]
    assert result.tensor.values.tolist() == [5, 1]


@pytest.mark.parametrize(
    ("blocks", "labels", "rows"),
    [
        ([["b", "a"], ["c", "a"]], ["a", "b", "c"], [1, 0, 2, 0]),
        ([["10", "9"], ["-3", "9"]], [-3, 9, 10], [2, 1, 0, 1]),
        ([["10", "9"], ["x", "9"]], ["10", "9", "x"], [0, 1, 2, 1]),
        ([["10", "9"], ["09", "9"]], ["09", "10", "9"], [1, 2, 0, 2]),
        ([[10, 9], [2**60, 9]], [9, 10, 2**60], [1, 0, 2, 0]),
        ([[True, False], [True, True]], [False, True], [1, 0, 1, 1]),
    ],
)
def test_labels(
    blocks: list[list[object]], labels: list[object], rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.datasets.labels.MERGE", 2)
    column = np.arange(4)
    raw = RawTensor(
        [Mode("label"), Mode("entry", indexed=True)],
        [([pa.array(part), column[2 * number : 2 * number + 2]], np.ones(2)) for number, part in enumerate(blocks)],
    )
    result = assemble(raw, {})
    mode = result.mode_names.index("label")
    found = result.labels[mode]
    assert found is not None
    assert found["label"].tolist() == labels
    tensor = result.tensor
    assert [int(tensor.coords[tensor.coords[:, 1 - mode] == entry, mode][0]) for entry in range(4)] == rows


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        ([3, 0], 1.0, "index 3 in mode 'm0' is out of range"),
        ([-1, 0], 1.0, "index -1 in mode 'm0' is out of range"),
        ([0, 0], np.nan, "value nan is not finite"),
    ],
)
def test_bad_entries(keys: list[int], value: float, problem: str) -> None:
    block = ([np.array([0, key]) for key in keys], np.array([1.0, value]))
    with pytest.raises(InputError, match=problem):
        assemble(indexed((3, 2), [block]), {})


def test_entries_beyond_the_budget_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = assembling.temporary_file
    monkeypatch.setattr(assembling, "temporary_file", lambda folder: opened.append(folder) or original(folder))
    blocks = [([np.arange(100), np.arange(100)], np.ones(100)) for _ in range(4)]
    result = assemble(indexed((100, 100), blocks), {}, tmp_path, 1000)
    assert result.tensor.to_dense().tolist() == (4 * np.eye(100)).tolist()
    assert len(opened) > 2
    assert set(opened) == {tmp_path}


def test_sums_beyond_64_bits() -> None:
    count = 3000
    block = ([np.zeros(count, np.int64), np.zeros(count, np.int64)], np.full(count, 2.0**53))
    assert assemble(indexed((1, 1), [block]), {}).tensor.values.tolist() == [count * 2.0**53]


@settings(deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(st.integers(0, 40), st.integers(2**25, 2**27), st.integers(-(2**63), 2**63 - 1)), min_size=1
        ),
        min_size=1,
        max_size=4,
    )
)
def test_labels_that_are_numbers_keep_their_order(blocks: list[list[int]]) -> None:
    codes = LabelCodes()
    coded = [codes.encode(np.array(block, dtype=np.int64)) for block in blocks]
    ranks = codes.ranks()
    labels = sorted({label for block in blocks for label in block})
    assert ranks.labels["label"].to_pylist() == labels
    assert [ranks(part).tolist() for part in coded] == [[labels.index(label) for label in block] for block in blocks]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_stable_order(far: list[int], near: list[int]) -> None:
    for cells in (np.array(far), np.array(near), np.array(near) + (1 << 61)):
        assert assembling.stable_order(cells).tolist() == np.argsort(cells, kind="stable").tolist()


def test_mode_of_more_than_32_bits() -> None:
    keys = [np.array([1, 0, 1]), np.array([2**40, 5, 2**40])]
    result = assemble(
        RawTensor([Mode("a", indexed=True), Mode("b", indexed=True)], [(keys, np.array([1.5, 2, 3]))]), {}
    )
    assert result.shape == (2, 2**40 + 1)
    assert result.tensor.coords.tolist() == [[0, 5], [1, 2**40]]
    assert result.tensor.values.tolist() == [2, 4.5]
