"""A small data set of one's own, shared: several experiments on record, damaged remotes, data that stay."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.commands.shared import SharedRuns
from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.workflow import bits, diff
from pipeline.workflow.share import check_whole, commit, kept_back, pull, refuse_exchanged_sources, refuse_links
from tests.checkout import CLICKS, ENVIRONMENT, TINY, change, copy_checkout, dry_run_jobs, make, run, write_clicks

OTHER = """\
  other:
    seeds: [0]
    matrix_baselines: {datasets: [clicks], methods: [truncation]}
    settings:
      clicks: {truncation: {k50: {keep: 0.5}}}
"""
SNAKEMAKE = ["snakemake", "--quiet", "progress", "host", "rules", "--"]


def use(folder: Path, name: str) -> None:
    run(folder, sys.executable, "-m", "pipeline.config", "--use", name)


@pytest.fixture(scope="module")
def shared(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with two small experiments, made and recorded one after the other, and a remote beside it."""
    folder = tmp_path_factory.mktemp("sharing") / "shared"
    folder.mkdir()
    copy_checkout(root, folder)
    params = folder / "params.yaml"
    change(params, "\nexperiments:\n", f"\nexperiments:\n{TINY}{OTHER}")
    change(params, "\ndatasets:\n", f"\ndatasets:\n{CLICKS}")
    write_clicks(folder)
    assert "make remote URL=" in make(folder, "remote", status=2)
    make(folder, "remote", f"URL={folder.parent / 'remote'}")
    use(folder, "tiny")
    run(folder, *SNAKEMAKE, "all")
    make(folder, "commit")
    use(folder, "other")
    run(folder, *SNAKEMAKE, "all")
    make(folder, "commit")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "results")
    make(folder, "push")
    return folder


@pytest.fixture
def copy(shared: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_results_of_both_experiments_are_recorded_and_pulled(shared: Path, tmp_path: Path) -> None:
    assert load_config(shared / "params.yaml").recorded_experiments() == ["other", "tiny"]
    stages = yaml.safe_load((shared / "dvc.lock").read_text())["stages"]
    assert {"report-other", "report-tiny", "records"} <= set(stages)
    run(tmp_path, "git", "clone", "-q", str(shared), "pulled")
    pulled = tmp_path / "pulled"
    told = make(pulled, "pull")
    assert "data/raw/clicks" in told and "snakemake data/tensors/clicks.labels-0.parquet" in told
    assert "3 runs are whole, their models those that were measured" in told
    for name in ("tiny", "other"):
        page = Path("results") / name / "report.html"
        assert (pulled / page).read_bytes() == (shared / page).read_bytes()
    # the data stay with who may have them
    assert not (pulled / "data").exists()
    (remote,) = (shared.parent / "remote").iterdir()
    objects = {path.parent.name + path.name for path in remote.rglob("*") if path.is_file()}
    assert objects and not objects & {
        out["md5"] for stage in stages.values() for out in stage["outs"] if out["path"] in kept_back(shared)
    }
    # who has the source makes its tensor, and nothing else is to be made
    run(pulled, *SNAKEMAKE, *re.findall(r"snakemake (data/[^']+)'", told)[0].split())
    assert "Nothing to be done" in run(pulled, "snakemake", "-n", "recorded")
    assert "fit_baseline" not in run(pulled, "dvc", "status")


def test_an_edited_source_of_ones_own_is_seen_and_a_lost_one_is_not_needed(copy: Path) -> None:
    source = copy / "clicks.csv"
    source.rename(copy / "elsewhere.csv")
    assert "Nothing to be done" in run(copy, "snakemake", "-n", "recorded")
    source.write_text((copy / "elsewhere.csv").read_text() + "u1,i2,7\n")
    jobs = dry_run_jobs(copy)
    assert {"download_clicks", "convert_clicks", "fit_baseline"} <= set(jobs)
    assert "clicks.csv" in run(copy, "dvc", "status", "download-clicks")
    refused = make(copy, "commit", status=2)
    assert "not up to date" in refused


def test_a_source_exchanged_for_an_older_file_is_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(f"experiment: tiny\nexperiments:\n{TINY}datasets:\n{CLICKS}")
    write_clicks(tmp_path)
    source, copy = tmp_path / "clicks.csv", tmp_path / "data/raw/clicks/clicks.csv"
    refuse_exchanged_sources(tmp_path)  # nothing is made yet
    copy.parent.mkdir(parents=True)
    shutil.copy(source, copy)
    refuse_exchanged_sources(tmp_path)
    source.write_text("user,item,clicks\nu1,i1,2\n")
    os.utime(source, (0, 0))
    with pytest.raises(InputError, match=r"clicks\.csv: is not what .*, and no newer, .*; 'touch .*clicks\.csv', then"):
        refuse_exchanged_sources(tmp_path)
    source.unlink()
    refuse_exchanged_sources(tmp_path)  # a colleague's


def test_why_and_diff_name_what_changed(copy: Path) -> None:
    assert "No run differs between HEAD and here" in make(copy, "diff")
    params = copy / "params.yaml"
    params.write_text(params.read_text().replace("k50: {keep: 0.5}", "k50: {keep: 0.6}"))
    with (copy / "pipeline/baselines/truncation.py").open("a") as file:
        file.write("# changed\n")
    with (copy / "clicks.csv").open("a") as file:
        file.write("u1,i2,7\n")
    told = make(copy, "why")
    assert re.search(
        r"^\| `data/raw/clicks/clicks.csv` \| input \| clicks.csv \| sha256 \w{12} \| sha256 \w{12} \|$", told, re.M
    )
    assert "| parameter | keep | 0.5 | 0.6 |" in told
    assert "| code | pipeline/baselines/truncation.py | sha256 " in told
    assert "upstream | download_clicks" in told
    assert "No rule to produce nonsense" in make(copy, "why", "TARGET=nonsense", status=2)


def test_a_rerun_is_compared_bit_by_bit_with_what_a_lock_records(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copy)
    record = ["--experiment", "tiny", "evidence/dvc.lock"]

    def compared() -> str:
        diff.main(["--lock", "evidence/dvc.lock"])
        return capsys.readouterr().out

    bits.main(record)
    told = make(copy, "diff", "LOCK=evidence/dvc.lock")
    assert told == compared() == (
        "evidence/dvc.lock: 2 models. Here: 2 with the same bits, 0 that differ, 0 missing.\n"
    )  # fmt: skip
    before = (copy / "evidence/dvc.lock").read_bytes()
    stage = yaml.safe_load(before)["stages"]["fit_baseline-clicks-truncation"]
    model = copy / "results/runs/clicks/truncation/k10-s0/model.safetensors"
    digest = hashlib.md5(model.read_bytes()).hexdigest()  # noqa: S324 - DVC's own names
    assert stage["outs"][0]["files"] == [{"relpath": "k10-s0/model.safetensors", "md5": digest}]  # not the other's k50
    # a rerun has other times, which are no difference
    change(model.with_name("metrics.json"), '"seconds": ', '"seconds": 1')
    assert "2 with the same bits" in compared()
    with model.open("ab") as file:
        file.write(b"x")
    (copy / "results/runs/clicks/t-svd/r1-s0/model.safetensors").unlink()
    told = compared()
    assert "Here: 0 with the same bits, 1 that differ, 1 missing." in told and "missing: clicks/t-svd 1" in told
    assert "| `clicks/truncation/k10-s0` | nothing |" in told
    # and what is no longer as dvc.lock records it has no record to publish
    with pytest.raises(InputError, match="results/runs/clicks/t-svd here is not what it records"):
        bits.main(record)
    change(copy / "params.yaml", "{k10: {keep: 0.1}}", "{k10: {keep: 0.2}}")
    with (copy / "pipeline/baselines/truncation.py").open("a") as file:
        file.write("# changed\n")
    assert "| `clicks/truncation/k10-s0` | settings, code |" in compared()
    assert (copy / "evidence/dvc.lock").read_bytes() == before


def test_a_lost_run_of_the_other_experiment_and_exchanged_ones_are_not_recorded(copy: Path) -> None:
    cell = copy / "results/runs/clicks/truncation"
    for old, new in (("k10-s0", "x"), ("k50-s0", "k10-s0"), ("x", "k50-s0")):
        (cell / old).rename(cell / new)
    shutil.rmtree(copy / "results/runs/clicks/t-svd")
    with pytest.raises(InputError, match="experiments 'other', 'tiny' are not as planned") as refused:
        check_whole(load_config(copy / "params.yaml"), copy)
    assert "results/runs/clicks/t-svd/r1-s0/model.safetensors is missing" in str(refused.value)
    assert "truncation/k10-s0/metrics.json is of the run clicks/truncation/k50-s0: its folder" in str(refused.value)


def test_links_between_the_cache_and_what_snakemake_writes_are_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    refuse_links(tmp_path)
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    type = hardlink\n")
    for action in (commit, pull):
        with pytest.raises(InputError, match=r"cache.type is hardlink: .*'dvc checkout --relink'"):
            action(tmp_path)


def test_files_are_checked_out_as_they_are_committed_whatever_git_is_told_of_line_ends(
    root: Path, tmp_path: Path
) -> None:
    shutil.copy(root / ".gitattributes", tmp_path)
    (tmp_path / "code.py").write_bytes(b"pass\n")
    for command in ("init -q", "config core.autocrlf true", "add -A", "commit -q -m a"):
        run(tmp_path, "git", *command.split())
    (tmp_path / "code.py").unlink()
    run(tmp_path, "git", "checkout", "-q", "--", "code.py")
    assert (tmp_path / "code.py").read_bytes() == b"pass\n"


def test_scrambled_times_and_a_clock_that_is_wrong_rerun_nothing(copy: Path) -> None:
    chance = random.Random(0)
    now = time.time()
    for path in copy.rglob("*"):
        if path.is_file() and ".git" not in path.parts:  # years before and, of a machine whose clock is ahead, after
            os.utime(path, (now, now + chance.uniform(-1e8, 1e8)))
    assert "Nothing to be done" in run(copy, "snakemake", "-n", "recorded")
    assert "up to date" in run(copy, "dvc", "status")


def test_two_snakemakes_at_once_make_what_each_was_asked_for(copy: Path) -> None:
    cells = ["truncation", "t-svd"]
    models = [copy / "results/runs/clicks" / each for each in ("truncation/k10-s0", "t-svd/r1-s0")]
    before = [(model / "model.safetensors").read_bytes() for model in models]
    shutil.rmtree(copy / "results/runs")
    started = [
        subprocess.Popen([*SNAKEMAKE, f"clicks.{cell}"], cwd=copy, env=ENVIRONMENT, stdout=-1, stderr=-2, text=True)
        for cell in cells
    ]
    for process in started:
        said, _ = process.communicate(timeout=500)
        assert process.returncode == 0, said
    assert [(model / "model.safetensors").read_bytes() for model in models] == before
    assert not list((copy / ".snakemake/locks").glob("*"))


def test_status_says_when_all_are_the_same(shared: Path) -> None:
    assert "here, the record and 'shared' are the same" in make(shared, "status")


def test_damaged_and_lost_objects_are_named(copy: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    run(copy, "dvc", "remote", "modify", "shared", "url", str(remote))
    remote.mkdir()
    run(copy, "git", "commit", "-q", "-am", "remote")
    told = make(copy, "status")
    assert "recorded here, not on 'shared'" in told and "your turn: 'make push'" in told
    make(copy, "push")
    model = "results/runs/clicks/truncation/k10-s0/model.safetensors"
    digest = hashlib.md5((copy / model).read_bytes(), usedforsecurity=False).hexdigest()
    stored = remote / "files/md5" / digest[:2] / digest[2:]
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1])
    run(tmp_path, "git", "clone", "-q", str(copy), "pulled")
    refused = make(tmp_path / "pulled", "pull", status=2)
    assert f"not all could be fetched: {model}. " in refused
    plain = run(tmp_path / "pulled", "dvc", "pull", status=1)  # DVC names the folder, and takes nothing damaged
    assert "results/runs/clicks/truncation" in plain
    assert not (tmp_path / "pulled" / model).exists()
    stored.unlink()
    for place, kind in ((stored.mkdir, "folder"), (lambda: stored.symlink_to("/dev/zero"), "device")):
        place()  # read as an object, a device never ends
        for ask in (
            pull,
            lambda root: SharedRuns(str(root)).pull("clicks/truncation/k10-s0", tmp_path / "m.safetensors"),
        ):
            with pytest.raises(InputError, match=f"{digest[2:]}: a {kind} in the place of an object; remove it there"):
                ask(tmp_path / "pulled")
        stored.rmdir() if kind == "folder" else stored.unlink()
    assert not (tmp_path / "m.safetensors").exists()
    for folder in (".dvc/cache", "results"):
        shutil.rmtree(tmp_path / "pulled" / folder)
    refused = make(tmp_path / "pulled", "pull", status=2)
    assert digest in refused and f"not all could be fetched: {model}. " in refused
    told = make(tmp_path / "pulled", "status")
    assert "neither here nor there (1): results/runs/clicks/truncation" in told
    assert f"sent again: {model}" in make(copy, "push")  # DVC's own push would call all up to date
    assert "3 runs are whole" in make(tmp_path / "pulled", "pull")
    shutil.rmtree(remote)
    assert "no such folder; is the disk mounted?" in make(tmp_path / "pulled", "pull", status=2)
