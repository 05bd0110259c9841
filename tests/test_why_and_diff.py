"""What changed, by name: parameters of Snakemake's records by key, and metrics of two revisions."""

from __future__ import annotations

from pipeline.workflow.diff import compare, markdown
from pipeline.workflow.why import Change, parameters, table

ROW = {"kind": "compression", "error": 4.0, "relative_error": 0.5, "bytes": 10, "bytes_equal": 20}
ROW |= {"bytes_with_order": 30, "file_bytes": 100, "seconds": 1.0}
ROW |= {"params_sha256": "p", "data_sha256": "d", "model_sha256": "m"}


def test_parameters_are_told_by_key_with_old_and_new_value() -> None:
    old = {"'--dataset x --setting a --seed 0 --set hidden=5 --set cell=lstm'", "{'nnz': 3, 'options': {'order': 3}}"}
    new = {"'--dataset x --setting a --seed 0 --set hidden=8 --set gamma=2'", "{'nnz': 3, 'options': {'order': 4}}"}
    assert list(parameters(old, new)) == [
        ("cell", "lstm", "-"),
        ("gamma", "-", "2"),
        ("hidden", "5", "8"),
        ("options.order", "3", "4"),
    ]


def test_a_job_is_named_once() -> None:
    rows = [Change("a.json", "code", "x.py", "1", "2"), Change("a.json", "parameter", "p|q", "1", "2")]
    assert table(rows).splitlines()[2:] == [
        "| `a.json` | code | x.py | 1 | 2 |",
        "|  | parameter | p\\|q | 1 | 2 |",
    ]


def test_runs_that_differ_came_or_went() -> None:
    before = {"same": ROW, "worse": ROW, "gone": ROW, "slower": ROW}
    after = {
        "same": dict(ROW),
        "worse": ROW | {"error": 5.0, "bytes": 9, "model_sha256": "n", "params_sha256": "q"},
        "new": ROW,
        "slower": ROW | {"seconds": 9.0},
    }
    entries = compare(before, after)
    assert [(each["run"], each["state"], each["because"]) for each in entries] == [
        ("gone", "gone", []),
        ("new", "new", []),
        ("worse", "changed", ["settings", "model"]),
    ]
    assert entries[2]["metrics"]["error"] == [4.0, 5.0]
    assert entries[0]["metrics"]["bytes"] == [10, None]
    shown = markdown(entries, "v1", "here", 5)
    assert shown.startswith("3 of 5 runs differ between v1 and here")
    assert "|  | error | 4 | 5 | +25.00% |" in shown and "|  | bytes | 10 | 9 | -10.00% |" in shown
    assert "relative_error | 0.5 | 0.5" not in shown and "slower" not in shown
    assert markdown([], "v1", "here", 5).startswith("No run differs between v1 and here")
