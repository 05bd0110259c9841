"""What is recorded of a checkout is what DVC itself would record, read faster and written whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.workflow import share
from pipeline.workflow.merge_lock import Objects
from pipeline.workflow.record import lock_text, read_lock, recording

PARAMS = """\
texts: {no: "no", clock: "1:30", number: "1e-3", date: "2020-01-01", empty: ""}
numbers: {small: 1e-3, none: null, large: 12345678901234567890, list: [1, 0.5, true]}
other: {deep: {er: [a, b]}}
"""
STAGES = """\
stages:
  fit:
    cmd: "false"
    deps: [code, data.txt]
    params: [texts, numbers.small, numbers.list, more.yaml: [only]]
    outs: [runs: {persist: true}]
  gather:
    cmd: "false"
    deps: [runs, code]
    params: [texts, other.deep]
    outs: [all.txt: {persist: true}]
    metrics: [sum.json: {cache: false}]
"""
FILES = {"code/a.py": "1", "code/b.py": "2", "data.txt": "3", "runs/h4/m": "4", "runs/é x/m": "5", "all.txt": "6",
         "sum.json": '{"a": 1}', "params.yaml": PARAMS, "dvc.yaml": STAGES, "more.yaml": "only: 3\n",
         "own.csv": "1,2\n"}  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    from dvc.repo import Repo

    folder = tmp_path / "a folder, é"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with Repo.init(str(folder), no_scm=True) as repo:
        repo.add(str(folder / "own.csv"))
    return folder


def objects(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in (folder / ".dvc/cache").rglob("*") if path.is_file()}


def record(folder: Path) -> bool:
    with recording(folder) as found:
        return found.write()


def test_the_record_is_that_of_dvc(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    (checkout / "own.csv").write_text("1,3\n")
    theirs = tmp_path / "theirs"
    shutil.copytree(checkout, theirs)
    monkeypatch.chdir(theirs)
    with Repo(str(theirs)) as repo:
        repo.commit(force=True)
    assert record(checkout)
    assert read_lock(checkout / "dvc.lock") == read_lock(theirs / "dvc.lock")
    assert (checkout / "own.csv.dvc").read_text() == (theirs / "own.csv.dvc").read_text()
    assert objects(checkout) == objects(theirs)
    with Repo(str(checkout)) as repo:
        assert repo.status() == {}
    before = (checkout / "dvc.lock").stat()
    os.utime(checkout / "code/a.py")
    assert not record(checkout)
    assert (checkout / "dvc.lock").stat().st_mtime_ns == before.st_mtime_ns


def test_a_changed_file_and_parameter_change_their_stages_alone(checkout: Path) -> None:
    record(checkout)
    before = read_lock(checkout / "dvc.lock")
    (checkout / "more.yaml").write_text("only: 4\n")
    (checkout / "data.txt").write_text("4")
    assert record(checkout)
    after = read_lock(checkout / "dvc.lock")
    assert after["stages"]["fit"]["params"]["more.yaml"] == {"only": 4}
    assert after["stages"]["fit"] != before["stages"]["fit"] and after["stages"]["gather"] == before["stages"]["gather"]


def test_a_source_that_only_a_colleague_has_keeps_its_record(checkout: Path) -> None:
    (checkout / "data.txt").rename(checkout / "elsewhere.txt")
    with pytest.raises(InputError, match=r"'data\.txt' does not exist"):
        record(checkout)
    (checkout / "elsewhere.txt").rename(checkout / "data.txt")
    record(checkout)
    (checkout / "data.txt").unlink()
    assert not record(checkout)
    (checkout / "all.txt").write_text("made anew")
    assert record(checkout)
    (dep,) = [dep for dep in read_lock(checkout / "dvc.lock")["stages"]["fit"]["deps"] if dep["path"] == "data.txt"]
    assert dep["size"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "all.txt").unlink(), "output 'all.txt' does not exist"),
        (lambda folder: (folder / "params.yaml").write_text("texts: 1\n"), "are missing from 'params.yaml'"),
        (lambda folder: (folder / "dvc.lock").write_text("<<<<<<< ours\n"), "dvc.lock"),
    ],
)
def test_what_cannot_be_recorded_is_a_line_and_the_record_stays(
    checkout: Path, change: Callable[[Path], object], said: str
) -> None:
    record(checkout)
    change(checkout)
    before = (checkout / "dvc.lock").read_text()
    with pytest.raises(InputError) as refused:
        record(checkout)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert (checkout / "dvc.lock").read_text() == before


def test_another_dvc_at_work_is_a_line(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo, lock_repo

    (checkout / "dvc.lock").write_text("schema: '2.0'\n")
    (checkout / "remote").mkdir()
    with (checkout / ".dvc/config").open("a") as file:
        file.write("    remote = disk\n['remote \"disk\"']\n    url = ../remote\n")
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)
    with Repo(str(checkout)) as repo, lock_repo(repo):
        for action in (
            record,
            share.pull,
            lambda folder: share.main(["status", "--params", str(folder / "params.yaml")]),
        ):
            with pytest.raises(InputError, match="another DVC is at work in this checkout"):
                action(checkout)


def test_a_full_disk_is_a_line_and_nothing_is_recorded_that_no_cache_has(
    checkout: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = checkout / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = disk\n['remote \"disk\"']\n    url = ../remote\n")
    record(checkout)
    shutil.copytree(checkout / ".dvc/cache/files", checkout / "remote/files")
    before = (checkout / "dvc.lock").read_text()
    (checkout / ".dvc/config.local").write_text(f"[cache]\n    dir = {full_disk / 'cache'}\n")
    (checkout / "runs/h4/m").write_text("a model of " + 100 * "many bytes ")
    with pytest.raises(InputError, match=r"^/.*: No space left on device; what is there stays"):
        record(checkout)
    assert (checkout / "dvc.lock").read_text() == before
    shutil.rmtree(checkout / "runs")
    with pytest.raises(InputError, match=r"^/.*: No space left on device; what is there stays"):
        share.pull(checkout)
    assert "ERROR" not in capsys.readouterr().err  # a line, not one for each file


def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path) -> None:
    values = {"no": "no", "clock": "1:30", "number": "1e-3", "octal": "0o14", "date": "2020-01-01", "float": 1e-05}
    shared = {"a": [1, None]}
    (tmp_path / "dvc.lock").write_text(lock_text({"stages": {"one": values, "two": [shared, shared]}}))
    assert read_lock(tmp_path / "dvc.lock") == {"stages": {"one": values, "two": [shared, shared]}}
    assert "&" not in (tmp_path / "dvc.lock").read_text()


def test_a_record_of_before_with_a_file_for_each_of_snakemakes_is_a_line(checkout: Path) -> None:
    config = checkout / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = disk\n['remote \"disk\"']\n    url = ../remote\n")
    (checkout / "remote").mkdir()
    record(checkout)
    lock = read_lock(checkout / "dvc.lock")
    lock["stages"]["gather"]["outs"].append({"path": ".snakemake/metadata", "md5": f"{32 * '0'}.dir"})
    (checkout / "dvc.lock").write_text(lock_text(lock))
    with pytest.raises(InputError, match=r"records file by file, as an older Kronflow wrote it: 'git checkout' that"):
        share.pull(checkout)


def test_databases_of_dvc_that_are_damaged_are_a_line(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checkout / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = disk\n['remote \"disk\"']\n    url = ../remote\n")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "notes"))
    record(checkout)
    shutil.copytree(checkout / ".dvc/cache/files", checkout / "remote/files")
    for database in (tmp_path / "notes").rglob("*.db*"):
        database.write_bytes(b"a block of another file " * 200)
    for action in ("status", "pull"):
        with pytest.raises(InputError, match=rf"^DVC's notes on files, under {tmp_path}/notes: file is not a database"):
            share.main([action, "--params", str(checkout / "params.yaml")])
    with pytest.raises(InputError, match=r"delete that folder: DVC writes them anew$"):
        Objects(checkout)
    shutil.rmtree(tmp_path / "notes")
    assert not record(checkout)
