"""Samples: exact count, uniform, reproducible, nested, in the same format."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import sample
from pipeline.core import step
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor, stream
from pipeline.sparse import sample as sampling
from pipeline.sparse.sample import Sampler, sample_count, sample_file
from pipeline.sparse.stream import TensorReader, TensorWriter


def grid(rows: int, columns: int) -> SparseTensor:
    return SparseTensor.from_dense(np.arange(1, rows * columns + 1).reshape(rows, columns) / 4)


@settings(deadline=None)
@given(st.integers(1, 400), st.floats(0.001, 1), st.integers(0, 5), st.lists(st.integers(1, 50), max_size=8))
def test_exact_count_whatever_the_blocks(nnz: int, fraction: float, seed: int, sizes: list[int]) -> None:
    count = sample_count(nnz, fraction)
    whole = Sampler(nnz, count, seed).take(nnz)
    assert whole.sum() == count == max(1, round(fraction * nnz))
    pieces = Sampler(nnz, count, seed)
    cuts = [size for size in itertools.accumulate(sizes) if size < nnz]
    lengths = np.diff([0, *cuts, nnz])
    assert np.concatenate([pieces.take(int(length)) for length in lengths]).tolist() == whole.tolist()


def test_smaller_sample_is_part_of_a_larger_one() -> None:
    small, large = (Sampler(1000, count, 7).take(1000) for count in (100, 400))
    assert not np.any(small & ~large)


def test_all_pairs_are_equally_likely() -> None:
    draws = Counter(tuple(np.flatnonzero(Sampler(5, 2, seed).take(5)).tolist()) for seed in range(4000))
    assert len(draws) == 10
    statistic = sum((count - 400) ** 2 / 400 for count in draws.values())
    assert statistic < 27.9  # chi-squared with 9 degrees of freedom, 0.1 %; the seeds are fixed


def test_known_sample() -> None:
    """The raw PCG64 stream is the same in every NumPy version, and so is the sample."""
    assert np.flatnonzero(Sampler(20, 5, 0).take(20)).tolist() == [2, 3, 11, 13, 15]


def test_equal_keys_give_way_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def __init__(self, seed: int) -> None:
            pass

        def random_raw(self, size: int) -> np.ndarray:
            return np.full(size, 5, dtype=np.uint64)

    monkeypatch.setattr(sampling.np.random, "PCG64", Constant)
    sampler = Sampler(10, 4, 0)
    assert np.concatenate([sampler.take(3), sampler.take(7)]).tolist() == [True] * 4 + [False] * 6


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_wrong_fraction(fraction: float) -> None:
    with pytest.raises(InputError, match="must be above 0 and at most 1"):
        sample_count(10, fraction)


def test_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 7)
    tensor = grid(6, 9)
    tensor.mode_names = ("row", "column")
    tensor.source = {"dataset": "grid"}
    tensor.write_parquet(tmp_path / "x.parquet")
    output = tmp_path / "samples" / "f0.25-s3.parquet"
    sample.main([str(tmp_path / "x.parquet"), str(output), "--fraction", "0.25", "--seed", "3"])
    found = SparseTensor.read_parquet(output)
    assert (found.shape, found.nnz, found.mode_names) == (tensor.shape, 14, ("row", "column"))
    assert found.source == {"dataset": "grid", "sample": {"fraction": 0.25, "seed": 3}}
    dense, original = found.to_dense(), tensor.to_dense()
    assert np.array_equal(dense[dense != 0], original[dense != 0])
    before = output.read_bytes()
    sample.main([str(tmp_path / "x.parquet"), str(output), "--fraction", "0.25", "--seed", "3"])
    assert output.read_bytes() == before
    schemas = [pq.read_schema(path).remove_metadata() for path in (tmp_path / "x.parquet", output)]
    assert schemas[0] == schemas[1]


def test_whole_sample_is_the_tensor(tmp_path: Path) -> None:
    tensor = grid(4, 5)
    tensor.write_parquet(tmp_path / "x.parquet")
    assert sample_file(tmp_path / "x.parquet", tmp_path / "y.parquet", 1.0, 0) == 20
    assert SparseTensor.read_parquet(tmp_path / "y.parquet") == tensor


def test_a_sample_keeps_the_labels(tmp_path: Path) -> None:
    labels = {0: ["ann", "bob", "cyd"], 1: [10, 30]}
    tensor = SparseTensor([[0, 0], [1, 1], [2, 1]], [1.0, 2.0, 3.0], (3, 2), labels=labels)
    tensor.write_parquet(tmp_path / "x.parquet")
    arguments = [str(tmp_path / "x.parquet"), str(tmp_path / "y.parquet"), "--fraction", "0.5"]
    sample.main(arguments)
    assert SparseTensor.read_parquet(tmp_path / "y.parquet", labels=True).labels == labels
    sample.main([*arguments, "--no-labels"])
    assert not list(tmp_path.glob("y.labels-*"))
    (tmp_path / "y.labels-0.parquet").write_text("mine")
    with pytest.raises(InputError, match="would be written beside"):
        sample.main(arguments)
    assert (tmp_path / "y.labels-0.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.parquet", "y", "--fraction", "0.5"], "none.parquet: no such file; make it with"),
        (["none.parquet", "y", "--fraction", "0.5", "--seed", "-1"], "--seed -1: needs a whole number of at least 0"),
    ],
)
def test_bad_arguments(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        step.run(sample.main, arguments)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


class TestStream:
    def test_blocks_round_trip_in_full_row_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "ROW_GROUP", 8)
        tensor = grid(5, 6)
        with TensorWriter(tmp_path / "x.parquet", tensor.shape, np.float64) as writer:
            for start in range(0, 30, 3):
                writer.write(tensor.coords[start : start + 3], tensor.values[start : start + 3])
        assert SparseTensor.read_parquet(tmp_path / "x.parquet") == tensor
        reader = TensorReader(tmp_path / "x.parquet")
        assert (reader.nnz, reader.shape) == (30, (5, 6))
        sizes = [pq.ParquetFile(tmp_path / "x.parquet").metadata.row_group(group).num_rows for group in range(4)]
        assert sizes == [9, 9, 9, 3]
        coords = np.concatenate([block[0] for block in reader.blocks(7)])
        assert np.array_equal(coords, tensor.coords)

    @pytest.mark.parametrize("size", [10, 15, 30])
    def test_last_row_group_that_is_just_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        monkeypatch.setattr(stream, "ROW_GROUP", size)
        tensor = grid(5, 6)
        with TensorWriter(tmp_path / "x.parquet", tensor.shape, np.float64) as writer:
            writer.write(tensor.coords, tensor.values)
        assert SparseTensor.read_parquet(tmp_path / "x.parquet") == tensor

    @pytest.mark.parametrize(
        ("coords", "values", "problem"),
        [
            ([[0, 0]], [1.0], "blocks must be sorted"),
            ([[1, 1]], [1.0], "blocks must be sorted"),
            ([[1, 9]], [1.0], "an index outside the shape"),
            ([[1, 2]], [0.0], "zero, NaN or infinite"),
            ([[1, 2]], [np.nan], "zero, NaN or infinite"),
        ],
    )
    def test_bad_blocks_leave_no_file(
        self, tmp_path: Path, coords: list[list[int]], values: list[float], problem: str
    ) -> None:
        with (
            pytest.raises(InputError, match=problem),
            TensorWriter(tmp_path / "x.parquet", (3, 3), np.float64) as writer,
        ):
            writer.write(np.array([[1, 1]]), np.array([1.0]))
            writer.write(np.array(coords), np.array(values))
        assert list(tmp_path.iterdir()) == []

    def test_nothing_written(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="empty tensor"), TensorWriter(tmp_path / "x.parquet", (3, 3), np.uint8):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_name_of_a_column_that_is_no_text(self, tmp_path: Path) -> None:
        grid(2, 3).write_parquet(tmp_path / "x.parquet")
        content = (tmp_path / "x.parquet").read_bytes()
        (tmp_path / "x.parquet").write_bytes(content.replace(b"mode_1", b"\xbaode_1"))
        for read in (SparseTensor.read_parquet, TensorReader):
            with pytest.raises(InputError, match=r"x.parquet: "):
                read(tmp_path / "x.parquet")

    def test_other_parquet(self, tmp_path: Path) -> None:
        import pyarrow as pa

        pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
        with pytest.raises(InputError, match="no usable 'kronflow' metadata"):
            TensorReader(tmp_path / "x.parquet")
        (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
        with pytest.raises(InputError, match="not a readable Parquet file"):
            TensorReader(tmp_path / "x.parquet")
