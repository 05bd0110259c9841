"""The README's way from a file to a data set, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import pipeline
from pipeline.config import load_config
from pipeline.sparse import SparseTensor


@pytest.fixture
def blocks(root: Path) -> dict[str, list[str]]:
    """The examples of the section about one's own data, by language."""
    section = (root / "README.md").read_text(encoding="utf-8").partition("## Your own data\n")[2].partition("\n## ")[0]
    found: dict[str, list[str]] = {}
    for language, text in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
        found.setdefault(language, []).append(text)
    return found


def shell(commands: str, folder: Path, root: Path) -> str:
    """Run commands of the README with this Python and this checkout; `. .venv/bin/activate` is what that does."""
    place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    commands = commands.replace(". .venv/bin/activate\n", "")
    result = subprocess.run(
        ["bash", "-euc", commands], cwd=folder, env=os.environ | place, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_data_set_by_one_entry(
    root: Path, tmp_path: Path, blocks: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KRONFLOW_MIRROR", raising=False)
    labels_block, table = (block for block in blocks["bash"] if "clicks.csv" in block)
    (entry,) = blocks["yaml"]
    answers = shell(labels_block, tmp_path, root)
    assert "\n5\n" in answers
    assert '"orders_stored": true' in answers
    shell(table, tmp_path, root)
    assert (tmp_path / "page.html").is_file()
    (program,) = blocks["python"]
    shell(f"python - <<'END'\n{program}END", tmp_path, root)
    assert pipeline.load(tmp_path / "clicks.safetensors").about_.labels_of(0) == ["ann", "bob"]
    assert SparseTensor.read_parquet(tmp_path / "my.parquet").to_dense().tolist() == [[5, 1, 0], [0, 0, 1]]
    params = (root / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(params.replace("\ndatasets:\n", f"\ndatasets:\n{entry}", 1), encoding="utf-8")
    assert load_config(tmp_path / "params.yaml").datasets["clicks"].labels == [0, 1]
    shell("python -m pipeline.download clicks && python -m pipeline.convert clicks", tmp_path, root)
    tensor = SparseTensor.read_parquet(tmp_path / "data" / "tensors" / "clicks.parquet")
    assert tensor.mode_names == ("user", "item")
    assert tensor.to_dense().tolist() == [[5, 1, 0], [0, 0, 1]]
    labels = [pd.read_parquet(tmp_path / "data" / "tensors" / f"clicks.labels-{mode}.parquet") for mode in (0, 1)]
    assert [frame["label"].tolist() for frame in labels] == [["ann", "bob"], ["book", "ink", "pen"]]


def test_snakemake_knows_the_new_data_set(root: Path, tmp_path: Path, blocks: dict[str, list[str]]) -> None:
    for name in ("Snakefile", "profiles", "pipeline"):
        source = root / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    params = (
        (root / "params.yaml")
        .read_text(encoding="utf-8")
        .replace("\ndatasets:\n", f"\ndatasets:\n{blocks['yaml'][0]}", 1)
    )
    assert "clicks" in yaml.safe_load(params)["datasets"]
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    (tmp_path / "clicks.csv").write_text("user,item,clicks\nann,book,2\n")
    planned = shell("snakemake -n data/tensors/clicks.parquet 2>&1", tmp_path, root)
    assert "rule download" in planned
    assert "rule convert" in planned


def test_five_lines_from_a_file_to_an_answer(root: Path, tmp_path: Path, blocks: dict[str, list[str]]) -> None:
    (lines,) = (block for block in blocks["bash"] if "my.mtx" in block)
    if shutil.which("kronflow", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("the console script kronflow is not installed beside this Python")
    answer = shell(lines, tmp_path, root)
    assert (tmp_path / "my.safetensors").is_file()
    assert re.search(r"\d", answer.splitlines()[-1])
