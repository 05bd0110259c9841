"""What an artifact keeps: errors by the size of a value and singular values, against dense arithmetic."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline import evaluate as step
from pipeline import query_times
from pipeline.baselines import METHODS
from pipeline.baselines.lossless import csf_bytes
from pipeline.core.files import sha256_file
from pipeline.errors import InputError
from pipeline.reporting import evaluation
from pipeline.reporting.evaluation import error_by_value, evaluate, kept_singular_values, leading_singular_values
from pipeline.runs.compressor import Compressor
from pipeline.sparse import SparseTensor

VALUES = [1.0, 1.5, 2.0, -3.0, 0.25, 7.0]
MATRIX = SparseTensor([[0, 0], [0, 3], [1, 1], [2, 0], [2, 2], [4, 3]], VALUES, (5, 4))
SETTINGS = {"t-svd": {"rank": 2}, "truncation": {"keep": 0.5}, "cur": {"rows": 3, "columns": 3}, "lossless": {}}


def fitted(method: str, X: SparseTensor = MATRIX) -> Compressor:
    return METHODS[method](**SETTINGS[method]).fit(X)


def answers(model: Compressor) -> np.ndarray:
    cells = np.stack(np.meshgrid(*map(np.arange, model.shape_), indexing="ij"), axis=-1).reshape(-1, len(model.shape_))
    return model.predict(cells).reshape(model.shape_)


@pytest.mark.parametrize("method", SETTINGS)
def test_bins_hold_every_cell_and_the_whole_error_once(method: str) -> None:
    model, dense = fitted(method), MATRIX.to_dense()
    squares = (answers(model) - dense) ** 2
    bins = error_by_value(model, MATRIX)
    assert sum(one.cells for one in bins) == dense.size
    assert math.fsum(one.error for one in bins) == pytest.approx(squares.sum(), abs=1e-9)
    sizes = np.abs(dense)
    for one in bins:
        inside = (sizes >= one.low) & (sizes < one.high) if one.high else sizes == 0
        assert one.cells == inside.sum()
        assert one.error == pytest.approx(squares[inside].sum(), abs=1e-9)
        assert one.norm2 == pytest.approx((dense[inside] ** 2).sum())
    assert [one.low for one in bins] == [0, 0.25, 1, 2, 4]


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("upright", [True, False])
def test_singular_values_are_those_of_the_dense_answers(method: str, upright: bool) -> None:
    X = MATRIX if upright else MATRIX.permute_modes([1, 0])
    model = fitted(method, X)
    expected = np.linalg.svd(answers(model), compute_uv=False)
    for count in (2, 10):
        assert kept_singular_values(model, count) == pytest.approx(expected[:count], abs=1e-6)
        own = np.linalg.svd(X.to_dense(), compute_uv=False)
        assert leading_singular_values(X, count) == pytest.approx(own[:count], abs=1e-6)


def test_truncated_svd_keeps_those_of_its_rank() -> None:
    kept, own = kept_singular_values(fitted("t-svd")), leading_singular_values(MATRIX)
    assert kept[:2] == pytest.approx(own[:2], rel=1e-5)
    assert kept[2:] == pytest.approx([0.0] * 2, abs=1e-3)


def test_a_tensor_has_no_singular_values() -> None:
    X = SparseTensor([[0, 0, 0], [1, 1, 1]], [1.0, 2.0], (2, 2, 2))
    with pytest.raises(InputError, match="those of a matrix"):
        kept_singular_values(fitted("lossless", X))


def test_a_matrix_of_too_many_cells_keeps_the_rest_of_its_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MOST_CELLS", 10)
    content = evaluate(fitted("t-svd"), MATRIX)
    assert "singular_values" not in content and "20 cells: more than 10" in content["without_singular_values"]
    assert sum(one["cells"] for one in content["values"]) == 20
    assert len(evaluate(fitted("truncation"), MATRIX)["singular_values"]["model"]) == 4  # it holds its cells


def test_the_step_writes_what_it_measured_and_of_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = tmp_path / "x.parquet", tmp_path / "m.safetensors", tmp_path / "e.json"
    MATRIX.write_parquet(data)
    fitted("t-svd").save(model)
    step.main([str(data), str(model), str(out)])
    content = json.loads(out.read_text())
    assert content["model_sha256"] == sha256_file(model)
    assert content["data_sha256"] == sha256_file(data)
    assert sum(one["cells"] for one in content["values"]) == 20
    assert len(content["singular_values"]["model"]) == 4
    assert "formats" not in content  # it is not exact
    assert "4 to below 8" in capsys.readouterr().out


def test_an_exact_artifact_is_set_beside_usual_formats() -> None:
    formats = evaluate(fitted("lossless"), MATRIX)["formats"]
    assert formats["CSF"] == csf_bytes(MATRIX)
    assert {"gzip", "xz", "Parquet"} <= set(formats)
    assert all(size > 0 for size in formats.values())


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    data, model = tmp_path / "x.parquet", tmp_path / "m.safetensors"
    MATRIX.write_parquet(data)
    fitted("truncation").save(model, orders=False)
    with pytest.raises(InputError, match="holds no orders"):
        step.main([str(data), str(model), str(tmp_path / "e.json")])
    fitted("lossless", MATRIX.permute_modes([1, 0])).save(model)
    with pytest.raises(InputError, match=r"shape \(5, 4\) for a lossless model of shape \(4, 5\)"):
        step.main([str(data), str(model), str(tmp_path / "e.json")])
    with pytest.raises(InputError, match="is read"):
        step.main([str(data), str(model), str(data)])
    assert not (tmp_path / "e.json").exists()


def test_answers_are_timed_for_ten_sides(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    query_times.main([str(path), "--cells", "50", "--repeats", "2", "--hidden", "5"])
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["side"]) for row in rows[::2]] == [2**bits for bits in range(7, 17)]
    assert {row["repeat"] for row in rows} == {"0", "1"}
    assert all(float(row["seconds"]) > 0 for row in rows)
