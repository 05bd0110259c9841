"""The workflow on a cluster: the same bits, more memory at each attempt, no training without the GPU asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.sparse.synth import synthetic
from tests import slurm_lab
from tests.checkout import ENVIRONMENT, copy_checkout, run

EXPERIMENT = """experiments:
  tiny:
    seeds: [0]
    matrix_baselines: {datasets: [flights], methods: [t-svd]}
    settings:
      flights: {t-svd: {r1: {rank: 1}}}

"""


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm") / "checkout"
    folder.mkdir()
    copy_checkout(root, folder)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("experiments:\n", EXPERIMENT, 1))
    return folder


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[dict[str, str]]:
    if reason := slurm_lab.missing():
        pytest.skip(reason)
    yield slurm_lab.start(tmp_path / "lab")
    slurm_lab.stop(tmp_path / "lab")


def test_same_bits_from_a_cluster_whatever_memory_was_first_asked_for(checkout: Path, lab: dict[str, str]) -> None:
    model = "results/runs/flights/t-svd/r1-s0/model.safetensors"
    run(checkout, "snakemake", "--quiet", "progress", "host", "rules", "--", model)
    expected = (checkout / model).read_bytes()
    shutil.rmtree(checkout / "results")
    # half of what the libraries alone take, then enough
    options = ["--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "1"]
    options += ["--set-resources", "fit_baseline:mem_mb=90*12**(attempt-1)"]
    command = ["snakemake", "--workflow-profile", "profiles/slurm", *options, "--", model]
    environment = lab | ENVIRONMENT | {"SLURM_CONF": lab["SLURM_CONF"]}
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=-1, stderr=-2, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "exceeded memory limit" in done.stdout and "Trying to restart job" in done.stdout
    assert (checkout / model).read_bytes() == expected


@pytest.mark.parametrize("profile", ["slurm-gpu", "gpu"])
def test_a_profile_for_gpus_asks_for_one_and_does_without_none(root: Path, checkout: Path, profile: str) -> None:
    resources = yaml.safe_load((root / "profiles" / profile / "config.yaml").read_text())["set-resources"]
    assert {rule: (each["gpu"], each["device"]) for rule, each in resources.items()} == {
        "train_neukron": (1, "cuda"),
        "train_kpd": (1, "cuda"),
    }
    target = "results/runs/flights/neukron/h4-s0/metrics.json"
    planned = run(
        checkout,
        "snakemake",
        "--workflow-profile",
        f"profiles/{profile}",
        "--dry-run",
        "--printshellcmds",
        "--",
        target,
    )
    (command,) = re.findall(r"python -m pipeline.train_neukron .*", planned)
    assert "--device cuda" in command and "runtime=" in planned
    if not torch.cuda.is_available():
        synthetic((32, 64), 500, 0.6).write_parquet(checkout / "x.parquet")
        step = command.partition(" 2> ")[0].replace("data/tensors/flights.parquet", "x.parquet")
        refused = run(checkout, "bash", "-c", step, status=2)
        assert refused.startswith("error: --device cuda: not available here") and refused.count("\n") == 1


def test_retries_and_times_are_of_the_rules(root: Path) -> None:
    for name in ("slurm", "slurm-gpu"):
        profile = yaml.safe_load((root / "profiles" / name / "config.yaml").read_text())
        assert profile["retries"] >= 2 and profile["default-resources"]["runtime"] > 0
