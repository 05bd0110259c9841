"""The step that fits NeuKron: what it leaves, and that an interruption costs nothing."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.neukron import NeuKron
from pipeline.neukron.trainer import TrainingState
from pipeline.runs.checkpoint import Checkpoint
from pipeline.runs.metrics import CompressionMetrics, read_metrics
from pipeline.sparse import SparseTensor
from pipeline.train_neukron import main


@pytest.fixture
def tensor(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    coords = np.unique(np.stack([rng.integers(0, 60, 900), rng.integers(0, 200, 900)], axis=1), axis=0)
    path = tmp_path / "small.parquet"
    SparseTensor(coords, rng.integers(1, 5, len(coords)), (60, 200)).write_parquet(path)
    return path


def arguments(tensor: Path, folder: Path, epochs: int) -> list[str]:
    return [str(tensor), str(folder), "--set", "hidden=4", "--set", f"max_epochs={epochs}", "--seed", "3"]


def test_a_run_leaves_model_metrics_and_history(tensor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(arguments(tensor, tmp_path / "run", 5))
    metrics = read_metrics(tmp_path / "run/metrics.json")
    assert isinstance(metrics, CompressionMetrics)
    X = SparseTensor.read_parquet(tensor)
    model = pipeline.load(tmp_path / "run/model.safetensors")
    assert metrics.error == model.error(X)["error"]
    assert (metrics.method, metrics.seed, metrics.epochs, metrics.nnz) == ("neukron", 3, 5, X.nnz)
    assert metrics.bytes == 4 * metrics.parameters
    assert metrics.file_bytes == (tmp_path / "run/model.safetensors").stat().st_size
    history = pq.read_table(tmp_path / "run/history.parquet").to_pylist()
    assert metrics.seconds == history[-1]["seconds"]
    assert metrics.seconds_per_epoch == pytest.approx((history[-1]["seconds"] - history[0]["seconds"]) / 4)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert None not in (metrics.setup_seconds, metrics.order_seconds, metrics.model_seconds)
    assert metrics.order_seconds == history[-1]["order_seconds"]
    assert metrics.order_seconds + metrics.model_seconds == pytest.approx(metrics.seconds)
    assert metrics.cpu_seconds > 0
    assert metrics.machine and metrics.cores >= metrics.threads == 1
    assert abs(metrics.date - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=10)
    assert not any((tmp_path / ".cache").rglob("*.pt"))


def test_a_run_in_short_numbers_records_both_errors(
    tensor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = ["--set", "precision=bfloat16", "--set", "cell=gru", "--set", "order_init=degree"]
    main([*arguments(tensor, tmp_path / "run", 2), *settings])
    metrics = read_metrics(tmp_path / "run/metrics.json")
    assert isinstance(metrics, CompressionMetrics)
    history = pq.read_table(tmp_path / "run/history.parquet").to_pylist()
    assert metrics.error_padded_training == min(row["error"] for row in history)
    assert metrics.error_padded != metrics.error_padded_training
    assert metrics.error_padded == pytest.approx(metrics.error_padded_training, rel=0.02)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    ("schedule", "cell"), [("fast", "lstm"), ("paper", "lstm"), ("fast", "gru"), ("paper", "transformer")]
)
def test_a_resumed_fit_ends_with_the_same_bits(tensor: Path, tmp_path: Path, schedule: str, cell: str) -> None:
    X = SparseTensor.read_parquet(tensor)

    def make() -> NeuKron:
        return NeuKron(
            hidden=4, cell=cell, max_epochs=9, schedule=schedule, order_init="degree", seed=1, threads=1, device="cpu"
        )

    def die(state: TrainingState) -> None:
        if state.epoch == 6:
            raise KilledError

    whole = make().fit(X)
    checkpoint = Checkpoint({"run": schedule}, tmp_path, seconds=0.0)
    with pytest.raises(KilledError):
        make().fit(X, die, checkpoint)
    seen: list[int] = []
    resumed = make().fit(X, lambda state: seen.append(state.epoch), checkpoint)
    assert seen == [6, 7, 8, 9]  # the state after epoch 5 was the last one kept
    first, second = whole.model_.state_dict(), resumed.model_.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(np.array_equal(a, b) for a, b in zip(whole.orders_ or [], resumed.orders_ or [], strict=True))
    assert [row["error"] for row in whole.history_] == [row["error"] for row in resumed.history_]


def test_a_signal_keeps_the_state_and_the_same_command_goes_on(tensor: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.train_neukron", *arguments(tensor, tmp_path / "run", 100000)]
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        while "error " not in (line := process.stderr.readline(200)):  # the bar after a first epoch
            assert line or process.poll() is None, "the step ended by itself"
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 130
        assert "the same command goes on from here" in error and "Traceback" not in error
    (state,) = (tmp_path / ".cache/checkpoints").rglob("state.pt")
    assert torch.load(state, weights_only=True)["epoch"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--set", "hiden=3"], "did you mean 'hidden'"),
        (["--set", "seed=3"], "no such setting"),
        (["--set", "hidden"], "write KEY=VALUE"),
        (["--set", "hidden=true"], "hidden=True: needs a whole number"),
        (["--set", "max_seconds=2024-01-01"], "max_seconds=2024-01-01: needs a number above 0"),
        (["--set", "lr=-1e-3"], "lr=-0.001: needs a number above 0"),
        (["--set", "gamma=-inf"], "gamma=-inf: needs a number above 0"),
        (["--device", "meta"], "--device meta: neither cpu nor a GPU"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(
    tensor: Path, tmp_path: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.core import step

    with pytest.raises(SystemExit) as stopped:
        step.run(main, [str(tensor), str(tmp_path / "run"), *change])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
