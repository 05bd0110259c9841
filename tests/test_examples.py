"""The notebooks under examples/ run, and what is stored in them is of the kind that they show."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks import FOLDER, Notebook, executed, read

PATHS = sorted(FOLDER.glob("*.ipynb"))


def kinds(notebook: Notebook) -> list[list[tuple[str, ...]]]:
    """Of each code cell: the type of every output, and the forms it has."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[(output["output_type"], *output.get("data", {})) for output in cell["outputs"]] for cell in code]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in PATHS} == {"own_matrix", "own_network"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_stored(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = read(path)
    nbformat.validate(nbformat.from_dict(stored))
    monkeypatch.chdir(tmp_path)
    fresh = executed(stored)
    assert kinds(stored) == kinds(fresh)
    assert sum(map(len, kinds(stored))) >= 5
    assert any("image/png" in kind for cell in kinds(stored) for kind in cell)
