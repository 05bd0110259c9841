"""``kronflow frontier``: the envelope over all sizes, and what exact formats take."""

from __future__ import annotations

import gzip
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import __main__ as cli
from pipeline.baselines import yardsticks
from pipeline.baselines.lossless import csf_bytes
from pipeline.core import step
from pipeline.errors import InputError
from pipeline.reporting.envelope import on_envelope
from pipeline.sparse import SparseTensor


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """A matrix of 50 x 80 with 1,700 cells, heavy in a corner."""
    random = np.random.default_rng(0)
    cells = np.unique((random.uniform(size=(3000, 2)) ** 2 * (50, 80)).astype(int), axis=0)
    SparseTensor(cells, random.integers(1, 9, len(cells)), (50, 80)).write_parquet(tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


def call(*arguments: object) -> None:
    cli.main(["frontier", *(str(argument) for argument in arguments)])


def test_the_envelope_falls_from_the_smallest_size_to_no_error(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(matrix, tmp_path / "e.svg", "--method", "truncation", "--from", 600, "--points", 3)
    text = capsys.readouterr().out
    found = pd.read_csv(tmp_path / "e.csv", comment="#")
    assert sorted(set(found["orders"])) == ["free", "stored"]
    for orders, group in found.groupby("orders"):
        best = group[on_envelope(found)[group.index]].sort_values("bytes")
        assert best["relative_error"].is_monotonic_decreasing and best["relative_error"].iloc[-1] == 0.0
        assert len(best) >= 3 and f"orders {orders}: " in text
    stored, free = (
        found[(found["orders"] == one) & (found["relative_error"] == 0)]["bytes"] for one in ("stored", "free")
    )
    assert free.min() <= stored.min()
    drawn = (tmp_path / "e.svg").read_text()
    assert drawn.startswith("<svg") and "gzip" in drawn and "no structure, stored" in drawn
    told = int(re.search(r"^CSF +([\d,]+)$", text, re.M)[1].replace(",", ""))  # type: ignore[index]
    assert told == csf_bytes(SparseTensor.read_parquet(matrix))


def test_a_tensor_whose_exact_file_is_smaller_than_the_first_size_has_an_envelope(tmp_path: Path) -> None:
    SparseTensor([[0, 1], [1, 0]], [1, 2], (2, 2)).write_parquet(tmp_path / "x.parquet")
    call(tmp_path / "x.parquet", tmp_path / "e.svg", "--method", "lossless")
    found = pd.read_csv(tmp_path / "e.csv", comment="#")
    assert found["method"].eq("lossless").all() and found["relative_error"].eq(0).all()
    assert (tmp_path / "e.svg").read_text().startswith("<svg")


def test_what_was_done_is_not_done_again(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        matrix,
        tmp_path / "e.svg",
        "--method",
        "truncation",
        "--from",
        450,
        "--points",
        2,
        "--orders",
        "stored",
    )
    call(*arguments)
    before, first = (tmp_path / "e.csv").read_bytes(), capsys.readouterr().out
    monkeypatch.setattr("pipeline.commands.search.search", None)
    call(*arguments)
    again = capsys.readouterr().out
    assert (tmp_path / "e.csv").read_bytes() == before and again.count("done before") == 2
    assert again.split("orders stored: ")[-1] == first.split("orders stored: ")[-1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["e.png"], "name it .svg"),
        (["e.svg", "--seconds", "0"], "--seconds 0.0: needs a time above 0"),
        (["e.svg", "--from", "9kB", "--to", "1kB", "--method", "truncation"], "from 9,000 to 1,000 bytes"),
        (["e.svg", "--from", "many"], "--from many"),
        (["mine.svg"], "mine.csv"),
    ],
)
def test_wrong_requests_are_one_line_and_write_no_figure(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], message: str
) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit) as stopped:
        step.run(cli.main, ["frontier", str(matrix), str(tmp_path / wrong[0]), *wrong[1:]])
    assert stopped.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("kernels: ")]
    assert len(error) == 1 and message in error[0]
    assert not list(tmp_path.glob("*.svg")) and (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"


def test_another_tensors_numbers_are_not_gone_on_from(
    matrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.csv").write_text('# kronflow frontier {"tensor": "other"}\norders,budget\n')
    with pytest.raises(SystemExit):
        step.run(cli.main, ["frontier", str(matrix), str(tmp_path / "e.svg")])
    assert "is of another file or of other options" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_told_before_the_input_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "e"
    for command in (["frontier", "absent", f"{output}.svg"], ["compress", "absent", f"{output}.safetensors"]):
        with pytest.raises(SystemExit):
            step.run(cli.main, command)
        assert f"{command[2]}: cannot write: Not a directory" in capsys.readouterr().err


def test_two_runs_at_once_keep_each_others_fits_and_other_labels_are_another_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coords, values = [[0, 0], [3, 2], [1, 3]], [1.0, 2.0, 5.0]
    path, table = tmp_path / "x.parquet", tmp_path / "e.csv"
    SparseTensor(coords, values, (4, 4), labels={0: list("abcd")}).write_parquet(path)
    given = [path, tmp_path / "e.svg", "--method", "truncation", "--from", 300, "--to", 400, "--points", 2]
    given += ["--orders", "stored"]
    from pipeline.commands import search as searching

    plain, inside = searching.search, []

    def interrupted(*arguments: object, **more: object) -> searching.Found:
        found = plain(*arguments, **more)  # type: ignore[arg-type]
        if not inside:
            inside.append(True)
            call(*given)  # the other run does all of it meanwhile
        return found

    monkeypatch.setattr(searching, "search", interrupted)
    call(*given)
    assert "done before" in capsys.readouterr().out
    budgets = pd.read_csv(table, comment="#")["budget"]
    assert budgets[budgets > 0].is_unique and sum(budgets == 0) == 2  # both had begun with the exact file
    SparseTensor(coords, values, (4, 4), labels={0: list("abce")}).write_parquet(path)
    with pytest.raises(InputError, match="is of another file"):
        call(*given)


def test_a_table_that_was_damaged_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SparseTensor([[0, 0], [3, 2], [1, 3]], [1.0, 2.0, 5.0], (4, 4)).write_parquet(tmp_path / "x.parquet")
    sizes = ["--from", "200", "--to", "600", "--points", "2", "--seconds", "5"]
    given = [tmp_path / "x.parquet", tmp_path / "e.svg", "--method", "truncation", *sizes]
    call(*given)
    table = tmp_path / "e.csv"
    whole = table.read_bytes()
    head, names, _ = whole.split(b"\n", 2)
    row = b"\nstored,many,lossless,{},1,0,0\n"
    for content in (b"\n", b"\nx,y\n1,2\n", b"\n" + names + row, b"\n\xff\xfe", b"\n\0"):
        table.write_bytes(head + content)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            step.run(cli.main, ["frontier", *map(str, given)])
        line = capsys.readouterr().err
        assert ended.value.code == 2
        assert line.startswith(f"error: {table}: damaged (") and line.count("\n") == 1
        assert table.read_bytes() == head + content
    table.write_bytes(whole)
    call(*given)
    assert table.read_bytes() == whole


def test_bits_of_a_partition_by_hand() -> None:
    one_each = yardsticks.partition_bits(np.ones(8, dtype=np.int64))  # every draw is new: next to certain
    assert one_each < 8
    halves = yardsticks.partition_bits(np.array([512, 512]))
    assert 1000 < halves < 1024 + 24  # a fair coin thrown 1024 times
    assert yardsticks.partition_bits(np.array([7])) == 0.0


def test_a_model_without_structure_takes_what_random_cells_take_and_more_than_a_code_of_structure() -> None:
    random = np.random.default_rng(1)
    cells = np.unique(random.integers(0, (200, 300), (2000, 2)), axis=0)
    X = SparseTensor(cells, np.ones(len(cells)), (200, 300))
    entropy = math.log2(math.comb(60000, len(cells))) / 8
    assert 0.9 * entropy < yardsticks.structureless_bytes(X, True) < 1.1 * entropy
    assert yardsticks.structureless_bytes(X, False) < yardsticks.structureless_bytes(X, True)
    blocks = SparseTensor.from_dense(np.kron(np.eye(10), np.ones((10, 10))))
    from pipeline.baselines.lossless import Lossless

    assert Lossless().fit(blocks).size()["bytes"] < 0.5 * yardsticks.structureless_bytes(blocks, False)


def test_general_compressors_get_sorted_coordinates_and_values() -> None:
    X = SparseTensor([[0, 0], [2, 1], [2, 3]], [1.0, 5.0, 2.0], (3, 4))
    content = yardsticks.plain(X)
    steps = np.frombuffer(content[:24], dtype="<i4").reshape(2, 3)
    assert np.array_equal(np.cumsum(steps, axis=1).T, X.coords)
    assert yardsticks.general(X)["gzip"] == len(gzip.compress(content, 9))
    wide = SparseTensor([[0, 0], [2**40, 1]], [1.0, 1.0], (2**41, 4))
    assert np.frombuffer(yardsticks.plain(wide), dtype="<i8").reshape(2, 2)[0].tolist() == [0, 2**40]


def test_a_program_that_fails_is_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zpaq", "zstd", "pbmtojbg"):
        (tmp_path / name).write_text("#!/bin/sh\nkill -XFSZ $$\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    X = SparseTensor([[0, 0], [2, 1], [2, 3]], [1.0, 1.0, 1.0], (3, 4))
    found = yardsticks.general(X) | yardsticks.bitmap_bytes(X)
    assert [name for name, size in found.items() if size is None] == ["zstd", "zpaq", "JBIG", "JBIG, sorted"]


def test_bitmaps_are_for_binary_matrices_and_sorted_ones_take_less() -> None:
    random = np.random.default_rng(0)
    blocks = np.kron(np.eye(8), np.ones((8, 16)))[random.permutation(64)][:, random.permutation(128)]
    if shutil.which("pbmtojbg") is None:
        pytest.skip("pbmtojbg is not installed (jbigkit-bin)")
    found = yardsticks.bitmap_bytes(SparseTensor.from_dense(blocks))
    assert 20 < found["JBIG, sorted"] < found["JBIG"] / 2
    assert yardsticks.bitmap_bytes(SparseTensor.from_dense(blocks * np.arange(1, 129))) == {}


def test_equal_slices_are_not_saved_twice() -> None:
    star = SparseTensor([[0, column] for column in range(64)], np.ones(64), (1, 64))
    assert yardsticks.structureless_bytes(star, False) <= 4  # a count of columns is all there is
    pairs = SparseTensor([[index, index] for index in range(64)], np.ones(64), (64, 64))
    assert yardsticks.structureless_bytes(pairs, False) <= 6
    leaves = [[0, column] for column in range(64)] + [[1 + column, column] for column in range(64)]
    hub = yardsticks.structureless_bytes(SparseTensor(leaves, np.ones(128), (65, 64)), False)
    assert hub <= 12  # 64 columns of a hub and a leaf each; 37 bytes less if leaves counted as different
    random = np.random.default_rng(2)
    cells = np.stack((random.integers(0, 2, 500), np.arange(500)), axis=1)
    assert yardsticks.structureless_bytes(SparseTensor(cells, np.ones(500), (2, 500)), False) <= 8
