"""The workflow as its users run it: Snakemake and DVC on one tree, incremental, shared, interrupted."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline
from pipeline import config
from pipeline.baselines import module_of
from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.methods import BASELINES
from pipeline.reporting.outputs import report_files
from pipeline.workflow import share
from pipeline.workflow.closure import code_files
from pipeline.workflow.stages import stage_name
from pipeline.workflow.stages import text as dvc_text
from tests.checkout import ENVIRONMENT, change, copy_checkout, dry_run_jobs, make, run


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which Snakemake has made the smoke experiment and DVC has recorded it."""
    folder = tmp_path_factory.mktemp("workflow") / "made"
    folder.mkdir()
    copy_checkout(root, folder)
    run(folder, sys.executable, "-m", "pipeline.config", "--use", "smoke")
    run(folder, "snakemake", "--quiet", "progress", "host", "rules")
    run(folder, "dvc", "commit", "-f", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-q", "-m", "results")
    return folder


def copied(made: Path, tmp_path: Path) -> Path:
    """A checkout of one's own with all that was made."""
    return Path(shutil.copytree(made, tmp_path / "copied", symlinks=True))


def test_everything_asked_for_is_there(made: Path) -> None:
    for name in ("metrics.parquet", "metrics.csv", "summary.json", "report.html", "headlines.txt"):
        assert (made / "results/smoke" / name).stat().st_size > 0
    for wanted in load_config(made / "params.yaml").runs("smoke"):
        for name in ("model.safetensors", "metrics.json", "history.parquet"):
            assert (made / wanted.folder / name).is_file()
    assert "Nothing to be done" in run(made, "snakemake", "-n")


def test_dvc_finds_nothing_to_do_after_snakemake(made: Path) -> None:
    assert "Data and pipelines are up to date" in run(made, "dvc", "status")
    output = run(made, "dvc", "repro")
    assert "Running stage" not in output
    assert "up to date" in output
    summary = json.loads((made / "results/smoke/summary.json").read_text())
    shown = run(made, "dvc", "metrics", "show", "--json")
    assert json.loads(shown[shown.index("{") :])[""]["data"]["results/smoke/summary.json"]["data"] == summary


def test_a_colleague_pulls_and_has_nothing_to_do(made: Path, tmp_path: Path) -> None:
    run(made, "dvc", "remote", "add", "-q", "-f", "-d", "shared", str(tmp_path / "remote"))
    run(made, "git", "commit", "-q", "-am", "remote")
    run(made, "dvc", "push", "-q")
    run(tmp_path, "git", "clone", "-q", str(made), "pulled")
    pulled = tmp_path / "pulled"
    run(pulled, "dvc", "pull", "-q")
    assert "Nothing to be done" in run(pulled, "snakemake", "-n")
    assert "up to date" in run(pulled, "dvc", "status")
    answer = run(pulled, "kronflow", "query", "results/runs/flights/neukron/h4-s0/model.safetensors", "3", "17")
    assert float(answer.splitlines()[-1]) >= 0


def test_snakemakes_own_report_holds_the_results(made: Path, tmp_path: Path) -> None:
    run(made, "snakemake", "--report", str(tmp_path / "report.zip"))
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        held = {(Path(each.filename).name, each.file_size) for each in archive.infolist()}
        texts = [archive.read(name).decode() for name in archive.namelist() if name.endswith((".html", ".js"))]
    for wanted in report_files(load_config(made / "params.yaml"), "smoke"):
        assert (Path(wanted).name, (made / "results/smoke" / wanted).stat().st_size) in held, wanted
    for kind in ("page", "figure", "table", "origin"):
        caption = (made / f"pipeline/reporting/captions/{kind}.rst").read_text().partition("{{")[0]
        assert any(caption.partition("\n")[0].rstrip() in text for text in texts), kind


def test_sharing_without_a_record_or_a_remote_says_so(repository: Path, tmp_path: Path) -> None:
    folder = copied(repository, tmp_path)
    assert "dvc.lock: no such file, DVC has recorded nothing here" in make(folder, "push", status=2)
    targets = ("push", "pull", "status")
    for target in targets:
        with pytest.raises(InputError, match=r"dvc\.lock: no such file, DVC has recorded nothing here"):
            share.ACTIONS[target](folder)
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    for target in targets:
        with pytest.raises(InputError, match="names no remote"):
            share.ACTIONS[target](folder)
    (tmp_path / "remote").mkdir()
    run(folder, "dvc", "remote", "add", "-q", "-d", "shared", str(tmp_path / "remote"))
    for target in targets:
        assert "error" not in make(folder, target).lower()


def test_a_consumer_lists_and_pulls_one_model(made: Path, tmp_path: Path) -> None:
    # the models lie in a remote of their own, as objects that can be lost and damaged
    run(tmp_path, "git", "clone", "-q", str(made), "shared")
    shared = tmp_path / "shared"
    remote = tmp_path / "remote"
    run(shared, "dvc", "remote", "add", "-q", "-f", "-d", "kept", str(remote))
    run(shared, "git", "commit", "-q", "-am", "remote")
    run(shared, "git", "tag", "v1")
    shutil.copytree(made / ".dvc/cache/files", remote / "files")
    kronflow = [sys.executable, "-m", "pipeline"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(made)}
    name = "flights/neukron/h4-s0"

    def ask(*command: str, status: int = 0) -> str:
        done = subprocess.run(
            [*kronflow, *command], cwd=tmp_path, env=environment, stdout=-1, stderr=-2, text=True, timeout=500
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    listed = ask("list", f"file://{shared}@v1", "--json")
    listed = json.loads(listed[listed.index("{") :])
    assert set(listed) == {
        each.folder.removeprefix("results/runs/") for each in load_config(made / "params.yaml").runs()
    }
    measured = json.loads((made / "results/runs" / name / "metrics.json").read_text())
    assert listed[name] == {key: measured[key] for key in ("relative_error", "bytes", "file_bytes")}

    original = made / "results/runs" / name / "model.safetensors"
    shown = ask("pull", f"file://{shared}@v1", name, "-o", "m.safetensors", "--card", "m.md")
    assert (tmp_path / "m.md").read_text() in (made / "results/smoke/cards.md").read_text()
    assert (tmp_path / "m.safetensors").read_bytes() == original.read_bytes()
    assert f"{measured['model_sha256']} (checked)" in shown

    to = ["-o", "other.safetensors"]
    assert "did you mean 'flights/neukron/h4-s0'" in ask("pull", str(shared), "flights/neukron/h4-s1", *to, status=2)
    assert "unknown Git revision 'v7'" in ask("pull", f"{shared}@v7", name, *to, status=2)
    assert "no Git repository" in ask("list", str(tmp_path / "nothing"), status=2)
    assert "no checkout" in ask("list", str(tmp_path), status=2)
    digest = hashlib.md5(original.read_bytes(), usedforsecurity=False).hexdigest()
    stored = remote / "files/md5" / digest[:2] / digest[2:]
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1])
    assert "damaged or exchanged" in ask("pull", f"file://{shared}@v1", name, *to, status=2)
    stored.unlink()
    assert "no storage has the object" in ask("pull", f"file://{shared}@v1", name, *to, status=2)
    shutil.rmtree(remote)
    assert "no storage has or gives" in ask("list", f"file://{shared}@v1", status=2)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_changed_parameter_reruns_what_depends_on_it(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    change(folder / "params.yaml", "block: [2, 4], epochs: 3}", "block: [2, 4], epochs: 6}")
    assert dry_run_jobs(folder) == {"train_kpd": 1, "aggregate_smoke": 1, "report_smoke": 1, "all": 1}
    output = run(folder, "dvc", "repro")
    ran = re.findall(r"Running stage '(.+?)'", output)
    assert ran == ["train_kpd-digits-kpd", "aggregate-smoke", "report-smoke", "records"]
    assert "Nothing to be done" in run(folder, "snakemake", "-n")
    before = json.loads((made / "results/smoke/summary.json").read_text())
    after = json.loads((folder / "results/smoke/summary.json").read_text())
    assert before["digits"] != after["digits"]
    del before["digits"], after["digits"]
    assert before == after


def test_words_about_a_data_set_rerun_nothing(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    change(folder / "params.yaml", "description: month x destination", "description: months x destination")
    assert "Nothing to be done" in run(folder, "snakemake", "-n")
    assert "up to date" in run(folder, "dvc", "status")


def test_what_decides_a_tensor_reruns_its_data_set_only(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    change(folder / "params.yaml", "nnz: 171096", "nnz: 171097")
    assert set(dry_run_jobs(folder)) == {
        "convert_flights-month",
        "fit_baseline",
        "aggregate_smoke",
        "report_smoke",
        "all",
    }
    changed = run(folder, "dvc", "status")
    assert "convert-flights-month" in changed
    assert "download" not in changed


def test_a_lost_model_is_made_again(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    (folder / "results/runs/flights/neukron/h4-s0/model.safetensors").unlink()
    assert "train_neukron" in dry_run_jobs(folder)


def test_a_loss_is_not_shared(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    lock = (folder / "dvc.lock").read_bytes()
    runs = folder / "results/runs"
    (runs / "flights/neukron/h4-s0/model.safetensors").unlink()
    shutil.rmtree(runs / "digits/kpd")
    refused = make(folder, "commit", status=2)
    assert "results/runs/flights/neukron/h4-s0/model.safetensors is missing" in refused
    assert refused.count("results/runs/digits/kpd/") == 3 * sum(
        wanted.dataset == "digits" and wanted.method == "kpd" for wanted in load_config(folder / "params.yaml").runs()
    )
    assert (folder / "dvc.lock").read_bytes() == lock


def test_what_is_not_planned_or_not_what_was_measured_is_not_shared(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    lock = (folder / "dvc.lock").read_bytes()
    cell = folder / "results/runs/flights/neukron"
    shutil.copytree(cell / "h4-s0", cell / "h4-s77")
    (cell / "h4-s0/.model.safetensors.x1y2").write_bytes(b"half")
    model = folder / "results/runs/flights/t-svd/r1-s0/model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    refused = make(folder, "commit", status=2)
    assert "results/runs/flights/neukron/h4-s77 is in no experiment" in refused
    assert "h4-s0/.model.safetensors.x1y2 is no file of a run" in refused
    assert "flights/t-svd/r1-s0/model.safetensors: damaged or exchanged" in refused
    assert (folder / "dvc.lock").read_bytes() == lock


def test_what_is_whole_is_recorded(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    (folder / "dvc.lock").unlink()
    assert "runs of experiment 'smoke' are whole" in make(folder, "commit")
    assert yaml.safe_load((folder / "dvc.lock").read_text()) == yaml.safe_load((made / "dvc.lock").read_text())


def test_changed_code_reruns_its_step_only(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    with (folder / "pipeline/kpd/layer.py").open("a") as file:
        file.write("\n# changed\n")
    with (folder / "pipeline/reporting/tables.py").open("a") as file:
        file.write("\n# changed\n")
    assert dry_run_jobs(folder) == {"train_kpd": 1, "aggregate_smoke": 1, "report_smoke": 1, "all": 1}
    assert "train_kpd-digits-kpd" in run(folder, "dvc", "status")


def test_partial_report_says_what_is_missing(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    shutil.rmtree(folder / "results/runs/flights/t-svd")
    message = run(
        folder, sys.executable, "-m", "pipeline.aggregate", "results/smoke", "--experiment", "smoke", status=2
    )
    assert "flights/t-svd/r1-s0" in message
    run(folder, "snakemake", "--quiet", "progress", "host", "rules", "--", "partial")
    assert "flights" in json.loads((folder / "results/smoke-partial/summary.json").read_text())
    assert (folder / "results/smoke-partial/report.html").is_file()


def test_bad_configuration_stops_before_any_job(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("{hidden: 4,", "{hiden: 4,"))
    output = run(folder, "snakemake", status=1)
    assert "unknown key 'hiden'; did you mean 'hidden'" in output
    assert "Traceback" not in output


def test_a_killed_step_leaves_nothing_and_the_rerun_works(made: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.train_neukron", "data/tensors/flights.parquet", str(tmp_path / "run")]
    command += ["--set", "hidden=4", "--set", "max_epochs=100000"]
    started = subprocess.Popen(command, cwd=made, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert started.stdout is not None
    shown = b""
    while b"error " not in shown:  # until an epoch is done
        piece = os.read(started.stdout.fileno(), 4096)
        assert piece, f"it ended by itself: {shown.decode()}"
        shown += piece
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not list((tmp_path / "run").rglob("*"))
    command[-1] = "max_epochs=1"
    run(made, *command)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "model.safetensors",
        "metrics.json",
        "history.parquet",
    }


def programs() -> list[str]:
    """The modules of the package that are called from the command line."""
    package = Path(pipeline.__file__).parent
    files = (path for path in package.rglob("*.py") if 'if __name__ == "__main__":' in path.read_text("utf-8"))
    return sorted(".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files)


@pytest.mark.parametrize("name", programs())
def test_each_program_explains_itself_and_shows_how_it_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", module.__spec__)  # as `python -m` would
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    output = capsys.readouterr().out
    called = "kronflow" if name == "pipeline.__main__" else f"python -m {name}"
    assert ended.value.code == 0
    assert output.startswith(f"usage: {called} ") and "example" in output


MEAN = '''\
"""The mean of all cells."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from pipeline.baselines.base import Baseline
from pipeline.core.settings import setting


class Mean(Baseline):
    """One number for all cells.

    Parameters
    ----------
    digits
        Decimals it is rounded to; None: all.
    """

    name = "mean"
    stochastic = False

    digits: int | None = setting(None, at_least=0)

    def _fit(self, X: Any) -> None:
        self.mean_ = float(X.values.sum()) / math.prod(X.shape)
        if self.digits is not None:
            self.mean_ = round(self.mean_, self.digits)
        self._record(self._squared_error(X))

    def _predict(self, index: Any) -> Any:
        return np.full(len(index), self.mean_)

    def _squared_error(self, X: Any) -> float:
        return X.norm2 - 2 * self.mean_ * float(X.values.sum()) + math.prod(X.shape) * self.mean_**2

    def parameter_count(self) -> int:
        return 1

    def _size(self) -> dict[str, int]:
        return {"bytes": 8, "bytes_equal": 4, "bytes_with_order": 4}

    def _contents(self, orders: bool) -> Any:
        return {"mean": np.array([self.mean_])}, {"shape": list(self.inner_shape_)}

    @classmethod
    def _from_contents(cls, contents: Any) -> Self:
        model = cls()
        model.shape_, model.mean_ = contents.shape(), float(contents.reals("mean", (1,))[0])
        return model
'''


def test_a_new_method_is_one_file_one_row_and_its_section(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    (folder / "pipeline/baselines/mean.py").write_text(MEAN)
    table, params = folder / "pipeline/methods.py", folder / "params.yaml"
    last = '        ("dense", "network",'
    row = '        ("mean", "baseline", "mean of all", "#123456", "#abcdef", "d", "one number"),\n'
    table.write_text(table.read_text().replace(last, row + last, 1))
    assert "Nothing to be done" in run(folder, "snakemake", "-n")  # no run is stale
    assert "up to date" in run(folder, "dvc", "status")
    text = params.read_text().replace("methods: [t-svd, truncation]", "methods: [t-svd, truncation, mean]", 1)
    text = text.replace("        t-svd: {r1: {rank: 1}}", "        t-svd: {r1: {rank: 1}}\n        mean: {all: {}}", 1)
    params.write_text(text.replace("lossless: {}", "mean: {digits: null}\nlossless: {}", 1))
    assert dry_run_jobs(folder) == {"fit_baseline": 1, "aggregate_smoke": 1, "report_smoke": 1, "all": 1}
    run(folder, "snakemake", "--quiet", "progress", "host", "rules")
    page = (folder / "results/smoke/report.html").read_text()
    assert "mean of all" in page and "#123456" in page
    # as a user: from a file, without the workflow
    (tmp_path / "my.csv").write_text("row,column,value\n" + "".join(f"{i},{i % 7},{1 + i % 3}\n" for i in range(40)))
    kronflow = [sys.executable, "-m", "pipeline"]
    run(folder, *kronflow, "compress", str(tmp_path / "my.csv"), str(tmp_path / "m.safetensors"), "--method", "mean")
    answer = run(folder, *kronflow, "query", str(tmp_path / "m.safetensors"), "--index", "3", "3")
    assert float(answer.splitlines()[-1]) == pytest.approx(79 / 280)
    assert "mean" in run(folder, *kronflow, "info", str(tmp_path / "m.safetensors"))
    assert "mean: {default: {}}" in run(folder, *kronflow, "grid", str(tmp_path / "my.csv"))
    to = str(tmp_path / "small.safetensors")
    command = [*kronflow, "compress", str(tmp_path / "my.csv"), to, "--method", "mean", "--bytes", "4kB"]
    assert "chosen: mean" in run(folder, *command)
    assert "digits=null" in run(folder, sys.executable, "-m", "pipeline.fit_baseline", "--help")
    refused = run(folder, *kronflow, "compress", str(tmp_path / "my.csv"), to, "--method", "maen", status=2)
    assert "did you mean 'mean'" in refused


# ------------------------------------------------------------------------------------- code as input


STEPS = [
    ("pipeline.download", "pipeline.datasets.fetch"),
    ("pipeline.convert", "pipeline.datasets.assemble"),
    ("pipeline.train_neukron", "pipeline.neukron"),
    ("pipeline.train_kpd", "pipeline.kpd.sparsity_methods"),
    *(("pipeline.fit_baseline", module_of(name)) for name in BASELINES),
]
# Each step in a fork of a process that has only what is not ours.
LOADED = """
import importlib, os, sys
import numba, pandas, pyarrow.parquet, pydantic, scipy.sparse, torch
for names in sys.argv[1:]:
    if os.fork() == 0:
        for name in names.split():
            importlib.import_module(name)
        files = [module.__file__ for name, module in sys.modules.items() if name.startswith("pipeline.")]
        print(names, *files, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, names
"""


@pytest.fixture(scope="module")
def loaded(root: Path) -> dict[tuple[str, ...], set[str]]:
    """Files of ours that each step has loaded with its method."""
    found = run(root, sys.executable, "-c", LOADED, *(" ".join(names) for names in STEPS))
    lines = [line.split() for line in found.splitlines() if line.startswith("pipeline.")]
    return {(step, method): {str(Path(file).relative_to(root)) for file in files} for step, method, *files in lines}


@pytest.mark.parametrize("names", STEPS, ids=lambda names: names[-1])
def test_what_a_step_loads_is_an_input_of_its_rule(
    loaded: dict[tuple[str, ...], set[str]], names: tuple[str, str]
) -> None:
    step = names[0].removeprefix("pipeline.")
    assert f"pipeline/{step}.py" in loaded[names]
    assert loaded[names] <= set(code_files(step, names[1] if step == "fit_baseline" else None))


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that imports below `node` may mean; those for type checkers alone are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from imported(child)


@pytest.mark.parametrize("step", ["train_neukron", "train_kpd", "report", "fit_baseline"])
def test_imports_read_off_the_text_are_those_of_the_parser(root: Path, step: str) -> None:
    files = code_files(step, module_of("hybrid") if step == "fit_baseline" else None)
    orchestration = {"pipeline/__init__.py", "pipeline/config.py", "pipeline/methods.py"}
    for file in files:
        for name in imported(ast.parse((root / file).read_text())):
            path = Path(*name.split("."))
            of_name = {str(path.with_suffix(".py")), str(path / "__init__.py")}
            there = {each for each in of_name if (root / each).is_file() and each.startswith("pipeline/")}
            assert there - orchestration <= set(files), f"{file}: {name}"


def test_a_baseline_rests_on_its_own_file_and_not_on_neukron() -> None:
    files = code_files("fit_baseline", module_of("t-svd"))
    assert "pipeline/baselines/t_svd.py" in files
    assert not [file for file in files if file.startswith(("pipeline/neukron/", "pipeline/kpd/"))]
    assert "pipeline/baselines/cp.py" not in files
    kronfit = code_files("fit_baseline", module_of("kronfit"))
    assert not [file for file in kronfit if file.startswith("pipeline/neukron/")]


@pytest.fixture(scope="module")
def repository(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty repository of DVC with this checkout's configuration."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("Makefile", "params.yaml", "Snakefile"):
        shutil.copy(root / name, folder / name)
    (folder / "pipeline").symlink_to(root / "pipeline")
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    return folder


@pytest.mark.parametrize("experiment", load_config(Path(__file__).parent.parent / "params.yaml").experiments)
def test_stages_of_every_experiment_are_read_by_dvc(
    repository: Path, monkeypatch: pytest.MonkeyPatch, experiment: str
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(repository)
    config.main(["--use", experiment])
    with Repo(str(repository)) as repo:
        listed = {stage.addressing for stage in repo.index.stages}
    stages = dvc_stages(repository)
    assert set(stages) <= listed
    runs = load_config(repository / "params.yaml").runs(experiment)
    outs = {path for stage in stages.values() for out in stage["outs"] for path in out}
    assert {f"results/runs/{each.dataset}/{each.method}" for each in runs} <= outs
    made_by_us = {path for path in outs if path.startswith("data/")}
    needed = {dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("data/")}
    assert needed <= made_by_us, "every tensor, sample and label file that a stage takes is made by another"


def dvc_stages(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return stages


def test_stage_deps_are_the_rule_inputs(root: Path) -> None:
    config = load_config(root / "params.yaml")
    expanded = {}
    for name, content in dvc_stages(root).items():
        files: set[str] = set()
        for dep in content["deps"]:
            path = root / dep
            if dep.startswith("pipeline/"):
                files.update(str(file.relative_to(root)) for file in (path.rglob("*.py") if path.is_dir() else [path]))
        expanded[name] = files
    for wanted in config.runs(config.experiment):
        stage = stage_name(wanted.rule, wanted.dataset, wanted.method)
        assert expanded[stage] == set(config.code_of(wanted.rule, wanted.method))
    for name in ("download", "convert"):
        assert expanded[f"{name}-flights"] == set(code_files(name))


def test_the_stages_in_git_are_those_of_the_plan(root: Path) -> None:
    config = load_config(root / "params.yaml")
    assert (root / "dvc.yaml").read_text() == dvc_text(config, config.recorded_experiments())


def test_every_out_is_kept_and_no_command_holds_threads_or_paths(root: Path) -> None:
    for name, content in dvc_stages(root).items():
        assert content["cmd"].startswith("${smk} "), name
        assert not re.search(r"--cores|--jobs|/home|\d{4}-\d\d", content["cmd"]), name
        for out in [*content.get("outs", []), *content.get("metrics", [])]:
            ((path, options),) = out.items()
            assert options["persist"] is True, path


def test_recorded_outs_are_what_snakemake_makes(made: Path) -> None:
    lock = yaml.safe_load((made / "dvc.lock").read_text())["stages"]
    recorded = [out["path"] for stage in lock.values() for out in stage.get("outs", [])]
    log = run(made, "snakemake", "--summary")
    made_by_snakemake = [line.split("\t")[0] for line in log.splitlines() if re.match(r"(data|results)/", line)]
    assert made_by_snakemake
    for path in made_by_snakemake:
        assert any(path == out or path.startswith(f"{out}/") for out in recorded), path
    for out in recorded:
        assert out == ".snakemake/records.json.gz" or any(
            path == out or path.startswith(f"{out}/") for path in made_by_snakemake
        )
