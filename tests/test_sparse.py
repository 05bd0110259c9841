"""The sparse tensor: sorted, exact, checked, the same after a round trip."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.files import atomic_path, write_text
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.orders import pack_integers, unpack_integers
from pipeline.sparse.reals import narrowest_exact_type


@st.composite
def entries(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 300), min_size=1, max_size=4)))
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    coords = np.stack([rng.integers(0, size, count) for size in shape], axis=1)
    whole = draw(st.booleans())
    return coords, rng.integers(1, 1000, count) if whole else rng.normal(size=count) + 3.0, shape


@settings(max_examples=100, deadline=None)
@given(data=entries())
def test_round_trip_and_agreement_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, data: tuple[np.ndarray, np.ndarray, tuple[int, ...]]
) -> None:
    coords, values, shape = data
    X = SparseTensor(coords, values, shape)
    expected: dict[tuple[int, ...], float] = {}
    for cell, value in zip(coords.tolist(), values.tolist(), strict=True):
        expected[tuple(cell)] = expected.get(tuple(cell), 0.0) + value
    assert [tuple(cell) for cell in X.coords.tolist()] == sorted(expected)
    np.testing.assert_allclose(X.values, [expected[cell] for cell in sorted(expected)])
    assert X.duplicates_summed == len(values) - len(expected)
    path = tmp_path_factory.getbasetemp() / "x.parquet"
    X.write_parquet(path)
    back = SparseTensor.read_parquet(path)
    assert back == X and back.norm2 == X.norm2
    frame = pd.read_parquet(path)
    assert list(frame.columns) == [f"mode_{mode}" for mode in range(len(shape))] + ["value"]
    metadata = json.loads(pq.read_schema(path).metadata[b"kronflow"])
    assert (metadata["shape"], metadata["nnz"], metadata["norm2"]) == (list(shape), X.nnz, X.norm2)


def test_scipy_round_trip() -> None:
    matrix = scipy.sparse.random_array((20, 30), density=0.1, rng=np.random.default_rng(0))
    X = SparseTensor.from_scipy(matrix.tocsr())
    assert (abs(X.to_scipy() - matrix)).sum() == 0
    assert X.norm2 == pytest.approx(float((matrix.toarray() ** 2).sum()))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 255.0], "uint8"),
        ([1.0, 256.0], "uint16"),
        ([1.0, 2.0**40], "uint64"),
        ([-1.0, 127.0], "int8"),
        ([-1.0, 128.0], "int16"),
        ([-5.0, -3.0], "int8"),
        ([0.5, 1.0], "float64"),
        ([1.0, 2.0**60], "float64"),
    ],
)
def test_narrowest_exact_type(values: list[float], expected: str) -> None:
    assert narrowest_exact_type(np.array(values)) == np.dtype(expected)


def test_huge_grids_sort_without_overflow() -> None:
    shape = (2**40, 2**40, 5)
    X = SparseTensor([[2**39, 1, 0], [0, 2**39, 4], [0, 2**39, 4]], [1.0, 2.0, 3.0], shape)
    assert X.coords.tolist() == [[0, 2**39, 4], [2**39, 1, 0]]
    assert X.values.tolist() == [5.0, 1.0]


def test_cancelled_entries_are_dropped_and_counted() -> None:
    X = SparseTensor([[0, 0], [0, 0], [1, 1]], [2.0, -2.0, 1.0], (2, 2))
    assert (X.nnz, X.duplicates_summed, X.zeros_dropped) == (1, 1, 1)


@pytest.mark.parametrize(
    ("coords", "values", "shape", "message"),
    [
        ([[0, -1]], [1.0], (2, 2), "index -1 in mode 1 is outside 0..1"),
        ([[0, 2]], [1.0], (2, 2), "index 2 in mode 1 is outside 0..1"),
        ([[0, 0], [1, 1]], [1.0, np.nan], (2, 2), r"entry 1: value nan at \[1, 1\]"),
        ([[0, 0]], [np.inf], (2, 2), "not finite"),
        ([[0.5, 0]], [1.0], (2, 2), "no whole number"),
        ([["a", "b"]], [1.0], (2, 2), "whole numbers"),
        (np.zeros((0, 2), int), [], (2, 2), "empty tensor"),
        ([[0, 0]], [0.0], (2, 2), "empty tensor"),
        ([[0, 0]], [1.0, 2.0], (2, 2), "one value for each"),
        ([[0, 0]], ["x"], (2, 2), "real numbers"),
        ([[0]], [1.0], (2, 2), r"needs \(nnz, 2\)"),
        ([[0, 0]], [1.0], (2, 0), "at least 1"),
    ],
)
def test_bad_input(coords: Any, values: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseTensor(coords, values, shape)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    SparseTensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2)).write_parquet(path)
    table = pq.read_table(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.parquet: not a readable Parquet file"):
        SparseTensor.read_parquet(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(InputError, match="metadata"):
        SparseTensor.read_parquet(path)
    metadata = json.loads(table.schema.metadata[b"kronflow"]) | {"shape": [1, 2]}
    pq.write_table(table.replace_schema_metadata({"kronflow": json.dumps(metadata)}), path)
    with pytest.raises(InputError, match=r"x\.parquet: its metadata is not what was written"):
        SparseTensor.read_parquet(path)
    del metadata["digest"]
    pq.write_table(table.replace_schema_metadata({"kronflow": json.dumps(metadata)}), path)
    with pytest.raises(InputError, match=r"x\.parquet: row 1: index 1 in mode 0 is outside 0..0"):
        SparseTensor.read_parquet(path)
    with pytest.raises(InputError, match="no such file"):
        SparseTensor.read_parquet(tmp_path / "none.parquet")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    X = SparseTensor([[0, 1], [1, 0]], [1.0, 2.0], (2, 2))
    X.write_parquet(path)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match=r"x\.parquet: cannot write: No space left on device"):
        X.write_parquet(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]


def test_an_exception_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@settings(max_examples=50, deadline=None)
@given(bits=st.integers(0, 40), seed=st.integers(0, 99), count=st.integers(0, 50))
def test_packed_integers_round_trip(bits: int, seed: int, count: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2**bits, count)
    packed = pack_integers(numbers, bits)
    assert len(packed) == -(-bits * count // 8)
    assert np.array_equal(unpack_integers(packed, bits, count), numbers)


class TestOf:
    @pytest.mark.parametrize("layout", ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"])
    def test_every_layout_of_scipy(self, layout: str) -> None:
        dense = np.arange(12.0).reshape(3, 4) % 5
        for kind in (scipy.sparse.coo_matrix, scipy.sparse.coo_array):
            assert SparseTensor.of(kind(dense).asformat(layout)) == SparseTensor.from_dense(dense)

    def test_torch(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(InputError, match="on the device meta holds no values"):
            SparseTensor.of(torch.ones(2, 2, device="meta"))
        dense = torch.tensor([[0.0, 1.5], [2.0, 0.0]], requires_grad=True)
        wanted = SparseTensor.from_dense([[0, 1.5], [2, 0]])
        for tensor in (dense, dense.to_sparse(), dense.bfloat16(), dense.detach().to_sparse_csc()):
            assert SparseTensor.of(tensor) == wanted

    def test_pydata(self) -> None:
        class COO:  # the attributes of pydata/sparse's class
            coords, data, shape, fill_value = np.array([[0, 1], [1, 0]]), np.array([2.0, 3.0]), (2, 2), 0.0

            def asformat(self, _: str) -> COO:
                return self

        assert SparseTensor.of(COO()).to_dense().tolist() == [[0, 2], [3, 0]]
        filled = COO()
        filled.fill_value = 1.0
        with pytest.raises(InputError, match="only 0 is sparse"):
            SparseTensor.of(filled)

    @pytest.mark.parametrize(
        ("wrong", "problem"),
        [
            (np.array([[1j, 0]]), "real numbers"),
            (np.array([["a", "b"]]), "real numbers"),
            (np.ma.masked_array([[1.0, 2.0]], [[True, False]]), "masked"),
            ([[1, 2], [3]], "no array of numbers"),
            (np.float64(3), "where a SparseTensor belongs"),
            (pd.DataFrame({"a": [1]}), "from_pandas"),
            (np.zeros((2, 2)), "empty tensor"),
            (np.array([[np.nan]]), "not finite"),
            ("text", "where a SparseTensor belongs"),
        ],
    )
    def test_what_is_none(self, wrong: Any, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            SparseTensor.of(wrong)

    @pytest.mark.parametrize(
        ("part", "content"),
        [("indptr", [0, 99, 3]), ("indptr", [0, 2, 1]), ("indices", [0, 99, 1]), ("indices", [0, -5, 1])],
    )
    def test_parts_of_scipy_that_lead_out_of_it(self, part: str, content: list[int]) -> None:
        """Its compiled code would follow them: a segmentation fault."""
        matrix = scipy.sparse.csr_array(np.array([[1.0, 0, 2], [0, 3, 0]]))
        setattr(matrix, part, np.array(content, dtype=np.int32))
        with pytest.raises(InputError, match="a csr_array whose parts do not fit together"):
            SparseTensor.of(matrix)

    def test_whole_numbers_beyond_64_bit_reals_are_told(self, caplog: pytest.LogCaptureFixture) -> None:
        SparseTensor.of(np.array([[2**53, 2**60]]))
        assert not caplog.records
        SparseTensor.of(np.array([[2**53 + 1, 3, 2**63 - 1]]))
        assert "2 whole numbers beyond 2^53" in caplog.text


class TestFromPandas:
    def test_labels_of_every_kind(self, tmp_path: Path) -> None:
        frame = pd.DataFrame(
            {
                "who": pd.Categorical(["b", "a", "b"]),
                "day": pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-02"]),
                "n": pd.array([1, 2, 4], dtype="Int64"),
            }
        )
        X = SparseTensor.from_pandas(frame, ["who", "day"], "n")
        assert X.mode_names == ("who", "day") and X.to_dense().tolist() == [[2, 0], [0, 5]]
        assert X.labels[0] == ["a", "b"] and str(X.labels[1][0]).startswith("2024-01-01")
        assert SparseTensor.from_pandas(frame, ["who"]).to_dense().tolist() == [1, 2]
        X.permute_modes([1, 0]).write_parquet(tmp_path / "x.parquet")
        again = SparseTensor.read_parquet(tmp_path / "x.parquet", labels=True)
        assert again == X.permute_modes([1, 0]) and again.labels[1] == ["a", "b"]

    @pytest.mark.parametrize(
        ("frame", "modes", "value", "problem"),
        [
            ({"a": [1], "n": [1]}, "a", "n", "in a list"),
            ({"a": [1], "n": [1]}, ["b"], "n", "no single column 'b'; there are: a, n"),
            ({"a": [1, None], "n": [1, 2]}, ["a"], "n", "row 1: column 'a' has no label"),
            ({"a": [[1], [2]], "n": [1, 2]}, ["a"], "n", "cannot be told apart"),
            ({"a": [1, 2], "n": ["x", "y"]}, ["a"], "n", "no numbers"),
            ({"a": [1, 2], "n": ["1", "2"]}, ["a"], "n", r"no numbers \(string\); pandas.to_numeric reads texts"),
            ({"a": [1, 2], "n": [1j, 2]}, ["a"], "n", r"no numbers \(complex\)"),
            ({"a": [1, 2], "n": pd.date_range("2020", periods=2)}, ["a"], "n", r"no numbers \(datetime64\)"),
            ({"a": [1, 2], "n": pd.Series([2**80, 1], dtype=object)}, ["a"], "n", "no numbers of 64 bits"),
            ({"a": [1, 2], "n": [1, None]}, ["a"], "n", "not finite"),
            ({"a": [], "n": []}, ["a"], "n", "empty tensor"),
        ],
    )
    def test_tables_that_are_none(self, frame: dict[str, Any], modes: Any, value: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            SparseTensor.from_pandas(pd.DataFrame(frame), modes, value)
