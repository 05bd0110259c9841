"""What a run takes: the fit finds the coefficients that made its records, and a cluster is asked for more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.sparse.synth import synthetic
from pipeline.workflow.resources import (
    FILE,
    Size,
    Work,
    _work,
    fit,
    memory_terms,
    memory_to_reserve,
    minutes_to_reserve,
    predicted_mb,
    size_of,
    time_terms,
    work_of,
)


def test_the_fit_finds_what_made_its_records() -> None:
    memory, seconds = [500.0, 5e-5, 2e-4, 0.3], [8.0, 1e-8, 2e-7, 0.5, 0.03, 2e-5]
    records = []
    for nnz, order, indices in ((10**5, 2, 5000), (10**6, 3, 40000), (3 * 10**6, 4, 9000), (10**7, 2, 10**6)):
        for width, epochs in ((1, 1), (8, 5), (30, 20), (3, 300)):
            work = Work("fit_baseline", "x", Size(nnz, order, indices), width, epochs)
            record = {"rule": work.rule, "method": "x", "nnz": nnz, "order": order, "indices": indices}
            record |= {"width": width, "epochs": epochs}
            record["mb"] = sum(a * b for a, b in zip(memory, memory_terms(work), strict=True))
            record["seconds"] = sum(a * b for a, b in zip(seconds, time_terms(work), strict=True))
            records.append(record)
    found = fit(records)
    assert found["memory_mb"]["fit_baseline"] == pytest.approx(memory, rel=1e-3)
    assert found["seconds"]["x"] == pytest.approx(seconds, rel=1e-3)


def test_every_recorded_run_would_have_fitted_into_what_is_reserved() -> None:
    content = json.loads(FILE.read_text())
    assert len(content["records"]) >= 40
    for record in content["records"]:
        work = _work(record)
        assert record["mb"] < memory_to_reserve(work, 1) < 4 * record["mb"], record["run"]
        assert (record["seconds"] or 0) < 60 * minutes_to_reserve(work, 1, 0), record["run"]
    refitted = fit(content["records"])
    assert refitted["memory_mb"] == content["memory_mb"] and refitted["seconds"] == content["seconds"]


def test_more_at_each_attempt_and_with_size() -> None:
    small = Work("train_neukron", "neukron", Size(10**5, 3, 10**4), 10, 20)
    large = small._replace(size=Size(234 * 10**6, 2, 22 * 10**6), width=90)
    assert memory_to_reserve(small, 2) == 2 * memory_to_reserve(small, 1)
    assert minutes_to_reserve(small, 3, 0) == 4 * minutes_to_reserve(small, 1, 0)
    assert predicted_mb(large) > 10_000 and predicted_mb(small) < 1000
    assert minutes_to_reserve(large._replace(epochs=None), 1, 1440) == 1440
    unknown = small._replace(size=Size(0, 3, 0))
    assert memory_to_reserve(unknown, 1, file_mb=400.0) > memory_to_reserve(unknown, 1)
    assert minutes_to_reserve(unknown, 1, 99) == 99


def test_size_comes_from_the_registry_or_the_file(root: Path, tmp_path: Path) -> None:
    config = load_config(root / "params.yaml")
    assert config.size_of("flights", tmp_path) == Size(44396, 2, 4147)
    assert config.size_of("flights.f0.25", tmp_path) == Size(11099, 2, 4147)
    assert size_of(None, None, 1.0, tmp_path / "none.parquet") == Size(0, 3, 0)
    X = synthetic((32, 64), 500, 0.6)
    X.write_parquet(tmp_path / "x.parquet")
    assert size_of(None, None, 0.5, tmp_path / "x.parquet") == Size(X.nnz, 2, sum(X.shape))
    (run,) = (run for run in config.runs("smoke") if run.method == "neukron" and run.dataset == "flights")
    work = work_of(run.rule, run.method, config.size_of(run.dataset, tmp_path), run.settings)
    assert (work.width, work.epochs) == (4, 3)
