"""Several processes share each evaluation and end where one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.neukron import NeuKron
from pipeline.neukron.dispatch import shared
from pipeline.neukron.evaluation import Engine
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.shared_engine import SharedEngine
from pipeline.neukron.torch_engine import TorchEngine
from pipeline.sparse import SparseTensor
from pipeline.train_neukron import main
from tests.processes import launch, stop_in_training

SETTINGS: list[dict[str, Any]] = [{"schedule": "fast"}, {"schedule": "paper", "cell": "transformer"}]


def tensor() -> SparseTensor:
    rng = np.random.default_rng(0)
    coords = np.unique(np.stack([rng.integers(0, 30, 400), rng.integers(0, 90, 400)], axis=1), axis=0)
    return SparseTensor(coords, rng.integers(1, 5, len(coords)), (30, 90))


def fits() -> list[dict[str, Any]]:
    results = []
    for settings in SETTINGS:
        model = NeuKron(hidden=4, order_init="degree", max_epochs=3, seed=2, threads=1, device="cpu", **settings)
        model.fit(tensor())
        cells = np.argwhere(np.ones(model.shape_))
        results.append(
            {
                "values": torch.from_numpy(model.predict(cells)),
                "weights": model.model_.state_dict(),
                "orders": [torch.from_numpy(order) for order in model.orders_ or []],
                "errors": [row["error"] for row in model.history_],
            }
        )
    return results


def evaluations(engine: Engine) -> list[Any]:
    """P, weighted sums and gradients of many keys and of one, which leaves a process without work."""
    levels = engine.levels
    results: list[Any] = []
    for count in (1, 500):
        coords = np.stack([np.random.default_rng(mode).integers(0, size, count) for mode, size in enumerate((9, 40))])
        keys, _ = levels.sorted_keys(coords.T)
        weights = Weights.of(SequenceModel(levels, 5, 0, cell="gru"))
        factors = np.random.default_rng(1).normal(size=count)
        total, products, gradients = engine.gradient(weights, keys, factors)
        results += [engine.products(weights, keys), products, torch.tensor(total), *gradients]
    return [torch.as_tensor(result) for result in results]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    engine = shared(TorchEngine(Levels((9, 40)), 5))
    assert isinstance(engine, SharedEngine)
    torch.save({"evaluations": evaluations(engine), "fits": fits()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    engine = TorchEngine(Levels((9, 40)), 5)
    assert shared(engine) is engine
    for mine, other, alone in zip(first["evaluations"], second["evaluations"], evaluations(engine), strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-6)
    for mine, other, alone in zip(first["fits"], second["fits"], fits(), strict=True):
        assert all(torch.equal(weight, other["weights"][name]) for name, weight in mine["weights"].items())
        torch.testing.assert_close(mine["values"], alone["values"], rtol=1e-3, atol=1e-4)
        for a, b, c in zip(mine["orders"], other["orders"], alone["orders"], strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)
        assert mine["errors"] == other["errors"]
        np.testing.assert_allclose(mine["errors"], alone["errors"], rtol=1e-4)


def test_torchrun_stops_goes_on_and_gives_the_model_of_one_process(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensor().write_parquet(tmp_path / "small.parquet")
    settings = ["--set", "hidden=4", "--set", "order_init=degree", "--set", "max_epochs=25", "--set", "cell=gru"]
    arguments = [str(tmp_path / "small.parquet"), "--device", "cpu", "--seed", "3", *settings]

    stopped = launch("pipeline.train_neukron", root, tmp_path / "two", arguments)
    stop_in_training(stopped, epochs=25)
    assert not (tmp_path / "two").exists()
    assert len(list((tmp_path / ".cache" / "checkpoints").iterdir())) == 1

    finished = launch("pipeline.train_neukron", root, tmp_path / "two", arguments)
    _, errors = finished.communicate(timeout=300)
    assert finished.returncode == 0, errors
    assert " 0/25 [" in errors and " 1/25 [" not in errors  # goes on where it stopped; one process shows a bar
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == [
        "history.parquet",
        "metrics.json",
        "model.safetensors",
    ]
    assert not list((tmp_path / ".cache" / "checkpoints").iterdir())

    main([arguments[0], str(tmp_path / "one"), *arguments[1:]])
    one, two = (pq.read_table(tmp_path / name / "history.parquet")["error"].to_numpy() for name in ("one", "two"))
    np.testing.assert_allclose(two[:3], one[:3], rtol=1e-4)
    assert min(two) == pytest.approx(min(one), rel=0.1)  # rounding parts long runs, for better or worse
    model = pipeline.load(tmp_path / "two" / "model.safetensors")
    assert model.error(tensor())["error_padded"] == pytest.approx(min(two), rel=1e-5)
