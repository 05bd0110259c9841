"""Runs that a repository shares, read where Git itself has not all of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.commands.shared import SharedRuns
from pipeline.errors import InputError
from tests.checkout import run


def test_a_partial_clone_fetches_what_it_lacks_of_a_revision(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    origin.mkdir()
    run(origin, "git", "init", "-q", "-b", "main")
    run(origin, "git", "config", "uploadpack.allowFilter", "true")
    (origin / ".dvc").mkdir()
    for text in ("first", "second"):
        (origin / ".dvc/config").write_text(f"# {text}\n")
        (origin / "folder").mkdir(exist_ok=True)
        (origin / "folder/file").write_text(text)
        run(origin, "git", "add", "-A")
        run(origin, "git", "commit", "-q", "-m", text)
    for kept in ("blob:none", "tree:0"):
        run(tmp_path, "git", "clone", "-q", f"--filter={kept}", origin.as_uri(), str(clone))
        with pytest.raises(InputError, match="no runs are recorded there"):  # and it does not wait for ever
            SharedRuns(f"{clone}@HEAD~1")
        assert run(clone, "git", "rev-list", "--objects", "--no-walk", "--missing=print", "HEAD~1").count("?") == 0
        shutil.rmtree(clone)
    run(tmp_path, "git", "clone", "-q", "--filter=blob:none", origin.as_uri(), str(clone))
    shutil.rmtree(origin)
    with pytest.raises(
        InputError, match=r"clone@HEAD~1: a partial clone that lacks 2 objects .* 'origin' does not give"
    ):
        SharedRuns(f"{clone}@HEAD~1")
