"""What every step shares: its threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.core.step import limit_threads

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
