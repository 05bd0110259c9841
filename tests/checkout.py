"""A checkout of its own for tests, and the commands that users run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.warm import Template

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
    "DVC_NO_ANALYTICS": "1",
}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would each compile every module anew

TINY = """\
  tiny:
    seeds: [0]
    matrix_baselines: {datasets: [clicks], methods: [truncation, t-svd]}
    settings:
      clicks: {truncation: {k10: {keep: 0.1}}, t-svd: {r1: {rank: 1}}}
"""  # an experiment of two runs
CLICKS = """\
  clicks:
    description: who clicked on what
    licence: mine
    citation: none
    format: csv
    options: {columns: [user, item], value: clicks}
    labels: [0, 1]
    push: false
    files: {clicks.csv: {sources: ["file:clicks.csv"]}}
"""  # and its data set, which write_clicks makes


PATIENCE = 500.0  # seconds for a command
PROGRAMS = Template("dvc.cli", "dvc.repo", "numpy", "pandas", "pydantic", "snakemake.cli", "snakemake.report", "yaml")


def write_clicks(folder: Path) -> None:
    """Write a table of one's own, 29 users and 31 items, into a checkout."""
    rows = "".join(f"u{i % 29},i{i % 31},{1 + i % 5}\n" for i in range(600))
    (folder / "clicks.csv").write_text(f"user,item,clicks\n{rows}")


def run(folder: Path, *command: str, status: int = 0, **variables: str) -> str:
    """Run a command, with variables of the environment, and return what it printed; fail if the status is another.

    `dvc`, `snakemake` and modules are forked from a template; what these start, and what `make` starts, are programs as
    users have them.
    """
    forked = list(command[1:]) if command[:2] == (sys.executable, "-m") else list(command)
    with tempfile.NamedTemporaryFile(prefix="said-") as said:
        if forked[0] in ("-m", "dvc", "snakemake"):
            PROGRAMS.start(forked, folder, ENVIRONMENT | variables, Path(said.name))
            try:
                ended = PROGRAMS.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                PROGRAMS.kill()
                raise
        else:
            done = subprocess.run(
                command, cwd=folder, env=ENVIRONMENT | variables, stdout=said, stderr=said, timeout=PATIENCE
            )
            ended = done.returncode
        printed = Path(said.name).read_text(errors="replace")
    assert ended == status, f"{' '.join(command)}: status {ended}\n{printed[-4000:]}"
    return printed


def change(path: Path, old: str, new: str) -> None:
    """Replace a text that is there, once."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def dry_run_jobs(folder: Path) -> dict[str, int]:
    """Number of jobs a rule that Snakemake would run."""
    table = run(folder, "snakemake", "-n").rpartition("Job stats:")[2].partition("\n\n")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\S+) +(\d+)$", table, re.MULTILINE) if rule != "total"}


def copy_checkout(root: Path, target: Path) -> None:
    """A repository of its own with the checkout's files as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    # what is compiled already, by Python too; both look at the times
    for name in [*root.glob("pipeline/**/__pycache__/*.nb[ic]"), *root.glob("pipeline/**/__pycache__/*-3??.pyc")]:
        (target / name.relative_to(root)).parent.mkdir(exist_ok=True)
        shutil.copy2(name, target / name.relative_to(root))
    run(target, "git", "init", "-q", "-b", "main")
    run(target, "git", "add", "-A")
    run(target, "git", "commit", "-q", "-m", "start")


def make(folder: Path, *targets: str, status: int = 0) -> str:
    """Run targets of the Makefile with this environment in place of one of their own."""
    return run(folder, "make", "--silent", "-o", "setup", *targets, status=status)
