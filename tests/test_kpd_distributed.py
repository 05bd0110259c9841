"""Several processes share each batch and end with the network that one process trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.kpd.data import LabelledImages, labelled_images
from pipeline.kpd.methods import make
from pipeline.kpd.trainer import Trained, train


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
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = trained()
    assert len(data().train) == 65
    for name, value in alone.network.state_dict().items():
        assert torch.equal(first["network"][name], second["network"][name])
        torch.testing.assert_close(first["network"][name], value, rtol=1e-3, atol=1e-4)
    assert abs(first["loss"] - alone.train_loss) < 1e-4
