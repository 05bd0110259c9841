"""Several processes, each with a share of the non-zeros, end where one process with all of them does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.errors import InputError
from pipeline.neukron import NeuKron
from pipeline.neukron.dispatch import shared
from pipeline.neukron.evaluation import Engine
from pipeline.neukron.levels import Levels
from pipeline.neukron.model import SequenceModel, Weights
from pipeline.neukron.shared_engine import SharedEngine
from pipeline.neukron.torch_engine import TorchEngine
from pipeline.neukron.trainer import TrainingState
from pipeline.runs import distributed, shards
from pipeline.runs.checkpoint import Checkpoint
from pipeline.sparse import SparseTensor
from pipeline.train_neukron import main
from tests.processes import launch, stop_in_training, together

SETTINGS: list[dict[str, Any]] = [
    {"schedule": "fast", "order_init": "auto"},
    {"schedule": "paper", "cell": "transformer", "order_init": "lexicographic"},
]
EPOCHS, STOPPED = 6, 3


def tensor() -> SparseTensor:
    rng = np.random.default_rng(0)
    coords = np.unique(np.stack([rng.integers(0, 30, 400), rng.integers(0, 90, 400)], axis=1), axis=0)
    return SparseTensor(coords, rng.integers(1, 5, len(coords)), (30, 90))


def fits(path: Path) -> list[dict[str, Any]]:
    results = []
    for settings in SETTINGS:
        X = shards.read_share(path)
        held: list[int] = []
        model = NeuKron(hidden=4, max_epochs=3, seed=2, threads=1, device="cpu", **settings)
        model.fit(X, lambda state, held=held: held.append(len(state.products)))
        cells = np.argwhere(np.ones(model.shape_))
        results.append(
            {
                "values": torch.from_numpy(model.predict(cells)),
                "weights": model.model_.state_dict(),
                "orders": [torch.from_numpy(order) for order in model.orders_ or []],
                "errors": [row["error"] for row in model.history_],
                "error": model.error(X)["error"],
                "whole": (X.nnz, X.norm2),
                "held": [len(X.values), *held],
            }
        )
    return results


def evaluations(engine: Engine) -> list[Any]:
    """Weighted sums and gradients of many keys and of one, which leaves a process without any; P of its own keys."""
    levels = engine.levels
    results: list[Any] = []
    for count in (1, 500):
        coords = np.stack([np.random.default_rng(mode).integers(0, size, count) for mode, size in enumerate((9, 40))])
        keys, _ = levels.sorted_keys(coords.T)
        weights = Weights.of(SequenceModel(levels, 5, 0, cell="gru"))
        factors = np.random.default_rng(1).normal(size=count)
        rank, size = distributed.rank(), distributed.size()
        own = slice(rank * count // size, (rank + 1) * count // size)
        total, products, gradients = engine.gradient(weights, keys[:, own], factors[own])
        assert np.array_equal(engine.products(weights, keys[:, own]), products)
        results += [np.concatenate(distributed.gathered(products)), torch.tensor(total), *gradients]
    return [torch.as_tensor(result) for result in results]


class StoppedError(Exception):
    """As if the machine went away."""


def errors_of_resumed(state: Path, stops: bool) -> list[float]:
    """Fit until an epoch whose state was not written, or take up the state that lies there; errors so far."""

    def after_epoch(state: TrainingState) -> None:
        if stops and state.epoch > STOPPED:
            raise StoppedError

    model = NeuKron(hidden=4, max_epochs=EPOCHS, seed=2, threads=1, device="cpu", order_init="degree")
    try:
        model.fit(tensor(), after_epoch, Checkpoint({}, state, seconds=0.0))
    except StoppedError:
        return []
    return [row["error"] for row in model.history_]


def joined(rank: int, folder: Path, size: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store-{size}", rank=rank, world_size=size
    )


def worker(rank: int, folder: Path) -> None:
    joined(rank, folder, 2)
    engine = shared(TorchEngine(Levels((9, 40)), 5))
    assert isinstance(engine, SharedEngine)
    found = {"evaluations": evaluations(engine), "fits": fits(folder / "x.parquet")}
    found["resumed"] = errors_of_resumed(folder / "of-one", stops=False)
    torch.save(found, folder / f"{rank}.pt")
    errors_of_resumed(folder / "of-two", stops=True)
    torch.distributed.destroy_process_group()


def worker_of_three(rank: int, folder: Path) -> None:
    joined(rank, folder, 3)
    keys = np.random.default_rng(rank).permutation(30_000)[None] * 3 + rank
    owner = shards.owners(keys)
    own, doubled = distributed.exchanged([keys.T, 2.0 * keys[0]], owner)
    assert own.dtype == np.int64
    assert np.array_equal(2.0 * own[:, 0], doubled)
    assert np.array_equal(owner, shards.owners(np.concatenate((keys // 1000, keys % 1000))))  # the same in two words
    edges = distributed.gathered((int(own.min()), int(own.max()), len(own)))
    with pytest.raises(InputError, match="3 processes for 1 non-zeros; start at most 1"):
        shards.own_share(SparseTensor([[0]], [1.0], (2,)))
    found = {"edges": edges, "resumed": errors_of_resumed(folder / "copy-of-two", stops=False)}
    torch.save(found, folder / f"of-three-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left, among it a state, after they took up one of a single process."""
    folder = tmp_path_factory.mktemp("two")
    tensor().write_parquet(folder / "x.parquet")
    errors_of_resumed(folder / "of-one", stops=True)
    together(2, worker, folder)
    return folder


def test_two_processes_with_half_of_the_non_zeros_each_end_where_one_does(place: Path) -> None:
    first, second = (torch.load(place / f"{rank}.pt") for rank in range(2))
    engine = TorchEngine(Levels((9, 40)), 5)
    assert shared(engine) is engine
    for mine, other, alone in zip(first["evaluations"], second["evaluations"], evaluations(engine), strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-6)
    for mine, other, alone in zip(first["fits"], second["fits"], fits(place / "x.parquet"), strict=True):
        assert all(torch.equal(weight, other["weights"][name]) for name, weight in mine["weights"].items())
        torch.testing.assert_close(mine["values"], alone["values"], rtol=1e-3, atol=1e-4)
        for a, b, c in zip(mine["orders"], other["orders"], alone["orders"], strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)
        assert mine["errors"] == other["errors"]
        np.testing.assert_allclose(mine["errors"], alone["errors"], rtol=1e-4)
        assert mine["error"] == other["error"] == pytest.approx(alone["error"], rel=1e-4)
        assert mine["whole"] == other["whole"] == alone["whole"]
        nnz = alone["whole"][0]
        assert {nnz} == set(alone["held"]) == {sum(pair) for pair in zip(mine["held"], other["held"], strict=True)}
        assert all(abs(held - nnz / 2) <= 0.05 * nnz for held in mine["held"])


def test_a_state_is_taken_up_by_another_number_of_processes(place: Path) -> None:
    shutil.copytree(place / "of-two", place / "copy-of-two")
    together(3, worker_of_three, place)
    three = torch.load(place / "of-three-0.pt")
    whole = errors_of_resumed(place / "none", stops=False)
    from_two = errors_of_resumed(place / "of-two", stops=False)
    assert len(whole) == EPOCHS
    for found in (torch.load(place / "0.pt")["resumed"], from_two, three["resumed"]):
        np.testing.assert_allclose(found, whole, rtol=1e-4)
    # keys exchanged among three: each has a run of the sorted ones, about as long as the others'
    edges = three["edges"]
    assert [first for first, *_ in edges] == [0, *(last + 1 for _, last, _ in edges[:-1])]
    assert sum(count for *_, count in edges) == 90_000
    assert all(abs(count - 30_000) < 1500 for *_, count in edges)


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
