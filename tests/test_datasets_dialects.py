"""Files as other programs write them: each is read, or refused with the dialect and the option that decides."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.io
import scipy.sparse

import pipeline
import pipeline.__main__ as kronflow
from pipeline import convert as step_convert
from pipeline import describe as step_describe
from pipeline.commands.source import Reading, read_tensor, read_whole
from pipeline.core import step
from pipeline.core.files import sha256_file
from pipeline.datasets import files_of, text_options
from pipeline.datasets import text as datasets_text
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.formats import write


def read(path: Path, *options: str, format_: str | None = None) -> SparseTensor:
    return read_tensor(path, Reading(format_, step.parse_settings(options, "--read", text_options())))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ENTRIES = [[0, 0, 0], [1, 2, 1], [3, 2, 1]]
WANTED = SparseTensor(ENTRIES, [1.0, 2.5, -3.0], (4, 3, 2))


def lines(base: int) -> str:
    return "".join(
        f"{i + base} {j + base} {k + base} {v}\n" for (i, j, k), v in zip(ENTRIES, (1.0, 2.5, -3.0), strict=True)
    )


class TestText:
    @pytest.mark.parametrize(
        ("name", "content", "options"),
        [
            ("pyttb.tns", "sptensor\n3 \n4 3 2 \n3 \n" + lines(1), []),
            ("pyttb0.tns", "sptensor\n3\n4 3 2\n3\n" + lines(0), ["base=0"]),
            ("genten.txt", "sptensor\n3\n4 3 2\n3\n" + lines(0), []),
            ("parti.tns", "3\n4 3 2\n" + lines(1), []),
            ("llvm.tns", "# extended FROSTT format\n3 3\n4 3 2\n" + lines(1), []),
            ("ours.tns", "# shape 4 3 2\n" + lines(1), []),
            ("plain.tns", "\ufeff  # a comment\n" + lines(1), ["shape=[4,3,2]"]),
            ("zero.tns", lines(0), ["base=0", "shape=[4,3,2]"]),
            ("zero.txt", "\ufeff" + lines(0), ["shape=[4,3,2]"]),
            ("taco.ttx", "%%MatrixMarket tensor coordinate real general\n4 3 2 3\n" + lines(1), []),
        ],
    )
    def test_tensors(self, tmp_path: Path, name: str, content: str, options: list[str]) -> None:
        assert read(written(tmp_path / name, content), *options) == WANTED

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("a.tns", lines(0), r"a.tns:1: index 0 .* option base=0"),
            ("a.tns", "sptensor\n3\n4 3 2\n3\n" + lines(0), r"a.tns:5: index 0 .* option base=0"),
            ("a.txt", "sptensor\n3\n4 3 2\n3\n" + lines(1), r"a.txt:7: index 4 .* option base=1"),
            ("a.tns", "sptensor\n3\n4 3 2\n4\n" + lines(1), r"3 entries where its header \(sptensor\) promises 4"),
            ("a.tns", "3 4\n4 3 2\n" + lines(1), r"3 entries where its header \(extended FROSTT\) promises 4"),
            ("a.tns", "sptensor\n3\n4 3\n3\n" + lines(1), "a.tns:3: where a tensor's order"),
            ("a.tns", "sptensor\n3\n4 3 2\n", "fourth line is its number of non-zeros"),
            ("a.tns", "ktensor\n3\n4 3 2\n2\n", "a 'ktensor' of the Tensor Toolbox; of these sptensor is read"),
        ],
    )
    def test_refused(self, tmp_path: Path, name: str, content: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            read(written(tmp_path / name, content))

    def test_what_is_no_header_stays_an_entry(self, tmp_path: Path) -> None:
        assert read(written(tmp_path / "a.tns", "3 2\n4 3\n5 1\n")).nnz == 3
        assert read(written(tmp_path / "b.tns", "# shape of things\n1 1 2\n")).shape == (1, 1)
        assert read(written(tmp_path / "c.tns", "# shape 4 4 4\n1 1 2\n")).shape == (1, 1)  # of another order

    def test_export_is_read_back_with_its_shape(self, tmp_path: Path) -> None:
        for name in ("a.tns", "a.tns.gz", "A.TNS.GZ", "a.npz"):
            write(WANTED, tmp_path / name)
            assert read(tmp_path / name) == WANTED
            assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.lower().endswith(".gz")

    @pytest.mark.parametrize("name", ["a.tns", "a.txt"])
    def test_numbers_too_large_for_places_are_names_where_that_is_said(self, tmp_path: Path, name: str) -> None:
        path = written(tmp_path / name, f"1 1 5\n{2**62} 7 2.5\n")
        with pytest.raises(InputError, match=r":2: index 4611686018427387904 .* option base=null"):
            read(path)
        X = read(path, "base=null")
        assert X.labels == {0: [1, 2**62], 1: [1, 7]} and X.to_dense().tolist() == [[5, 0], [0, 2.5]]


HEAD = "%%MatrixMarket matrix "


class TestMatrixMarket:
    @pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric"])
    def test_arrays_as_scipy_reads_them(self, tmp_path: Path, symmetry: str) -> None:
        dense = np.array([[1.0, 2, 0], [0, 0, 3.5], [4, -1, 0]])
        dense = {"general": dense[:2], "symmetric": dense + dense.T, "skew-symmetric": dense - dense.T}[symmetry]
        scipy.io.mmwrite(tmp_path / "a.mtx", dense, symmetry=symmetry)
        assert HEAD + f"array real {symmetry}" in (tmp_path / "a.mtx").read_text()
        assert np.array_equal(read(tmp_path / "a.mtx").to_dense(), scipy.io.mmread(tmp_path / "a.mtx"))

    def test_first_index_is_fastest_in_an_array_of_any_order(self, tmp_path: Path) -> None:
        dense = np.arange(24.0).reshape(4, 3, 2)
        values = "\n".join(map(str, dense.ravel(order="F")))
        path = written(tmp_path / "a.ttx", f"%%MatrixMarket tensor array real general\n%\n4 3 2\n{values}\n")
        assert np.array_equal(read(path).to_dense(), dense)

    def test_comments_with_blanks_and_hermitian_of_real_numbers(self, tmp_path: Path) -> None:
        text = "\ufeff" + HEAD + "coordinate real hermitian\n % one\n\t% two\n\n2 2 2\n 1 1 3\n% three\n  2 1 4\n"
        assert read(written(tmp_path / "a.mtx", text)).to_dense().tolist() == [[3, 4], [4, 0]]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("coordinate complex general\n1 1 1\n1 1 1 0\n", "'complex' values"),
            ("array real general\n2 2\n1\n2\n3\n", ": 3 values where its sizes ask for 4 in all"),
            ("array real general\n2 2\n1\n2\n3\n4\n5\n", "more than 4 values"),
            ("array real general\n2 2\n1\nx\n3\n4\n", "a.mtx:4: value 'x' is no finite number"),
            ("array real symmetric\n2 3\n1\n", "is not square"),
            ("array pattern general\n2 2\n", "has no values"),
            ("array real general\n2 2 4\n", "needs the numbers of sizes"),
            ("array real general\n0 2\n", "empty"),
            ("array real general\n2 2\n0\n0\n0\n0\n", "empty tensor"),
            ("coordinate real symmetric\n2 2 2\n2 1 5\n1 2 5\n", "a.mtx:4: cells on both sides of the diagonal"),
            ("coordinate real skew-symmetric\n2 2 1\n2 2 5\n", "a.mtx:3: a cell on the diagonal"),
            ("coordinate real general\n2 2 1\n0 1 5\n", "a.mtx:3: index 0 .* outside 1..2; the format is 1-based$"),
        ],
    )
    def test_refused(self, tmp_path: Path, content: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            read(written(tmp_path / "a.mtx", HEAD + content))


class TestArrays:
    @pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
    def test_npy(self, tmp_path: Path, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
        dense = np.arange(np.prod(shape)).reshape(shape) % 3
        np.save(tmp_path / "a.npy", dense)
        np.savez(tmp_path / "a.npz", tensor=dense)
        for name in ("a.npy", "a.npz"):
            assert np.array_equal(read(tmp_path / name).to_dense(), dense)
            assert f"a dense array of {' x '.join(map(str, shape))}" in capsys.readouterr().err

    def test_pydata(self, tmp_path: Path) -> None:
        dense = np.arange(24).reshape(2, 3, 4) % 3
        coords = np.argwhere(dense).T
        content: dict[str, Any] = {"data": dense[dense != 0], "shape": dense.shape, "fill_value": 0}
        np.savez(tmp_path / "coo.npz", coords=coords, format="coo", **content)
        np.savez(tmp_path / "old.npz", coords=coords, **content)
        axes = np.transpose(dense, (1, 0, 2)).reshape(3, 8)  # rows of axis 1
        pointers = np.concatenate(([0], np.cumsum(np.count_nonzero(axes, axis=1))))
        content |= {"data": axes[axes != 0], "indices": np.nonzero(axes)[1], "indptr": pointers}
        np.savez(tmp_path / "gcxs.npz", compressed_axes=[1], format="gcxs", **content)
        for name in ("coo", "old", "gcxs"):
            assert np.array_equal(read(tmp_path / f"{name}.npz").to_dense(), dense)
        np.savez(tmp_path / "bad.npz", compressed_axes=[1], format="gcxs", **(content | {"indices": pointers.sum()}))
        np.savez(tmp_path / "ones.npz", coords=coords, format="coo", **(content | {"fill_value": 1}))
        np.savez(tmp_path / "two.npz", a=dense, b=dense)
        for name, problem in (("bad", "pointers do not"), ("ones", "have the value 1; only 0"), ("two", "arrays a, b")):
            with pytest.raises(InputError, match=problem):
                read(tmp_path / f"{name}.npz")

    @pytest.mark.parametrize(
        "array", [np.array([{}]), np.array([1j]), np.array(["a"]), np.array(3.0), np.zeros((2, 2))]
    )
    def test_refused(self, tmp_path: Path, array: np.ndarray) -> None:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=r"a\.npy: "):
            read(tmp_path / "a.npy")


DENSE = np.array([[0, 3], [0, 0], [4, 1]])  # features x barcodes
FEATURES, BARCODES = ["g1", "g2", "g3"], ["AAA-1", "CCC-1"]


def write_tenx(path: Path) -> None:
    matrix = scipy.sparse.csc_array(DENSE)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = DENSE.shape, np.array(BARCODES, dtype="S")
        group.create_group("features")["id"] = np.array(FEATURES, dtype="S")


def write_anndata(path: Path, layout: str = "csr") -> None:
    with h5py.File(path, "w") as file:
        for name, array in (("X", DENSE.T), ("layers/counts", 2 * DENSE.T)):
            if layout == "dense":
                file[name] = array
                continue
            matrix, group = scipy.sparse.coo_array(array).asformat(layout), file.create_group(name)
            group.attrs["encoding-type"], group.attrs["shape"] = f"{layout}_matrix", array.shape
            for part in ("data", "indices", "indptr"):
                group[part] = getattr(matrix, part)
        for name, labels in (("obs", BARCODES), ("var", FEATURES)):
            group = file.create_group(name)
            group.attrs["_index"] = "names"
            group.create_dataset("names", data=labels, dtype=h5py.string_dtype())


class TestSingleCells:
    def test_hdf5_of_10x(self, tmp_path: Path) -> None:
        write_tenx(tmp_path / "a.h5")
        X = read(tmp_path / "a.h5")
        assert X.to_dense().tolist() == DENSE.tolist() and X.labels == {0: FEATURES, 1: BARCODES}

    @pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
    def test_anndata(self, tmp_path: Path, layout: str) -> None:
        write_anndata(tmp_path / "a.h5ad", layout)
        X = read(tmp_path / "a.h5ad")
        assert X.to_dense().tolist() == DENSE.T.tolist() and X.labels == {0: BARCODES, 1: FEATURES}
        assert read(tmp_path / "a.h5ad", "group=layers/counts").norm2 == 4 * X.norm2

    def test_folder_of_10x(self, tmp_path: Path) -> None:
        scipy.io.mmwrite(tmp_path / "matrix.mtx", scipy.sparse.coo_array(DENSE))
        with gzip.open(tmp_path / "features.tsv.gz", "wt") as file:
            file.writelines(f"{name}\tSYMBOL\tGene Expression\n" for name in FEATURES)
        (tmp_path / "barcodes.tsv").write_text("\n".join(BARCODES))
        X, digest = read_whole(tmp_path, Reading())
        assert X.to_dense().tolist() == DENSE.tolist() and X.labels == {0: FEATURES, 1: BARCODES}
        assert digest == sha256_file(tmp_path / "matrix.mtx")  # what an interrupted fit goes on from
        step_convert.main(["--file", str(tmp_path), "--output", str(tmp_path / "out.parquet")])
        assert SparseTensor.read_parquet(tmp_path / "out.parquet", labels=True).labels[0] == BARCODES  # by size
        (tmp_path / "barcodes.tsv").write_text("AAA-1\n")
        with pytest.raises(InputError, match="1 names of 2 indices of mode 'barcode'"):
            read(tmp_path)

    @pytest.mark.parametrize("part", ["indices", "indptr", "shape", "barcodes", "features/id", "data"])
    def test_damaged(self, tmp_path: Path, part: str) -> None:
        write_tenx(tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            old = file["matrix"][part][...]
            del file["matrix"][part]
            file["matrix"][part] = old[:-1] if old.dtype.kind == "S" or part == "data" else old + 7
        with pytest.raises(InputError, match=r"a\.h5: "):
            read(tmp_path / "a.h5")

    def test_other_files(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["numbers"] = [1, 2]
        with pytest.raises(InputError, match=r"no matrix of Binsparse, 10x or AnnData at its top \(numbers\)"):
            read(tmp_path / "a.h5")
        with pytest.raises(InputError, match="is a folder"):
            read(tmp_path)


def tar_of(mode: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:
            for name in ("my/my.mtx", "my/my_b.mtx", "my/.hidden"):
                entry = tarfile.TarInfo(name)
                entry.size = len(content) if name == "my/my.mtx" else 1
                archive.addfile(entry, io.BytesIO(content if name == "my/my.mtx" else b"x"))
        return buffer.getvalue()

    return pack


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


class TestPacked:
    @pytest.mark.parametrize(
        ("name", "pack"),
        [
            ("my.mtx.gz", gzip.compress),
            ("MY.MTX.GZ", gzip.compress),
            ("my.mtx.bz2", bz2.compress),
            ("my.mtx.xz", lzma.compress),
            ("my.mtx.zst", zstd),
            ("my.tar.gz", tar_of("gz")),
            ("my.tgz", tar_of("gz")),
            ("my.tar.bz2", tar_of("bz2")),
            ("my.tar.xz", tar_of("xz")),
            ("my.tar", tar_of("")),
            ("my.mtx.tar.gz", tar_of("gz")),
            ("my.tar.zst", lambda content: zstd(tar_of("")(content))),
        ],
    )
    def test_every_name_that_opens_is_taken(
        self, tmp_path: Path, name: str, pack: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = written(tmp_path / name, pack(f"{HEAD}coordinate integer general\n2 3 1\n2 3 7\n".encode()))
        assert read(path).to_dense().tolist() == [[0, 0, 0], [0, 0, 7]]
        step_convert.main(["--file", str(path), "--output", str(tmp_path / "o.parquet")])
        assert SparseTensor.read_parquet(tmp_path / "o.parquet").norm2 == 49
        path.write_bytes(path.read_bytes()[: min(600, path.stat().st_size // 2)])
        with pytest.raises(InputError, match=path.name):
            read(path)

    def test_an_archive_of_many_names_them(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in ("x.csv", "y.csv"):
                archive.writestr(name, "a,b\n")
        with pytest.raises(InputError, match=r"where one belongs \(x.csv, y.csv\).* member=x.csv"):
            read(tmp_path / "a.zip")

    @pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
    def test_a_member_of_an_archive_is_named_by_an_option(self, tmp_path: Path, name: str) -> None:
        files = {
            "d/m.mtx": f"{HEAD}coordinate integer general\n2 3 1\n2 3 7\n",
            "d/t.tns": "1 1 5\n2 1 x\n",
            "d/e.txt": "0 1\n1 1\n",
            "d/c.csv": "a,b,n\nu,v,8\n",
        }
        if name == "a.zip":
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                for place, content in files.items():
                    archive.writestr(place, content)
        else:
            with tarfile.open(tmp_path / name, "w:gz") as archive:
                for place, content in files.items():
                    entry = tarfile.TarInfo(place)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content.encode()))
        path = tmp_path / name
        assert read(path, "member=m.mtx").values.tolist() == [7]
        assert read(path, "member=d/e.txt", "values=false").coords.tolist() == [[0, 1], [1, 1]]
        assert read(path, "member=c.csv", "columns=[a,b]", "value=n").values.tolist() == [8]
        for member, problem in (
            ("t.tns", f"{name}/d/t.tns:2: value 'x' is no finite number"),
            ("../m.mtx", "the archive has no file '../m.mtx'"),
            ("*.t?[st]", "2 files in the archive where one belongs"),
        ):
            with pytest.raises(InputError, match=re.escape(problem)):
                read(path, f"member={member}")
        with pytest.raises(InputError, match=r"m.mtx: no archive by its name; the option member"):
            read(written(tmp_path / "m.mtx", files["d/m.mtx"]), "member=m.mtx")
        step_convert.main(["--file", str(path), "--set", "member=m.mtx", "--output", str(tmp_path / "o.parquet")])
        digest = SparseTensor.read_parquet(tmp_path / "o.parquet").source["sha256"]
        assert digest == {name: hashlib.sha256(path.read_bytes()).hexdigest()}
        kronflow.main(
            ["compress", str(path), str(tmp_path / "o.safetensors"), "--method", "lossless", "--read", "member=m.mtx"]
        )
        assert pipeline.load(tmp_path / "o.safetensors").about_.file == f"{name}/m.mtx"

    @pytest.mark.parametrize(("name", "nnz"), [("USAir97", 4252), ("YeastS", 13292), ("Erdos", 23714)])
    def test_real_graphs_come_as_two_files_of_an_archive(self, name: str, nnz: int, mirror: Path) -> None:
        path = mirror / "szip-graphs" / f"{name}.zip"
        if not path.is_file():
            pytest.skip(f"no szip-graphs in {mirror}")
        with pytest.raises(InputError, match=f"2 files in the archive where one belongs .*{name}_A.txt"):
            read(path)
        X = read(path, f"member={name}_A.txt", "values=false", "base=1")
        assert (X.nnz, X.norm2, X.shape[0]) == (nnz, nnz, X.shape[1])

    @pytest.mark.parametrize("inner", ["m.npz", "m.npy", "m.parquet", "m.h5"])
    def test_what_is_not_read_from_start_to_end_is_not_read_packed(self, tmp_path: Path, inner: str) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(inner, b"x")
        for path in (tmp_path / "a.zip", written(tmp_path / f"{inner}.gz", gzip.compress(b"x"))):
            with pytest.raises(InputError, match="which is not read while it is packed; unpack it"):
                read(path)

    def test_no_message_recommends_to_load_pickles(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
        for path in (tmp_path / "x.npy", written(tmp_path / "y.npy", "hello, here are no numbers")):
            with pytest.raises(InputError, match=r"not a readable \.npy file of numbers") as caught:
                read(path)
            assert "pickle" not in str(caught.value)

    def test_an_unknown_ending_names_the_option(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"tells no format; known: .*--format"):
            read(written(tmp_path / "a.xyz", "1 2 3\n"))


class TestTables:
    @pytest.mark.parametrize(
        ("name", "content", "options"),
        [
            ("r.dat", "1::a::2.5\n2::b::3\n", []),
            ("r.csv", "1::a::2.5\n2::b::3\n", ["separator=::"]),
            ("r.data", "1\ta\t2.5\n2\tb\t3\n", []),
            ("r.csv", "1\ta\t2.5\n2\tb\t3\n", [r"separator=\t"]),
            ("r.csv", "1\ta\t2.5\n2\tb\t3\n", ["separator=tab"]),
            ("r.csv", "1;a;2,5\n2;b;3,0\n", ["separator=;", "decimal=,"]),
            ("r.csv", '1,a,"2,5"\n2,b,3\n', ["decimal=,"]),
            ("r.csv", "1|a|2.5\n2|b|3\n", ["separator=|"]),
            ("r.csv", '1::"a"::2.5\n2::b::3\n', ["separator=::"]),
        ],
    )
    def test_separators_and_decimals(self, tmp_path: Path, name: str, content: str, options: list[str]) -> None:
        X = read(written(tmp_path / name, content), "header=false", *options)
        assert X.labels == {0: [1, 2], 1: ["a", "b"]} and X.to_dense().tolist() == [[2.5, 0], [0, 3]]

    def test_many_lines_of_a_long_separator(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipeline.datasets.readers.csvtable.BLOCK_BYTES", 37)
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(np.maximum(rng.integers(0, 50, (300, 3)), 1), columns=["u", "i", "n"])
        text = "u::i::n\n" + "".join("::".join(map(str, row)) + "\n" for row in frame.to_numpy().tolist())
        assert read(written(tmp_path / "r.dat", text)) == SparseTensor.from_pandas(frame, ["u", "i"], "n")

    def test_a_message_names_the_option(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"r.csv:2: value '3,5' .* option decimal=,"):
            read(written(tmp_path / "r.csv", "a;b;n\nx;y;3,5\n"))
        with pytest.raises(InputError, match="option separator"):
            read(tmp_path / "r.csv", "separator=")
        with pytest.raises(InputError, match="option decimal"):
            read(tmp_path / "r.csv", "decimal=x")

    def test_quoted_header_after_a_mark(self, tmp_path: Path) -> None:
        X = read(written(tmp_path / "r.csv", '\ufeff"user","n, m","v"\n"a","b",3\n'))
        assert X.mode_names == ("user", "n, m") and X.values.tolist() == [3]

    def test_index_of_a_data_frame_comes_first(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"user": ["a"], "item": ["b"], "n": [2]}).set_index("user")
        frame.to_parquet(tmp_path / "r.parquet")
        assert read(tmp_path / "r.parquet").mode_names == ("user", "item")

    def test_texts_of_the_command_line(self) -> None:
        assert {"separator", "decimal", "encoding", "member"} <= text_options()
        assert not {"columns", "base", "header", "value", "shape"} & text_options()
        pairs = ["separator=|", "decimal=,", "header=false", "encoding='latin-1'", "member=null"]
        assert step.parse_settings(pairs, "--read", text_options()) == {
            "separator": "|", "decimal": ",", "header": False, "encoding": "latin-1", "member": None,
        }  # fmt: skip


def test_several_files_are_one_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "a-nverts.txt", "2\n3\n2\n")
    written(tmp_path / "a-simplices.txt", "1\n2\n1\n2\n3\n1\n2\n")
    files = [word for part in ("nverts", "simplices") for word in ("--file", str(tmp_path / f"a-{part}.txt"))]
    step_convert.main([*files, "--format", "simplices", "--output", str(tmp_path / "o.parquet")])
    assert SparseTensor.read_parquet(tmp_path / "o.parquet").norm2 == 5
    with pytest.raises(InputError, match="two files of that name"):
        step_convert.main([*files[:2], *files[:2], "--format", "simplices", "--output", str(tmp_path / "o.parquet")])


def test_a_description_takes_the_readers_options(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", "a;b;n\nx;y;3,5\n")
    step_describe.main([str(path), str(tmp_path / "page.html"), "--read", "separator=;", "--read", "decimal=,"])
    assert "3.5" in (tmp_path / "page.csv").read_text()


def test_a_description_of_a_large_range_counts_what_occurs(tmp_path: Path) -> None:
    X = SparseTensor([[0, 5], [7, 5], [2**40, 9]], [1.0, 2.0, 3.0], (2**41, 10))
    X.write_parquet(tmp_path / "x.parquet")
    step_describe.main([str(tmp_path / "x.parquet"), str(tmp_path / "page.html")])
    rows = pd.read_csv(tmp_path / "page.summary.csv")
    assert rows["empty"].tolist()[1:] == [2**41 - 3, 8]
    table = pd.read_csv(tmp_path / "page.csv")
    assert table[table["quantity"] == "component size"][["number", "count"]].to_numpy().tolist() == [[2, 1], [3, 1]]


PUBLISHED = {
    "genten-C_sptensor.txt": ((4, 3, 2), 5, []),
    "parti-3d_7.tns": ((4, 4, 3), 9, []),
    "parti-4d_3_16.tns": ((3, 3, 3, 3), 16, []),
    "pyttb-sptensor.tns": ((5, 4, 3), 18, []),
    "pyttb-sptensor_0_based.tns": ((5, 4, 3), 18, ["base=0"]),
    "taco-2tensor.mtx": ((32, 32), 3, []),
    "taco-d33.ttx": ((3, 3), 3, []),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_files(name: str, root: Path) -> None:
    mirror = os.environ.get("KRONFLOW_MIRROR")
    places = [root.parent / "shared" / "datasets", *([Path(mirror)] if mirror else [])]
    path = next((place / "dialects" / name for place in places if (place / "dialects" / name).is_file()), None)
    if path is None:
        pytest.skip(f"dialects/{name} lies neither in ../shared/datasets nor in KRONFLOW_MIRROR")
    shape, nnz, options = PUBLISHED[name]
    X = read(path, *options)
    assert (X.shape, X.nnz) == (shape, nnz)


def test_an_array_of_too_many_values_is_refused_as_it_is(root: Path) -> None:
    path = root.parent / "shared" / "datasets" / "dialects" / "taco-d432.ttx"
    if not path.is_file():
        pytest.skip("dialects/taco-d432.ttx does not lie in ../shared/datasets")
    with pytest.raises(InputError, match="more than 24 values"):  # it holds 32
        read(path)


def test_format_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        files_of(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "options", "values"),
    [
        ('a,n\nx,"1,234"\ny,5\n', ["thousands=,"], [1234, 5]),
        ('a,n\nx,"-1,234,567.5"\ny,12\n', ["thousands=,"], [-1234567.5, 12]),
        ("a;n\nx;1.234,5\ny;0,25\n", ["decimal=,", "thousands=."], [1234.5, 0.25]),
        ("a;n\nx;1'234\ny;1234\n", ["thousands='"], [1234, 1234]),
        ("a;n\nx;1 234\ny;7\n", ["thousands= "], [1234, 7]),
    ],
)
def test_groups_of_thousands(tmp_path: Path, text: str, options: list[str], values: list[float]) -> None:
    written(tmp_path / "x.csv", text)
    assert read(tmp_path / "x.csv", *options, "columns=[a]", "value=n").values.tolist() == values


@pytest.mark.parametrize(
    ("value", "options", "problem"),
    [
        ('"1,234"', [], "option thousands=,; where the comma is before the fraction: option decimal=,"),
        ("1'234", [], "where it separates thousands: option thousands='"),
        ("TRUE", [], "to count the lines that say so: name the modes' columns and set the option only={NAME: 'TRUE'}"),
        ("12%", [], "value '12%' is no finite number$"),
        ('"1,23"', ["thousands=,"], "'1,23' is no finite number"),
        ('"12,345,67"', ["thousands=,"], "'12,345,67' is no finite number"),
        ('"1,234"', ["thousands=x"], "option thousands: one of"),
        ('"1,234"', ["thousands=.", "decimal=."], "option thousands: one of"),
    ],
)
def test_values_that_are_no_plain_numbers_name_the_option(
    tmp_path: Path, value: str, options: list[str], problem: str
) -> None:
    written(tmp_path / "x.csv", f"a,n\nx,{value}\ny,5\n")
    with pytest.raises(InputError, match=problem):
        read(tmp_path / "x.csv", *options, "columns=[a]", "value=n")


def test_lines_that_say_true_are_counted(tmp_path: Path) -> None:
    written(tmp_path / "x.csv", "a,b,n\nx,p,TRUE\ny,q,FALSE\nx,p,TRUE\n")
    X = read(tmp_path / "x.csv", "columns=[a,b]", "only={n: 'TRUE'}")
    assert (X.to_dense().tolist(), X.labels) == ([[2.0]], {0: ["x"], 1: ["p"]})


def test_several_files_of_one_tensor_for_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a-nverts.txt", "2\n3\n2\n")
    written(tmp_path / "a-simplices.txt", "1\n2\n1\n2\n3\n1\n2\n")
    both = ["a-nverts.txt", "--file", "a-simplices.txt", "--format", "simplices"]
    step_convert.main(["--file", *both, "--output", "o.parquet"])
    X = SparseTensor.read_parquet("o.parquet").permute_modes([1, 0])  # as they are in the files
    kronflow.main(["compress", both[0], "o.safetensors", *both[1:], "--method", "lossless"])
    assert pipeline.load("o.safetensors").error(X)["error"] == 0
    capsys.readouterr()
    kronflow.main(["info", "o.safetensors", "--json"])
    told = json.loads(capsys.readouterr().out)
    content = b"".join((tmp_path / f"a-{part}.txt").read_bytes() for part in ("nverts", "simplices"))
    assert told["data_file"] == "a-nverts.txt a-simplices.txt"
    assert told["data_sha256"] == hashlib.sha256(content).hexdigest()
    kronflow.main(["grid", *both])
    assert f"{X.nnz} non-zeros" in capsys.readouterr().out
    step_describe.main([both[0], "o.html", *both[1:]])
    assert f"{X.nnz} non-zeros described" in capsys.readouterr().err
    for main, words in (
        (kronflow.main, ["compress", both[0], "a-simplices.txt", *both[1:]]),
        (kronflow.main, ["grid", "o.parquet", "--file", "a-simplices.txt"]),
        (kronflow.main, ["grid", both[0], "--file", both[0], "--format", "simplices"]),
    ):
        with pytest.raises(InputError, match=r"is a file that is read|is a sparse tensor, no table|two files of that"):
            main(words)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_whatever_ends_a_line(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets_text, "BLOCK_BYTES", 7)  # pairs of ends are torn apart
    monkeypatch.setattr(datasets_text, "BUFFER", 8)
    lines = ["1 1 5", "2 2 6", "3 1 7", "1 3 8"]
    dense = [[5, 0, 8], [0, 6, 0], [7, 0, 0]]
    written(tmp_path / "x.tns", end.join(["# comment", *lines]))
    assert read(tmp_path / "x.tns").to_dense().tolist() == dense
    written(tmp_path / "x.mtx", end.join(["%%MatrixMarket matrix coordinate real general", "% c", "3 3 4", *lines, ""]))
    assert read(tmp_path / "x.mtx").to_dense().tolist() == dense
    written(tmp_path / "x.csv", end.join(["a,b,n", *(line.replace(" ", ",") for line in lines), ""]))
    assert read(tmp_path / "x.csv").to_dense().tolist() == dense
    written(tmp_path / "y.tns", end.join([*lines, "2 2 x"]))
    with pytest.raises(InputError, match=r"y\.tns:5: value 'x' is no finite number"):
        read(tmp_path / "y.tns")


@pytest.mark.parametrize(("pack", "ending"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_packed_text_without_its_ending_is_named(pack: Callable[[bytes], bytes], ending: str, tmp_path: Path) -> None:
    for name in ("x.tns", "x.csv", "x.mtx"):
        written(tmp_path / name, pack(b"1 1 5\n"))
        with pytest.raises(InputError, match=rf"packed by its content, no text; name it so that it ends in \{ending}$"):
            read(tmp_path / name)
