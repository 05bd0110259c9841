"""What users and registries name: values in YAML, data sets, experiments, runs; and what a terminal shows of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import aggregate, convert, download, fit_baseline, mirror, report
from pipeline.commands import shared
from pipeline.config import load_config
from pipeline.core.names import plain_name
from pipeline.core.step import parse_settings
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

HOSTILE = {
    "2020-13-45": "month must be in 1..12",
    "0000-00-00": "is no YAML value",
    "9" * 5000: "Exceeds the limit",
    "{[1]: 2}": "unhashable key",
    "[" * 20_000: "nested too deeply",
    "{a: " * 2000 + "1" + "}" * 2000: "nested too deeply",
    "&a [*a]": "aliases repeat",
    f"[&a [{','.join('1' * 10)}], "
    + ", ".join(f"&{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]" for i in range(7)) + "]": "aliases repeat",
    "{<<: 3}": "merging",
    "!!int abc": "invalid literal",
    "!!float abc": "could not convert",
    "!!bool abc": "a tag with a value",
    "!!timestamp abc": "a tag with a value",
    "!!binary a": "base64",
    "!!python/object/apply:os.system [true]": "could not determine a constructor",
    "*a": "undefined alias",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_values_that_nothing_holds_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=HOSTILE[text]) as caught:
        parse_settings([f"rank={text}"])
    assert len(str(caught.value)) < 400
    (tmp_path / "params.yaml").write_text(f"experiment: {text}\n")
    with pytest.raises(InputError, match="no valid YAML") as caught:
        load_config(tmp_path / "params.yaml")
    assert len(str(caught.value)) < 400


def changed(root: Path, folder: Path, change: Any) -> Path:
    content = yaml.safe_load((root / "params.yaml").read_text())
    change(content)
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return folder / "params.yaml"


@pytest.mark.parametrize(
    ("seeds", "problem"),
    [
        (list(range(30_000)), "seeds: needs at most 1000"),
        (list(range(1000)), "more than 20,000 runs"),
        ([0, 1, 0], "0 is given twice"),
    ],
)
def test_seeds_beyond_what_planners_bear_are_refused(
    root: Path, tmp_path: Path, seeds: list[int], problem: str
) -> None:
    path = changed(root, tmp_path, lambda content: content["experiments"]["paper"].update(seeds=seeds))
    with pytest.raises(InputError, match=problem):
        load_config(path)


@pytest.mark.parametrize("number", [10**400, 2**63])
def test_numbers_that_no_machine_holds_are_refused(number: int) -> None:
    for setting in (f"rank={number}", f"tolerance={number}"):
        with pytest.raises(InputError, match="needs a"):
            fit_baseline.main(["x.parquet", "folder", "--method", "cp", "--set", setting])


NAMES = [
    "../../x",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "a\0b",
    "{x}",
    "a{b}",
    "$x",
    "a\\b",
    "-x",
    "~x",
    "x" * 201,
    "\x1b",
]


REFUSED = r"is no plain name|longer than 200 bytes"


@pytest.mark.parametrize("name", NAMES)
def test_one_check_of_names(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=REFUSED):
        plain_name(name)
    params = ["--params", str(root / "params.yaml")]
    SparseTensor([[0, 0]], [1.0], (2, 2)).write_parquet(tmp_path / "x.parquet")
    monkeypatch.chdir(tmp_path)
    fit = ["x.parquet", "run", "--method", "cp"]
    for main, arguments in (
        (download.main, [*params, "--", name]),
        (convert.main, [*params, "--", name]),
        (aggregate.main, [*params, f"--experiment={name}"]),
        (report.main, [*params, f"--experiment={name}"]),
        (fit_baseline.main, [*fit, f"--dataset={name}"]),
        (fit_baseline.main, [*fit, f"--setting={name}"]),
    ):
        if arguments[-1] not in ("--experiment=", "--dataset="):  # which mean the default
            with pytest.raises(InputError, match=REFUSED):
                main(arguments)
    if "/" not in name[1:]:
        runs = object.__new__(shared.SharedRuns)
        runs.address, runs.names = "here", [f"{name}/cp/r1-s0"]
        with pytest.raises(InputError, match=REFUSED):
            runs.metrics(f"{name}/cp/r1-s0")
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("name", ["../x", "a{b}", "a\nb"])
def test_a_registry_names_files_and_its_mirror_plainly(root: Path, tmp_path: Path, name: str) -> None:
    def rename_file(content: dict[str, Any]) -> None:
        files = content["datasets"]["flights"]["files"]
        files[name] = files.pop(next(iter(files)))

    def rename_mirror(content: dict[str, Any]) -> None:
        content["datasets"]["flights"]["mirror"] = name

    for change in (rename_file, rename_mirror):
        path = changed(root, tmp_path, change)
        with pytest.raises(InputError, match="is no plain name"):
            mirror.main([str(tmp_path / "packed"), "--params", str(path)])


PROGRAM = r"""
import sys
from pipeline.core import step
from pipeline.errors import InputError

def main(argv):
    print("a\x1b[2Jb\tc\r\u202ed")
    print("one\x1b[31m\x9b two", file=sys.stderr)
    raise InputError("x\x1b[2Jy\nz" + "." * 100_000)

step.run(main)
"""


def test_no_control_characters_reach_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout == "a\\x1b[2Jb\tc\\r\\u202ed\n"
    first, second = done.stderr.splitlines()
    assert first == "one\\x1b[31m\\x9b two"
    assert second.startswith("error: x\\x1b[2Jy z...") and len(second) < 2100
    assert done.returncode == 2
