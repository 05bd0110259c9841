"""Fixtures that many test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
