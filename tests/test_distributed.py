"""What several processes share, beside what one process does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from pipeline.runs import distributed
from tests.processes import together


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    integers, reals = torch.tensor([rank, 10]), torch.full((2, 3), float(rank + 1))
    more = torch.tensor(0.5)
    distributed.sum_over_processes(integers, reals, more)
    torch.save(
        {
            "who": (distributed.rank(), distributed.size(), distributed.is_first()),
            "sums": (integers, reals, more),
            "any": (distributed.any_process(rank == 1), distributed.any_process(False)),
            "first": distributed.from_first({"from": rank, "tensor": torch.tensor([rank])}),
        },
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def test_two_processes_agree(tmp_path: Path) -> None:
    together(2, worker, str(tmp_path))
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [result["who"] for result in results] == [(0, 2, True), (1, 2, False)]
    for result in results:
        integers, reals, more = result["sums"]
        assert integers.tolist() == [1, 20]
        assert reals.tolist() == [[3.0] * 3] * 2
        assert more.item() == 1.0
        assert result["any"] == (True, False)
        assert result["first"] == {"from": 0, "tensor": torch.tensor([0])}


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    tensor = torch.tensor([2.0])
    with distributed.joined("cpu") as device:
        assert device == "cpu"
        assert not torch.distributed.is_initialized()
        assert (distributed.rank(), distributed.size(), distributed.is_first()) == (0, 1, True)
        distributed.sum_over_processes(tensor)
        assert tensor.item() == 2.0
        assert distributed.any_process(True)
        assert distributed.from_first("mine") == "mine"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="process 1 of this machine finds 1 GPUs"), distributed.joined("cuda"):
        pass
