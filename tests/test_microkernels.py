"""Compiled code that is kept on disk: it is as new as all that went into it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("numba")

PART = """
import numba

@numba.njit(inline="always")
def amount():
    return {amount}
"""
WHOLE = """
from pipeline.kernels.vector import cached
import part

@cached(part)
def more(x):
    return x + part.amount()
"""


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cached_code_is_made_anew_when_only_a_part_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "part", sys)  # so that the name is gone afterwards
    (tmp_path / "whole.py").write_text(WHOLE)
    results, hits = [], []
    for amount in (1, 1, 2):
        (tmp_path / "part.py").write_text(PART.format(amount=amount))
        load(tmp_path / "part.py", "part")
        more = load(tmp_path / "whole.py", "whole").more
        results.append(more(np.float32(1)))
        hits.append(sum(more.stats.cache_hits.values()))
    del sys.modules["whole"]
    assert results == [2, 2, 3]
    assert hits == [0, 1, 0]
