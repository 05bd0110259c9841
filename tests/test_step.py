"""What every step shares: its threads, its guard, files that it reads and writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import convert, describe, export, fit_baseline, sample
from pipeline.core import step
from pipeline.core.files import refuse_clashes
from pipeline.core.step import limit_threads
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor
from pipeline.workflow.closure import code_files

NO_STEPS = ("config", "methods", "errors")
AFTER_COMPILATION = """
import numba
from pipeline.core.step import limit_threads

@numba.njit(parallel=True)
def total(count):
    result = 0
    for index in numba.prange(count):
        result += index
    return result

assert total(10) == 45  # now the threads run, as many as the environment said
limit_threads(1)
assert numba.get_num_threads() == 1
print(numba.njit(lambda number: number + 1)(44))  # compiling reads the environment again
"""


def test_threads_are_limited_after_numba_has_started_its_own() -> None:
    pytest.importorskip("numba")
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", AFTER_COMPILATION], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "45\n"), done.stderr


def test_threads_are_limited_in_the_environment_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    limit_threads(3)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    assert [os.environ[name] for name in names] == ["3"] * 4


def test_a_file_that_is_read_is_never_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = tmp_path / "x.parquet"
    SparseTensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2)).write_parquet(tensor)
    before = tensor.read_bytes()
    (tmp_path / "history.parquet").hardlink_to(tensor)
    for main, arguments in (
        (sample.main, [str(tensor), str(tensor), "--fraction", "0.5"]),
        (export.main, [str(tensor), str(tmp_path / "." / "x.parquet")]),
        (convert.main, ["--file", str(tensor), "--output", str(tensor)]),
        (fit_baseline.main, [str(tensor), str(tmp_path), "--method", "lossless"]),
        (describe.main, [str(tensor), str(tmp_path / "x.parquet")]),
    ):
        with pytest.raises(SystemExit) as stopped:
            step.run(main, arguments)
        assert stopped.value.code == 2 and "a file that is read" in capsys.readouterr().err
        assert tensor.read_bytes() == before
    with pytest.raises(InputError, match="written twice"):
        refuse_clashes([], [tmp_path / "a", tmp_path / "b" / ".." / "a"])


@pytest.mark.parametrize("failure", [MemoryError("Unable to allocate 16 TiB"), RecursionError("too deep")])
def test_what_no_memory_holds_is_a_line(failure: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    def main(_: list[str] | None) -> None:
        raise failure

    with pytest.raises(SystemExit) as stopped:
        step.run(main, [])
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and str(failure) in line and line.count("\n") == 1


def test_no_step_is_a_library(root: Path) -> None:
    steps = {path.stem for path in (root / "pipeline").glob("*.py")} - {"__init__", "__main__", *NO_STEPS}
    others = [
        ".".join(path.relative_to(root / "pipeline").with_suffix("").parts) for path in root.glob("pipeline/*/**/*.py")
    ]
    found = {}
    for module in (*steps, *NO_STEPS, "__main__", *(other.removesuffix(".__init__") for other in others)):
        imported = set(code_files(module)) & {f"pipeline/{name}.py" for name in steps - {module}}
        found |= {module: imported} if imported else {}
    assert found == {}
