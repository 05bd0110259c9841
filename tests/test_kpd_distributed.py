"""Several processes share each batch and end with the network that one process trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pipeline.errors import InputError
from pipeline.kpd import Sparsifier
from pipeline.kpd.data import LabelledImages, labelled_images
from pipeline.kpd.sparsity_methods import make
from pipeline.kpd.trainer import Trained, train
from pipeline.sparse import SparseTensor
from pipeline.train_kpd import main
from tests.processes import launch, stop_in_training, together


def data() -> LabelledImages:
    random = np.random.default_rng(0)
    return labelled_images(random.uniform(0, 1, (90, 4, 4)), random.integers(0, 4, 90), seed=0)


def trained() -> Trained:
    # 65 training images in batches of 16: the last batch has one image, for one of the processes only
    return train(make("kpd", {"epochs": 6, "batch": 16, "block": [2, 2]}), data(), seed=0)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = trained()
    torch.save({"network": result.network.state_dict(), "loss": result.train_loss}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_the_network_of_one(tmp_path: Path) -> None:
    together(2, worker, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = trained()
    assert len(data().train) == 65
    for name, value in alone.network.state_dict().items():
        assert torch.equal(first["network"][name], second["network"][name])
        torch.testing.assert_close(first["network"][name], value, rtol=1e-3, atol=1e-4)
    assert abs(first["loss"] - alone.train_loss) < 1e-4


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Arguments that name 90 images and their labels on disk."""
    random = np.random.default_rng(0)
    SparseTensor.from_dense(random.uniform(1, 2, (4, 4, 90))).write_parquet(tmp_path / "images.parquet")
    labels = pd.DataFrame({"index": np.arange(90), "label": random.integers(0, 4, 90)})
    labels.to_parquet(tmp_path / "labels.parquet")
    return [str(tmp_path / "images.parquet"), "--labels", str(tmp_path / "labels.parquet"), "--device", "cpu"]


def test_torchrun_gives_the_network_of_one_process_and_goes_on_after_a_stop(
    root: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*files, "--method", "kpd", "--set", "epochs=40", "--set", "batch=16"]
    monkeypatch.chdir(tmp_path)

    def alone(name: str) -> None:
        threads = torch.get_num_threads()
        main([arguments[0], name, *arguments[1:]])
        torch.set_num_threads(threads)

    two = launch("pipeline.train_kpd", root, tmp_path / "two", arguments)
    _, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors
    assert errors.count("cost beside dense") == 1  # one process reports, and writes
    written = sorted(file.name for file in (tmp_path / "two").iterdir())
    assert written == ["history.parquet", "metrics.json", "model.safetensors"]

    stopped = launch("pipeline.train_kpd", root, tmp_path / "stopped", arguments)
    stop_in_training(stopped, epochs=40)
    assert not (tmp_path / "stopped").exists()
    assert len(list((tmp_path / ".cache" / "checkpoints").iterdir())) == 1

    alone("stopped")  # goes on where both processes stopped
    assert not list((tmp_path / ".cache" / "checkpoints").iterdir())
    alone("one")
    one = load_file(tmp_path / "one" / "model.safetensors")
    for name in ("two", "stopped"):
        other = load_file(tmp_path / name / "model.safetensors")
        assert other.keys() == one.keys()
        for key, value in one.items():
            np.testing.assert_allclose(other[key].astype(float), value.astype(float), rtol=1e-3, atol=1e-3)


def test_parameters_that_are_split_over_processes_are_refused(tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        model = nn.Sequential(nn.Linear(8, 8))
        sparsifier = Sparsifier(model, block=(2, 2), total_steps=2)
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        with pytest.raises(InputError, match=r"parameter '0\.S' is split over processes \(FSDP2\)"):
            sparsifier.parameter_groups()
    finally:
        torch.distributed.destroy_process_group()
