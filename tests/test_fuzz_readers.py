"""Every reader against damaged files: a tensor or an InputError, never another exception, never a wrong tensor.

How that is counted: :mod:`tests.fuzz`. A failure names seed and number.
"""

from __future__ import annotations

import gzip
import io
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from pipeline.datasets import READERS, read_raw, text
from pipeline.datasets.assemble import assemble
from pipeline.datasets.readers import csvtable
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from tests.fuzz import CASES, SEED, Ask, Damage, Target, check
from tests.test_fuzz_tensors import damaged_headers

TEXT = b"# head\n1 2 3 4\n2 1 1 0.5\n\n3 3 3 -2e1\n1 2 3 1\n"
TABLE = b'user,item,n\nann,"x, 1",2\nbob,y,1.5\nann,y,3\n'
TOKENS = [
    b"0",
    b"-1",
    b"nan",
    b"1e999",
    b"9" * 30,
    b"\xff\xfe",
    b"\0",
    b"\r\n",
    b'"',
    b"\n\n",
    b",",
    b" ",
    b"#",
    b"%",
    b"0x1",
]


def rounds(test: str) -> Iterator[np.random.Generator]:
    """Yield generators that this name alone decides."""
    for number in range(8 * CASES):
        yield np.random.default_rng([SEED, zlib.crc32(test.encode()), number])


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def idx(content: np.ndarray) -> bytes:
    return struct.pack(f">2xBB{content.ndim}I", 8, content.ndim, *content.shape) + content.astype(np.uint8).tobytes()


def written(write: Callable[[Path], Any], folder: Path) -> bytes:
    path = folder / "seed"
    write(path)
    content = path.read_bytes()
    path.unlink()
    return content


def bible(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE Bible (TestamentID, BookID, ChapterID, VerseID, Passage1, Passage2)")
        connection.execute("INSERT INTO Bible VALUES (1, 1, 1, 1, '1:1 In the beginning was the word', '')")
    connection.close()


def binsparse(path: Path) -> None:
    with h5py.File(path, "w") as file:
        arrays = {"pointers_to_1": [0, 1, 2], "indices_1": [0, 1], "values": [1.0, 2.0]}
        for name, values in arrays.items():
            file[name] = np.array(values)
        kinds = ", ".join(f'"{name}": "{np.array(values).dtype}"' for name, values in arrays.items())
        file.attrs["binsparse"] = f'{{"binsparse": {{"format": "CSR", "shape": [2, 2], "data_types": {{{kinds}}}}}}}'


def tenx(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        arrays = {"data": [1, 2], "indices": [0, 1], "indptr": [0, 1, 2], "shape": [2, 2]}
        for name, values in arrays.items():
            group[name] = np.array(values)
        group["barcodes"] = np.array(["x", "y"], dtype="S")
        group.create_group("features").create_dataset("id", data=["a", "b"], dtype=h5py.string_dtype())


def seeds(folder: Path) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    """A small valid data set of every format: its files and its options."""
    matrix = scipy.sparse.coo_array(np.array([[1.0, 0], [2, 3]]))
    table = pa.table({"a": ["x", "y"], "n": [1.0, 2.0]})
    binary = b"".join(bytes([label]) + bytes(range(256)) * 12 for label in (1, 2))
    parts = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    visit = b"1\tv\tc\tC\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012\n"
    clicks = b"userid\tofferid\tcountrycode\tcategory\tmerchant\tutcdate\timplicit feedback\nu\to\tde\t1\tm\tt\t1\n"
    images = np.arange(18).reshape(2, 3, 3)
    market = b"%%MatrixMarket matrix coordinate real general\n2 2 2\n1 1 1.5\n2 1 -3\n"
    return {
        "10x": ({"matrix.mtx": market, "genes.tsv.gz": packed(b"a\tA\nb\tB\n"), "barcodes.tsv": b"x\ny\n"}, {}),
        "binsparse": ({"x.h5": written(binsparse, folder)}, {}),
        "checkins": ({"x.zip": zipped({"d/NYC.txt": visit})}, {"member": "NYC.txt"}),
        "cifar": ({"x.tar.gz": tarred({f"cifar-10-batches-bin/{name}": binary for name in parts})}, {}),
        "coha": ({"x.zip": zipped({"a.txt": b"4\ta\tlight\tblue\t12\n"})}, {"order": 3}),
        "columnar": ({"x.parquet": written(lambda path: pq.write_table(table, path), folder)}, {"columns": ["a"]}),
        "coo": ({"x.txt": TEXT}, {}),
        "csv": ({"x.csv": TABLE}, {"columns": ["user", "item"], "value": "n"}),
        "digits": ({"x.csv.gz": packed((b"1," * 64 + b"3\n") * 2)}, {"test": 1}),
        "flights": ({"x.csv": b"dest,tailnum\nMIA,N1\nATL,NA\n"}, {}),
        "hdf5": ({"x.h5": written(tenx, folder)}, {}),
        "idx": (
            {
                "train-images": idx(images),
                "train-labels": idx(images[:, 0, 0]),
                "t10k-images": idx(images),
                "t10k-labels": idx(images[:, 0, 0]),
            },
            {},
        ),
        "kasandr": ({"x.tar.gz": tarred({"de/train_de.csv": clicks, "de/test_de.csv": clicks})}, {}),
        "kjv": ({"x.db": written(bible, folder)}, {"order": 2}),
        "mtx": ({"x.mtx": market}, {}),
        "npy": ({"x.npy": written(lambda path: np.save(path.open("wb"), matrix.toarray()), folder)}, {}),
        "npz": ({"x.npz": written(lambda path: scipy.sparse.save_npz(path.open("wb"), matrix), folder)}, {}),
        "simplices": ({"x-nverts": b"2\n1\n", "x-simplices": b"1\n2\n3\n"}, {}),
        "tns": ({"x.tns.gz": packed(b"1 2 3 4\n2 2 1 5\n")}, {}),
        "twitch": ({"x.csv.gz": packed(b"1,33,mithrain,154,156\n2,33,alptv,166,169\n")}, {}),
    }


def variants(folder: Path) -> dict[str, tuple[dict[str, bytes], dict[str, Any]]]:
    """Other files that a reader knows, by its name and theirs."""
    dense = np.array([[1.0, 0, 2, 0], [0, 3, 0, 0]])
    matrix = scipy.sparse.coo_array(dense)
    texts = [f"label {number}" for number in range(40)]
    table = pa.table({"a": texts, "b": pa.array(texts[::-1]).dictionary_encode(), "n": np.arange(40) + 0.5})
    options = {"columns": ["a", "b"], "value": "n"}
    plain = {"use_dictionary": False, "data_page_version": "2.0", "column_encoding": {"a": "DELTA_BYTE_ARRAY"}}
    gcxs = {"data": [1.0, 2, 3], "indices": [0, 2, 1], "indptr": [0, 2, 3], "shape": [2, 4], "fill_value": 0.0}
    entries = b"1 1 1 1.5\n2 1 2 -3\n2 2 2 4\n"

    def h5ad(path: Path) -> None:
        with h5py.File(path, "w") as file:
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "shape": [2, 4]})
            rows = scipy.sparse.csr_array(dense)
            group["data"], group["indices"], group["indptr"] = rows.data, rows.indices, rows.indptr
            file.create_group("obs").attrs["_index"] = "name"
            file["obs"].create_dataset("name", data=["a", "b"], dtype=h5py.string_dtype())

    def array(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("X", data=dense, chunks=(1, 2), compression="gzip")

    def arrow(make: Callable[[Any, Any], Any]) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with make(str(path), table.schema) as out:
                out.write_table(table)

        return write

    def npz(layout: str) -> bytes:
        return written(lambda path: scipy.sparse.save_npz(path.open("wb"), matrix.asformat(layout)), folder)

    kept = {
        "x.npz": written(lambda path: np.savez(path.open("wb"), format="gcxs", compressed_axes=[0], **gcxs), folder)
    }
    return {
        "columnar, plain": ({"x.parquet": written(lambda path: pq.write_table(table, path, **plain), folder)}, options),
        "columnar, codes": ({"x.parquet": written(lambda path: pq.write_table(table, path), folder)}, options),
        "columnar, arrow": ({"x.arrow": written(arrow(pa.ipc.new_file), folder)}, options),
        "columnar, stream": ({"x.arrows": written(arrow(pa.ipc.new_stream), folder)}, options),
        "hdf5, h5ad": ({"x.h5ad": written(h5ad, folder)}, {}),
        "hdf5, dense": ({"x.h5": written(array, folder)}, {}),
        "npz, gcxs": (kept, {}),
        **{f"npz, {layout}": ({"x.npz": npz(layout)}, {}) for layout in ("csr", "csc", "bsr", "dia")},
        "mtx, array": ({"x.mtx": b"%%MatrixMarket matrix array real symmetric\n2 2\n1\n-2\n3e1\n"}, {}),
        "mtx, pattern": ({"x.mtx": b"%%MatrixMarket matrix coordinate pattern symmetric\n%\n3 3 2\n2 1\n3 3\n"}, {}),
        "mtx, tensor": ({"x.ttx": b"%%MatrixMarket tensor coordinate real general\n2 2 2 3\n" + entries}, {}),
        "coo, sptensor": ({"x.txt": b"sptensor\n3\n2 2 2\n3\n" + entries}, {"base": 1}),
        "coo, ParTI": ({"x.txt": b"3\n2 2 2\n" + entries}, {"base": 1}),
        "coo, edges": ({"x.txt.gz": packed(b"# a\n1 2\n2 1\n3 1\n")}, {"values": False, "base": None}),
        "csv, semicolons": (
            {"x.csv": b'u;v;n\n"a;b";"c ""d";1,5\nx;y;-2\n'},
            {"columns": ["u", "v"], "value": "n", "separator": ";", "decimal": ","},
        ),
        "csv, no header": (
            {"x.dat": b"1::193::5::978300760\n2::661::3::978302109\n"},
            {"columns": [0, 1], "value": 2, "separator": "::", "header": False},
        ),
    }


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Change, cut, double or put in a few bytes; gzip files often inside, so that the reader gets to see it."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        return packed(damaged(gzip.decompress(content), rng))
    damage = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(0, len(damage) + 1))
        kind = rng.integers(0, 5)
        if kind == 0 and place < len(damage):
            damage[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del damage[place : place + int(rng.integers(1, 9))]
        elif kind == 2:
            damage[place:place] = TOKENS[int(rng.integers(0, len(TOKENS)))]
        elif kind == 3:
            del damage[place:]
        elif kind == 4:
            damage[place:place] = damage[place : place + 20]
    return bytes(damage)


def test_every_format_has_a_seed(tmp_path: Path) -> None:
    given = seeds(tmp_path)
    assert sorted(given) == sorted(READERS)
    for name, (files, options) in given.items():
        paths = {file: tmp_path / file for file in files}
        for file, content in files.items():
            paths[file].write_bytes(content)
        assert assemble(read_raw(name, paths, options), {}).nnz > 0


def targets() -> list[Target]:
    """The files of every reader."""

    def asking(name: str, options: dict[str, Any]) -> Ask:
        def ask(paths: dict[str, Path]) -> Any:
            assembled = assemble(read_raw(name, paths, options), {})
            tensor = assembled.tensor
            assert SparseTensor(tensor.coords, tensor.values, tensor.shape) == tensor
            return tensor.shape, tensor.coords, tensor.values, str(assembled.labels)

        return ask

    with tempfile.TemporaryDirectory() as folder:
        given = seeds(Path(folder)) | variants(Path(folder))
    found = [Target("file of a reader", name, *_parts(given[name], asking, name)) for name in sorted(given)]
    for name in ("columnar, plain", "columnar, codes"):
        files, _, ask = _parts(given[name], asking, name)
        found.append(Target("file of a reader", f"{name}, headers", files, damaged_headers, ask))
    return found


def _parts(
    given: tuple[dict[str, bytes], dict[str, Any]], asking: Callable[[str, dict[str, Any]], Ask], name: str
) -> tuple[dict[str, bytes], Damage, Ask]:
    files, options = given
    return files, damaged, asking(name.partition(",")[0], options)


@pytest.mark.parametrize("name", sorted(READERS))
def test_damaged_files(name: str) -> None:
    check([target for target in targets() if target.name == name])


def test_damaged_text_gives_what_careful_parsing_gives(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for rng in rounds("text"):
        content = damaged(TEXT.replace(b"# head\n", b""), rng)
        path.write_bytes(content)
        outcomes = []
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # every kind of line end, as files are read
        for parse in (
            lambda: [block for block in text.read_numbers(path, 3) if len(block[1])],
            lambda content=content: [text.parse_lines(path, 1, content, 3, values=True)],
        ):
            try:
                outcomes.append([[column.tolist() for column in (*keys, values)] for keys, values in parse()])
            except InputError as error:
                outcomes.append(str(error))
        if outcomes[1] != [[[], [], [], []]]:
            assert outcomes[0] == outcomes[1], content
        else:
            assert outcomes[0] == []


def test_damaged_csv_gives_what_careful_parsing_gives(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for rng in rounds("table"):
        content = b"user,item,n\n" + damaged(TABLE.partition(b"\n")[2], rng)
        path.write_bytes(content)
        layout = csvtable.Layout(path, width=3, keys=(0, 1), value=2)
        outcomes = []
        for blocks in (csvtable.blocks_of(layout), csvtable.careful_blocks(layout, 0)):
            try:
                rows = [list(zip(*(each.tolist() for each in (*keys, values)), strict=True)) for keys, values in blocks]
                outcomes.append([row for part in rows for row in part])
            except InputError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], content
