"""What was fetched goes into a mirror, and comes out of it on a machine without network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from pipeline import download, mirror
from pipeline.errors import InputError

CONTENT = b"1 1 1\n"


@pytest.fixture
def params(tmp_path: Path) -> Path:
    entry = {
        "description": "x",
        "licence": "x",
        "citation": "x",
        "format": "tns",
        "mirror": "shared",
        "files": {
            "x.tns": {"sha256": hashlib.sha256(CONTENT).hexdigest(), "sources": ["http://127.0.0.1:1/x.tns"]},
        },
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"datasets": {"x": entry, "y": entry}}))
    return path


def test_there_and_back(params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "raw" / "x"
    raw.mkdir(parents=True)
    (raw / "x.tns").write_bytes(CONTENT)
    packed = tmp_path / "mirror"
    for _ in range(2):
        mirror.main([str(packed), "--raw", str(raw.parent), "--params", str(params)])
    assert (packed / "shared" / "x.tns").read_bytes() == CONTENT
    monkeypatch.setenv("KRONFLOW_MIRROR", str(packed))
    download.main(["y", "--params", str(params), "--output-dir", str(tmp_path / "other")])
    assert (tmp_path / "other" / "x.tns").read_bytes() == CONTENT


def test_changed_file_is_not_packed(params: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw" / "x"
    raw.mkdir(parents=True)
    (raw / "x.tns").write_bytes(b"changed")
    with pytest.raises(InputError, match="the registry says"):
        mirror.pack(params, raw.parent, tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_nothing_fetched(params: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing has been fetched"):
        mirror.pack(params, tmp_path / "raw", tmp_path / "mirror")
