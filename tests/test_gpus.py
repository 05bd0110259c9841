"""Jobs that share the GPUs of one machine, with names in place of real ones: none is held twice, none left idle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.runs import gpus

JOB = """
import sys
from pathlib import Path
from pipeline.runs.gpus import one_of
with one_of(sys.argv[2].split(), Path(sys.argv[1])) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def start(root: Path, folder: Path, names: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, str(folder), names]
    return subprocess.Popen(command, cwd=root, stdin=-1, stdout=-1, stderr=-1, text=True)


def test_jobs_take_free_gpus_and_wait_for_held_ones(root: Path, tmp_path: Path) -> None:
    jobs = [start(root, tmp_path / "gpus", names) for names in ("a b", "b a")]
    firsts = [job.stdout.readline().strip() for job in jobs if job.stdout]
    assert sorted(firsts) == ["a", "b"]
    waiting = start(root, tmp_path / "gpus", "a b")
    assert waiting.stdout and waiting.stderr
    assert waiting.stderr.readline() == "waiting: other jobs compute on all 2 GPUs that this one may take\n"
    jobs[0].kill()  # however a job ends, its GPU is free
    jobs[0].communicate()
    assert waiting.stdout.readline().strip() == firsts[0]
    for job in (jobs[1], waiting):
        job.communicate()
        assert job.returncode == 0


def test_the_job_gets_the_number_of_the_gpu_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(gpus.one_of.__wrapped__, "__defaults__", (tmp_path / "gpus",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"gpu-{index}"))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for variable in ("LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    with gpus.held("cpu") as none, gpus.held("cuda:1") as named, gpus.held("cuda") as one, gpus.held("cuda") as other:
        assert (none, named, one, other) == ("cpu", "cuda:1", "cuda:0", "cuda:2")
    assert chosen == [1, 0, 2]
    # of a group of processes the first holds the GPUs of all
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with gpus.held("cuda") as second:
        monkeypatch.setenv("LOCAL_RANK", "0")
        with gpus.held("cuda") as first:
            assert first == second == "cuda"
            monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
            with gpus.held("cuda") as left:
                assert left == "cuda:2"
