"""Aggregation: every run found or listed, typed tables, means and standard errors that can be checked by hand."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import aggregate
from pipeline.config import Run, load_config, setting_arguments
from pipeline.core.step import parse_settings
from pipeline.errors import InputError
from pipeline.reporting.statistics import fit_power_law, frontier, over_seeds
from pipeline.runs.metrics import write_metrics
from pipeline.runs.record import params_digest

ERRORS = {0: 10.0, 1: 14.0, 2: 18.0}  # by seed: mean 14, sample deviation 4, standard error 4 / sqrt(3)


@pytest.fixture
def params(root: Path, tmp_path: Path) -> Path:
    """The project's params.yaml with one small experiment: CP with three seeds, T-SVD, and a dense network."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["experiment"] = "small"
    content["experiments"] = {
        "small": {
            "seeds": [0, 1, 2],
            "matrix_baselines": {"datasets": ["toy"], "methods": ["cp", "t-svd"]},
            "networks": {"datasets": ["pictures"], "methods": ["dense"]},
            "settings": {
                "toy": {"cp": {"r1": {"rank": 1}}, "t-svd": {"r2": {"rank": 2}}},
                "pictures": {"dense": {"default": {}}},
            },
        }
    }
    entry = {
        "description": "x", "licence": "CC0-1.0", "citation": "x", "format": "flights",
        "files": {"a": {"sources": ["file:a"]}},
    }  # fmt: skip
    content["datasets"] = {"toy": entry, "pictures": entry}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def model_of(run: Run) -> bytes:
    return f"the model of {run.folder}".encode()


def metrics_of(run: Run) -> dict[str, Any]:
    common = {
        "dataset": run.dataset,
        "method": run.method,
        "setting": run.setting,
        "seed": run.seed,
        "parameters": 7,
        "epochs": 3,
        "seconds": 0.1 + 0.2,
        "seconds_per_epoch": 0.1,
        "cpu_seconds": 1.5,
        "machine": "A processor",
        "cores": 2,
        "threads": 1,
        "date": "2026-01-02T03:04:05Z",
        "peak_rss_bytes": 2**40,
        "peak_gpu_bytes": 0,
        "device": "cpu",
        "versions": {"python": "3.11.2", "numpy": "2.3.0"},
        "params_sha256": params_digest(run.method, run.seed, parse_settings(setting_arguments(run.settings)[1::2])),
        "data_sha256": "ab" * 32,
        "model_sha256": hashlib.sha256(model_of(run)).hexdigest(),
    }
    if run.dataset == "pictures":
        return common | {
            "kind": "network", "network": "linear", "accuracy": 0.9, "validation_accuracy": 0.8, "train_loss": 0.1,
            "block_sparsity": 0.0, "train_parameters": 650, "inference_parameters": 650, "train_flops": 100,
            "dense_train_flops": 100, "inference_flops": 50, "dense_inference_flops": 50, "batch": 64,
            "step_seconds": 1e-4, "dense_step_seconds": 1e-4,
            "inference_seconds": 1e-4, "dense_inference_seconds": 1e-4, "file_bytes": 3000,
        }  # fmt: skip
    error = ERRORS[run.seed]
    return common | {
        "kind": "compression", "shape": [3, 4], "nnz": 6, "norm2": 100.0, "error": error,
        "error_interval": [error - 1, error + 1] if run.method == "cp" else None, "relative_error": error / 100,
        "fitness": 1 - (error / 100) ** 0.5, "bytes": 56, "bytes_equal": 28, "bytes_with_order": 30,
        "file_bytes": 400,
    }  # fmt: skip


@pytest.fixture
def runs_dir(params: Path, tmp_path: Path) -> Path:
    """A folder with all runs of the experiment."""
    folder = tmp_path / "runs"
    for run in load_config(params).runs("small"):
        write_metrics(folder / run.name / "metrics.json", metrics_of(run))
        (folder / run.name / "model.safetensors").write_bytes(model_of(run))
    return folder


def call(params: Path, runs_dir: Path, *extra: str) -> Path:
    folder = params.parent / "small"
    names = ["--experiment", "small", "--params", str(params), "--runs-dir", str(runs_dir)]
    aggregate.main([str(folder), *names, *extra])
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_one_row_a_run_with_typed_columns(params: Path, runs_dir: Path) -> None:
    table = pq.read_table(call(params, runs_dir) / "metrics.parquet")
    assert table.num_rows == 3 + 1 + 3
    types = {field.name: str(field.type) for field in table.schema}
    assert types["error"] == types["accuracy"] == types["error_low"] == "double"
    assert types["bytes"] == types["seed"] == types["peak_gpu_bytes"] == types["train_flops"] == "int64"
    assert types["dataset"] == types["shape"] == types["versions"] == "string"
    first = table.to_pylist()[0]
    assert (first["method"], first["seed"], first["peak_rss_bytes"]) == ("cp", 0, 2**40)
    assert json.loads(first["shape"]) == [3, 4]
    assert json.loads(first["versions"])["numpy"] == "2.3.0"
    assert (first["error_low"], first["error_high"]) == (9.0, 11.0)
    assert first["accuracy"] is None


def test_columns_do_not_depend_on_what_was_run(params: Path, runs_dir: Path) -> None:
    config = load_config(params)
    whole = aggregate.to_table(aggregate.collect(config.runs("small"), runs_dir, "small"))
    networks = [run for run in config.runs("small") if run.dataset == "pictures"]
    assert aggregate.to_table(aggregate.collect(networks, runs_dir, "small")).schema == whole.schema


def test_csv_equals_parquet(params: Path, runs_dir: Path) -> None:
    folder = call(params, runs_dir)
    from_parquet = pq.read_table(folder / "metrics.parquet").to_pandas(integer_object_nulls=True)
    from_csv = pd.read_csv(folder / "metrics.csv")
    assert list(from_csv.columns) == list(from_parquet.columns)
    for name in from_csv.columns:
        left, right = from_csv[name], from_parquet[name]
        if pd.api.types.is_numeric_dtype(left):
            np.testing.assert_array_equal(left.to_numpy(float), right.to_numpy(dtype=float, na_value=np.nan))
        else:
            assert left.fillna("").tolist() == right.fillna("").tolist(), name


def test_summary_has_means_and_standard_errors_by_hand(params: Path, runs_dir: Path) -> None:
    summary = json.loads((call(params, runs_dir) / "summary.json").read_text())
    cp = summary["toy"]["cp"]["r1"]
    assert cp["seeds"] == 3
    assert cp["error"] == 14
    assert cp["error_stderr"] == pytest.approx(4 / 3**0.5, rel=1e-12)
    assert cp["relative_error"] == pytest.approx(0.14)
    assert (cp["bytes"], cp["bytes_equal"], cp["bytes_with_order"], cp["bytes_stderr"]) == (56, 28, 30, 0)
    svd = summary["toy"]["t-svd"]["r2"]
    assert svd["seeds"] == 1
    assert "error_stderr" not in svd
    assert summary["pictures"]["dense"]["default"]["accuracy"] == pytest.approx(0.9)
    assert set(summary["pictures"]["dense"]["default"]) >= {"block_sparsity", "train_parameters", "train_flops"}


def test_summary_ignores_times_and_machines(params: Path, runs_dir: Path) -> None:
    before = (call(params, runs_dir) / "summary.json").read_bytes()
    for path in runs_dir.rglob("metrics.json"):
        edit(path, seconds=99.0, seconds_per_epoch=33.0, peak_rss_bytes=5, device="cuda", versions={"python": "3.12"})
    assert (call(params, runs_dir) / "summary.json").read_bytes() == before
    assert "seconds" not in before.decode()


def test_missing_runs_are_all_listed_in_one_line(params: Path, runs_dir: Path) -> None:
    (runs_dir / "toy/cp/r1-s1/metrics.json").unlink()
    (runs_dir / "pictures/dense/default-s2/metrics.json").unlink()
    with pytest.raises(InputError) as caught:
        call(params, runs_dir)
    message = str(caught.value)
    assert "2 of 7 runs" in message
    assert "toy/cp/r1-s1, pictures/dense/default-s2" in message
    assert "snakemake results/small/metrics.parquet" in message
    assert "\n" not in message


def test_partial_takes_what_is_there(params: Path, runs_dir: Path) -> None:
    (runs_dir / "toy/cp/r1-s1/metrics.json").unlink()
    folder = call(params, runs_dir, "--partial")
    assert pq.read_table(folder / "metrics.parquet").num_rows == 6
    cp = json.loads((folder / "summary.json").read_text())["toy"]["cp"]["r1"]
    assert (cp["seeds"], cp["error"], cp["error_stderr"]) == (2, 14, 4)


def test_partial_with_no_run_at_all_is_refused(params: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of experiment 'small' is there yet"):
        call(params, tmp_path / "nothing", "--partial")


def test_metrics_of_other_settings_are_refused(params: Path, runs_dir: Path) -> None:
    path = runs_dir / "toy/cp/r1-s0/metrics.json"
    edit(path, params_sha256="0" * 64)
    with pytest.raises(InputError, match=r"cp/r1-s0/metrics\.json: params_sha256: 000000000000 .* other settings"):
        call(params, runs_dir)


def test_a_changed_setting_in_params_is_noticed(params: Path, runs_dir: Path) -> None:
    params.write_text(params.read_text().replace("tolerance: 0.0001", "tolerance: 0.001"))
    with pytest.raises(InputError, match=r"cp/r1-s0/metrics\.json: params_sha256"):
        call(params, runs_dir)


def test_settings_completed_by_the_step_have_the_same_digest(params: Path) -> None:
    run = next(run for run in load_config(params).runs("small") if run.method == "t-svd")
    given_to_step = parse_settings(setting_arguments(run.settings)[1::2])
    completed = given_to_step | {"left_to_the_method": None, "share": 1.0}
    assert params_digest("t-svd", 0, completed) == params_digest("t-svd", 0, given_to_step | {"share": 1})
    assert params_digest("t-svd", 0, given_to_step) != params_digest("t-svd", 1, given_to_step)


def test_metrics_of_another_run_are_refused(params: Path, runs_dir: Path) -> None:
    edit(runs_dir / "toy/cp/r1-s2/metrics.json", seed=0)
    with pytest.raises(InputError, match=r"r1-s2/metrics\.json: seed: '0' does not belong here, '2' does"):
        call(params, runs_dir)


def test_runs_on_different_data_are_refused(params: Path, runs_dir: Path) -> None:
    edit(runs_dir / "toy/t-svd/r2-s0/metrics.json", data_sha256="cd" * 32)
    with pytest.raises(InputError, match=r"r2-s0/metrics\.json: data_sha256: cdcdcdcdcdcd differs from abababababab"):
        call(params, runs_dir)


@pytest.mark.parametrize("run", ["toy/cp/r1-s1", "pictures/dense/default-s0"])
def test_a_damaged_exchanged_or_lost_model_is_named(params: Path, runs_dir: Path, run: str) -> None:
    path = runs_dir / run / "model.safetensors"
    whole = path.read_bytes()
    for wrong in (
        whole[:-1],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        (runs_dir / "toy/cp/r1-s2" / path.name).read_bytes(),
    ):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=rf"{run}/model\.safetensors: damaged or exchanged"):
            call(params, runs_dir)
    path.unlink()
    with pytest.raises(InputError, match=rf"{run}/model\.safetensors: no such file"):
        call(params, runs_dir, "--partial")


@pytest.mark.parametrize(
    ("change", "key"),
    [({"error": -1.0}, "error"), ({"bytes": "many"}, "bytes"), ({"accuracy": 0.5}, "accuracy")],
)
def test_bad_metrics_name_file_and_key(params: Path, runs_dir: Path, change: dict[str, Any], key: str) -> None:
    edit(runs_dir / "toy/cp/r1-s0/metrics.json", **change)
    with pytest.raises(InputError, match=rf"cp/r1-s0/metrics\.json: {key}: "):
        call(params, runs_dir)


def test_truncated_metrics_name_the_file(params: Path, runs_dir: Path) -> None:
    path = runs_dir / "toy/cp/r1-s0/metrics.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"cp/r1-s0/metrics\.json: "):
        call(params, runs_dir)


def test_a_refused_aggregation_leaves_old_files_alone(params: Path, runs_dir: Path) -> None:
    folder = call(params, runs_dir)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (runs_dir / "toy/cp/r1-s1/metrics.json").unlink()
    with pytest.raises(InputError):
        call(params, runs_dir)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_unknown_experiment_suggests_the_nearest(params: Path, runs_dir: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'small'"):
        aggregate.main(["--experiment", "smal", "--params", str(params), "--runs-dir", str(runs_dir)])


def test_command_line_exits_with_two_and_one_line(params: Path, tmp_path: Path, root: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.aggregate", str(tmp_path / "out"), "--params", str(params),
         "--runs-dir", str(tmp_path / "nothing")],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_import_is_light(root: Path) -> None:
    code = (
        "import sys, pipeline.aggregate, pipeline.report;"
        "print([name for name in ('torch', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_standard_error_by_hand() -> None:
    runs = pd.DataFrame({"dataset": "d", "method": ["a"] * 3 + ["b"] + ["c"] * 2, "setting": "s"})
    cells = over_seeds(runs.assign(x=[10.0, 14.0, 18.0, 3.0, 1.0, np.nan]), ["x"])
    assert cells["seeds"].tolist() == [3, 1, 2]
    assert cells["x"].tolist() == pytest.approx([14.0, 3.0, np.nan], nan_ok=True)
    assert cells["x_stderr"].tolist() == pytest.approx([4 / 3**0.5, np.nan, np.nan], nan_ok=True)


def test_over_seeds_keeps_the_plan_order() -> None:
    runs = pd.DataFrame(
        {"dataset": "d", "method": ["z", "a", "z"], "setting": "s", "x": [1.0, 5.0, 3.0]},
    )
    cells = over_seeds(runs, ["x"])
    assert cells["method"].tolist() == ["z", "a"]
    assert cells["x"].tolist() == [2.0, 5.0]
    assert cells["x_stderr"].iloc[0] == 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_frontier_against_its_definition(points: list[tuple[int, int]]) -> None:
    marked = frontier([size for size, _ in points], [error for _, error in points])
    for (size, error), on in zip(points, marked, strict=True):
        beaten = any((s < size and e <= error) or (s <= size and e < error) for s, e in points)
        if on:
            assert not beaten
        elif not beaten:  # an equal point stands for it
            assert any(m and p == (size, error) for p, m in zip(points, marked, strict=True))


@settings(deadline=None, max_examples=40)
@given(st.floats(-2, 2), st.floats(0.1, 10))
def test_power_law_recovers_its_exponent(slope: float, scale: float) -> None:
    law = fit_power_law([1, 10, 100], [scale * x**slope for x in (1, 10, 100)])
    assert law is not None
    assert law.slope == pytest.approx(slope, abs=1e-9)
    assert law.scale == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize(
    ("y", "verdict"),
    [
        ([1, 10, 100], "too few sizes to tell"),
        ([1, 2, 4, 8, 16], "less than linear"),
        ([1, 10.3, 98, 1010, 9900], "linear within the interval"),
        ([1, 40, 900, 31000, 1000000], "more than linear"),
        ([1, 90, 20, 500, 40000], "linear within the interval"),  # scattered: its interval holds 1
    ],
)
def test_an_exponent_is_judged_by_its_interval(y: list[float], verdict: str) -> None:
    x = [10.0**power for power in range(len(y))]
    law = fit_power_law(x, y)
    assert law is not None
    assert law.verdict == verdict
    slope, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)  # the same interval by another way
    quantile = {1: 12.706, 3: 3.1824}[len(y) - 2]
    assert law.slope == pytest.approx(slope[0])
    assert law.halfwidth == pytest.approx(quantile * covariance[0, 0] ** 0.5, rel=1e-3)


def test_power_law_needs_two_sizes() -> None:
    assert fit_power_law([5, 5], [1.0, 2.0]) is None
    law = fit_power_law([5, 6], [1.0, 2.0])
    assert law is not None and law.halfwidth == math.inf and "no interval" in str(law)
