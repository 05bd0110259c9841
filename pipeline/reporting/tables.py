"""The tables of the report: numbers for the CSV files, formatted cells for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from pipeline.reporting.figures import scaling_laws
from pipeline.reporting.findings import TARGETS, smallest
from pipeline.reporting.inline import marker
from pipeline.reporting.outputs import ACCOUNTINGS
from pipeline.reporting.reproduction import ALONE, number, scoreboard, spread, verdicts
from pipeline.reporting.results import Results, base_of, is_sample, settings_text
from pipeline.reporting.statistics import frontier
from pipeline.reporting.style import (
    ABOUT,
    MINUS,
    MISSING,
    TIMES,
    duration,
    look,
    point_name,
    setting_name,
    significant,
    with_prefix,
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table on the page."""

    text: str | Markup
    number: bool = False
    best: bool = False
    head: bool = False  # names its row
    value: float | None = None  # the number that `text` rounds, for sorting and for who needs it exactly


@dataclass(frozen=True)
class Table:
    """A table of the page: column heads with units, rows of formatted cells."""

    caption: str
    heads: list[tuple[str, str]]  # name, unit
    rows: list[list[Cell]]
    numbers: list[bool]


def all_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Every table of the report as plain numbers, by file name."""
    return {
        "datasets": datasets(results),
        "compression": results.compression,
        "smallest": smallest(results),
        "networks": results.networks,
        "scaling": scaling(results),
        "reproduction": scoreboard(results),
        "runs": runs(results),
    }


def datasets(results: Results) -> pd.DataFrame:
    """What was compressed or learned from: shape, non-zeros, origin, licence, digest."""
    rows = []
    for name in dict.fromkeys(results.runs["dataset"]):
        run = results.first(name)
        entry = results.config.datasets[base_of(name)]
        tensor = run["kind"] == "compression"
        shape = json.loads(run["shape"]) if tensor else None
        rows.append(
            {
                "dataset": name,
                "description": f"{entry.description}; uniform sample of the non-zeros"
                if is_sample(name)
                else entry.description,
                "shape": " x ".join(map(str, shape)) if shape else None,
                "nnz": int(run["nnz"]) if tensor else None,
                "density": float(run["nnz"]) / math.prod(shape) if shape else None,
                "norm2": float(run["norm2"]) if tensor else None,
                "csf_bytes": _csf_bytes(results, name),
                "licence": entry.licence,
                "citation": entry.citation,
                "file": results.config.tensor_path(name),
                "data_sha256": run["data_sha256"],
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"nnz": "Int64", "csf_bytes": "Int64"})


def _csf_bytes(results: Results, dataset: str) -> int | None:
    """Bytes in compressed sparse fibres, which a run of lossless has counted; None where there is none."""
    for (name, method, _, _), history in results.histories.items():
        if (name, method) == (dataset, "lossless") and "csf_bytes" in history:
            return int(history["csf_bytes"].iloc[-1])
    return None


def runs(results: Results) -> pd.DataFrame:
    """One row a run: what was run, on what, with what, and the command that makes it again."""
    planned = {(run.dataset, run.method, run.setting, run.seed): run for run in results.planned}
    columns = ["dataset", "method", "setting", "seed", "params_sha256", "data_sha256", "device", "machine", "cores"]
    columns += ["threads", "date", "commit", "seconds", "cpu_seconds", "versions"]
    frame = results.runs[columns].copy()
    plans = [planned[key] for key in results.histories]
    frame.insert(4, "settings", [settings_text(run) for run in plans])
    frame["command"] = [f"snakemake --force {run.folder}/metrics.json" for run in plans]
    return frame


def scaling(results: Results) -> pd.DataFrame:
    """Seconds an epoch for each number of non-zeros, with the slope fitted to its data set and setting."""
    laws = scaling_laws(results)
    keys = zip(results.scaling["base"], results.scaling["setting"], strict=True)
    found = [laws.get(key) for key in keys]
    return results.scaling.assign(
        slope=[law.slope if law else math.nan for law in found],
        slope_halfwidth=[law.halfwidth if law else math.nan for law in found],
    )


def versions(results: Results, of: pd.DataFrame | None = None) -> dict[str, str]:
    """Every library that made a result (or one of some runs), with its version; several where runs differ."""
    found: dict[str, set[str]] = {}
    for text in (results.runs if of is None else of)["versions"]:
        for name, version in json.loads(text).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(found[name])) for name in sorted(found, key=lambda n: (n != "kronflow", n))}


def method_cell(method: str) -> Cell:
    """A method's marker and name, as the head of a row."""
    return Cell(Markup("{} {}").format(Markup(marker(method)), look(method).shown), head=True)  # noqa: S704 - our own


def compression_table(results: Results, dataset: str) -> Table:
    """Every method and setting on one data set, sizes in all accountings."""
    cells = results.compression[results.compression["dataset"] == dataset]
    on = {item.column: frontier(cells[item.column].tolist(), cells["relative_error"].tolist()) for item in ACCOUNTINGS}
    rows = []
    for position, cell in enumerate(cells.to_dict("records")):
        rows.append(
            [
                method_cell(cell["method"]),
                Cell(setting_name(str(cell["setting"]))),
                _number(cell, "relative_error", _approximately if cell["relative_halfwidth"] > 0 else significant),
                _plain(significant(cell["error"], 4), cell["error"]),
                _number(cell, "fitness", lambda value: f"{value:.3f}"),
                *(
                    Cell(
                        with_prefix(cell[item.column], "B"),
                        number=True,
                        best=on[item.column][position],
                        value=cell[item.column],
                    )
                    for item in ACCOUNTINGS
                ),
                _plain(with_prefix(cell["file_bytes"], "B"), cell["file_bytes"]),
                # a code keeps bits, not reals
                _plain(with_prefix(cell["parameters"], "") if cell["parameters"] else MISSING, cell["parameters"]),
                _plain(f"{cell['epochs']:,.0f}", cell["epochs"]),
                _plain(duration(cell["seconds"]), cell["seconds"]),
                _plain(
                    MISSING if math.isnan(cell["setup_seconds"]) else duration(cell["setup_seconds"]),
                    cell["setup_seconds"],
                ),
                _plain(with_prefix(cell["peak_rss_bytes"], "B"), cell["peak_rss_bytes"]),
            ]
        )
    heads = [
        *(("method", ""), ("setting", ""), ("relative error", "0 to 1"), ("error", "squared Frobenius")),
        ("fitness", "0 to 1"),
        *(("bytes", item.name) for item in ACCOUNTINGS),
        *(("file", "bytes on disk"), ("numbers", "reals kept"), ("epochs", "or sweeps"), ("fit", "time")),
        *(("set-up", "before that"), ("peak", "memory")),
    ]
    caption = f"{dataset}: every method and setting. {_spread(cells)}; bold: on the frontier"
    return Table(caption, heads, rows, _numbers(rows, len(heads)))


def _spread(cells: pd.DataFrame) -> str:
    """What the numbers of a table are over seeds."""
    most = int(cells["seeds"].max())
    return f"Mean ± standard error over at most {most} seeds" if most > 1 else "Single runs"


def _number(cell: dict[Any, Any], name: str, text: Callable[[float], str]) -> Cell:
    """Mean and, where there are several seeds, its standard error."""
    spread = cell[f"{name}_stderr"]
    shown = text(cell[name])
    if cell["seeds"] > 1 and spread > 0:
        least = 10.0 ** -len(shown.partition(".")[2])  # the mean's last digit
        shown += f" ± {significant(spread, 2)}" if spread >= least / 2 else f" ± <{least:g}"
    return Cell(shown, number=True, value=cell[name])


def _approximately(value: float) -> str:
    return f"{ABOUT} {significant(value)}"


def _plain(text: str, value: float | None = None) -> Cell:
    return Cell(text, number=True, value=None if value is None or math.isnan(value) else value)


def _numbers(rows: Sequence[Sequence[Cell]], width: int) -> list[bool]:
    return [cell.number for cell in rows[0]] if rows else [False] * width


def smallest_table(results: Results) -> Table:
    """The smallest artifact for each wanted error, data set and accounting."""
    found = {
        (row["dataset"], row["accounting"], row["relative_error_at_most"]): row
        for row in smallest(results).to_dict("records")
    }
    rows = []
    for dataset in results.compression_datasets():
        for position, item in enumerate(ACCOUNTINGS):
            cells = [Cell(dataset if position == 0 else "", head=True), Cell(item.name)]
            for target in TARGETS:
                row = found.get((dataset, item.name, target))
                cells.append(_winner(row) if row else Cell(MISSING))
            rows.append(cells)
    heads = [("data set", ""), ("bytes counted", "")]
    heads += [
        (f"error ≤ {target:g}" if target else "no error", "relative" if target else "exact") for target in TARGETS
    ]
    return Table("Smallest artifact that was run with at most this relative error", heads, rows, [False] * len(heads))


def _winner(row: dict[Any, Any]) -> Cell:
    text = Markup('{} <span class="who">{}</span> <span class="size">{}</span>').format(
        Markup(marker(row["method"])),  # noqa: S704 - our own
        point_name(row["method"], row["setting"]),
        with_prefix(row["bytes"], "B"),
    )
    return Cell(text)


def network_table(results: Results, dataset: str) -> Table:
    """Every network on one data set beside the dense one."""
    cells = results.networks[results.networks["dataset"] == dataset]
    rows = [
        [
            method_cell(cell["method"]),
            Cell(setting_name(str(cell["setting"]))),
            _number(cell, "accuracy", lambda value: f"{value:.4f}"),
            _number(cell, "block_sparsity", lambda value: f"{value:.3f}"),
            *(
                _plain(with_prefix(cell[name], ""), cell[name])
                for name in ("train_parameters", "inference_parameters", "train_flops", "inference_flops")
            ),
            _plain(duration(cell["step_seconds"]), cell["step_seconds"]),
            _plain(f"{significant(cell['step_ratio'])}x", cell["step_ratio"]),
            _plain(f"{significant(cell['inference_ratio'])}x", cell["inference_ratio"]),
            _plain(with_prefix(cell["file_bytes"], "B"), cell["file_bytes"]),
            _plain(f"{cell['epochs']:,.0f}", cell["epochs"]),
            _plain(duration(cell["seconds"]), cell["seconds"]),
        ]
        for cell in cells.to_dict("records")
    ]
    heads = [
        *(("method", ""), ("setting", ""), ("test accuracy", "share right"), ("block sparsity", "share zero")),
        *(("parameters, training", "reals"), ("parameters, inference", "reals")),
        *(("FLOPs, training step", "a batch"), ("FLOPs, inference", "a batch"), ("training step", "time")),
        *(("step, beside dense", "ratio"), ("inference, beside dense", "ratio"), ("file", "bytes")),
        *(("epochs", ""), ("training", "time")),
    ]
    caption = f"{dataset}: every network. {_spread(cells)}"
    return Table(caption, heads, rows, _numbers(rows, len(heads)))


def dataset_table(results: Results) -> Table:
    """What every number was computed from."""
    rows = []
    for row in datasets(results).to_dict("records"):
        tensor = row["shape"] is not None and not pd.isna(row["nnz"])
        rows.append(
            [
                Cell(row["dataset"], head=True),
                Cell(row["description"]),
                Cell(row["shape"].replace("x", TIMES) if tensor else MISSING),
                _plain(f"{row['nnz']:,}" if tensor else MISSING),
                Cell(_density(row["density"]) if tensor else MISSING, number=True),
                _plain(MISSING if pd.isna(row["csf_bytes"]) else with_prefix(row["csf_bytes"], "B")),
                Cell(row["licence"]),
                Cell(row["citation"]),
                Cell(Markup("<code>{}</code>").format(row["data_sha256"][:12])),
            ]
        )
    heads = [
        *(("data set", ""), ("content", ""), ("shape", "cells a mode"), ("non-zeros", "count"), ("density", "%")),
        ("uncompressed", "bytes in CSF"),
        *(("licence", ""), ("source", ""), ("SHA-256", "first 12 digits")),
    ]
    return Table("Data sets", heads, rows, _numbers(rows, len(heads)))


def _density(share: float) -> str | Markup:
    """A share in percent; one too small to be read with its zeros as a power of ten."""
    percent = 100 * share
    if percent >= 1e-3:
        return significant(percent, 2)
    mantissa, _, exponent = f"{percent:.1e}".partition("e")
    return Markup("{} {} 10<sup>{}</sup>").format(mantissa, TIMES, f"{int(exponent):d}".replace("-", MINUS))


UNMET = ("differs", "undecided", "not comparable")


def unmet_table(board: pd.DataFrame) -> Table:
    """What of the scoreboard did not reproduce, or cannot be told, and why."""
    compared = int(board["verdict"].isin([*UNMET, "reproduced", "better"]).sum())
    board = board[board["verdict"].isin(UNMET)]
    none = f"All {compared} numbers with a published one beside them are reproduced or better"
    if not compared:
        none = "No run of this experiment has a published number beside it: nothing is compared"
    return _scores(board, f"{len(board)} numbers of the publications: {verdicts(board)}" if len(board) else none)


def reproduction_table(board: pd.DataFrame) -> Table:
    """Published numbers beside ours, with a verdict and why; targets without a run have a row that says so."""
    return _scores(board, f"Published and ours: {verdicts(board)}")


def _scores(board: pd.DataFrame, caption: str) -> Table:
    rows = []
    for row in board.to_dict("records"):
        quantity = str(row["quantity"])
        theirs, ours = (number(row[name], quantity) for name in ("published", "ours"))
        rows.append(
            [
                Cell(row["target"], head=True),
                Cell(row["case"]),
                Cell(quantity),
                _plain((theirs + spread(row["published_stderr"], quantity)) or MISSING, row["published"]),
                _plain((ours + spread(row["halfwidth"], quantity)) or MISSING, row["ours"]),
                _plain(str(row["seeds"]) if row["seeds"] else MISSING),
                Cell(_shown(str(row["verdict"]))),
                Cell(row["why"]),
            ]
        )  # fmt: skip
    heads = [("target", "figure or table"), ("case", ""), ("quantity", ""), ("published", "± standard error")]
    heads += [("ours", "± 95 % interval"), ("seeds", ""), ("verdict", ""), ("why", "")]
    return Table(caption, heads, rows, _numbers(rows, len(heads)))


# What the page's style knows a verdict by, if anything: its colour; a row of ours alone is left out of print.
SHOWN_AS = {"reproduced": "verdict win", "better": "verdict win", "differs": "verdict loss", ALONE: "alone"}


def _shown(verdict: str) -> str:
    return Markup('<span class="{}">{}</span>').format(SHOWN_AS[verdict], verdict) if verdict in SHOWN_AS else verdict


def run_table(results: Results, most: int) -> Table:
    """One row a run, of at most so many, with the command that makes its numbers again."""
    rows = [
        [
            Cell(row["dataset"], head=True),
            Cell(look(row["method"]).shown),
            Cell(setting_name(row["setting"])),
            _plain(str(row["seed"])),
            Cell(row["settings"] or MISSING),
            Cell(row["device"]),
            _plain(duration(row["seconds"]), row["seconds"]),
            Cell(row["date"][:16].replace("T", " ")),
            Cell(Markup("<code>{}</code>").format(row["params_sha256"][:12])),
            Cell(Markup("<code>{}</code>").format(row["command"])),
        ]
        for row in runs(results).head(most).to_dict("records")
    ]
    heads = [("data set", ""), ("method", ""), ("setting", ""), ("seed", ""), ("settings", ""), ("device", "")]
    heads += [("fit", "time"), ("date", "UTC")]
    heads += [("parameters' SHA-256", "first 12 digits"), ("command", "makes this run again")]
    return Table("Every run", heads, rows, _numbers(rows, len(heads)))
