"""Merging dvc.lock: what either side has made stands, whatever order they come in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.workflow.merge_lock import Objects, merge, merged_tree
from pipeline.workflow.records import PACK
from tests import checkout

STORE = {
    "b.dir": {"h4-s0/m": "1"},
    "o.dir": {"h4-s0/m": "1", "h8-s0/m": "2"},
    "t.dir": {"h4-s0/m": "1", "h16-s0/m": "3"},
}
ENVIRONMENT = {"DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}


def read(name: str) -> dict[str, str]:
    if name not in STORE:
        raise InputError(f"object {name} is not here")
    return STORE[name]


def write(files: dict[str, str], out: str) -> dict[str, Any]:
    return {"md5": out + ": " + "+".join(f"{path}={digest}" for path, digest in files.items())}


def lock(**stages: dict[str, Any]) -> dict[str, Any]:
    return {"schema": "2.0", "stages": stages}


def stage(command: str, **outs: str) -> dict[str, Any]:
    return {"cmd": command, "outs": [{"path": path, "hash": "md5", "md5": digest} for path, digest in outs.items()]}


def test_each_stage_comes_from_the_side_that_changed_it() -> None:
    base = lock(a=stage("0"), b=stage("0"), c=stage("0"), gone=stage("0"))
    ours = lock(a=stage("1"), b=stage("0"), c=stage("0"), gone=stage("0"), new=stage("1"))
    theirs = lock(a=stage("0"), b=stage("2"), c=stage("0"), other=stage("2"))
    merged, notes = merge(base, ours, theirs, read, write)
    assert {name: each["cmd"] for name, each in merged["stages"].items()} == {
        "a": "1", "b": "2", "c": "0", "new": "1", "other": "2",
    }  # fmt: skip
    assert notes == []
    assert merge(base, theirs, ours, read, write)[0] == merged  # whoever merges


def test_a_folder_that_both_changed_is_joined() -> None:
    versions = [lock(fit=stage(side, runs=f"{side}.dir")) for side in "bot"]
    merged, notes = merge(*versions, read, write)
    (out,) = merged["stages"]["fit"]["outs"]
    assert out["md5"] == "runs: h16-s0/m=3+h4-s0/m=1+h8-s0/m=2"
    assert notes == []


def test_records_that_both_have_more_of_are_joined() -> None:
    store: dict[str, dict[str, str]] = {"b": {"x": "1"}, "o": {"x": "1", "y": "2"}, "t": {"x": "3", "z": "3"}}
    base, ours, theirs = (lock(records=stage(side, **{PACK: side})) for side in "bot")
    merged, notes = merge(base, ours, theirs, store.__getitem__, write)
    assert merged["stages"]["records"]["outs"][0]["md5"] == f"{PACK}: x=3+y=2+z=3"
    assert notes == []


def test_what_cannot_be_joined_stays_and_is_told() -> None:
    versions = [lock(fit=stage(side, runs=f"{side}.dir")) for side in ("b", "o", "lost")]
    merged, (note,) = merge(*versions, read, write)
    assert merged["stages"]["fit"] == versions[1]["stages"]["fit"]
    assert "fit: runs stays as on our side" in note and "lost.dir is not here" in note


def test_a_run_that_both_made_comes_from_one_side() -> None:
    base = {"h4-s0/model": "0", "h4-s0/metrics": "0", "record": "0"}
    ours = {"h4-s0/model": "0", "h4-s0/metrics": "1", "record": "1"}
    theirs = {"h4-s0/model": "2", "h4-s0/metrics": "2", "h9-s0/model": "2", "record": "2", "other": "2"}
    assert merged_tree(base, ours, theirs) == {**ours, "h9-s0/model": "2", "other": "2"}
    assert merged_tree(base, {"record": "0"}, base) == {"record": "0"}  # removed by us


SNAKEFILE = """
from pipeline.workflow.records import sync

sync()

onsuccess:
    sync()
rule fit:
    input: "{name}.txt"
    output: "runs/{name}/value.txt"
    shell: "cat {input} > {output}"

rule gather:
    default_target: True
    input: "runs/a/value.txt", "runs/b/value.txt"
    output: "all.txt"
    shell: "cat {input} > {output}"
"""
STAGES = {
    **{
        name: {"cmd": "false", "deps": [f"{name}.txt"], "outs": [{f"runs/{name}": {"persist": True}}]}
        for name in ("a", "b")
    },
    "gather": {
        "cmd": "false",
        "deps": ["runs/a", "runs/b"],
        "outs": [{path: {"persist": True}} for path in ("all.txt", ".snakemake/records.json.gz")],
    },
}


def test_two_users_work_is_merged_and_only_what_rests_on_both_is_made_again(root: Path, tmp_path: Path) -> None:
    def run(folder: Path, command: str) -> str:
        return checkout.run(folder, *command.split(), PYTHONPATH=str(root), GIT_CONFIG_GLOBAL="/dev/null")

    def share(folder: Path) -> None:
        for command in ("snakemake --quiet progress host", "dvc commit -f -q", "git add -A", "git commit -q -m made"):
            run(folder, command)
        run(folder, "dvc push -q")

    start = tmp_path / "start"
    start.mkdir()
    for command in ("git init -q -b main", "dvc init -q", f"dvc remote add -q -d shared {tmp_path / 'remote'}"):
        run(start, command)
    run(start, "git config receive.denyCurrentBranch ignore")
    shutil.copytree(root / "profiles/default", start / "profiles/default")
    shutil.copy(root / ".gitattributes", start / ".gitattributes")
    texts = {"Snakefile": SNAKEFILE, "dvc.yaml": yaml.safe_dump({"stages": STAGES}), "a.txt": "a\n", "b.txt": "b\n"}
    for name, text in texts.items():
        (start / name).write_text(text)
    (start / ".gitignore").write_text("/runs\n/all.txt\n/.snakemake\n")
    share(start)
    for user in ("a", "b"):
        run(tmp_path, f"git clone -q {start} {user}")
        (tmp_path / user / ".git/config").open("a").write(
            f'[merge "dvc-lock"]\n\tdriver = {sys.executable} -m pipeline.workflow.merge_lock %O %A %B\n'
        )
        run(tmp_path / user, "dvc pull -q")
        (tmp_path / user / f"{user}.txt").write_text(f"changed by {user}\n")
        share(tmp_path / user)
    run(tmp_path / "a", "git push -q")
    second = tmp_path / "b"
    assert "dvc.lock: merged" in run(second, "git pull -q --no-rebase --no-edit")
    run(second, "dvc pull -q")
    assert (second / "runs/a/value.txt").read_text() == "changed by a\n"
    plan = run(second, "snakemake -n")
    assert "rule gather" in plan and "rule fit" not in plan
    run(second, "snakemake --quiet progress host")
    assert (second / "all.txt").read_text() == "changed by a\nchanged by b\n"


def dvc_repository(folder: Path) -> None:
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        program = Path(sys.executable).with_name("dvc") if command[0] == "dvc" else command[0]
        subprocess.run([str(program), *command[1:]], cwd=folder, check=True, env=ENVIRONMENT)


def test_objects_are_dvcs_own(tmp_path: Path) -> None:
    dvc_repository(tmp_path)
    files = {"b/one": "1" * 32, "a": "2" * 32, "é": "3" * 32}
    objects = Objects(tmp_path)
    entry = objects.write(files, "runs")
    name = entry["md5"]
    from dvc_data.hashfile.tree import Tree

    tree = Tree.from_list([{"md5": digest, "relpath": path} for path, digest in files.items()], hash_name="md5")
    tree.digest()
    assert tree.hash_info is not None and entry == {"md5": tree.hash_info.value, "nfiles": 3}
    assert objects.read(name) == files
    pack = objects.write({"YQ==": "{}"}, PACK)
    assert objects.read(pack["md5"]) == {"YQ==": "{}"}
    assert pack["size"] == Path(objects.cache.oid_to_path(pack["md5"])).stat().st_size
    Path(objects.cache.oid_to_path(name)).write_text("[]")
    with pytest.raises(InputError, match=f"object {name} is damaged"):
        objects.read(name)
    with pytest.raises(InputError, match=r"object 00\.dir is neither here nor on the remote"):
        objects.read("00.dir")


def test_a_lock_that_is_none_leaves_ours_alone(root: Path, tmp_path: Path) -> None:
    dvc_repository(tmp_path)
    for name, text in (("base", ""), ("ours", yaml.safe_dump(lock(a=stage("1")))), ("theirs", "- 1\n")):
        (tmp_path / name).write_text(text)
    before = (tmp_path / "ours").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.workflow.merge_lock", "base", "ours", "theirs"],
        cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: theirs: no dvc.lock; a mapping with the key 'stages' is wanted\n"
    assert (tmp_path / "ours").read_text() == before
