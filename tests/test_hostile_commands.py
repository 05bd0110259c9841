"""Wrong commands of every kind: one line on standard error, exit status 2, and nothing written."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.__main__ as kronflow
from pipeline.commands import source
from pipeline.core import files, step
from pipeline.core.files import refuse_clashes
from pipeline.core.step import LONGEST, whole_number
from pipeline.errors import InputError

FAR = "9" * 5000
MTX = "%%MatrixMarket matrix coordinate real general\n4 5 4\n1 1 3\n2 2 1\n3 5 2\n4 4 1\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a matrix, a table, what is made of them, and files that are none."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "m.mtx").write_text(MTX)
    (folder / "c.csv").write_text("user,item,n\nann,book,2\nbob,pen,1\nann,ink,4\n")
    (folder / "empty.csv").write_text("")
    (folder / "utf-16.csv").write_text("user,item,n\nann,book,2\n", encoding="utf-16")
    (folder / "comment.csv").write_text("# of today\nuser,item,n\nann,book,2\n")
    (folder / "out.txt").write_text("0,0\n3,5\n")
    (folder / "names.txt").write_text("user,item,n\nann,book,2\n")
    column = pa.array(["x", "y"])
    pq.write_table(pa.table([column, column, pa.array([1, 2])], names=["a", "a", "n"]), folder / "twice.parquet")
    (folder / "no-text.csv").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "junk.safetensors").write_bytes(bytes(100))
    (folder / "junk.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    shutil.copy(Path(__file__).parents[1] / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        kronflow.main(["compress", "m.mtx", "m.safetensors", "--method", "lossless"])
        kronflow.main(["compress", "c.csv", "c.safetensors", "--method", "truncation"])
        importlib.import_module("pipeline.convert").main(["--file", "c.csv", "--output", "c.parquet"])
    yield folder
    shutil.rmtree(folder)


def ask(command: str) -> Any:
    """Call a step, or with `kronflow` a command, as the shell does; gives the exit status."""
    module, *arguments = command.split()
    main = kronflow.main if module == "kronflow" else importlib.import_module(f"pipeline.{module}").main
    with pytest.raises(SystemExit) as ended:
        step.run(main, arguments)
    return ended.value.code


def content(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


FIT = "compress m.mtx o.safetensors"
TABLE = "compress c.csv o.safetensors"
TO = "convert --file c.csv --output o.parquet"
WRONG = {  # the command -> words of its one line
    "kronflow": "the following arguments are required: COMMAND",
    "kronflow nope": "invalid choice: 'nope'",
    "kronflow compress": "the following arguments are required: tensor, artifact",
    "kronflow compress nope.mtx o.safetensors": "nope.mtx: no such file",
    "kronflow compress m.mtx m.mtx": "is a file that is read",
    "kronflow compress m.mtx o.parquet": "an ending of columnar data; what is written is .safetensors",
    "kronflow compress m.mtx .": "is a folder",
    "kronflow compress m.mtx m.mtx/o.safetensors --method lossless": "cannot write",
    "kronflow compress junk.parquet o.safetensors": "not a readable Parquet file",
    "kronflow compress utf-16.csv o.safetensors": "set the option encoding=utf-16",
    "kronflow compress comment.csv o.safetensors": "a line above the names, as this, must go",
    "kronflow compress names.txt o.safetensors --read values=true": "names of things belong in a table: --format csv",
    "kronflow compress twice.parquet o.safetensors": "no single column 'a'; it stands there 2 times",
    "kronflow compress empty.csv o.safetensors": "the file has no line",
    "kronflow compress no-text.csv o.safetensors": "no utf-8 text",
    f"kronflow {FIT} --method nope": "--method nope: unknown",
    f"kronflow {FIT} --bytes -3": "--bytes -3: write a number of bytes",
    f"kronflow {FIT} --error nan": "--error nan: write a share",
    f"kronflow {FIT} --bytes 10": "no method makes a file of at most 10 bytes",
    f"kronflow {FIT} --seed {FAR}": "needs a whole number of at least 0 and below 2,147,483,648",
    f"kronflow {FIT} --threads {FAR} --method lossless": "needs a whole number of at least 1 and below 1,025",
    f"kronflow {FIT} --set hidden=3000": "hidden=3000: a model of 72,060,010 numbers for a tensor of 20 cells",
    f"kronflow {FIT} --set lr=.inf": "lr=inf: needs a positive number",
    f"kronflow {FIT} --set hidden=!!python/object:os.system": "is no YAML value",
    f"kronflow {FIT} --set hidden={FAR}": "is no YAML value",
    f"kronflow {FIT} --set hidden={'[' * 500}": "is no YAML value",
    f"kronflow {FIT} --read base=0": "format 'mtx' has no option 'base'",
    f"kronflow {FIT} --columns a": "m.mtx is no table",
    f"kronflow {TABLE} --read encoding=rot13": "Python knows no encoding 'rot13' of text",
    f"kronflow {TABLE} --read encoding=utf-16": "no utf-16 text",
    f"kronflow {TABLE} --read separator=": "characters between two fields",
    f"kronflow {TABLE} --read shape=[9,9]": "labels decide the sizes themselves",
    f"kronflow {TABLE} --read shape=[1e9]": "each a whole number or null, not [1000000000.0]",
    f"kronflow {TABLE} --read member=x.csv": "c.csv: no archive by its name",
    "kronflow info junk.safetensors": "no readable Kronflow artifact",
    "kronflow info /dev/null": "no such file",
    "kronflow query m.safetensors 9 9": "index 9 in mode 0 is outside 0..3",
    f"kronflow query m.safetensors 0 {FAR}": "outside a tensor of shape (4, 5)",
    "kronflow query m.safetensors --file out.txt": "out.txt:2: index 5 in mode 1 is outside 0..4",
    "kronflow query m.safetensors ٣ 1": "indices are whole numbers from 0",
    "kronflow query m.safetensors 1_0 1": "indices are whole numbers from 0",
    "kronflow query m.safetensors --top -3": "--top -3: needs a whole number of at least 1",
    "kronflow query m.safetensors --top 3 --at 0=99": "index 99 in mode 0 is outside 0..3",
    "kronflow query m.safetensors --top 3 --at ²=0": "mode '²': there is none of that name",
    "kronflow query c.safetensors ann nope": "item 'nope': no such label",
    "kronflow decompress m.safetensors o.xyz": "its ending is none of",
    "kronflow decompress m.safetensors o.csv --limit -1": "--limit -1: needs a whole number of at least 1",
    f"kronflow decompress m.safetensors o.csv --block 0:{FAR},0:1": "is no range",
    f"kronflow grid m.mtx --points {FAR}": "needs a whole number of at least 1 and below 1,001",
    "kronflow grid m.mtx --name a{b}": "is no plain name",
    "kronflow import-reference m.mtx m.mtx o.safetensors": "could not convert",
    "kronflow frontier c.csv o.svg --from 9kB --to 1kB": "sizes from 9,000 to 1,000 bytes",
    "kronflow frontier c.csv c.csv": "the figure is an SVG",
    "kronflow pull . ../a -o x.safetensors": "no checkout that DVC records",
    "download ../../x": "is no plain name",
    "download flights --output-dir m.mtx": "m.mtx: File exists",
    "convert": "name either a data set or a file",
    "convert --file c.parquet --output o.parquet": "is a sparse tensor already; as a table, without labels",
    "convert --file c.csv --output .": "is a folder",
    "convert --file c.csv --output o.csv": "what is written is .parquet",
    "convert --file c.csv --format mtx --output o.parquet": "no Matrix Market file",
    f"{TO} --set columns=3": "a list in brackets, each text or a whole number, not 3",
    f"{TO} --set columns=[item] --set value=user": "value 'ann' is no finite number",
    "describe m.mtx .": "is a folder",
    "describe m.mtx o.txt": "a page ends in .html",
    "sample c.parquet o.parquet --fraction nan": "must be above 0 and at most 1",
    "sample c.parquet o.parquet --fraction x": "invalid float value: 'x'",
    "sample c.parquet o.csv --fraction 1": "what is written is .parquet",
    "sample c.parquet . --fraction 1": "is a folder",
    "fit_baseline c.parquet out --method cp --set rank=1000000000": "has rank 2 at most",
    "fit_baseline c.parquet m.mtx --method lossless": "cannot write",
    f"fit_baseline c.parquet out --method lossless --threads {FAR}": "needs a whole number",
    "train_neukron c.parquet out --set hidden=3000": "72,048,006 numbers for a tensor of 6 cells",
    "train_neukron c.parquet out --device nope": "--device nope: not available here",
    "train_kpd c.parquet out --labels c.parquet": "no column 'index'",
    "aggregate --params no-text.csv": "cannot be read as UTF-8 text",
    "report nope": "nope/metrics.parquet: no such file",
    "export m.mtx o.mtx": "not a readable Parquet file",
    "export c.parquet m.mtx/o.tns": "cannot write",
    "mirror x --params nope": "nope: no such file",
    "config --experiment nope": "experiment 'nope' is not in params.yaml",
    "workflow.resources m.mtx": "holds no run",
    "workflow.merge_lock a b c": "no checkout that DVC records",
    "workflow.diff --upload-pack=x": "unrecognized arguments: --upload-pack=x",
    "workflow.diff": "name a revision, or a lock by --lock",
    "workflow.diff HEAD --lock m.mtx": "name a revision, or a lock by --lock",
    "workflow.diff --lock nope": "nope: ",
    "workflow.diff --lock m.mtx": "m.mtx:1: no valid YAML",
    "workflow.bits o.lock": "no such file",
    "workflow.share status --params c.csv": "DVC knows params.yaml of a checkout",
    "methods x": "unrecognized arguments: x",
}


@pytest.mark.parametrize("command", [pytest.param(each, id=each[:60]) for each in WRONG])
def test_a_wrong_command_ends_in_one_line_and_writes_nothing(
    command: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    before = content(made)
    assert ask(command) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert WRONG[command] in line
    assert len(line) < LONGEST + 100
    assert content(made) == before


ANSWERS = [
    "kronflow info m.safetensors",
    "kronflow info c.parquet --json",
    "kronflow query m.safetensors 0 0",
    "kronflow query m.safetensors --top 3",
    "kronflow grid m.mtx",
    "kronflow compress m.mtx o.safetensors --method lossless",
    "kronflow compress m.mtx o.safetensors --error 0.1 --method truncation",
    "kronflow decompress m.safetensors o.csv",
    "config",
    "config --name",
    "methods",
]


@pytest.mark.parametrize("command", ANSWERS)
def test_a_reader_that_leaves_early_ends_a_command_without_a_word(
    command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:  # noqa: PTH123 - no path
        monkeypatch.setattr(sys, "stdout", pipe)
        assert ask(command) == 141
    assert "rror" not in capfd.readouterr().err


def test_output_onto_a_full_disk_is_a_line(
    made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        monkeypatch.setattr(sys, "stdout", full)
        assert ask("kronflow info m.safetensors") == 2
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.close()
    assert capfd.readouterr().err == "error: output: No space left on device\n"


def test_a_link_that_leads_nowhere_or_to_itself_is_replaced_by_what_is_written(made: Path, tmp_path: Path) -> None:
    (tmp_path / "nowhere.csv").symlink_to("none")
    (tmp_path / "circle.csv").symlink_to("circle.csv")
    for name in ("nowhere.csv", "circle.csv"):
        kronflow.main(["decompress", str(made / "m.safetensors"), str(tmp_path / name)])
        assert (tmp_path / name).read_text().splitlines()[:2] == ["row,column,value", "0,0,3"]
    assert {path.name for path in tmp_path.iterdir()} == {"nowhere.csv", "circle.csv"}


@pytest.mark.parametrize(
    "command",
    ["convert --file c.csv --output {}.parquet", "convert --file {}.parquet --set columns=[mode_0] --output o.parquet"],
)
def test_a_name_that_is_no_text_is_a_line(
    command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(made / "c.csv", tmp_path)
    shutil.copy(made / "c.parquet", tmp_path / "n\udcff.parquet")
    monkeypatch.chdir(tmp_path)
    before = content(tmp_path)
    assert ask(command.replace("{}", "n\udcff")) == 2
    line = capsys.readouterr().err
    assert "n\\udcff" in line and "is no text in UTF-8" in line and line.count("\n") == 1
    assert content(tmp_path) == before


def test_labels_are_there_before_the_tensor_that_names_them(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, other: (named.append(Path(other).name), replace(path, other))[1])
    monkeypatch.chdir(made)
    for command in (
        f"convert --file c.csv --output {tmp_path}/o.parquet",
        f"kronflow decompress c.safetensors {tmp_path}/o.parquet",
    ):
        named.clear()
        module, *arguments = command.split()
        (kronflow.main if module == "kronflow" else importlib.import_module(f"pipeline.{module}").main)(arguments)
        assert named[-1] == "o.parquet" and len(named) == 3  # a process that is killed between leaves no tensor without


def test_what_is_added_up_or_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text("a,b,v\nx,y,1\nx,y,2\nx,z,0\n")
    for arguments in (["compress", "o.safetensors", "--method", "lossless"], ["grid"]):
        kronflow.main(
            [
                arguments[0],
                str(tmp_path / "c.csv"),
                *(str(tmp_path / one) if "." in one else one for one in arguments[1:]),
            ]
        )
        told = capsys.readouterr().err
        assert "1 duplicate entries summed\n1 zero entries dropped\n" in told


def test_labels_that_look_alike_stay_apart_and_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text("who,item,n\nJos\u00e9,x,1\nJose\u0301,x,2\nZoe\u0308,x,4\nann,x,8\nann ,x,16\n")
    out = str(tmp_path / "o.safetensors")
    kronflow.main(["compress", str(tmp_path / "c.csv"), out, "--method", "lossless"])
    told = "mode 'who': labels that differ from another only by blanks around them or by Unicode's form (NFC, NFD)"
    assert f"{told} stay apart: 'Jose\u0301' and 1 more\n" in capsys.readouterr().err
    for word, value in (
        ("Jos\u00e9", 1),
        ("Jose\u0301", 2),
        ("Zoe\u0308", 4),
        ("Zo\u00eb", 4),
        ("ann", 8),
        ("ann ", 16),
    ):
        kronflow.main(["query", out, word, "x"])
        assert capsys.readouterr().out == f"{value}\n"


@pytest.mark.parametrize("how", ["append", "replace"])
def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.mtx"
    path.write_text(MTX)

    def read(path: Path, reading: source.Reading) -> Any:
        X = original(path, reading)
        shutil.copy(path, tmp_path / "new")
        (tmp_path / "new").replace(path) if how == "replace" else path.write_text(MTX.replace("1 1 3", "1 1 9") + "\n")
        return X

    original = source.read_tensor
    monkeypatch.setattr(source, "read_tensor", read)
    with pytest.raises(InputError, match=r"m\.mtx: was written to while it was read"):
        kronflow.main(["compress", str(path), str(tmp_path / "o.safetensors")])
    assert not (tmp_path / "o.safetensors").exists()


def test_a_pipe_is_no_file_of_a_tensor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.mtx")
    with pytest.raises(InputError, match=r"m\.mtx: a pipe or a device, and files are read more than once"):
        kronflow.main(["compress", str(tmp_path / "m.mtx"), str(tmp_path / "o.safetensors")])


def test_a_text_without_an_end_is_a_line(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setattr(files, "LONGEST_TEXT", 10_000)
    for command in (
        "kronflow query m.safetensors --file /dev/zero",
        "kronflow import-reference m.mtx /dev/zero o.safetensors",
        "config --params /dev/zero",
        "download flights --params /dev/zero",
    ):
        assert ask(command) == 2
        assert capsys.readouterr().err == "error: /dev/zero: more than 10,000 characters of text; divide it\n"


def test_cells_may_come_through_a_pipe(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "cells")
    writer = threading.Thread(target=lambda: (tmp_path / "cells").write_text("0 0\n2,4\n"))
    writer.start()
    kronflow.main(["query", str(made / "m.safetensors"), "--file", str(tmp_path / "cells")])
    writer.join()
    assert capsys.readouterr().out == "3\n2\n"


def test_whole_numbers_are_plain_digits_of_64_bits() -> None:
    assert [whole_number(text) for text in ("0", " 7 ", "+3", "-9223372036854775808")] == [0, 7, 3, -(2**63)]
    assert {whole_number(text) for text in ("", "1_0", "٣", "²", "1.0", "0x1", "9223372036854775808", FAR)} == {None}


def test_an_output_with_a_zero_byte_in_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no name of a file"):
        refuse_clashes([], [tmp_path / "a\0b"])
