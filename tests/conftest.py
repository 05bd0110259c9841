"""Fixtures that many test files share."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pipeline.sparse import SparseTensor

with contextlib.suppress(ImportError):
    # Before any test: first imported in one that limits threads, it would hold on to that number, and refuse to
    # compile once the environment is put back.
    import numba as _numba

    # Damaged files are asked in forked children, in which GNU's OpenMP ends the process.
    _numba.config.THREADING_LAYER = "forksafe"

with contextlib.suppress(ImportError):
    # Its log writes to what is standard output at the first import: in a test, a stream that is closed after it.
    import dvc.logger  # noqa: F401


BEGUN_FIRST = ({"copy_checkout"}, {"ENVIRONMENT", "kills", "launch", "make_report"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start programs take minutes, those in checkouts of their own most: they are begun first."""

    def place(item: pytest.Item) -> int:
        names = set(dir(getattr(item, "module", None)))
        return next((place for place, some in enumerate(BEGUN_FIRST) if names & some), len(BEGUN_FIRST))

    items.sort(key=place)


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Every test leaves the environment as it found it, also one that calls a step's `main` in this process."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Workers share the cores: of more threads each, on tensors as small as these, most would wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout under test."""
    return ROOT


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder with real raw files; tests that need it skip where there is none."""
    folder = Path(os.environ.get("KRONFLOW_MIRROR", ROOT.parent / "shared" / "datasets"))
    if not folder.is_dir():
        pytest.skip(f"no raw data at {folder}; set KRONFLOW_MIRROR to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def email(mirror: Path) -> SparseTensor:
    """The published email matrix: node x distinct list of nodes, straight from the raw files."""
    folder = mirror / "email-Eu-full"
    if not folder.is_dir():
        pytest.skip(f"no email-Eu-full in {mirror}")
    sizes = np.loadtxt(folder / "email-Eu-full-nverts.txt", dtype=np.int64)
    nodes = np.loadtxt(folder / "email-Eu-full-simplices.txt", dtype=np.int64)
    lists = dict.fromkeys(tuple(part) for part in np.split(nodes, np.cumsum(sizes)[:-1]))
    rows = np.concatenate(list(lists))
    columns = np.repeat(np.arange(len(lists)), [len(part) for part in lists])
    _, rows = np.unique(rows, return_inverse=True)
    return SparseTensor(np.stack([rows, columns], axis=1), np.ones(len(rows)), (rows.max() + 1, len(lists)))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own without room for another byte."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        with contextlib.suppress(OSError), (place / "filling").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
