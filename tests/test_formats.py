"""Other programs' formats: round trips, second readers, and files that are not what they claim."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import binsparse
import binsparse.conversions
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import convert, export
from pipeline.core import step
from pipeline.datasets import format_of, read_raw
from pipeline.datasets.assemble import Assembled, assemble
from pipeline.datasets.readers import csvtable
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor, formats


def read(path: Path, format_: str | None = None, **options: Any) -> Assembled:
    return assemble(read_raw(format_ or format_of(path.name), {path.name: path}, options), {})


def same(result: Assembled, tensor: SparseTensor) -> bool:
    """Equal up to the order of the modes, which conversion sorts by size."""
    order = sorted(range(tensor.order), key=lambda mode: tensor.shape[mode])
    return result.tensor == tensor.permute_modes(order)


@st.composite
def tensors(draw: st.DrawFn, orders: tuple[int, int] = (1, 4)) -> SparseTensor:
    shape = draw(st.lists(st.integers(1, 6), min_size=orders[0], max_size=orders[1]))
    count = draw(st.integers(1, 12))
    coords = np.stack([draw(hnp.arrays(np.int64, count, elements=st.integers(0, size - 1))) for size in shape], axis=1)
    whole = st.integers(-1000, 1000).filter(bool).map(float)
    real = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e100, max_value=1e100).filter(bool)
    values = draw(hnp.arrays(np.float64, count, elements=draw(st.sampled_from([whole, real]))))
    _, first = np.unique(coords, axis=0, return_index=True)
    return SparseTensor(coords[first], values[first], shape)


class TestRoundTrips:
    @settings(deadline=None, max_examples=60)
    @given(tensors(orders=(2, 2)), st.sampled_from(["x.mtx", "x.mtx.gz"]))
    def test_matrix_market(self, tmp_path_factory: pytest.TempPathFactory, tensor: SparseTensor, name: str) -> None:
        path = tmp_path_factory.mktemp("mtx") / name
        formats.write(tensor, path)
        assert same(read(path), tensor)
        assert np.array_equal(scipy.sparse.coo_array(scipy.io.mmread(path)).toarray(), tensor.to_dense())

    @settings(deadline=None, max_examples=60)
    @given(tensors(), st.sampled_from(["x.tns", "x.tns.gz"]))
    def test_tns(self, tmp_path_factory: pytest.TempPathFactory, tensor: SparseTensor, name: str) -> None:
        path = tmp_path_factory.mktemp("tns") / name
        formats.write(tensor, path)
        assert same(read(path, shape=list(tensor.shape)), tensor)
        table = pd.read_csv(path, sep=" ", comment="#", header=None)
        assert np.array_equal(table.to_numpy()[:, :-1] - 1, tensor.coords)

    @settings(deadline=None, max_examples=60)
    @given(tensors())
    def test_npz(self, tmp_path_factory: pytest.TempPathFactory, tensor: SparseTensor) -> None:
        path = tmp_path_factory.mktemp("npz") / "x.npz"
        formats.write(tensor, path)
        assert same(read(path), tensor)
        assert SparseTensor.from_scipy(scipy.sparse.load_npz(path)) == tensor

    @settings(deadline=None, max_examples=30)
    @given(tensors(orders=(2, 2)), st.sampled_from(["csr", "csc", "coo", "bsr", "dia"]))
    def test_npz_of_scipy(self, tmp_path_factory: pytest.TempPathFactory, tensor: SparseTensor, layout: str) -> None:
        path = tmp_path_factory.mktemp("npz") / "x.npz"
        scipy.sparse.save_npz(path, tensor.to_scipy().asformat(layout))
        assert same(read(path), tensor)

    @settings(deadline=None, max_examples=30)
    @given(tensors(orders=(2, 3)))
    def test_csv_and_columnar(self, tmp_path_factory: pytest.TempPathFactory, tensor: SparseTensor) -> None:
        folder = tmp_path_factory.mktemp("tables")
        columns = [f"m{mode}" for mode in range(tensor.order)]
        table = pd.DataFrame(tensor.coords, columns=columns).assign(w=tensor.values)
        table.to_csv(folder / "x.csv.gz", index=False)
        table.to_parquet(folder / "x.parquet")
        pyarrow.feather.write_feather(table, folder / "x.feather")
        for name in ("x.csv.gz", "x.parquet", "x.feather"):
            assert same(read(folder / name, columns=columns, value="w", base=0, shape=list(tensor.shape)), tensor)

    def test_export_step(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tensor = SparseTensor([[0, 1, 2], [1, 0, 0]], [1.5, -2], (2, 2, 3))
        tensor.write_parquet(tmp_path / "x.parquet")
        export.main([str(tmp_path / "x.parquet"), str(tmp_path / "x.tns")])
        assert (tmp_path / "x.tns").read_text() == "# shape 2 2 3\n1 2 3 1.5\n2 1 1 -2.0\n"
        for name, problem in (("x.mtx", "this tensor has 3 modes"), ("x.xls", "its ending is none of")):
            with pytest.raises(SystemExit) as caught:
                step.run(export.main, [str(tmp_path / "x.parquet"), str(tmp_path / name)])
            assert caught.value.code == 2
            assert problem in capsys.readouterr().err


class TestConvertFile:
    def test_labelled_edges(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "clicks.csv").write_text("user,item,n\nann,x9,2\nbob,x10,1\nann,x9,0.5\nann,z,1\n")
        output = tmp_path / "out" / "my.parquet"
        arguments = ["--file", str(tmp_path / "clicks.csv"), "--output", str(output)]
        convert.main([*arguments, "--set", "columns=[user, item]", "--set", "value=n"])
        tensor = SparseTensor.read_parquet(output)
        assert tensor.to_dense().tolist() == [[0, 2.5, 1], [1, 0, 0]]
        assert pd.read_parquet(tmp_path / "out" / "my.labels-1.parquet")["label"].tolist() == ["x10", "x9", "z"]
        assert "1 duplicate entries summed" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "content", "options", "said"),
        [
            ("u.tsv", "7\t1\t3\n8\t2\t4\n", [], "modes: 0, 1; value: 2"),
            ("u.csv", "\n7,1,3,\n8,2,4,\n", [], "modes: 0, 1; value: 2; left out: 1 without a name"),
            ("u.csv", "user,item,n\n7,1,3\n8,2,4\n", [], "modes: user, item; value: n ("),
            ("u.csv", ",user,item,n\n0,7,1,3\n1,8,2,4\n", [], "modes: user, item; value: n; left out: 1"),
            ("u.csv", "user,item,n,\n7,1,3,\n8,2,4,\n", [], "modes: user, item; value: n; left out: 1"),
            ("u.csv", "5,6,7\n7,1,3\n8,2,4\n", ["header=true"], "modes: 5, 6; value: 7"),
            ("u.csv", "0,1,3\n1,2,4\n", ["header=false"], "modes: 0, 1; value: 2"),
            ("u.csv", "7;1;3\n8;2;4\n", ["separator=;", "columns=['0','1']", "value=2"], ""),
        ],
    )
    def test_columns_of_a_table_by_default(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        name: str,
        content: str,
        options: list[str],
        said: str,
    ) -> None:
        (tmp_path / name).write_text(content)
        settings = [word for option in options for word in ("--set", option)]
        convert.main(["--file", str(tmp_path / name), "--output", str(tmp_path / "my.parquet"), *settings])
        assert SparseTensor.read_parquet(tmp_path / "my.parquet").to_dense().tolist() == [[3, 0], [0, 4]]
        printed = capsys.readouterr()
        assert printed.out.startswith(said)
        numbers_first = "header" not in str(options) and content.strip()[0].isdigit()
        assert ("numbers alone, read as an entry" in printed.err) == numbers_first

    def test_index_of_a_data_frame_is_no_mode(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        frame = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "n": [1, 2]}, index=[5, 9])
        frame.to_parquet(tmp_path / "t.parquet")
        convert.main(["--file", str(tmp_path / "t.parquet"), "--output", str(tmp_path / "my.parquet")])
        assert SparseTensor.read_parquet(tmp_path / "my.parquet").mode_names == ("user", "item")
        assert "left out: 1 without a name" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ([], "name either a data set or a file"),
            (["flights", "--file", "x"], "name either a data set or a file"),
            (["--file", "x.mtx"], "--file needs --output"),
            (["flights", "--set", "a=1"], "belong to --file"),
            (["--file", "x.xyz", "--output", "y"], "x.xyz: no such file"),
            (["--file", "x.csv", "--output", "y"], "x.csv: no such file"),
        ],
    )
    def test_bad_arguments(self, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            step.run(convert.main, arguments)
        assert caught.value.code == 2
        assert problem in capsys.readouterr().err


class TestCSV:
    def write(self, folder: Path, content: str | bytes, name: str = "x.csv") -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def test_quotes_line_ends_and_byte_order_mark(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, '\ufeffa,b,w\r\n"x, y",1,2\r\n"say ""hi""\nthere",10,3\r\n\r\n"x, y",9,4\r\n')
        result = read(path, columns=["a", "b"], value="w")
        assert [labels["label"].tolist() for labels in result.labels if labels] == [
            ['say "hi"\nthere', "x, y"],
            [1, 9, 10],
        ]
        assert result.tensor.to_dense().tolist() == [[0, 0, 3], [2, 4, 0]]

    @pytest.mark.parametrize(
        ("quotes", "labels"), [(True, [["a"], ["b\t1\nc\td"]]), (False, [["a", "c"], ['"b', 'd"']])]
    )
    def test_quotes_around_ends_of_lines_are_read_as_told(
        self, tmp_path: Path, quotes: bool, labels: list[list[str]]
    ) -> None:
        path = self.write(tmp_path, 'who\twhat\tn\na\t"b\t1\nc\td"\t2\n', "x.tsv")
        result = read(path, columns=["who", "what"], value="n", quotes=quotes)
        assert [each["label"].tolist() for each in result.labels if each] == labels

    def test_positions_tab_and_encoding(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, 'caf\xe9 "A"\t7\tx\n"b\t7\tx\n'.encode("latin-1"), "x.tsv")
        result = read(path, columns=[0, 1], header=False, quotes=False, encoding="latin-1")
        labels = [labels["label"].tolist() for labels in result.labels if labels]
        assert labels == [[7], ['"b', 'caf\xe9 "A"']]

    def test_missing_labels_are_left_out(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a,b\nx,1\nNA,1\nx,\ny,2\n")
        assert read(path, columns=["a", "b"], missing=["", "NA"]).tensor.nnz == 2

    @pytest.mark.parametrize(
        ("content", "options", "problem"),
        [
            ("a,b\nx,1\ny\n", {}, "x.csv:3: 1 fields where the first line has 2"),
            ("a,b\nx,1\ny,2,3\n", {}, "x.csv:3: 3 fields where the first line has 2"),
            ("a,b\nx,1\n\n,2\n", {}, "x.csv:4: a label is empty"),
            ('a,b\nx,1\n"y,2\n', {}, "x.csv:3: no valid line"),
            ("a,b,w\nx,1,1\nx,1,one\n", {"value": "w"}, "x.csv:3: value 'one' is no finite number"),
            ("a,b,w\nx,1,1\nx,1,nan\n", {"value": "w"}, "x.csv:3: value 'nan' is no finite number"),
            ("a,b,w\nx,1,1\nx,1,\n", {"value": "w"}, "x.csv:3: value '' is no finite number"),
            ("a,b\n1,1\n2,x\n", {"base": 0}, "x.csv:3: index 'x' is no whole number"),
            ("a,b\n1,1\n2,0\n", {"base": 1}, "x.csv:3: index 0 in mode 'b' is outside 1.."),
            ("a,b\n1,1\n2,-1\n", {"base": 0}, "x.csv:3: index -1 in mode 'b' is outside 0.."),
            ("a,b\n1,1\n2,99999999999999999999\n", {"base": 0}, "x.csv:3: index '99999999999999999999' is no whole"),
            ("a,b\n1,1\n2,0x3\n", {"base": 0}, "x.csv:3: index '0x3' is no whole number"),
            ("a,c\n", {}, "x.csv:1: no single column 'b'"),
            ("a,b,b\n1,2,3\n", {}, "no single column 'b'; it stands there 2 times"),
            ("", {}, "empty tensor"),
            ("a,b\n", {}, "empty tensor"),
            (b"a,b\nx,\xff\n", {}, "x.csv:2: no utf-8 text"),
            ("a,b\n1,2\n", {"encoding": "klingon"}, "Python knows no encoding 'klingon'"),
            ("a,b\n1,2\n", {"separator": 'a"'}, "option separator"),
            ("a,b\n1,2\n", {"shape": [2, 2]}, "option shape: labels decide the sizes"),
            ("a,b\n1,2\n", {"shape": [2], "base": 0}, "option shape: 1 sizes for 2 modes"),
            ("a,b\n1,2\n", {"base": 2}, "option base: 0 or 1"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, content: str | bytes, options: dict[str, Any], problem: str) -> None:
        path = self.write(tmp_path, content)
        with pytest.raises(InputError) as caught:
            read(path, columns=["a", "b"], **options)
        assert problem in str(caught.value)

    def test_careful_parsing_takes_over_in_the_middle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csvtable, "BLOCK_BYTES", 64)
        lines = ["a,b", *(f"{number},+{number % 7}" for number in range(100))]
        path = self.write(tmp_path, "\n".join(lines))
        assert read(path, columns=["a", "b"], base=0).tensor.nnz == 100
        path = self.write(tmp_path, "\n".join([*lines, "5,0000000000000000000000"]))
        with pytest.raises(InputError, match=r"x.csv:102: index '0000"):
            read(path, columns=["a", "b"], base=0)
        path = self.write(tmp_path, "\n".join([*lines, "5,0000000000000000002"]))
        assert read(path, columns=["a", "b"], base=0).entries == 101

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(
            st.tuples(
                st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufeff"), min_size=1, max_size=5),
                st.integers(-100, 100),
                st.floats(allow_nan=False, allow_infinity=False),
            ),
            min_size=1,
        )
    )
    def test_both_ways_of_parsing_agree(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, float]]
    ) -> None:
        path = tmp_path_factory.mktemp("csv") / "x.csv"
        pd.DataFrame(rows, columns=["a", "b", "w"]).to_csv(path, index=False)
        layout = csvtable.Layout(path).with_columns(["a", "b"], "w")
        careful = list(csvtable.careful_blocks(layout, 0))
        assert [block[1].tolist() for block in careful] == [[row[2] for row in rows]]
        assert careful[0][0][0].tolist() == [row[0] for row in rows]
        both = list(csvtable.blocks_of(layout))
        assert [value for block in both for value in block[1].tolist()] == [row[2] for row in rows]
        assert [label for block in both for label in block[0][0].tolist()] == [row[0] for row in rows]


class TestColumnar:
    def table(self) -> pa.Table:
        return pa.table({"who": ["b", None, "a"], "day": pa.array([1, 2, 1], pa.date32()), "n": [1.0, 2.0, 4.0]})

    def test_labels_of_any_type(self, tmp_path: Path) -> None:
        with pa.ipc.new_stream(tmp_path / "x.arrow", self.table().schema) as writer:
            writer.write_table(self.table())
        result = read(tmp_path / "x.arrow", columns=["day", "who"], value="n", drop_missing=True)
        assert result.tensor.shape == (1, 2)
        assert result.tensor.values.tolist() == [4.0, 1.0]
        assert result.labels[1] is not None
        assert result.labels[1]["label"].tolist() == ["a", "b"]

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"columns": ["who", "day"]}, "row 1: column 'who' has no value"),
            ({"columns": ["whom", "day"]}, "no single column 'whom'; did you mean 'who'?"),
            ({"columns": ["day", "n"]}, "column 'n' is of type double, which cannot be a label"),
            ({"columns": ["day"], "value": "who"}, "column 'who' is of type string, a value is a number"),
            ({"columns": ["day"], "base": 0}, "column 'day' is of type date32[day], an index is a whole number"),
        ],
    )
    def test_wrong_columns(self, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
        pa.parquet.write_table(self.table(), tmp_path / "x.parquet")
        with pytest.raises(InputError) as caught:
            read(tmp_path / "x.parquet", **options)
        assert problem in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1\0\0", b"garbage" * 10])
    def test_not_a_table(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"not a readable Parquet or Arrow table|empty tensor"):
            read(tmp_path / "x.parquet", columns=["a"])

    def test_value_that_is_not_finite(self, tmp_path: Path) -> None:
        pa.parquet.write_table(pa.table({"a": [1, 2], "w": [1.0, float("nan")]}), tmp_path / "x.parquet")
        with pytest.raises(InputError, match="row 1: value in column 'w' is missing or no finite number"):
            read(tmp_path / "x.parquet", columns=["a"], value="w")


class TestNpz:
    def test_pickles_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", format=np.array([object()], dtype=object))
        with pytest.raises(InputError, match=r"not a readable .npz file"):
            read(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"indices": np.array([0, 7])}, "index 7 in mode 'column' is outside 0..1"),
            ({"indices": np.array([0, -1])}, "index -1 in mode 'column'"),
            ({"indices": np.array([0.0, 1.0])}, "indices are whole numbers"),
            ({"indptr": np.array([0, 2, 1])}, "pointers do not rise"),
            ({"indptr": np.array([0, 10**9, 2])}, "pointers do not rise"),
            ({"indptr": np.array([0, 2])}, "pointers of type"),
            ({"shape": np.array([0, 2])}, "no list of sizes"),
            ({"shape": np.array([2, 2, 2])}, "arrays of different lengths"),
            ({"data": np.array([1.0])}, "arrays of different lengths"),
            ({"data": np.array([1.0, np.inf])}, "is not finite"),
            ({"data": np.array([1j, 1j])}, "values real ones"),
            ({"format": np.array(b"lil")}, "no sparse matrix of scipy.sparse.save_npz"),
        ],
    )
    def test_broken_arrays(self, tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
        good = {"format": b"csr", "shape": [2, 2], "indices": [0, 1], "indptr": [0, 1, 2], "data": [1.0, 2.0]}
        np.savez(tmp_path / "x.npz", **{name: np.asarray(value) for name, value in (good | changes).items()})
        with pytest.raises(InputError) as caught:
            read(tmp_path / "x.npz")
        assert problem in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00"])
    def test_not_an_archive(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz: "):
            read(tmp_path / "x.npz")


class TestBinsparse:
    @settings(deadline=None, max_examples=30)
    @given(tensors(orders=(2, 2)), st.sampled_from(["csr", "csc", "coo"]), st.booleans())
    def test_files_of_the_reference_implementation(
        self, tmp_path_factory: pytest.TempPathFactory, tensor: SparseTensor, layout: str, alias: bool
    ) -> None:
        path = tmp_path_factory.mktemp("bsp") / "x.bsp.h5"
        binsparse.save_binsparse(binsparse.conversions.from_scipy(tensor.to_scipy().asformat(layout)), path)
        assert same(read(path), tensor)

    def write(self, path: Path, descriptor: dict[str, Any], **arrays: Any) -> Path:
        with h5py.File(path, "w") as file:
            for name, content in arrays.items():
                file[name] = np.asarray(content)
            types = {name: str(np.asarray(content).dtype) for name, content in arrays.items()}
            descriptor = {"version": "0.1", "data_types": types} | descriptor
            file.attrs["binsparse"] = json.dumps({"binsparse": descriptor})
        return path

    @pytest.mark.parametrize(
        "descriptor",
        [
            {
                "format": "custom",
                "custom": {
                    "level": {"level_desc": "sparse", "rank": 3, "level": {"level_desc": "element"}},
                    "transpose": [2, 0, 1],
                },
            },
            {
                "format": {"level": "sparse", "rank": 3, "subformat": {"level": "element"}},
                "swizzle": [2, 0, 1],
            },
        ],
    )
    def test_tensor_with_its_modes_in_another_order(self, tmp_path: Path, descriptor: dict[str, Any]) -> None:
        path = self.write(
            tmp_path / "x.h5",
            descriptor | {"shape": [2, 3, 4]},
            indices_0=[3, 0],
            indices_1=[1, 0],
            indices_2=[2, 1],
            values=[5.0, 6.0],
        )
        expected = SparseTensor([[1, 2, 3], [0, 1, 0]], [5, 6], (2, 3, 4))
        assert read(path).tensor == expected

    def test_doubly_compressed_one_value_symmetric(self, tmp_path: Path) -> None:
        arrays = {"indices_0": [2], "pointers_to_1": [0, 2], "indices_1": [0, 2], "values": [7]}
        types = dict.fromkeys(arrays, "uint64") | {"values": "iso[int8]"}
        descriptor = {"format": "DCSR", "shape": [3, 3], "structure": "symmetric_lower", "data_types": types}
        result = read(self.write(tmp_path / "x.h5", descriptor, **arrays))
        assert result.tensor.to_dense().tolist() == [[0, 0, 7], [0, 0, 0], [7, 0, 7]]

    @pytest.mark.parametrize(
        ("changes", "arrays", "problem"),
        [
            ({"format": "DMATR"}, {}, "format 'DMATR' is none of"),
            ({"shape": [2]}, {}, "format CSR with a shape of 1 sizes"),
            ({"shape": [2, -2]}, {}, "no list of sizes"),
            ({"structure": "hermitian_lower"}, {}, "structure 'hermitian_lower'"),
            ({}, {"indices_1": [0, 5]}, "index 5 in mode 'column'"),
            ({}, {"pointers_to_1": [0, 5, 2]}, "pointers do not rise"),
            ({"fill": True}, {"fill_value": [1.0]}, "cells that are not stored have the value"),
            ({"data_types": {"indices_1": "uint64"}}, {}, "array 'pointers_to_1' is missing"),
            (
                {"data_types": {"values": "complex[float64]", "indices_1": "u", "pointers_to_1": "u"}},
                {},
                "complex values",
            ),
        ],
    )
    def test_broken_files(self, tmp_path: Path, changes: dict[str, Any], arrays: dict[str, Any], problem: str) -> None:
        good = {"pointers_to_1": [0, 1, 2], "indices_1": [0, 1], "values": [1.0, 2.0]}
        path = self.write(tmp_path / "x.h5", {"format": "CSR", "shape": [2, 2]} | changes, **(good | arrays))
        with pytest.raises(InputError) as caught:
            read(path)
        assert problem in str(caught.value)

    @pytest.mark.parametrize("way", ["external link", "soft link", "external storage", "virtual", "group", "hollow"])
    def test_nothing_outside_the_file_is_read(self, tmp_path: Path, way: str) -> None:
        np.array([7.0, 8.0]).tofile(tmp_path / "secret.bin")
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["secret"] = [7.0, 8.0]
        arrays = {"pointers_to_1": [0, 1, 2], "indices_1": [0, 1], "values": [1.0, 2.0]}
        path = self.write(tmp_path / "x.h5", {"format": "CSR", "shape": [2, 2]}, **arrays)
        with h5py.File(path, "a") as file:
            del file["values"]
            if way == "external link":
                file["values"] = h5py.ExternalLink("other.h5", "secret")
            elif way == "soft link":
                file["elsewhere"] = [1.0, 2.0]
                file["values"] = h5py.SoftLink("/elsewhere")
            elif way == "external storage":
                file.create_dataset("values", (2,), "f8", external=[(str(tmp_path / "secret.bin"), 0, 16)])
            elif way == "virtual":
                layout = h5py.VirtualLayout((2,), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (2,))
                file.create_virtual_dataset("values", layout)
            elif way == "group":
                file.create_group("values")
            else:
                file.create_dataset("values", (1 << 40,), "f8", chunks=(1 << 10,))
        problem = {
            "external link": "is a link",
            "soft link": "is a link",
            "group": "is no array",
            "hollow": "unpacks to more than",
        }
        with pytest.raises(InputError, match=f"x.h5: .*'values'.*{problem.get(way, '')}"):
            read(path)

    def test_group_by_its_path(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "x.h5", {"format": "VEC", "shape": [2]}, indices_0=[1], values=[5.0])
        with h5py.File(path, "a") as file:
            inner = file.create_group("a/b")
            for name in ("indices_0", "values"):
                inner[name] = file[name][...]
            inner.attrs["binsparse"] = file.attrs["binsparse"]
            file["soft"] = h5py.SoftLink("/a")
            file["far"] = h5py.ExternalLink("x.h5", "/a")
        assert read(path, group="/a/b").tensor.to_dense().tolist() == [0, 5]
        for group, problem in (("soft/b", "'soft' is a link"), ("far/b", "'far' is a link"), ("a/c", "no group")):
            with pytest.raises(InputError, match=problem):
                read(path, group=group)

    def test_not_hdf5(self, tmp_path: Path) -> None:
        (tmp_path / "x.h5").write_bytes(b"no")
        with pytest.raises(InputError, match="not a readable HDF5 file"):
            read(tmp_path / "x.h5")
        with h5py.File(tmp_path / "y.h5", "w") as file:
            file["values"] = [1]
        with pytest.raises(InputError, match="no matrix of Binsparse"):
            read(tmp_path / "y.h5")

    def test_heap_on_which_the_library_would_not_stop(self, tmp_path: Path) -> None:
        path = tmp_path / "x.h5"
        with h5py.File(path, "w") as file:
            file.attrs["binsparse"] = json.dumps({"binsparse": {"format": "CSR", "shape": [2, 2], "data_types": {}}})
        content = path.read_bytes()
        place = content.index(b"data_types")
        path.write_bytes(content[:place] + content[place + 8 :] + bytes(8))
        with pytest.raises(InputError, match=r"x.h5: not a readable Binsparse file \(heap damaged at byte \d+\)"):
            read(path)


def test_gzip_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.tns.gz").write_bytes(b"1 1 1\n")
    with pytest.raises(InputError, match=r"x.tns.gz: truncated or damaged"):
        read(tmp_path / "x.tns.gz")
    (tmp_path / "x.tns.gz").write_bytes(gzip.compress(b"1 1 1\n" * 100)[:-9])
    with pytest.raises(InputError, match=r"x.tns.gz: truncated or damaged"):
        read(tmp_path / "x.tns.gz")
