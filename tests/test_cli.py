"""The console script as its users call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import pipeline
from pipeline import __main__ as cli
from pipeline import convert as step_convert
from pipeline import export as step_export
from pipeline.baselines import METHODS
from pipeline.commands.source import read_tensor
from pipeline.config import load_config
from pipeline.core import step
from pipeline.core.files import sha256_file
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

MATRIX = "%%MatrixMarket matrix coordinate real general\n5 4 4\n1 1 3\n2 2 1\n5 3 2\n4 4 1\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "my.mtx").write_text(MATRIX)
    settings = ["--set", "hidden=4", "--set", "max_epochs=40", "--threads", "1"]
    cli.main(["compress", str(folder / "my.mtx"), str(folder / "my.safetensors"), *settings])
    return folder / "my.safetensors"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(list(arguments))
    return capsys.readouterr().out


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        step.run(cli.main, list(arguments))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_a_matrix_taller_than_wide_keeps_its_rows_and_columns(artifact: Path) -> None:
    assert pipeline.load(artifact).shape_ == (5, 4)


def test_info_as_text_and_as_json(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, "info", str(artifact))
    assert "5 x 4" in text and "neukron" in text
    content = json.loads(call(capsys, "info", str(artifact), "--json"))
    assert content["bytes"] == 4 * content["parameters"]
    assert content["file_bytes"] == artifact.stat().st_size


def test_query_one_many_and_largest(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pipeline.load(artifact)
    assert float(call(capsys, "query", str(artifact), "4", "2")) == pytest.approx(model.predict([[4, 2]])[0])
    (tmp_path / "cells").write_text("0, 0\n# a comment\n4 2\n")
    lines = call(capsys, "query", str(artifact), "--file", str(tmp_path / "cells")).split()
    np.testing.assert_allclose([float(line) for line in lines], model.predict([[0, 0], [4, 2]]), rtol=1e-6)
    row = call(capsys, "query", str(artifact), "--top", "2", "--at", "0=4").splitlines()
    values = np.sort(model.predict([[4, column] for column in range(4)]))[::-1]
    np.testing.assert_allclose([float(line.split()[-1]) for line in row], values[:2], rtol=1e-6)
    assert all(line.startswith("4 ") for line in row)


def test_decompress_block_and_top(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "decompress", str(artifact), str(tmp_path / "b.parquet"), "--block", "0:2,:")
    block = SparseTensor.read_parquet(tmp_path / "b.parquet")
    assert block.shape == (5, 4) and block.coords[:, 0].max() <= 1
    call(capsys, "decompress", str(artifact), str(tmp_path / "t.parquet"), "--top", "3")
    top = SparseTensor.read_parquet(tmp_path / "t.parquet")
    everything = pipeline.load(artifact).predict(np.argwhere(np.ones((5, 4))))
    np.testing.assert_allclose(np.sort(top.values), np.sort(everything)[-3:], rtol=1e-5)


def test_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.mtx").write_text(MATRIX)
    output = call(
        capsys,
        "compress",
        str(tmp_path / "my.mtx"),
        str(tmp_path / "s.safetensors"),
        "--method",
        "t-svd",
        "--set",
        "rank=2",
    )
    assert "t-svd" in output
    assert pipeline.load(tmp_path / "s.safetensors").predict([[0, 0]])[0] == pytest.approx(3.0)


def test_smallest_file_for_an_error_and_least_error_for_a_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, 30, (200, 2)), axis=0)
    X = SparseTensor(coords, rng.integers(1, 9, len(coords)), (30, 30))
    X.write_parquet(tmp_path / "x.parquet")
    out = tmp_path / "best.safetensors"
    text = call(capsys, "compress", str(tmp_path / "x.parquet"), str(out), "--error", "0.2", "--method", "truncation")
    assert "chosen: truncation" in text
    assert pipeline.load(out).error(X)["error"] <= 0.2 * X.norm2
    text = call(capsys, "compress", str(tmp_path / "x.parquet"), str(out), "--bytes", "1.2kB", "--method", "truncation")
    assert "chosen: truncation" in text and out.stat().st_size <= 1200
    told = int(re.search(r"chosen: .*?: ([\d,]+) bytes", text)[1].replace(",", ""))  # type: ignore[index]
    assert out.stat().st_size == told
    assert "20kB" in refuse(capsys, "compress", str(tmp_path / "x.parquet"), str(out), "--bytes", "many")


def test_a_search_says_what_it_looks_for_what_it_tried_and_why_it_chose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.csv").write_text("user,item,stars\nann,x,3\nbob,y,1\nann,y,2\ncyd,z,5\n")
    out = tmp_path / "best.safetensors"
    lines = call(capsys, "compress", str(tmp_path / "my.csv"), str(out), "--bytes", "1MB").splitlines()
    assert lines[0].startswith("modes: user, item; value: stars")
    assert lines[2].startswith(
        "wanted: the least error within 1,000,000 bytes, orders stored, in 60 s; tried in turn: lossless,"
    )
    assert lines[3].startswith("lossless(): ")
    assert lines[4].startswith("chosen: lossless(): ") and "it is exact and within the size" in lines[4]
    for (user, item), value in {("ann", "x"): 3, ("cyd", "z"): 5, ("bob", "x"): 0}.items():
        assert float(call(capsys, "query", str(out), user, item)) == value
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "my.csv"]


def test_columns_of_a_table_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"n": [3, 1, 2], "user": ["a", "b", "a"], "item": ["x", "y", "y"], "day": [1, 1, 2]})
    frame.to_parquet(tmp_path / "t.parquet")
    out = str(tmp_path / "o.safetensors")
    call(capsys, "compress", str(tmp_path / "t.parquet"), out, "--method", "lossless", "--columns", "user,item,day")
    assert pipeline.load(out).shape_ == (2, 2, 2)
    text = call(capsys, "compress", str(tmp_path / "t.parquet"), out, "--method", "lossless", "--value", "n")
    assert pipeline.load(out).shape_ == (2, 2, 2) and "value:" not in text
    assert "'itm'" in refuse(capsys, "compress", str(tmp_path / "t.parquet"), out, "--columns", "user,itm")
    (tmp_path / "my.mtx").write_text(MATRIX)
    assert "no table" in refuse(capsys, "compress", str(tmp_path / "my.mtx"), out, "--value", "n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bytes", "20kiloB"], "such as 20000, 20kB"),
        (["--bytes", "0"], "such as 20000, 20kB"),
        (["--bytes", "nan"], "such as 20000, 20kB"),
        (["--bytes", "9e99"], "such as 20000, 20kB"),
        (["--error", "nan"], "such as 0.3 or 30%"),
        (["--error", "130%"], "such as 0.3 or 30%"),
        (["--error", "0.3", "--bytes", "9kB"], "give one of them"),
        (["--error", "0.3", "--method", "t-svd", "--set", "rank=1"], "settings of t-svd are what is looked for"),
        (["--error", "0.3", "--weights", "int8"], "not with --bytes or --error"),
        (["--error", "0.3", "--neukron-seconds", "0"], "a time above 0"),
        (["--error", "0.3", "--seconds", "0"], "--seconds 0.0: needs a time above 0"),
        (["--error", "0.3", "--set", "gama=3"], "did you mean 'gamma'"),
    ],
)
def test_a_search_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "my.mtx").write_text(MATRIX)
    assert message in refuse(capsys, "compress", str(tmp_path / "my.mtx"), str(tmp_path / "o.safetensors"), *arguments)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_grid_for_a_users_data_goes_into_params_yaml(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    coords = np.unique(rng.integers(0, (60, 90), (700, 2)), axis=0)
    SparseTensor(coords, rng.integers(1, 9, len(coords)), (60, 90)).write_parquet(tmp_path / "x.parquet")
    text = call(capsys, "grid", str(tmp_path / "x.parquet"), "--name", "mine", "--from", "1kB", "--to", "4kB")
    settings = yaml.safe_load(text)
    assert list(settings) == ["mine"]
    assert settings["mine"]["t-svd"] == {"rank": [1, 2, 3, 5, 6]}
    assert settings["mine"]["lossless"] == {"default": {}}
    params = yaml.safe_load((root / "params.yaml").read_text())
    entry = {"description": "mine", "licence": "mine", "citation": "none", "format": "mtx"}
    params["datasets"]["mine"] = entry | {"files": {"my.mtx": {"sources": ["file:my.mtx"]}}}
    group = {"datasets": ["mine"], "methods": [name for name in settings["mine"] if name != "neukron"]}
    params["experiments"]["own"] = {"seeds": [0], "matrix_baselines": group, "settings": settings}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    runs = load_config(tmp_path / "params.yaml").runs("own")
    assert {run.method for run in runs} == set(group["methods"]) >= {"accams", "cmd", "kronfit", "truncation"}
    assert "--from many" in refuse(capsys, "grid", str(tmp_path / "x.parquet"), "--from", "many")
    assert "give --from" in refuse(capsys, "grid", str(tmp_path / "x.parquet"), "--from", "4kB", "--to", "1kB")


def test_a_size_that_nothing_meets_names_the_smallest_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.mtx").write_text(MATRIX)
    text = refuse(capsys, "compress", str(tmp_path / "my.mtx"), str(tmp_path / "o.safetensors"), "--bytes", "1")
    assert re.search(r"at most 1 bytes; allow more; none of these methods can make one below \d+ bytes", text)


def test_whole_numbers_beyond_64_bit_reals_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix, artifact = tmp_path / "my.mtx", tmp_path / "my.safetensors"
    head = "%%MatrixMarket matrix coordinate integer general\n3 3 3\n1 1 1234567891\n2 2 3\n"
    for last, told in ((2**53 + 1, True), (2**53 - 1, False)):
        matrix.write_text(f"{head}3 3 {last}\n")
        cli.main(["compress", str(matrix), str(artifact), "--method", "lossless"])
        assert ("1 values of size 2^53 or more" in capsys.readouterr().err) == told
        answers = [call(capsys, "query", str(artifact), at, at).strip() for at in "012"]
        assert answers[:2] == ["1234567891", "3"] and float(answers[2]) == float(last)


def test_import_reference(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mirror / "neukron-reference"
    files = [str(folder / "example_matrix_min.pt"), str(folder / "example_matrix.txt"), str(tmp_path / "g.safetensors")]
    output = call(capsys, "import-reference", *files)
    assert "29,039" in output and "437.333" in output
    assert pipeline.load(tmp_path / "g.safetensors").shape_ == (100, 150)


def test_bad_input_is_one_line_and_status_2(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mtx").write_text(MATRIX.replace("4 4 1", "4 x 1"))
    (tmp_path / "cells").write_text("0 0\n1\n")
    out = str(tmp_path / "out.safetensors")
    assert "bad.mtx:6" in refuse(capsys, "compress", str(tmp_path / "bad.mtx"), out)
    assert "no such file" in refuse(capsys, "compress", str(tmp_path / "none.mtx"), out)
    assert "no such file" in refuse(capsys, "info", str(tmp_path / "none.safetensors"))
    assert "did you mean 'neukron'" in refuse(
        capsys, "compress", str(artifact.with_name("my.mtx")), out, "--method", "neukon"
    )
    assert "did you mean 'hidden'" in refuse(
        capsys, "compress", str(artifact.with_name("my.mtx")), out, "--set", "hiden=3"
    )
    assert "outside 0..3" in refuse(capsys, "query", str(artifact), "0", "9")
    assert "cells:2" in refuse(capsys, "query", str(artifact), "--file", str(tmp_path / "cells"))
    assert "outside a tensor" in refuse(capsys, "query", str(artifact), "99999999999999999999", "0")
    (tmp_path / "cells").write_text("0 0\n99999999999999999999 0\n")
    assert "cells:2" in refuse(capsys, "query", str(artifact), "--file", str(tmp_path / "cells"))
    (tmp_path / "cells").write_bytes(b"\xff\xfe\x00")
    assert "no text file" in refuse(capsys, "query", str(artifact), "--file", str(tmp_path / "cells"))
    for both in (["0", "0", "--top", "2"], ["--top", "2", "--file", str(tmp_path / "cells")], []):
        assert "give one of" in refuse(capsys, "query", str(artifact), *both)
    assert "--at: goes with --top" in refuse(capsys, "query", str(artifact), "0", "0", "--at", "0=3")
    assert "given twice" in refuse(capsys, "query", str(artifact), "--top", "2", "--at", "0=1", "--at", "0=2")
    assert "give one of them" in refuse(
        capsys,
        "decompress",
        str(artifact),
        str(tmp_path / "o.parquet"),
        "--block",
        "0:1,:",
        "--among",
        str(artifact.with_name("my.mtx")),
    )
    matrix = str(artifact.with_name("my.mtx"))
    assert "did you mean 'int8'" in refuse(capsys, "compress", matrix, out, "--weights", "int9")
    assert "for neukron only" in refuse(capsys, "compress", matrix, out, "--weights", "int8", "--method", "t-svd")
    assert "MODE=INDEX" in refuse(capsys, "query", str(artifact), "--top", "2", "--at", "zero")
    unpacked = str(tmp_path / "o.parquet")
    assert "its ending is none of" in refuse(capsys, "decompress", str(artifact), out)
    assert "2 modes" in refuse(capsys, "decompress", str(artifact), unpacked, "--block", "0:1")
    assert "within 0:4" in refuse(capsys, "decompress", str(artifact), unpacked, "--block", "0:1,2:9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mtx", "cells"]


CLICKS = 'user,item,clicks\nann,book,3\nbob,"x, y",1\nann,"x, y",2\ncyd,zoo,5\n'


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    (tmp_path / "clicks.csv").write_text(CLICKS)
    cli.main(["compress", str(tmp_path / "clicks.csv"), str(tmp_path / "clicks.safetensors"), "--method", "lossless"])
    return tmp_path / "clicks.safetensors"


def test_labels_answer(clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    cli.main(["query", str(clicks), "ann", "book"])
    assert capsys.readouterr() == ("3\n", "user by label, item by label\n")
    assert call(capsys, "query", str(clicks), "--top", "2", "--at", "item=x, y") == 'ann "x, y" 2\nbob "x, y" 1\n'
    assert call(capsys, "query", str(clicks), "--top", "1", "--at", "0=bob", "--at", "item=zoo") == ""
    (tmp_path / "cells").write_text('ann,book\n# a comment\n"bob","x, y"\n')
    assert call(capsys, "query", str(clicks), "--file", str(tmp_path / "cells")) == "3\n1\n"
    cli.main(["query", str(clicks), "--index", "2", "2"])
    assert capsys.readouterr() == ("5\n", "user by index from 0, item by index from 0\n")
    assert "did you mean 'ann'" in refuse(capsys, "query", str(clicks), "an", "book")
    assert "1 words for 2 modes (user, item)" in refuse(capsys, "query", str(clicks), "ann")
    assert "mode 'shop'" in refuse(capsys, "query", str(clicks), "--top", "1", "--at", "shop=1")
    call(capsys, "decompress", str(clicks), str(tmp_path / "again.csv"))
    lines = (tmp_path / "again.csv").read_text().splitlines()
    assert lines == ["user,item,value", "ann,book,3", 'ann,"x, y",2', 'bob,"x, y",1', "cyd,zoo,5"]


def test_numeric_labels_are_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.csv").write_text("user,item,n\n1,1,10\n2,3,20\n3,2,1234567891\n")
    out = str(tmp_path / "n.safetensors")
    call(capsys, "compress", str(tmp_path / "n.csv"), out, "--method", "lossless")
    assert call(capsys, "query", out, "2", "1") == "0\n"
    assert call(capsys, "query", out, "3", "2") == "1234567891\n"
    assert call(capsys, "query", out, "--index", "2", "1") == "1234567891\n"
    assert "user '9': no such label" in refuse(capsys, "query", out, "9", "1")


def test_nothing_is_written_over_and_an_ending_says_what_it_is(
    clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "clicks.csv")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "clicks.csv")
    for name in ("clicks.csv", "link.safetensors"):
        assert "a file that is read" in refuse(capsys, "compress", data, str(tmp_path / name), "--method", "lossless")
    assert "what is written is .safetensors" in refuse(capsys, "compress", data, str(tmp_path / "my.parquet"))
    assert "a file that is read" in refuse(capsys, "decompress", str(clicks), data, "--among", data)
    assert (tmp_path / "clicks.csv").read_text() == CLICKS
    call(capsys, "decompress", str(clicks), str(tmp_path / "o.mtx"))
    assert (
        (tmp_path / "o.mtx").read_text().startswith("%%MatrixMarket matrix coordinate integer general\n3 3 4\n1 1 3\n")
    )


def test_exact_artifacts_give_the_cells_they_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = 10**6
    X = SparseTensor([[0, 5], [9, size - 1], [size - 1, 0]], [1.0, -3.0, 2.0], (size, size))
    X.write_parquet(tmp_path / "x.parquet")
    out = str(tmp_path / "x.safetensors")
    call(capsys, "compress", str(tmp_path / "x.parquet"), out, "--method", "lossless")
    assert call(capsys, "query", out, "--top", "2") == f"9 {size - 1} -3\n{size - 1} 0 2\n"
    call(capsys, "decompress", out, str(tmp_path / "o.parquet"))
    assert SparseTensor.read_parquet(tmp_path / "o.parquet") == X
    call(capsys, "decompress", out, str(tmp_path / "o.parquet"), "--block", "5:20,:", "--top", "7")
    assert SparseTensor.read_parquet(tmp_path / "o.parquet").coords.tolist() == [[9, size - 1]]
    assert "all 0 cells are zero" in refuse(capsys, "decompress", out, str(tmp_path / "o.mtx"), "--block", "1:2,:")


def test_info_tells_what_an_artifact_is_of(clicks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(call(capsys, "info", str(clicks), "--json"))
    assert content["data_file"] == "clicks.csv" and content["data_sha256"] == sha256_file(clicks.with_suffix(".csv"))
    assert content["labels"] == {"user": 3, "item": 3} and content["label_bytes"] > 0
    assert (content["nnz"], content["norm2"], content["error"], content["orders_stored"]) == (4, 39, 0, True)
    assert content["mode_names"] == ["user", "item"] and content["format_version"] == 2
    assert "user=3, item=3" in call(capsys, "info", str(clicks))


def test_an_artifact_without_orders_says_so_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text(CLICKS)
    out = str(tmp_path / "c.safetensors")
    text = call(capsys, "compress", str(tmp_path / "c.csv"), out, "--method", "lossless", "--no-orders")
    assert "no orders stored" in text and "in that order, which the file does not tell, the error is 0" in text
    content = json.loads(call(capsys, "info", out, "--json"))
    model, dense = pipeline.load(out), np.zeros((3, 3))
    dense[[0, 1, 0, 2], [0, 1, 1, 2]] = [3, 1, 2, 5]
    answers = model.predict(np.argwhere(np.ones((3, 3)))).reshape(3, 3)
    assert content["error"] == ((dense - answers) ** 2).sum() and not content["orders_stored"] and not content["labels"]
    capsys.readouterr()
    cli.main(["query", out, "0", "0"])
    assert "no orders stored" in capsys.readouterr().err


def test_options_of_the_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("user;item;n\nann;x;2\nbob;y;3\n")
    (tmp_path / "z.tns").write_text("1 1 2\n2 3 3\n")
    out = str(tmp_path / "o.safetensors")
    how = ["--format", "csv", "--read", "separator=;"]
    call(capsys, "compress", str(tmp_path / "t.txt"), out, "--method", "lossless", *how)
    assert call(capsys, "query", out, "bob", "y") == "3\n"
    call(capsys, "compress", str(tmp_path / "z.tns"), out, "--method", "lossless", "--read", "names=[a,b]")
    cli.main(["query", out, "1", "2"])
    assert capsys.readouterr() == ("3\n", "a by index from 0, b by index from 0\n")
    assert "--read base" in refuse(capsys, "compress", str(tmp_path / "z.tns"), out, "--read", "base")


def test_a_reader_of_the_output_may_leave(clicks: Path) -> None:
    for arguments in ("info", "query --top 3", "query ann book", "--help"):
        words = arguments.split()
        file = [] if words[0] == "--help" else [str(clicks)]
        command = [sys.executable, "-m", "pipeline", words[0], *file, *words[1:]]
        read, write = os.pipe()
        os.close(read)
        buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # as a user has it
        found = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
        os.close(write)
        assert found.returncode == 141
        assert "Traceback" not in found.stderr and "Broken" not in found.stderr


def test_control_characters_of_a_file_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = METHODS["lossless"]().fit(SparseTensor([[0, 0]], [1.0], (1, 1), mode_names=["a\x1b[31m", "b"]))
    model.save(tmp_path / "a.safetensors")
    text = call(capsys, "info", str(tmp_path / "a.safetensors"))
    assert "\x1b" not in text and "a\\x1b[31m, b" in text


def test_an_answer_needs_neither_torch_nor_compiled_kernels(artifact: Path) -> None:
    code = (
        "import sys; from pipeline.__main__ import main; main(['query', sys.argv[1], '0', '0']); "
        "main(['query', sys.argv[1], '--top', '3']); main(['info', sys.argv[1]]); "
        "print({'torch', 'numba', 'scipy', 'pandas', 'pyarrow', 'pydantic'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(artifact)], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "set()"


def test_labels_travel_through_tensors_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text(CLICKS)
    tensor, out = tmp_path / "c.parquet", str(tmp_path / "c.safetensors")
    step_convert.main(["--file", str(tmp_path / "c.csv"), "--output", str(tensor)])
    call(capsys, "compress", str(tensor), out, "--method", "lossless")
    assert call(capsys, "query", out, "cyd", "zoo") == "5\n"
    call(capsys, "decompress", out, str(tmp_path / "o.parquet"))
    X = SparseTensor.read_parquet(tmp_path / "o.parquet", labels=True)
    assert X.labels == {0: ["ann", "bob", "cyd"], 1: ["book", "x, y", "zoo"]}
    call(capsys, "decompress", out, str(tmp_path / "o.parquet"), "--index")  # and then none is left from before
    assert not list(tmp_path.glob("o.labels-*")) and not SparseTensor.read_parquet(tmp_path / "o.parquet", True).labels
    cli.main(["decompress", out, str(tmp_path / "o.mtx")])
    assert "holds no labels" in capsys.readouterr().err
    step_export.main([str(tensor), str(tmp_path / "e.mtx")])
    assert "e.mtx: holds no labels" in capsys.readouterr().err
    step_export.main([str(tensor), str(tmp_path / "e.tsv")])
    assert (tmp_path / "e.tsv").read_text().splitlines()[0] == "user\titem\tvalue"
    assert "cyd\tzoo\t5" in (tmp_path / "e.tsv").read_text().splitlines()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("c.parquet", "c.labels-1.parquet"):
        (tmp_path / name).rename(moved / name.replace("c.", "other."))
    call(capsys, "compress", str(moved / "other.parquet"), out, "--method", "lossless")
    assert call(capsys, "query", out, "2", "zoo") == "5\n"  # labels of users did not come with it
    pd.DataFrame({"index": [0, 1, 2], "label": ["a", "b", "c"]}).to_parquet(moved / "other.labels-1.parquet")
    assert "not the labels that" in refuse(capsys, "compress", str(moved / "other.parquet"), out)


def test_files_beside_an_output_are_never_somebody_elses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.csv").write_text(CLICKS)
    mine = tmp_path / "c.labels-0.parquet"
    pd.DataFrame({"user": ["a"], "item": ["b"], "n": [1]}).to_parquet(mine)
    content = mine.read_bytes()
    for file, problem in (("c.csv", "is there already"), (mine.name, "is a file that is read")):
        with pytest.raises(InputError, match=problem):
            step_convert.main(["--file", str(tmp_path / file), "--output", str(tmp_path / "c.parquet")])
    assert mine.read_bytes() == content and not (tmp_path / "c.parquet").exists()
    mine.unlink()
    for _ in range(2):  # its own are written again
        step_convert.main(["--file", str(tmp_path / "c.csv"), "--output", str(tmp_path / "c.parquet")])
    mine.write_bytes(content)
    X = SparseTensor.read_parquet(tmp_path / "c.parquet")
    X.labels = {0: ["a", "b", "c"]}
    with pytest.raises(InputError, match="is there already"):
        X.write_parquet(tmp_path / "c.parquet")


def test_without_orders_in_a_large_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = SparseTensor([[0, 0], [3, 7], [10**8 - 1, 5]], [3.0, 1.0, 2.0], (10**8, 10**8))
    far = SparseTensor([[9, 10**8 - 1]], [2.0], (10**8, 10**8))
    for name, tensor in (("x", X), ("far", far)):
        tensor.write_parquet(tmp_path / f"{name}.parquet")
        out = str(tmp_path / f"{name}.safetensors")
        call(capsys, "compress", str(tmp_path / f"{name}.parquet"), out, "--method", "lossless", "--no-orders")
        model = pipeline.load(out)
        answers = model.predict(np.argwhere(np.ones(model.shape_)))
        known = {tuple(cell): value for cell, value in zip(tensor.coords.tolist(), tensor.values, strict=True)}
        within = [known.pop(tuple(cell), 0.0) for cell in np.argwhere(np.ones(model.shape_)).tolist()]
        expected = float(((np.array(within) - answers) ** 2).sum()) + sum(value**2 for value in known.values())
        assert json.loads(call(capsys, "info", out, "--json"))["error"] == pytest.approx(expected)
    assert "no orders to leave out" in call(
        capsys, "compress", str(tmp_path / "far.parquet"), out, "--method", "cp", "--no-orders"
    )


def test_a_file_of_cells_may_have_a_header(clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("user,item\nann,book\n", "# cells\nuser\titem\nann\tbook\n", "ann;book\n", "ann book\n"):
        (tmp_path / "cells").write_text(content)
        assert call(capsys, "query", str(clicks), "--file", str(tmp_path / "cells")) == "3\n"
    (tmp_path / "cells").write_text("ann,book\nuser,item\n")
    assert "cells:2: user 'user': no such label" in refuse(
        capsys, "query", str(clicks), "--file", str(tmp_path / "cells")
    )
    (tmp_path / "t.csv").write_text("user, item, n\nuser, item, 4\nann, book, 5\n")
    out = str(tmp_path / "t.safetensors")
    call(capsys, "compress", str(tmp_path / "t.csv"), out, "--method", "lossless")
    assert call(capsys, "query", out, "ann", "book") == "5\n"
    assert call(capsys, "query", out, "--top", "1", "--at", "item=book") == 'ann " book" 5\n'
    (tmp_path / "cells").write_text("user,item\n")  # a cell of this tensor
    assert call(capsys, "query", out, "--file", str(tmp_path / "cells")) == "4\n"


STRANGE = [
    "a\rb",
    "a\nb",
    "a\tb",
    "a b",
    ' "a"',
    "a\x85b",
    "a\u2028b",
    "#a",
    "a,b;c",
    "-1",
    "007",
    "7",
    "a\\n",
    "ä\u202eb",
]


def test_strange_labels_answer_one_by_one_on_a_line_each_and_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = list(range(len(STRANGE), 0, -1))
    frame = pd.DataFrame({"value": STRANGE, "b": ["x", "y"] * 7, "n": values})
    X = SparseTensor.from_pandas(frame, ["value", "b"], "n")
    out, again = str(tmp_path / "o.safetensors"), tmp_path / "o.csv"
    METHODS["lossless"]().fit(X).save(out)
    lines = call(capsys, "query", out, "--top", str(len(STRANGE))).split("\n")
    assert lines.pop() == ""
    labels = [json.loads(line.rpartition(" ")[0][:-2]) if line[0] == '"' else line.split(" ")[0] for line in lines]
    assert labels == STRANGE
    assert [line.rpartition(" ")[2] for line in lines] == list(map(str, values))
    for label, value in zip(STRANGE, values, strict=True):
        words = ["--", label, "xy"[STRANGE.index(label) % 2]]
        assert call(capsys, "query", out, *words) == f"{value}\n"
    call(capsys, "decompress", out, str(again))
    assert read_tensor(again) == X
    assert read_tensor(again).labels == X.labels


def test_a_word_that_several_labels_read_as_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {0: ["b", " b", 7], 1: [7, "7"]}
    X = SparseTensor([[0, 0], [1, 1], [2, 1]], [1.0, 2.0, 3.0], (3, 2), mode_names=["a", "a"], labels=labels)
    out = str(tmp_path / "o.safetensors")
    METHODS["lossless"]().fit(X).save(out)
    assert "a '7': several labels read so; --index" in refuse(capsys, "query", out, "b", "7")
    assert "a 'b ': several labels read so" in refuse(capsys, "query", out, "--top", "1", "--at", "0=b ")
    assert "several of that name; give its number" in refuse(capsys, "query", out, "--top", "1", "--at", "a=b")
    assert call(capsys, "query", out, "--top", "1", "--at", "0= b") == '" b" 7 2\n'
    (tmp_path / "cells").write_bytes(b"\xef\xbb\xbf7,7\r\n")
    assert "cells:1: a '7'" in refuse(capsys, "query", out, "--file", str(tmp_path / "cells"))
    X.labels = {0: ["b", "c", "7"]}
    METHODS["lossless"]().fit(X).save(out)
    (tmp_path / "cells").write_bytes(b"\xef\xbb\xbfc,1\r\n")
    assert call(capsys, "query", out, "--file", str(tmp_path / "cells")) == "2\n"


def test_what_is_written_is_what_its_ending_says(
    clicks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(tmp_path / "clicks.csv")
    call(capsys, "decompress", str(clicks), str(tmp_path / "o.TSV"))
    assert (tmp_path / "o.TSV").read_text().splitlines()[:2] == ["user\titem\tvalue", "ann\tbook\t3"]
    for name in ("o.npy", "o.h5ad", "o.tar.gz", "o.zst", "o.ttx.xz"):
        assert "what is written is .safetensors" in refuse(
            capsys, "compress", data, str(tmp_path / name), "--method", "lossless"
        )
    for name in ("o.csv", "o.mtx.gz", "o.gz"):
        with pytest.raises(InputError, match=r"what is written is \.parquet"):
            step_convert.main(["--file", data, "--output", str(tmp_path / name)])
    for command in ("info", "query", "decompress"):
        more = {"query": ["0", "0"], "decompress": [str(tmp_path / "o.csv")]}.get(command, [])
        assert "csv data by its name, no artifact" in refuse(capsys, command, data, *more)
