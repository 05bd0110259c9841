"""The conversion's command line with what users do wrong: one line that says so, exit status 2, nothing written."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import convert
from pipeline.commands.source import read_tensor
from pipeline.core import step
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.reals import TOO_SMALL
from pipeline.sparse.stream import TensorReader, TensorWriter

TABLE = ["--set", "columns=[user,item]"]
VALUED = [*TABLE, "--set", "value=n"]
ARRAY = b"%%MatrixMarket matrix array real general\n2 1\n"
LIST = b"%%MatrixMarket matrix coordinate real general\n2 2 2\n"


def refused(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The message of a conversion in a folder that must fail and leave nothing behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        step.run(convert.main, arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert sorted(folder.rglob("*")) == before
    return message.removeprefix("error: ").replace(f"{folder}{os.sep}", "")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("x.tns", b"", [], "x.tns: empty tensor: the file has no entry"),
        ("x.tns", b"1 2 3\n0 1 2\n", [], "x.tns:2: index 0 in mode 'mode_0' is outside 1.."),
        ("x.tns", b"1 2 3\r\n1 1 x\r\n", [], "x.tns:2: value 'x' is no finite number"),
        ("x.tns", b"1 2 3\n1 1 nan\n", [], "x.tns:2: value 'nan' is no finite number"),
        ("x.tns", b"1 2 3\n1 1 1e400\n", [], "x.tns:2: value '1e400' is no finite number"),
        ("x.tns", b"1 2 3\n1 1 1e-400\n", [], f"x.tns:2: value '1e-400' {TOO_SMALL}"),
        ("x.tns", b"1 2 0.5\n1 1 -0." + b"0" * 330 + b"7\n", [], f"' {TOO_SMALL}"),
        ("x.mtx", ARRAY + b"1\n2e-0324\n", [], f"x.mtx:4: value '2e-0324' {TOO_SMALL}"),
        ("x.mtx", LIST + b"1 1 1\n2 1 1E-330\n", [], f"x.mtx:4: value '1E-330' {TOO_SMALL}"),
        ("x.csv", b"user,item,n\na,b,0\na,b,1e-999\n", VALUED, f"x.csv:3: value '1e-999' {TOO_SMALL}"),
        (
            "x.tns",
            b"1 2 3\n99999999999999999999 1 1\n",
            [],
            "x.tns:2: index '99999999999999999999' does not fit 64 bits",
        ),
        (
            "x.tns",
            b"1 2 3\n9223372036854775807 1 1\n",
            [],
            "x.tns:2: index 9223372036854775807 in mode 'mode_0' is outside",
        ),
        ("x.tns", b"1 2 3\n1 \xff 1\n", [], "x.tns:2: index '\\xff' is no whole number"),
        ("x.tns", b"1 2 3\n1 2\n", [], "x.tns:2: 2 fields where 3 belong"),
        (
            "x.tns",
            b"1 2 3\n",
            ["--set", "drop=0"],
            "option drop: a list in brackets, each a whole number, not 0",
        ),
        ("x.tns", b"1 2 3\n", ["--set", "drop=[2]"], "option drop: mode 2 of a tensor with modes 0..1"),
        ("x.tns.gz", gzip.compress(b"1 2 3\n", mtime=0)[:-9], [], "x.tns.gz: truncated or damaged file"),
        ("x.tns.gz", b"1 2 3\n", [], "x.tns.gz: truncated or damaged file"),
        ("x.tns", b"1;1;5,5\n", [], "x.tns:1: '1;1;5,5': a comma between digits, and another separator"),
        ("x.txt", b"# a list\n0 1 2,5\n1 1 3,5\n", [], "x.txt:2: '0 1 2,5': a comma between digits"),
        ("x.tns", b"1 1 1e308\n1 1 1e308\n", [], "entries of one cell add up to more than any 64-bit real"),
        (
            "x.tns",
            9 * (b"%d " % 2**47) + b"1e308\n" + 9 * (b"%d " % 2**47) + b"1e308\n",
            [],
            "entries of one cell add up",
        ),
        ("x.tsv", b'user\titem\na\t"b\nc\td"\n', TABLE, "x.tsv:2: from one quote to the next 2 lines are one entry"),
        (
            "x.csv",
            b'user,item\na,b\n"c,d\n' + 9 * b"e,f\n",
            TABLE,
            "where quotes are part of the text: option quotes=false",
        ),
        ("x.csv", b"", TABLE, "x.csv: empty tensor: the file has no line"),
        ("x.csv", b"user,item\n", TABLE, "empty tensor: the raw files have no entry"),
        ("x.csv", b"user,thing\na,b\n", TABLE, "x.csv:1: no single column 'item'"),
        (
            "x.csv",
            b"user,item\na,b\n",
            [],
            "x.csv: two columns, user and item: set the option columns=[user,item] if both",
        ),
        ("x.csv", b"n\n1\n", [], "needs one for each mode, and one for the values"),
        ("x.csv", b"ann,x9,2\nbob,x10,1\n", [], "x.csv: the first line ends with the number 2: set the option header"),
        ("x.csv", b"0,1,2\n3,4,5\n", [], "x.csv:1: 0,1,2: set the option header=false if this is an entry"),
        (
            "x.csv",
            b"user,item\na,b\n",
            ["--set", "columns=user"],
            "format 'csv', option columns: a list in brackets, each text or a whole number, not 'user'",
        ),
        (
            "x.csv",
            b"user,item\na,b\n",
            [*TABLE, "--set", "header=1"],
            "format 'csv', option header: true or false or null, not 1",
        ),
        ("x.csv", b"user,item\na,b\nc\n", TABLE, "x.csv:3: 1 fields where the first line has 2"),
        (
            "x.csv",
            b"user,item\na,b\nc\xff,d\n",
            TABLE,
            "x.csv:3: no utf-8 text (invalid start byte); set the option encoding",
        ),
        ("x.csv", b"user,item,n\na,b,1\na,b,\n", VALUED, "x.csv:3: value '' is no finite number"),
        ("x.csv", b"user,item,n\na,b,1\na,b,1e999\n", VALUED, "x.csv:3: value '1e999' is no finite number"),
        ("x.csv", b"user,item\n0,1\n", [*TABLE, "--set", "base=1"], "x.csv:2: index 0 in mode 'user' is outside 1.."),
        ("x.csv", b"user,item\n9223372036854775808,1\n", [*TABLE, "--set", "base=0"], "is no whole number of 64 bits"),
        ("x.csv", b"user,item\na,b\n", [*TABLE, "--set", "encoding=utf-9"], "Python knows no encoding 'utf-9'"),
        ("x.xyz", b"1 2 3\n", [], "x.xyz: its ending tells no format"),
    ],
)
def test_bad_file(
    tmp_path: Path, name: str, content: bytes, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    arguments = ["--file", str(tmp_path / name), "--output", str(tmp_path / "out.parquet"), *options]
    assert message in refused(tmp_path, capsys, arguments)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tns", b"1 1 5e-324\n1 2 0\n1 3 0e-999\n1 4 0.0\n2 2 -1E-310\n"),
        ("x.mtx", LIST + b"1 1 5e-324\n2 1 0.0e-400\n"),
        ("x.csv", b"user,item,n\n1,1,5e-324\n1e-400,2,0\n1,3,0e-500\n"),
    ],
)
def test_the_smallest_numbers_and_zeros_in_any_notation_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert float(read_tensor(tmp_path / name).values[0]) == 5e-324


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_long_real_that_64_bits_know_as_0_is_refused(tmp_path: Path, suffix: str) -> None:
    small = np.array([[1, 0], [np.longdouble("1e-4000"), 0]], dtype=np.longdouble)
    assert small[1, 0] != 0
    if suffix == "npy":
        np.save(tmp_path / "x.npy", small)
    else:
        parts = {"format": np.array(b"coo"), "shape": [2, 2], "row": [0, 1], "col": [0, 0], "data": small[:, 0]}
        np.savez(tmp_path / "x.npz", **parts)
    for read in (lambda: read_tensor(tmp_path / f"x.{suffix}"), lambda: SparseTensor.of(small)):
        with pytest.raises(InputError, match=re.escape(f"entry 1: value 1e-4000 {TOO_SMALL}")):
            read()
    assert SparseTensor.of(small[:1]).values.tolist() == [1.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": pa.array([2**63 + 1, 1], pa.uint64())}, "label 9223372036854775809 does not fit 64 bits"),
        ({"user": [1.5, 2.0]}, "column 'user' is of type double, which cannot be a label"),
        ({"user": ["a", None]}, "row 1: column 'user' has no value; set the option drop_missing: true"),
        ({"user": ["a", "b"], "n": [1.0, float("nan")]}, "row 1: value in column 'n' is missing or no finite number"),
        ({"user": ["a", "b"], "n": ["1", "2"]}, "column 'n' is of type string, a value is a number"),
    ],
)
def test_bad_parquet(
    tmp_path: Path, columns: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"item": [1, 2], **columns}), tmp_path / "x.parquet")
    arguments = ["--file", str(tmp_path / "x.parquet"), "--output", str(tmp_path / "out.parquet")]
    assert message in refused(tmp_path, capsys, arguments + (VALUED if "n" in columns else TABLE))


def test_arrays_that_are_no_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.ones(3))
    arguments = ["--file", str(tmp_path / "x.npz"), "--output", str(tmp_path / "out.parquet")]
    assert "x.npz: a single array where" in refused(tmp_path, capsys, arguments)


def test_places_that_are_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.tns").mkdir()
    (tmp_path / "x.tns").write_text("1 2 3\n")
    output = ["--output", str(tmp_path / "out.parquet")]
    assert "folder.tns: is a folder" in refused(tmp_path, capsys, ["--file", str(tmp_path / "folder.tns"), *output])
    assert "none.tns: no such file" in refused(tmp_path, capsys, ["--file", str(tmp_path / "none.tns"), *output])
    own = ["--file", str(tmp_path / "x.tns")]
    (tmp_path / "folder.parquet").mkdir()
    assert "folder.parquet: is a folder or a device" in refused(
        tmp_path, capsys, [*own, "--output", str(tmp_path / "folder.parquet")]
    )
    assert "x.tns: is a file that is read" in refused(tmp_path, capsys, [*own, "--output", str(tmp_path / "x.tns")])
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: is a folder or a device" in refused(tmp_path, capsys, [*own, "--output", str(tmp_path / "pipe")])
    assert "--file needs --output" in refused(tmp_path, capsys, own)


@pytest.mark.parametrize("blank", ["\n", "\r\n\n", ""])
def test_empty_lines_above_the_header_are_no_header(tmp_path: Path, blank: str) -> None:
    (tmp_path / "x.csv").write_text(f"{blank}user,item,n\nann,x,1\n\nbob,y,2\n", newline="")
    convert.main(["--file", str(tmp_path / "x.csv"), "--output", str(tmp_path / "out.parquet"), *VALUED])
    assert SparseTensor.read_parquet(tmp_path / "out.parquet").to_dense().tolist() == [[1, 0], [0, 2]]
    assert pd.read_parquet(tmp_path / "out.labels-0.parquet")["label"].tolist() == ["ann", "bob"]


def test_full_disk_leaves_no_labels_of_a_tensor_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x.csv").write_text("user,item\nann,x\n")
    arguments = ["--file", str(tmp_path / "x.csv"), "--output", str(tmp_path / "out.parquet"), *TABLE]
    with monkeypatch.context() as patch:
        patch.setattr(TensorWriter, "write_columns", full)
        assert "out.parquet: cannot write: No space left on device" in refused(tmp_path, capsys, arguments)
    convert.main(arguments)
    assert len(list(tmp_path.glob("out.labels-*.parquet"))) == 2


def test_disk_that_fills_while_entries_wait_in_a_file(tmp_path: Path) -> None:
    """Entries beyond the memory go to a file; the operating system refuses to let it grow."""
    program = f"""
import resource, signal, numpy as np
import json
from pathlib import Path
from typing import Any
from pipeline.core import step
from pipeline.datasets.assemble import assemble
from pipeline.datasets.raw import Mode, RawTensor
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
place = np.arange(20_000)
raw = RawTensor([Mode("a", indexed=True), Mode("b", indexed=True)], [([place, place], np.ones(20_000))] * 3)
step.run(lambda argv: assemble(raw, {{}}, Path({str(tmp_path)!r}), in_memory=1000))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "File too large" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "norm2", "problem"),
    [
        ({"mode_0": [0.5, 1.0]}, 5, "column 'mode_0' is of type double, an index is a whole number"),
        ({"mode_1": ["0", "1"]}, 5, "column 'mode_1' is of type string, an index is a whole number"),
        ({"mode_0": [False, True]}, 5, "column 'mode_0' is of type bool, an index is a whole number"),
        ({"value": ["1", "2"]}, 5, "column 'value' is of type string, a value is a number"),
        ({"value": [True, False]}, 1, "column 'value' is of type bool, a value is a number"),
        ({"value": [1, 3]}, 5, "norm2 10.0, its metadata says 5.0"),
    ],
)
def test_a_tensor_whose_columns_contradict_it(
    tmp_path: Path, columns: dict[str, Any], norm2: float, problem: str
) -> None:
    header = {"version": 1, "shape": [2, 2], "nnz": 2, "norm2": norm2}
    table = pa.table({"mode_0": [0, 1], "mode_1": [0, 1], "value": [1, 2]} | columns)
    pq.write_table(table.replace_schema_metadata({"kronflow": json.dumps(header)}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=problem):
        SparseTensor.read_parquet(tmp_path / "x.parquet")
    if "norm2" not in problem:
        with pytest.raises(InputError, match=problem):
            TensorReader(tmp_path / "x.parquet")
