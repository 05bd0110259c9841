"""Raw files that are small on disk and very large, long or wide once they are read: a line, not all memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from pipeline.commands.source import read_tensor
from pipeline.core import sizes
from pipeline.core.files import sha256_file
from pipeline.datasets import raw, read_raw, text
from pipeline.datasets.assemble import assemble
from pipeline.datasets.readers import csvtable
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.labels import read_label_files
from pipeline.sparse.stream import TensorReader, TensorWriter
from tests.fuzz import Target, outcomes

HEAD = b"%%MatrixMarket matrix coordinate real general\n"


def read(name: str, path: Path, **options: Any) -> Any:
    return assemble(read_raw(name, {path.name: path}, options), {}).tensor


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that files of kilobytes reach."""
    monkeypatch.setattr(sizes, "UNPACKED", 100_000)
    monkeypatch.setattr(sizes, "EXPANSION", 2)
    monkeypatch.setattr(raw, "LONGEST_LINE", 300_000)
    monkeypatch.setattr(csvtable, "MOST_EMPTY", 1000)
    monkeypatch.setattr(csvtable, "MOST_COLUMNS", 1000)
    monkeypatch.setattr(text, "MOST_WITHOUT", 50_000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 10_000)


@pytest.mark.parametrize(
    ("reader", "content", "problem"),
    [
        ("tns", b"1" * 2_000_000, "a line of more than 300,000 bytes"),
        ("tns", b"1 " * 1500 + b"\n", "1: 1,500 fields; an entry has at most 1,024"),
        ("tns", b"\n" * 90_000, "comments and empty lines of more than 50,000 bytes without an entry"),
        ("tns", b"1 1 1\n" + b"# x\n" * 20_000, "comments and empty lines of more than 50,000 bytes"),
        ("coo", b"# x\n" * 20_000, "comments and empty lines of more than 50,000 bytes"),
        ("mtx", HEAD + b"% x\n" * 20_000, "comments and empty lines of more than 50,000 bytes"),
        ("mtx", HEAD + b"%" * 2_000_000, "a line of more than 300,000 bytes"),
        ("mtx", HEAD + b"9 9 999999999999\n1 1 1\n", "1 entries where its line 2 promises 999,999,999,999"),
        ("csv", b"a,b\n" + b"x" * 2_000_000, "a line of more than 300,000 bytes|field larger than field limit"),
        ("csv", b"\n" * 5000, "1,000 empty lines; it is no table"),
        ("csv", b"a," * 1500 + b"b\n", "1: 1,501 columns, more than 1,000"),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_text_without_an_end(reader: str, content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{reader}"
    path.write_bytes(content)
    options = {"columns": ["a"]} if reader == "csv" else {"values": True} if reader == "coo" else {}
    with pytest.raises(InputError, match=problem):
        read(reader, path, **options)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.usefixtures("narrow")
def test_a_file_that_unpacks_to_much_more_than_it_is(suffix: str, pack: Any, tmp_path: Path) -> None:
    path = tmp_path / f"x.tns.{suffix}"
    path.write_bytes(pack(b"1 1 1\n" * 200_000))
    with pytest.raises(InputError, match="times the file's size; if that is meant, set KRONFLOW_UNPACKED"):
        read("tns", path)
    (tmp_path / "x.tns").write_bytes(b"1 1 1\n" * 200_000)
    assert read("tns", tmp_path / "x.tns").values.tolist() == [200_000]


def array(content: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=True)
    return buffer.getvalue()


def header(shape: tuple[int, ...], kind: str) -> bytes:
    """A .npy file of this shape without any content."""
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


PARTS = {"format": np.array(b"coo"), "shape": [2, 2], "row": [0, 1], "col": [0, 1], "data": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("row", header((1 << 40,), "<i8"), r"array 'row' of shape \(1099511627776,\) .* is more than what is stored"),
        ("row", header((-1,), "<i8"), "array 'row'"),
        ("row", header((1 << 200, 0), "<i8") + bytes(8), "not a readable .npz file|array"),
        ("data", array(np.array([{}, {}], dtype=object)), "array 'data' holds objects, which are not loaded"),
        ("row", b"no array", "not a readable .npz file"),
        ("row", array(np.array([0, 1]))[:-3], "array 'row'"),
        ("format", array(np.array([b"coo", b"csr"])), "its 'format' is none of"),
        ("shape", array(np.array([2.5, 2])), "is no list of sizes"),
    ],
)
def test_npz_headers_are_compared_with_what_is_stored(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for part, value in PARTS.items():
            archive.writestr(f"{part}.npy", content if part == name else array(np.array(value)))
    with pytest.raises(InputError, match=problem):
        read("npz", path)


@pytest.mark.usefixtures("narrow")
def test_npz_members_are_read_only_where_needed_and_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    parts = {f"{part}.npy": array(np.array(value)) for part, value in PARTS.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
        archive.writestr("junk.npy", header((1 << 50,), "<f8") + bytes(3_000_000))
    assert read("npz", path).values.tolist() == [1, 2]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in (parts | {"row.npy": array(np.zeros(1_000_000, dtype=np.int64))}).items():
            archive.writestr(part, content)
    with pytest.raises(InputError, match="array 'row' unpacks to more than"):
        read("npz", path)


@pytest.mark.parametrize("layout", ["bsr", "dia"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_and_diagonals_are_those_of_scipy(layout: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    matrix = scipy.sparse.random_array((12, 18), density=0.2, rng=rng)
    stored = scipy.sparse.bsr_array(matrix, blocksize=(3, 2)) if layout == "bsr" else scipy.sparse.dia_array(matrix)
    scipy.sparse.save_npz(tmp_path / "x.npz", stored)
    X = assemble(read_raw("npz", {"x.npz": tmp_path / "x.npz"}, {}), {}).tensor
    assert np.array_equal(X.to_dense(), matrix.toarray())


@pytest.mark.parametrize(
    ("layout", "changes", "problem"),
    [
        ("bsr", {"indices": np.array([0, 9])}, "an index of a block is outside 0..1"),
        ("bsr", {"indptr": np.array([0, 1, 9])}, "pointers do not rise"),
        ("bsr", {"shape": np.array([5, 4])}, "do not divide a shape"),
        ("bsr", {"data": np.ones((2, 0, 2))}, "do not divide a shape"),
        ("dia", {"offsets": np.array([0, 1])}, "diagonals of shape"),
        ("dia", {"offsets": np.array([1 << 62])}, "an offset of a diagonal is outside"),
    ],
)
def test_wrong_blocks_and_diagonals(layout: str, changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    blocks = {"data": np.ones((2, 2, 2)), "indices": np.array([0, 1]), "indptr": np.array([0, 1, 2])}
    parts = blocks if layout == "bsr" else {"data": np.ones((1, 4)), "offsets": np.array([0])}
    np.savez(tmp_path / "x.npz", **{"format": np.array(layout.encode()), "shape": np.array([4, 4])} | parts | changes)
    with pytest.raises(InputError, match=problem):
        read("npz", tmp_path / "x.npz")


def test_a_diagonal_of_a_huge_matrix_takes_what_it_holds(tmp_path: Path) -> None:
    parts = {"format": np.array(b"dia"), "shape": np.array([1 << 40, 1 << 40]), "offsets": np.array([-5])}
    np.savez(tmp_path / "x.npz", data=np.array([[1.0, 0.0, 3.0]]), **parts)
    assert read("npz", tmp_path / "x.npz").coords.tolist() == [[5, 0], [7, 2]]


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "99"}


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"GNU.sparse.size": str(1 << 40), "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,10"}, "is a sparse file"),
        (SPARSE, "is a sparse file"),  # its map has no end
        ({"GNU.sparse.size": "x", "GNU.sparse.numblocks": "1"}, "cannot be read|is a sparse file"),
        ({"comment": "x" * (2 << 20)}, "a header of 2,097,"),
    ],
)
def test_headers_of_archives_are_bounded(tmp_path: Path, attributes: dict[str, str], problem: str) -> None:
    entry = tarfile.TarInfo("a.csv")
    entry.size, entry.pax_headers = 10, attributes
    path = tmp_path / "x.csv.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(b"a,b\n1,2\n  "))
    with pytest.raises(InputError, match=problem):
        read("csv", path, columns=["a"])


TIGHT = "if that is meant, set KRONFLOW_UNPACKED, for example KRONFLOW_UNPACKED=10GB"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("x.parquet", {"a": pa.array(np.zeros(10_000, np.int32)), "n": np.ones(10_000)}),  # equal rows
        ("x.parquet", {"a": [f"{place}{'x' * 20_000}" for place in range(40)], "n": np.ones(40)}),  # long labels
        ("x.feather", {"a": pa.array(np.zeros(10_000, np.int32)), "n": np.ones(10_000)}),
    ],
)
@pytest.mark.usefixtures("narrow")
def test_tables_of_few_bytes_and_many_rows(
    name: str, columns: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, table = tmp_path / name, pa.table(columns)
    if name == "x.parquet":
        pq.write_table(table, path, compression="zstd")
    else:
        feather.write_feather(table, path, compression="zstd")
    with pytest.raises(InputError, match=TIGHT):
        read("columnar", path, columns=["a"], value="n")
    monkeypatch.setenv("KRONFLOW_UNPACKED", "10MB")
    assert read("columnar", path, columns=["a"], value="n").values.sum() == len(table)


@pytest.mark.usefixtures("narrow")
def test_one_long_label_of_many_rows_takes_the_room_of_one(tmp_path: Path) -> None:
    codes = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000, np.int32)), ["x" * 60_000])
    pq.write_table(pa.table({"a": codes, "n": np.ones(2_000)}), tmp_path / "x.parquet")
    X = read("columnar", tmp_path / "x.parquet", columns=["a"], value="n")
    assert (X.values.tolist(), X.labels) == ([2_000.0], {0: ["x" * 60_000]})


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.struct([("x", pa.int64())]), pa.map_(pa.int64(), pa.int64()), pa.null()]
)
def test_nested_columns_are_no_labels_and_no_values(kind: pa.DataType, tmp_path: Path) -> None:
    nested = pa.array([None, None], kind)
    for columns, problem in (({"a": nested, "n": [1, 2]}, "cannot be a label"), ({"a": [1, 2], "n": nested}, "number")):
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        with pytest.raises(InputError, match=problem):
            read("columnar", tmp_path / "x.parquet", columns=["a"], value="n")


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (1 << 40,), "chunks": (1 << 20,)},  # declared, nothing stored
        {"shape": (1 << 40,), "chunks": (1 << 20,), "compression": "gzip", "fillvalue": 1},
        {"shape": (2,), "maxshape": (None,), "chunks": (1 << 28,), "compression": "gzip"},  # a chunk is unpacked whole
        {"data": np.zeros(1_000_000), "compression": "gzip"},
    ],
)
@pytest.mark.usefixtures("narrow")
def test_hdf5_arrays_of_few_bytes(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        kinds = dict.fromkeys(("values", "indices_0", "indices_1"), "float64")
        layout = {"version": "0.1", "format": "COO", "shape": [9, 9], "data_types": kinds}
        file.attrs["binsparse"] = json.dumps({"binsparse": layout})
        for name in kinds:
            file.create_dataset(name, dtype="f8", **options)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: array '[a-z0-9_]+' .*{TIGHT}$"):
        read("hdf5", path)


@pytest.mark.usefixtures("narrow")
def test_texts_of_any_length_in_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "EXPANSION", 0)  # many places may have one text, which this library does not write
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        parts = {"data": np.ones(1), "indices": [0], "indptr": [0, 1], "shape": [500, 1], "barcodes": [b"x"]}
        for name, values in parts.items():
            file[f"matrix/{name}"] = values
        file["matrix/features/id"] = np.array(["y" * 5000] * 500, dtype=h5py.string_dtype())
    with pytest.raises(InputError, match=f"array 'id' .*{TIGHT}"):
        read("hdf5", path)


def test_the_bound_of_unpacking_is_a_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(bytes(1000))
    assert sizes.most_unpacked(tmp_path / "x") == 1 << 27
    monkeypatch.setenv("KRONFLOW_UNPACKED", "3GB")
    assert sizes.most_unpacked(tmp_path / "x") == 3_000_000_000
    monkeypatch.setenv("KRONFLOW_UNPACKED", "lots")
    with pytest.raises(InputError, match="KRONFLOW_UNPACKED lots: write a number of bytes"):
        sizes.check_unpacked(tmp_path / "x", 5)


@pytest.mark.usefixtures("narrow")
def test_a_tensor_of_few_bytes_and_many_cells(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    with TensorWriter(path, (100, 100), np.uint8) as writer:
        writer.write(np.argwhere(np.ones((100, 100))), np.ones(10_000))
    with pytest.raises(InputError, match=TIGHT):
        read_tensor(path)


def test_text_that_arrow_holds_as_views_is_read_as_text(tmp_path: Path) -> None:
    found = []
    for kind in (pa.string(), pa.string_view(), pa.large_string()):
        labels = pa.array(["b", "a", "a text of more than twelve bytes"], kind)
        table = pa.table({"a": labels, "n": [1, 2, 3]})
        with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        files = {"x.arrow": tmp_path / "x.arrow"}
        assembled = assemble(read_raw("columnar", files, {"columns": ["a"], "value": "n"}), {})
        found.append((assembled.tensor.values.tolist(), assembled.labels[0]["label"].to_pylist()))
    assert found == [([2, 3, 1], ["a", "a text of more than twelve bytes", "b"])] * 3


def lying(content: bytes, told: int, less: int) -> bytes:
    """A Parquet file whose footer says that a column unpacks to less than it does."""

    def number(value: int, width: int) -> bytes:
        groups = [value >> 7 * place & 0x7F for place in range(width)]
        return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])

    width = -(-(2 * told).bit_length() // 7)
    assert content.count(number(2 * told, width)) == 1
    return content.replace(number(2 * told, width), number(2 * less, width))


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "RLE_DICTIONARY"])
@pytest.mark.usefixtures("narrow")
def test_pages_that_unpack_to_more_than_the_file_says_are_refused_before_one_is_unpacked(
    encoding: str, tmp_path: Path
) -> None:
    path, coded = tmp_path / "x.parquet", encoding == "RLE_DICTIONARY"
    table = pa.table({"a": ["x" * 3_000_000, "y"], "n": np.ones(2)})
    column = {} if coded else {"column_encoding": {"a": encoding, "n": "PLAIN"}}
    pq.write_table(table, path, compression="zstd", use_dictionary=coded, write_statistics=False, **column)
    told = pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    with pytest.raises(InputError, match=TIGHT):
        read("columnar", path, columns=["a"], value="n")
    path.write_bytes(lying(path.read_bytes(), told, 2_000))
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 2_000
    with pytest.raises(InputError, match=r"column 'a': its pages unpack to 3,000,\d+ bytes, the file says 2,000"):
        read("columnar", path, columns=["a"], value="n")


def test_pages_of_a_tensor_and_of_labels_are_compared_too(tmp_path: Path) -> None:
    path, labels = tmp_path / "x.parquet", tmp_path / "x.labels-0.parquet"
    names = [f"{row:05d}" * 4 for row in range(200)]
    values = np.random.default_rng(0).random(200) + 1
    X = SparseTensor(np.repeat(np.arange(200)[:, None], 2, axis=1), values, (200, 200), labels={0: names})
    X.write_parquet(path)

    def ask() -> None:
        TensorReader(path)
        read_label_files(path, {"0": {"file": labels.name, "sha256": sha256_file(labels)}}, (200, 200))

    ask()
    for file, column, name in ((path, 2, "value"), (labels, 1, "label")):
        whole = file.read_bytes()
        told = pq.read_metadata(file).row_group(0).column(column).total_uncompressed_size
        file.write_bytes(lying(whole, told, told - 500))
        with pytest.raises(InputError, match=f"column '{name}': its pages unpack to"):
            ask()
        file.write_bytes(whole)
    assert SparseTensor.read_parquet(path, labels=True).labels == {0: names}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.usefixtures("narrow")
def test_texts_that_share_their_beginnings_are_read_within_bounds(kind: pa.DataType, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for length, rows in ((10, 3_000), (5_000, 100)):
        texts = pa.array([f"{'x' * length}{row:05d}" for row in range(rows)], kind)
        encodings = {"a": "DELTA_BYTE_ARRAY", "n": "PLAIN"}
        pq.write_table(
            pa.table({"a": texts, "n": np.ones(rows)}), path, use_dictionary=False, column_encoding=encodings
        )
        if length == 10:
            assert read("columnar", path, columns=["a"], value="n").labels == {0: texts.to_pylist()}
        else:  # 5,000 bytes of each text are those of the one before
            with pytest.raises(InputError, match=TIGHT):
                read("columnar", path, columns=["a"], value="n")


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"\x19", "a field of type 9"),
        (b"\x18\xff\xff\x7f", "a text beyond the end"),
        (b"\x1c" * 20, "structs nested too deeply"),
        (b"\x15" + b"\x80" * 12, "a number without an end"),
        (b"\x15\x00\x15\x01\x15\x00\x00", "a page of -1 bytes in 0"),
        (b"\x00", "a page of -1 bytes in -1"),
    ],
)
def test_headers_of_pages_that_are_none_are_refused(header: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["u", "v"] * 20, "n": np.ones(40)}), path)
    content = bytearray(path.read_bytes())
    content[4 : 4 + len(header)] = header  # the first page starts there
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.parquet: column 'a': the header of a page cannot be read \({problem}"):
        read("columnar", path, columns=["a"], value="n")


@pytest.mark.parametrize(
    ("where", "other", "problem"),
    [
        (b"\x25\x02\x18\x06mode_0", b"\x25\x00\x18\x06mode_0", "Definition level histogram size mismatch"),
        (b"\x18\x06mode_0", b"\x18\x7fmode_0", "deserialize thrift|footer cannot be read"),
    ],
)
def test_a_footer_that_contradicts_itself_does_not_end_the_process(
    where: bytes, other: bytes, problem: str, tmp_path: Path
) -> None:
    """Asked for a column's metadata, Arrow 26 ends the process where its sizes do not suit its schema."""
    kept = SparseTensor([[0, 1], [1, 0]], [1, 2], (2, 2))

    def asked(paths: dict[str, Path]) -> str:
        with pytest.raises(InputError, match=problem) as raised:
            SparseTensor.read_parquet(paths["x.parquet"])
        return str(raised.value)

    kept.write_parquet(tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    assert where in content
    ((state, _),) = outcomes(
        Target("", "", {"x.parquet": b""}, lambda *_: b"", asked), [{"x.parquet": content.replace(where, other, 1)}]
    )
    assert state == "answered"
