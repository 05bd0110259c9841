"""Files that are there whole or not at all: killed writers, full disks, and locks of the dead."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from pipeline import convert, describe, download, evaluate, export, fit_baseline, query_times, sample, train_neukron
from pipeline.core import step
from pipeline.core.files import PARTIAL, atomic_path, write_text
from pipeline.core.sizes import parse_bytes
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.sparse.synth import synthetic
from pipeline.workflow.locks import HOLDERS, release_stale
from tests import kills

# A step that dies at the write to the file of which `name` is a part of the path.
DYING = """
import os, signal, sys
from pathlib import Path
from pipeline import fit_baseline
name, replace = sys.argv[1], Path.replace
Path.replace = lambda path, to: os.kill(os.getpid(), signal.SIGKILL) if name in str(to) else replace(path, to)
fit_baseline.main(sys.argv[2:])
"""
SHORT = ["--set", "hidden=2", "--set", "max_epochs=1", "--set", "order_init=degree", "--device", "cpu"]
ORDER = ["model.safetensors", "history.parquet", "metrics.json"]


def run(code: str, *arguments: str, folder: Path, status: int = 0, **environment: str) -> None:
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr[-2000:]


@pytest.fixture
def tensor(tmp_path: Path) -> Path:
    path = tmp_path / "x.parquet"
    synthetic((256, 256), 4000, 0.7).write_parquet(path)
    return path


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """No file gets larger than `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("recorded", "name"), [(True, "model.safetensors"), (False, "metrics.json")])
def test_a_kill_at_the_write_leaves_nothing_that_a_tool_records(
    root: Path, tensor: Path, recorded: bool, name: str
) -> None:
    folder = tensor.parent
    if recorded:
        (folder / ".dvc").mkdir()
    run(DYING, name, str(tensor), "run", "--method", "truncation", folder=folder, status=-9)
    left = {path.name for path in (folder / "run").iterdir()}
    partial = folder / (".cache/partial" if recorded else "run")
    assert len(list(partial.glob(f"{PARTIAL}*"))) == 1
    assert {each for each in left if not each.startswith(PARTIAL)} == set(ORDER[: ORDER.index(name)])
    assert recorded is not any(each.startswith(PARTIAL) for each in left)
    fit_baseline.main([str(tensor), str(folder / "run"), "--method", "truncation"])
    assert {path.name for path in (folder / "run").iterdir()} == set(ORDER)
    assert not list(partial.glob(f"{PARTIAL}*"))
    for ignored in (".gitignore", ".dvcignore"):
        assert f"{PARTIAL}*" in (root / ignored).read_text().splitlines()


def test_a_file_that_is_being_written_is_not_swept(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "slow.txt") as temporary:
        write_text(tmp_path / "quick.txt", "b")
        temporary.write_text("a")
    other = tmp_path / f"{PARTIAL}another-x1y2"
    other.mkdir()
    (other / "x.txt").write_text("of another machine, perhaps alive")
    write_text(tmp_path / "quick.txt", "c")
    assert other.exists()
    os.utime(other, (0, 0))
    write_text(tmp_path / "quick.txt", "d")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"slow.txt": "a", "quick.txt": "d"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/x\.txt: cannot write: File exists"):
        write_text(tmp_path / "file" / "x.txt", "")


@pytest.mark.parametrize(
    ("limit", "module", "arguments", "file"),
    [
        (1000, sample, ["{}/x.parquet", "{}/out/s.parquet", "--fraction", "0.5"], "s.parquet"),
        (1000, convert, ["--file", "{}/x.tns", "--output", "{}/out/c.parquet"], "c.parquet"),
        (300, describe, ["{}/x.parquet", "{}/out/d.html"], "d."),
        (100, fit_baseline, ["{}/x.parquet", "{}/out", "--method", "truncation"], "model.safetensors"),
        (900, fit_baseline, ["{}/x.parquet", "{}/out", "--method", "truncation"], "history.parquet"),
        (300, train_neukron, ["{}/x.parquet", "{}/out", *SHORT], "model.safetensors"),
        (1000, export, ["{}/x.parquet", "{}/out/e.mtx"], "e.mtx"),
        (1000, export, ["{}/x.parquet", "{}/out/e.npz"], "e.npz"),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(
    tensor: Path, limit: int, module: ModuleType, arguments: list[str], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tensor.parent
    coords = SparseTensor.read_parquet(tensor).coords
    (folder / "x.tns").write_text("".join(f"{i + 1} {j + 1} 1\n" for i, j in coords))
    with small_disk(limit), pytest.raises(SystemExit) as stopped:
        step.run(module.main, [each.format(folder) for each in arguments])
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2
    assert line.startswith(f"error: {folder}/out/{file}") and "cannot write: " in line
    assert not [path for path in (folder / "out").rglob("*") if path.name.startswith(PARTIAL)]


def test_every_step_names_the_file_that_a_full_file_system_does_not_take(
    tensor: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, out, folder = str(tensor), full_disk / "out", tensor.parent
    (folder / "x.tns").write_text("1 1 1\n2 2 1\n")
    (folder / "own.csv").write_text("a,b\n")
    (folder / "params.yaml").write_text(
        "datasets: {own: {description: d, licence: l, citation: c, format: csv, options: {columns: [a, b]}, "
        "files: {own.csv: {sources: ['file:own.csv']}}}}\n"
    )
    step.run(fit_baseline.main, [x, str(folder / "run"), "--method", "truncation"])
    model = str(folder / "run" / "model.safetensors")
    steps: list[tuple[ModuleType, list[str], str]] = [
        (download, ["own", "--params", str(folder / "params.yaml"), "--output-dir", str(out)], "own.csv"),
        (convert, ["--file", str(folder / "x.tns"), "--output", str(out / "c.parquet")], "c.parquet"),
        (sample, [x, str(out / "s.parquet"), "--fraction", "0.5"], "s.parquet"),
        (fit_baseline, [x, str(out), "--method", "truncation"], "model.safetensors"),
        (train_neukron, [x, str(out), *SHORT], "model.safetensors"),
        (evaluate, [x, model, str(out / "e.json")], "e.json"),
        (query_times, [str(out / "q.csv"), "--hidden", "2", "--cells", "10", "--repeats", "1"], "q.csv"),
        (export, [x, str(out / "e.mtx")], "e.mtx"),
    ]
    for module, arguments, file in steps:
        with pytest.raises(SystemExit) as stopped:
            step.run(module.main, arguments)
        lines = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2, (module, lines)
        assert file in lines[-1] and "No space left on device" in lines[-1], (module, lines)
        assert not [path for path in full_disk.rglob("*") if path.is_file() and path.name != "filling"]


COMPILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from pipeline.kernels.compiling import compiled
def double(x): return 2 * x
import inspect, pipeline.errors
exec(compile("def double(x): return 2 * x", pipeline.errors.__file__, "exec"))
assert compiled()(double)(21) == 42
"""


def test_compiled_code_that_no_disk_takes_is_used_all_the_same(tmp_path: Path) -> None:
    run(COMPILES, folder=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))


def test_locks_are_released_when_all_who_held_some_are_dead(tmp_path: Path) -> None:
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    code = "from pipeline.workflow.locks import release_stale; print(release_stale(), flush=True); input()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def start() -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    first = start()
    assert first.stdout and first.stdout.readline() == "0\n"
    for name in ("0.input.lock", "0.output.lock"):
        (locks / name).write_text("x\n")
    second = start()
    assert second.stdout and second.stdout.readline() == "0\n"  # the first one lives
    first.kill()
    first.wait()
    second.communicate("\n")
    assert len(list(locks.iterdir())) == 2
    assert release_stale(tmp_path) == 2 and not list(locks.iterdir())
    assert (tmp_path / HOLDERS).exists()
    assert release_stale(tmp_path / HOLDERS) == 0  # nothing can be written there: no lock to release


@pytest.mark.parametrize("case", ["training", "step"])
def test_a_command_killed_at_any_moment_ends_in_the_same_bits(tmp_path: Path, case: str) -> None:
    kills.prepare(tmp_path / "checkout")
    command, results = kills.CASES[case]
    said = kills.disturbed(command, tmp_path / "checkout", results, 2, random.Random(1))
    assert "nothing left over" in said


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20000", 20_000),
        ("4kB", 4000),
        ("4 KiB", 4096),
        ("4e3", 4000),
        ("1.5 MB", 1_500_000),
        ("0.5k", 500),
        (" 2gib ", 2**31),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size
