"""The conversion step: the registry's own data sets, its checks, its files."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import convert, download
from pipeline.config import load_config
from pipeline.core import step
from pipeline.datasets import registry
from pipeline.errors import InputError
from pipeline.sparse import SparseTensor

BUILT_IN = ["flights", "flights-month", "kjv-3gram", "kjv-4gram", "digits"]
MIRRORED = ["email", "threads", "mnist"]


def make(root: Path, folder: Path, dataset: str) -> SparseTensor:
    """Download and convert a data set of the real registry; the registry's own checks are part of it."""
    params = ["--params", str(root / "params.yaml")]
    download.main([dataset, "--output-dir", str(folder / "raw"), *params])
    output = folder / "tensors" / f"{dataset}.parquet"
    convert.main([dataset, "--raw", str(folder / "raw"), "--output", str(output), *params])
    return SparseTensor.read_parquet(output)


@pytest.mark.parametrize("dataset", BUILT_IN)
def test_built_in_data_set(root: Path, tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KRONFLOW_MIRROR", raising=False)
    tensor = make(root, tmp_path, dataset)
    entry = registry.read_entry(root / "params.yaml", dataset)
    assert list(tensor.shape) == entry.shape
    assert tensor.source["sha256"] == {name: file.sha256 for name, file in entry.files.items()}
    for mode, size in enumerate(tensor.shape):
        path = tmp_path / "tensors" / f"{dataset}.labels-{mode}.parquet"
        assert path.exists() == (mode in entry.labels)
        if path.exists():
            assert pd.read_parquet(path)["index"].tolist() == list(range(size))


@pytest.mark.parametrize("dataset", MIRRORED)
def test_mirrored_data_set(
    root: Path, tmp_path: Path, mirror: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRONFLOW_MIRROR", str(mirror))
    published = {"email": (1005, 25919), "threads": (176445, 595778), "mnist": (28, 28, 70000)}
    entry = registry.read_entry(root / "params.yaml", dataset)
    if not all((mirror / (entry.mirror or dataset) / name).is_file() for name in entry.files):
        pytest.skip(f"{mirror} lacks files of '{dataset}'")
    assert make(root, tmp_path, dataset).shape == published[dataset]


def test_flights_by_hand(root: Path, tmp_path: Path) -> None:
    tensor = make(root, tmp_path, "flights")
    flights = pd.read_csv(tmp_path / "raw" / "flights.csv.zip").dropna(subset=["tailnum"])
    expected = flights.groupby(["dest", "tailnum"]).size()
    labels = [pd.read_parquet(tmp_path / "tensors" / f"flights.labels-{mode}.parquet")["label"] for mode in (0, 1)]
    found = pd.Series(
        tensor.values,
        index=pd.MultiIndex.from_arrays([labels[mode].to_numpy()[tensor.coords[:, mode]] for mode in (0, 1)]),
    )
    assert found.sort_index().tolist() == expected.sort_index().tolist()


class TestOwnData:
    """A user's own file: one entry, two commands."""

    @pytest.fixture
    def entry(self, tmp_path: Path) -> dict[str, Any]:
        (tmp_path / "my.mtx").write_text("%%MatrixMarket matrix coordinate real general\n3 2 3\n1 1 2\n3 2 4\n1 1 1\n")
        return {
            "description": "mine",
            "licence": "mine",
            "citation": "none",
            "format": "mtx",
            "files": {"my.mtx": {"sources": ["file:my.mtx"]}},
        }

    def run(self, folder: Path, entry: dict[str, Any]) -> Path:
        params = folder / "params.yaml"
        params.write_text(yaml.safe_dump({"datasets": {"my": entry}}))
        common = ["my", "--params", str(params)]
        output = folder / "my.parquet"
        step.run(download.main, [*common, "--output-dir", str(folder / "raw")])
        step.run(convert.main, [*common, "--raw", str(folder / "raw"), "--output", str(output)])
        return output

    def test_converts(self, tmp_path: Path, entry: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        path = self.run(tmp_path, entry)
        tensor = SparseTensor.read_parquet(path)
        assert tensor.shape == (2, 3)
        assert tensor.to_dense().tolist() == [[3, 0, 0], [0, 0, 4]]
        assert tensor.source["dataset"] == "my"
        assert tensor.source["sha256"]["my.mtx"] == hashlib.sha256((tmp_path / "my.mtx").read_bytes()).hexdigest()
        assert "1 duplicate entries summed" in capsys.readouterr().err

    def test_file_is_as_designed(self, tmp_path: Path, entry: dict[str, Any]) -> None:
        path = self.run(tmp_path, entry)
        table = pd.read_parquet(path)
        assert table.dtypes.astype(str).to_dict() == {"mode_0": "uint8", "mode_1": "uint8", "value": "uint8"}
        metadata = json.loads(pq.read_schema(path).metadata[b"kronflow"])
        assert (metadata["shape"], metadata["nnz"], metadata["norm2"]) == ([2, 3], 2, 25.0)
        assert metadata["mode_names"] == ["column", "row"]

    @pytest.mark.parametrize(
        ("key", "value", "problem"),
        [
            ("shape", [3, 2], "shape [2, 3] after conversion, the registry says [3, 2]"),
            ("nnz", 3, "2 non-zeros after conversion, the registry says 3"),
            ("norm2", 25.1, "norm2 25.0 after conversion, the registry says 25.1"),
            ("labels", [0], "labels [0]: mode 0 has none"),
        ],
    )
    def test_broken_promises(
        self,
        tmp_path: Path,
        entry: dict[str, Any],
        key: str,
        value: Any,
        problem: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            self.run(tmp_path, entry | {key: value})
        assert caught.value.code == 2
        assert f"data set 'my': {problem}" in capsys.readouterr().err
        assert not (tmp_path / "my.parquet").exists()

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"norm2": float("nan")}, "norm2: needs a finite number, not nan"),
            ({"norm2": float("inf")}, "norm2: needs a finite number, not inf"),
            ({"norm2": -4.0}, "norm2: needs a number above 0.0, not -4.0"),
            ({"nnz": 7, "shape": [2, 3]}, "nnz 7: more than the cells of a tensor of shape [2, 3]"),
            ({"shape": []}, "shape: needs at least 1, not []"),
            ({"shape": [2**63, 3]}, "shape.0: needs a number of at most 4611686018427387904, not"),
            ({"labels": [0, 0]}, "labels [0, 0]: a mode is given twice"),
            ({"labels": [2], "shape": [2, 3]}, "labels [2]: of a tensor with modes 0..1"),
            ({"format": "mtxx"}, "format 'mtxx' does not exist; did you mean 'mtx'?"),
            ({"options": {"base": 1}}, "format 'mtx' has no option 'base'; known: member"),
            ({"format": "csv"}, "format 'csv' needs the option 'columns'"),
            ({"format": "csv", "options": {"columns": []}}, "option columns: name at least one column"),
            ({"format": "csv", "options": {"columns": [0.5]}}, "option columns: a list in brackets, each text or a"),
            ({"format": "csv", "options": {"columns": ["a"], "base": 7}}, "option base: 0 or 1, or null"),
            ({"format": "csv", "options": {"columns": ["a"], "encoding": "utf-9"}}, "no encoding 'utf-9' of text"),
            ({"format": "csv", "options": {"columns": ["a"], "separator": ""}}, "option separator: characters"),
            ({"format": "csv", "options": {"columns": ["a"], "decimal": "x"}}, "option decimal: a point or a comma"),
            ({"format": "csv", "options": {"columns": ["a"], "only": {"b": [1]}}}, "option only: in braces keys"),
            ({"format": "columnar", "options": {"columns": ["a"], "shape": [3]}}, "option shape: labels decide"),
            ({"format": "flights", "options": {"modes": []}}, "option columns: name at least one column"),
            ({"format": "coha", "options": {"order": None}}, "option order: a whole number, not None"),
            ({"format": "tns", "options": {"base": 2}}, "option base: 0 or 1, or null"),
            ({"format": "coo", "options": {"shape": [0]}}, "option shape: whole numbers of at least 1, not [0]"),
            ({"format": "coo", "options": {"drop": [-1]}}, "option drop: modes are counted from 0, not [-1]"),
            ({"format": "coo", "options": {"names": ["a"], "shape": [2, 2]}}, "option shape: 2 sizes for 1 modes"),
            ({"format": "kjv", "options": {"order": 1}}, "option order: a whole number of at least 2, not 1"),
            ({"format": "coha", "options": {"order": -1}}, "option order: a whole number of at least 2, not -1"),
            ({"files": {"a": {"sources": ["ftp://x/a"]}}}, "source 'ftp://x/a': starts with none of: http, https"),
            ({"files": {"a": {"sources": ["https://"]}}}, "source 'https://': names nothing that could be fetched"),
            ({"files": {"a": {"sources": ["package:x/a"]}}}, "source 'package:x/a': write package:NAME==VERSION/PATH"),
            ({"files": {"a": {"sources": ["synth:sizes=0"]}}}, "synth:sizes=0: entries, skew missing"),
            ({"files": {"a": {"sources": ["https://me:secret@/a"]}}}, "names nothing that could be fetched"),
        ],
    )
    def test_an_entry_that_cannot_be_converted_is_refused_at_planning(
        self, tmp_path: Path, entry: dict[str, Any], changes: dict[str, Any], problem: str
    ) -> None:
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({"experiment": "e", "experiments": {}, "datasets": {"my": entry | changes}}))
        for refuse in (lambda: load_config(params), lambda: registry.read_entry(params, "my")):
            with pytest.raises(InputError, match=re.escape(problem)) as caught:
                refuse()
            assert f"{params}: datasets.my" in str(caught.value)
            assert "secret" not in str(caught.value)

    def test_norm2_is_compared_to_nine_digits(self, tmp_path: Path, entry: dict[str, Any]) -> None:
        assert self.run(tmp_path, entry | {"norm2": 25.00000001}).exists()

    def test_raw_file_that_changed(
        self, tmp_path: Path, entry: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.run(tmp_path, entry)
        entry["files"]["my.mtx"]["sha256"] = hashlib.sha256((tmp_path / "my.mtx").read_bytes()).hexdigest()
        self.run(tmp_path, entry)
        raw = tmp_path / "raw" / "my.mtx"
        raw.write_text(raw.read_text() + "\n")
        arguments = ["my", "--params", str(tmp_path / "params.yaml"), "--raw", str(raw.parent), "--output", "unused"]
        with pytest.raises(SystemExit):
            step.run(convert.main, arguments)
        assert f"the registry says {entry['files']['my.mtx']['sha256']}" in capsys.readouterr().err

    def test_unlisted_labels_are_mentioned(
        self, tmp_path: Path, entry: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "my.mtx").write_text("10 5 1\n30 7 1\n30 6 1\n")
        entry |= {"format": "coo", "options": {"base": None, "names": ["who", "what"]}, "labels": [1]}
        self.run(tmp_path, entry)
        assert "labels of mode 0 (who) are not kept" in capsys.readouterr().err
        assert not (tmp_path / "my.labels-0.parquet").exists()
        assert pd.read_parquet(tmp_path / "my.labels-1.parquet").to_dict("list") == {
            "index": [0, 1, 2],
            "label": [5, 6, 7],
        }

    def test_full_disk_keeps_the_old_file(
        self, tmp_path: Path, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = self.run(tmp_path, entry)
        before = path.read_bytes()

        def full(*arguments: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(SystemExit) as caught:
            self.run(tmp_path, entry)
        assert caught.value.code == 2
        assert "No space left on device" in capsys.readouterr().err
        assert path.read_bytes() == before
        assert [each.name for each in tmp_path.glob(".my*")] == []

    def test_interrupt_leaves_nothing_and_a_rerun_works(
        self, tmp_path: Path, entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*arguments: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", interrupt)
            with pytest.raises(SystemExit) as caught:
                self.run(tmp_path, entry)
        assert caught.value.code == 130
        assert sorted(each.name for each in tmp_path.iterdir()) == ["my.mtx", "params.yaml", "raw"]
        assert self.run(tmp_path, entry).exists()


def test_limited_file_size_keeps_the_old_file(tmp_path: Path) -> None:
    """A real failure of the operating system in a process of its own."""
    program = f"""
import resource, signal, numpy as np
from pipeline.sparse import SparseTensor
from pipeline.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
small = SparseTensor([[0, 0]], [1], (9, 9)); small.write_parquet({str(tmp_path / "x.parquet")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
n = 20000
big = SparseTensor(np.stack([np.arange(n), np.arange(n)], 1), np.random.default_rng(0).random(n), (n, n))
try:
    big.write_parquet({str(tmp_path / "x.parquet")!r})
except InputError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "x.parquet: cannot write: " in result.stdout
    assert "File too large; the previous file, if any, is unchanged" in result.stdout
    assert SparseTensor.read_parquet(tmp_path / "x.parquet").nnz == 1
    assert [each.name for each in tmp_path.iterdir()] == ["x.parquet"]
