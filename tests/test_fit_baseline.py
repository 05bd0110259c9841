"""The step that fits a baseline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

import pipeline
from pipeline import fit_baseline
from pipeline.core import step
from pipeline.errors import InputError
from pipeline.runs.metrics import read_metrics
from pipeline.sparse import SparseTensor


@pytest.fixture
def tensor(tmp_path: Path) -> Path:
    path = tmp_path / "toy.parquet"
    SparseTensor([[0, 0], [1, 1], [2, 1], [2, 3]], [3.0, 4.0, 3.0, 1.0], (3, 4)).write_parquet(path)
    return path


def test_leaves_model_metrics_and_history(tensor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    arguments = [str(tensor), str(folder), "--method", "cp", "--set", "rank=2", "--set", "max_sweeps=7"]
    fit_baseline.main([*arguments, "--seed", "3", "--dataset", "flights", "--setting", "r2"])
    metrics = read_metrics(folder / "metrics.json")
    assert (metrics.dataset, metrics.method, metrics.setting, metrics.seed) == ("flights", "cp", "r2", 3)
    assert metrics.kind == "compression"
    assert (metrics.bytes, metrics.bytes_equal, metrics.parameters) == (112, 56, 14)
    assert metrics.file_bytes == (folder / "model.safetensors").stat().st_size
    assert metrics.model_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    history = pd.read_parquet(folder / "history.parquet")
    assert len(history) == metrics.epochs <= 7
    assert {"epoch", "error", "seconds"} <= set(history.columns)
    X = SparseTensor.read_parquet(tensor)
    assert pipeline.load(folder / "model.safetensors").error(X)["error"] == pytest.approx(metrics.error, abs=1e-9)
    assert "cp on flights: error" in capsys.readouterr().out


def test_a_rerun_gives_equal_metrics(tensor: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit_baseline.main([str(tensor), str(tmp_path / name), "--method", "cp", "--set", "rank=1"])
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("a", "b"))
    timed = {"seconds", "seconds_per_epoch", "setup_seconds", "cpu_seconds", "peak_rss_bytes", "date"}
    assert {key: first[key] for key in first.keys() - timed} == {key: second[key] for key in second.keys() - timed}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "tsvd"], "method 'tsvd' is no baseline; did you mean 't-svd'"),
        (["--method", "cp", "--set", "rnk=2"], "--set rnk: CP has no such setting; did you mean 'rank'"),
        (["--method", "lossless", "--set", "rank=2"], "--set rank: Lossless has no such setting; known: blocks"),
        (["--method", "cp", "--set", "seed=2"], "--set seed: CP has no such setting"),
        (["--method", "t-svd", "--set", "rank=9"], "rank=9: a matrix of shape (3, 4) has rank 3 at most"),
        (["--method", "t-svd", "--set", "rank"], "write KEY=VALUE"),
        (["--method", "t-svd", "--threads", "0"], "--threads 0: needs a whole number of at least 1"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    tensor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        step.run(fit_baseline.main, [str(tensor), str(tmp_path / "run"), *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        fit_baseline.main([str(tmp_path / "none.parquet"), str(tmp_path / "run"), "--method", "t-svd"])


@pytest.mark.parametrize("name", ["metrics.json", "history.parquet", "model.safetensors"])
def test_a_folder_with_somebody_elses_files_is_refused(tmp_path: Path, name: str) -> None:
    SparseTensor([[0, 0], [1, 2]], [1.0, 2.0], (2, 3)).write_parquet(tmp_path / "x.parquet")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"accuracy": 1}')
    arguments = [str(tmp_path / "x.parquet"), str(tmp_path / "run"), "--method", "lossless"]
    with pytest.raises(InputError, match=f"{name}: would be written beside"):
        fit_baseline.main(arguments)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    (tmp_path / "run" / name).unlink()
    for _ in range(2):  # its own are made again
        fit_baseline.main(arguments)
