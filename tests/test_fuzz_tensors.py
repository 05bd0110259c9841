"""Parquet sparse tensors, damaged: both ways of reading agree on a tensor or on an InputError, never anything else."""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.info import tensor_info
from pipeline.datasets.readers.columnar import is_sparse_tensor
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.stream import TensorReader, TensorWriter
from tests.fuzz import Target, check
from tests.test_fuzz_artifacts import change_array, change_entry, damaged_bytes

HEADER_BYTES = 40  # about as many as a page's header has


def originals() -> dict[str, bytes]:
    """Tensors as they are written whole, with a fraction among the values, and in blocks."""
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, (200, 9, 70_000), (60, 3)), axis=0)
    values = rng.integers(1, 6, len(coords)).astype(float)
    X = SparseTensor(coords, values, (200, 9, 70_000), mode_names=["user", "item", "day"], source={"file": "a"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        found = {}
        X.write_parquet(path)
        found["whole"] = path.read_bytes()
        SparseTensor(coords, values - 3.5, X.shape).write_parquet(path)
        found["fractions"] = path.read_bytes()
        with TensorWriter(path, X.shape, np.uint8, X.mode_names, X.source) as writer:
            writer.write(X.coords, X.values)
        found["blocks"] = path.read_bytes()
    return found


def damaged_table(content: bytes, rng: np.random.Generator) -> bytes:
    """Other rows, types and metadata within a file that is well-formed."""
    table = pq.read_table(io.BytesIO(content))
    header = json.loads(table.schema.metadata[b"kronflow"])
    header.pop("digest", None)
    columns: dict[str, Any] = {name: table[name].to_numpy().copy() for name in table.column_names}
    for _ in range(int(rng.integers(1, 3))):
        kind = int(rng.integers(6))
        rows = len(next(iter(columns.values())))
        if kind == 0:
            change_entry({"kronflow": header}, rng)
        elif kind == 1 and header:
            change_entry(header, rng)
        elif kind == 2:
            chosen = rng.permutation(rows)[: int(rng.integers(rows + 1))] if rng.random() < 0.5 else rng.integers(
                rows, size=int(rng.integers(2 * rows))
            )  # fmt: skip
            columns = {name: column[chosen] if len(column) == rows else column for name, column in columns.items()}
        elif kind == 3:
            name = str(rng.choice(sorted(columns)))
            if columns[name].dtype.kind not in "iuf":
                continue
            others: list[Any] = [
                columns[name].astype(str),
                columns[name].astype("datetime64[s]") if columns[name].dtype.kind in "iu" else columns[name] > 0,
                [None if rng.random() < 0.1 else 1 for _ in columns[name]],
                [[1]] * len(columns[name]),
                [{"a": 1}] * len(columns[name]),
            ]
            chosen = others[int(rng.integers(len(others)))]
            columns[name] = np.fromiter(chosen, object, len(chosen)) if isinstance(chosen, list) else chosen
        else:
            changing = {name: np.asarray(column) for name, column in columns.items() if np.asarray(column).dtype != "O"}
            if changing:
                with suppress(ValueError, OverflowError):  # texts that are no numbers of the type
                    change_array(changing, rng)
                columns = {**{name: column for name, column in columns.items() if name not in changing}, **changing}
    lengths = [len(column) for column in columns.values()]
    columns = {name: column[: min(lengths)] for name, column in columns.items()}
    metadata = {"kronflow": json.dumps(header)}
    try:
        return as_parquet(pa.table(columns).replace_schema_metadata(metadata))
    except (pa.ArrowException, ValueError, OverflowError):  # columns that no table or no file takes
        return as_parquet(table.replace_schema_metadata(metadata))


def as_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def damaged_headers(content: bytes, rng: np.random.Generator) -> bytes:
    """Other bytes in the headers of pages, or in the footer, of a Parquet file; what lies between stays."""
    about = pq.ParquetFile(io.BytesIO(content)).metadata
    chunks = [
        about.row_group(group).column(place)
        for group in range(about.num_row_groups)
        for place in range(about.num_columns)
    ]
    starts = [place for chunk in chunks for place in (chunk.dictionary_page_offset, chunk.data_page_offset) if place]
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 3))):
        start, length = (int(rng.choice(starts)), HEADER_BYTES) if rng.random() < 0.7 else (footer, len(data) - footer)
        place, kind = start + int(rng.integers(length)), int(rng.integers(4))
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.integers(256))
        elif kind == 2:  # numbers of seven bits a byte: one without an end, and the largest
            data[place : place + 9] = b"\xff" * int(rng.integers(1, 9)) + b"\x7f"
        else:
            data[place : place + 4] = rng.bytes(4)
    return bytes(data[: len(content)])


def asked(paths: dict[str, Path]) -> Any:
    """Read a file whole and in blocks, which must agree; and what ``info`` says of it."""
    (path,) = paths.values()
    try:
        reader = TensorReader(path)
        blocks = list(reader.blocks(17))
    except InputError:
        with pytest.raises(InputError):
            SparseTensor.read_parquet(path)
        raise
    X = SparseTensor.read_parquet(path)
    coords, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    assert np.array_equal(coords, X.coords) and np.array_equal(values, X.values)
    assert (reader.shape, reader.nnz, reader.mode_names) == (X.shape, X.nnz, X.mode_names)
    assert is_sparse_tensor(path)
    json.dumps(tensor_info(path), allow_nan=False)
    return X.shape, X.coords, X.values, X.mode_names, X.source


def targets() -> list[Target]:
    """Damaged bytes, and damaged contents."""
    found = []
    for name, content in originals().items():
        files = {"a.parquet": content}
        found += [
            Target("tensor, checksums kept", name, files, damaged_bytes, asked, kept=True),
            Target("tensor, checksums kept", f"{name}, headers", files, damaged_headers, asked, kept=True),
            Target("tensor, no checksums", name, files, damaged_table, asked),
        ]
    return found


def test_damaged_tensors() -> None:
    check(targets())


HEADER = {"version": 1, "shape": [3, 2], "nnz": 3, "norm2": 14.0}
ROWS = {"mode_0": [0, 1, 2], "mode_1": [1, 0, 1], "value": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("rows", "header", "problem"),
    [
        ({"mode_0": [1, 0, 2], "mode_1": [0, 1, 1]}, {}, r"row 1: cell \[0, 1\] does not come after"),
        ({"mode_0": [0, 0, 2], "mode_1": [1, 1, 1]}, {}, r"row 1: cell \[0, 1\] does not come after"),
        ({"mode_0": [0, 1, 3]}, {}, "row 2: index 3 in mode 0 is outside 0..2"),
        ({"mode_1": [-1, 0, 1]}, {}, "row 0: index -1 in mode 1 is outside 0..1"),
        ({"mode_0": np.array([0, 1, 2**64 - 1], np.uint64)}, {}, "index 18446744073709551615 in mode 0"),
        ({"value": [1.0, 0.0, 3.0]}, {}, "row 1: value 0.0; a non-zero is finite and not 0"),
        ({"value": [1.0, 2.0, float("nan")]}, {}, "row 2: value nan"),
        ({"value": [1.0, float("-inf"), 3.0]}, {}, "row 1: value -inf"),
        ({"value": [1.0, 2.0, 3.5]}, {}, "norm2 17.25, its metadata says 14.0"),
        ({"value": [1.0, None, 3.0]}, {}, "missing values in a column"),
        ({}, {"nnz": 4}, "3 rows, its metadata says 4 non-zeros"),
        ({}, {"nnz": True}, "metadata: True non-zeros"),
        ({}, {"nnz": "3"}, "metadata: 3 non-zeros"),
        ({}, {"norm2": "14"}, "metadata: norm2 14 is no number"),
        ({}, {"norm2": float("inf")}, "Infinity is no JSON"),
        ({}, {"norm2": None}, "norm2 14.0, its metadata says inf"),
        ({}, {"shape": [3, float("nan")]}, "NaN is no JSON"),
        ({}, {"shape": [3, 2.0]}, r"metadata: shape \[3, 2.0\] is no list of sizes"),
        ({}, {"shape": [3, 2**63]}, "is no list of sizes"),
        ({}, {"shape": {"0": 3}}, "is no list of sizes"),
        ({}, {"mode_names": 7}, "metadata: mode names 7 for 2 modes"),
        ({}, {"mode_names": ["a", 1]}, "mode names"),
        ({}, {"source": [1]}, "metadata: source"),
        ({}, {"version": "1"}, "names no format version"),
        ({}, {"version": 2}, "format version 2, this program reads up to 1"),
    ],
)
def test_both_readers_refuse_alike(rows: dict[str, Any], header: dict[str, Any], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table(ROWS | rows).replace_schema_metadata({"kronflow": json.dumps(HEADER | header)})
    pq.write_table(table, path)
    messages = []
    for read in (SparseTensor.read_parquet, lambda path: list(TensorReader(path).blocks(2)), tensor_info):
        with pytest.raises(InputError, match=problem) as caught:
            read(path)
        messages.append(str(caught.value))
    assert len(set(messages)) == 1


def test_a_grid_of_more_cells_than_64_bits_is_checked_by_its_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    X = SparseTensor([[0, 2**61, 1], [0, 2**61, 2], [2**61, 0, 0]], [1.0, 2.0, 3.0], (2**62, 2**62, 3))
    X.write_parquet(path)
    assert SparseTensor.read_parquet(path) == X
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, 2]), path)
    with pytest.raises(InputError, match=r"row 1: cell .* does not come after"):
        SparseTensor.read_parquet(path)


def test_very_many_equal_rows_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    schema = pa.schema({"mode_0": pa.uint8(), "value": pa.uint8()})
    header = json.dumps({"version": 1, "shape": [1], "nnz": 1, "norm2": 1.0})
    many = pa.array(np.zeros(10_000_000, dtype=np.uint8)), pa.array(np.ones(10_000_000, dtype=np.uint8))
    pq.write_table(pa.table(many, schema=schema).replace_schema_metadata({"kronflow": header}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match="10,000,000 rows, its metadata says 1 non-zeros"):
        TensorReader(path)


def test_norms_that_overflow_have_no_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    X = SparseTensor([[0], [1]], [1e200, 2.0], (2,), source={"n": 1})
    X.write_parquet(path)
    assert json.loads(pq.read_schema(path).metadata[b"kronflow"])["norm2"] is None
    assert SparseTensor.read_parquet(path) == X
