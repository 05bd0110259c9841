"""The page's one block of data: what its script draws, chooses from and lists. Plain values, rounded where drawn.

A figure's entry has an axis ``x`` and ``y`` each (label, number format, scale; ``error`` names the data set whose
squared norm turns a relative error into an absolute one) and some of: ``points``, ``lines``, ``rows`` (one a
category), ``reference`` (where rows start), ``references`` (values marked across it), ``levels`` (sizes marked across
it, with names), ``dots``, ``frontier`` (label these alone), ``labels`` (of more curves than so many only the best of
each method). A row has a ``q`` (its group) and an ``x``, and what it is beside dense or ``dots`` and what is published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.config import setting_arguments
from pipeline.core.settings import defaults
from pipeline.methods import METHODS
from pipeline.reporting.drawing import Drawing, marker_path
from pipeline.reporting.outputs import ACCOUNTINGS
from pipeline.reporting.results import Record, Results
from pipeline.reporting.statistics import PowerLaw
from pipeline.reporting.style import MOST_LABELS, colour_variables, dash, look, setting_name

Spec = dict[str, Any]


def _axis(label: str, form: str, scale: str, error_of: str | None = None) -> Spec:
    axis = {"label": label, "format": form, "scale": scale}
    return axis | ({"error": error_of} if error_of else {})


def _value(number: float) -> float | int | None:
    """A number as JSON has it: whole where it is, None where there is none."""
    if not math.isfinite(number):
        return None
    return int(number) if float(number).is_integer() else float(number)


def _short(number: float) -> float | int | None:
    """A number of a long curve, to the five digits that a drawing can show."""
    return _value(float(f"{number:.5g}"))


def _named(row: Record) -> Spec:
    return {"m": row["method"], "s": row["setting"]} | ({"n": int(row["seeds"])} if "seeds" in row else {})


def sizes(dataset: str, cells: pd.DataFrame, theirs: pd.DataFrame, formats: Mapping[str, int]) -> Spec:
    """Size against error: a point a setting, its bytes in each accounting; published points in the published one.

    `formats` are marked across the figure: bytes of the whole tensor, by name.
    """
    points = [
        _named(row)
        | {
            "b": [_value(row[item.column]) for item in ACCOUNTINGS],
            "bs": [_value(row[f"{item.column}_stderr"]) for item in ACCOUNTINGS],
            "y": _value(row["relative_error"]),
            "ye": _value(row["relative_error_stderr"]),
        }
        for row in cells.to_dict("records")
    ]
    return {
        "x": _axis("bytes", "bytes", "log"),
        "y": _axis("relative error", "number", "linear", dataset),
        "points": points,
        "frontier": True,
        "published": [
            {"m": row["method"], "x": _value(row["bytes"]), "y": _value(row["relative_error"])}
            for row in theirs.to_dict("records")
        ],
        "levels": [{"text": name, "x": size} for name, size in formats.items()],
    }


def curves(
    data: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, error_of: str | None = None, log: bool = False,
    theirs: pd.DataFrame | None = None,
) -> Spec:  # fmt: skip
    """A curve a run; `x` is logarithmic where asked for and where it is time. `theirs` is a published curve."""
    lines = [
        {
            "m": method,
            "s": setting,
            "seed": int(str(seed)),
            "x": [_short(value) for value in run[x].tolist()],
            "y": [_short(value) for value in run[y].tolist()],
        }
        for (method, setting, seed), run in data.groupby(["method", "setting", "seed"], sort=False)
    ]
    if theirs is not None and len(theirs):
        own = {"m": "neukron", "s": "published", "theirs": True}
        lines.append(
            own | {name: [_short(value) for value in theirs[of].tolist()] for name, of in (("x", x), ("y", y))}
        )
    return {
        "x": _axis(xlabel, _form(x, "count"), "log" if log or x == "seconds" else "linear"),
        "y": _axis(ylabel, _form(y, "number" if error_of else "percent"), "linear", error_of),
        "lines": lines,
        "labels": MOST_LABELS,
    }


def _form(column: str, usual: str) -> str:
    """How an axis writes its numbers."""
    return "seconds" if column == "seconds" else usual


def accuracies(data: pd.DataFrame) -> Spec:
    """Accuracy against block sparsity: a point a setting, the dense network's accuracy as reference."""
    dense = data[data["method"] == "dense"]
    points = [
        _named(row)
        | {
            "x": _value(row["block_sparsity"]),
            "xe": _value(row["block_sparsity_stderr"]),
            "y": _value(row["accuracy"]),
            "ye": _value(row["accuracy_stderr"]),
        }
        for row in data.to_dict("records")
    ]
    spec = {
        "x": _axis("blocks that are exactly zero", "percent", "linear"),
        "y": _axis("test accuracy", "percent", "linear"),
        "points": points,
    }
    return spec | {"references": [float(value) for value in dense["accuracy"]]}


def ratios(data: pd.DataFrame) -> Spec:
    """Multiples of dense: a row a quantity and setting."""
    rows = [
        _named(row) | {"q": row["quantity"], "x": _value(row["ratio"]), "own": _value(row["value"]),
                       "dense": _value(row["dense"])}
        for row in data.to_dict("records")
    ]  # fmt: skip
    return {"x": _axis("multiple of dense", "ratio", "log"), "rows": rows, "reference": {"x": 1}}


def step_times(data: pd.DataFrame) -> Spec:
    """Time of a training step over dense against the size of the dense network: a point a setting."""
    points = [
        _named(row)
        | {"s": " ".join(dict.fromkeys((row["dataset"], row["network"], row["setting"]))),
           "x": _value(row["dense_train_flops"]), "y": _value(row["step_ratio"]),
           "ye": _value(row["step_ratio_stderr"])}
        for row in data.to_dict("records")
    ]  # fmt: skip
    return {
        "x": _axis("FLOPs of a training step of the dense network", "count", "log"),
        "y": _axis("time of a step over dense", "ratio", "linear"),
        "points": points,
        "references": [1],
    }


def powers(data: pd.DataFrame, laws: Mapping[tuple[str, str], PowerLaw], x: tuple[str, str]) -> Spec:
    """Time of an epoch against `x` (column, label): a point a size, and the fitted lines."""
    several = data["base"].nunique() > 1
    names = {key: " ".join(key[not several :]) for key in zip(data["base"], data["setting"], strict=True)}
    points = [
        {"m": "neukron", "s": f"{row['base']} {row['setting']}", "n": int(row["seeds"]), "x": _value(row[x[0]]),
         "y": _value(row["seconds_per_epoch"]), "ye": _value(row["seconds_per_epoch_stderr"])}
        for row in data.to_dict("records")
    ]  # fmt: skip
    lines = []
    for (base, setting), law in laws.items():
        own = data[(data["base"] == base) & (data["setting"] == setting)][x[0]]
        ends = [float(own.min()), float(own.max())]
        lines.append(
            {"m": "neukron", "s": f"{base} {setting}", "label": f"{names[base, setting]}: slope {law}", "x": ends,
             "y": [_short(law.scale * end**law.slope) for end in ends], "fit": True}
        )  # fmt: skip
    return {
        "x": _axis(x[1], "count", "log"),
        "y": _axis("time of an epoch", "seconds", "log"),
        "points": points,
        "lines": lines,
    }


def dot_rows(data: pd.DataFrame, form: str, scale: str, label: str, reference: float | None) -> Spec:
    """A row a case: the mean, a dot a seed, the published number; columns as :func:`.rows.dot_rows` has them."""
    rows = [
        {"m": row["method"], "q": row["group"], "label": row["label"], "x": _value(row["ours"]),
         "dots": [_short(value) for value in row["values"]]}
        | ({"half": _short(row["halfwidth"])} if math.isfinite(row["halfwidth"]) else {})
        | ({"theirs": _value(row["published"])} if math.isfinite(row["published"]) else {})
        for row in data.to_dict("records")
    ]  # fmt: skip
    spec = {"x": _axis(label, form, scale), "rows": rows}
    return spec | ({"reference": {"x": reference}} if reference is not None else {})


def block(results: Results, drawings: Mapping[str, Drawing], methods: list[str]) -> str:
    """The data of the page as JSON text that a ``script`` element may hold."""
    shown = [*methods, *dict.fromkeys(name for name in _published(drawings) if name not in methods)]
    settings = dict.fromkeys(results.runs["setting"])
    content = {
        "experiment": results.experiment,
        "accountings": [item.name for item in ACCOUNTINGS],
        "methods": {
            name: {
                "shown": look(name).shown,
                "path": marker_path(name),
                "colour": colour_variables().get(look(name).light, "muted"),
                "dash": " ".join(f"{length:g}" for length in dash(name)),
            }
            for name in shown
        },
        "said": {setting: name for setting in settings if (name := setting_name(setting)) != setting},
        "norm2": {name: float(results.first(name)["norm2"]) for name in results.compression_datasets()},
        "cells": [_cell(results, row) for row in results.compression.to_dict("records")],
        "figures": {name: drawing.spec for name, drawing in drawings.items() if drawing.spec},
        "runs": _runs(results),
    }
    # No text of the data may end the element that holds it.
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _published(drawings: Mapping[str, Drawing]) -> list[str]:
    """Methods that have published points in a drawing."""
    specs = (drawing.spec for drawing in drawings.values() if drawing.spec)
    return [point["m"] for spec in specs for point in spec.get("published", ())]


def _cell(results: Results, row: Record) -> Spec:
    """What the chooser knows of a compressor's setting."""
    return {
        "d": row["dataset"],
        "m": row["method"],
        "s": row["setting"],
        "b": [_value(row[item.column]) for item in ACCOUNTINGS],
        "e": _value(row["relative_error"]),
        "t": _value(row["seconds"]),
        "c": command(results, row["dataset"], row["method"], row["setting"]),
    }


def command(results: Results, dataset: str, method: str, setting: str) -> str:
    """What fits this setting to the data set's tensor and keeps the artifact."""
    run = next(run for run in results.planned if (run.dataset, run.method, run.setting) == (dataset, method, setting))
    own = defaults(METHODS[method].settings_class())
    changed = setting_arguments({key: value for key, value in run.settings.items() if value != own.get(key)})
    words = ["kronflow", "compress", results.config.tensor_path(dataset), f"{dataset}.{method}.safetensors"]
    return " ".join([*words, "--method", method, *changed])


def _runs(results: Results) -> Spec:
    """Every run as columns; names of files and commands follow from its names."""
    runs = results.runs
    columns = ["dataset", "method", "setting", "seed", "seconds", "date", "machine", "threads", "device"]
    kinds = {"result": [_result(row) for row in runs.to_dict("records")]}
    return {name: runs[name].tolist() for name in columns} | kinds


def _result(row: Record) -> float:
    """A run's relative error, or its accuracy."""
    return float(row["relative_error"] if row["kind"] == "compression" else row["accuracy"])
