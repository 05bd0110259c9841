"""The figures of the page. Each draws from one table, and that table is the figure's CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.reporting import interactive
from pipeline.reporting.axes import bytes_axis, group_name, log_axis, short_time
from pipeline.reporting.drawing import HEIGHT, Drawing, Pen, draw
from pipeline.reporting.literature import published_curve, published_sizes
from pipeline.reporting.outputs import ACCOUNTINGS, Accounting
from pipeline.reporting.results import Record, Results
from pipeline.reporting.rows import dot_rows
from pipeline.reporting.statistics import FEWEST_SIZES, PowerLaw, fit_power_law, frontier
from pipeline.reporting.style import (
    GRID,
    INK,
    MOST_LABELS,
    MUTED,
    TEXT,
    dash,
    duration,
    look,
    point_name,
    significant,
    times,
    with_prefix,
)

CURVE_POINTS = 400  # a curve with more epochs is thinned to about so many
CURVE_DRAWN = 100  # and drawn with about so many points,
MOST_DRAWN, FEWEST_DRAWN = 1_000, 15  # of all curves of a figure together, and of each at least
WIDE = 390.0  # points; for figures that stand two in a row
ROUNDED_SHARE = 1e-12  # of an error, at most: a difference of two sums
SAME_COST = 0.01  # relative; a smaller difference is nothing to speak of
COSTS = [
    ("train_parameters", "parameters in training"),
    ("inference_parameters", "parameters at inference"),
    ("train_flops", "FLOPs of a training step"),
    ("inference_flops", "FLOPs of an inference batch"),
    ("step_seconds", "time of a training step (measured)"),
    ("inference_seconds", "time of an inference batch (measured)"),
    ("file_bytes", "bytes of the file"),
]


def all_figures(results: Results) -> Iterator[Drawing]:
    """Every figure of the experiment, in the order of the page."""
    for dataset in results.compression_datasets():
        for accounting in ACCOUNTINGS:
            yield size_error(results, dataset, accounting)
        yield error_epochs(results, dataset)
        yield error_seconds(results, dataset)
        kept = evaluated(results, dataset)
        if kept:
            yield error_values(dataset, kept)
            spectra = {key: content for key, content in kept.items() if "singular_values" in content}
            if spectra:
                left_out = [point_name(*key) for key, content in kept.items() if "without_singular_values" in content]
                yield singular_values(dataset, spectra, left_out)
    for dataset in results.network_datasets():
        yield accuracy_sparsity(results, dataset)
        yield cost(results, dataset)
        yield accuracy_epochs(results, dataset)
    if len(set(zip(results.networks["dataset"], results.networks["network"], strict=True))) > 1:
        yield network_size(results)
    if len(results.scaling):
        yield scaling(results)
    if results.query_times is not None:
        yield query_times(results.query_times)


def evaluated(results: Results, dataset: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Evaluations of the artifacts of a data set, by method and setting."""
    return {
        (method, setting): content
        for (name, method, setting, _), content in results.evaluations.items()
        if name == dataset
    }


def size_error(results: Results, dataset: str, accounting: Accounting) -> Drawing:
    """Relative error against bytes, every method, in one accounting."""
    cells = results.compression[results.compression["dataset"] == dataset]
    column = accounting.column
    data = pd.DataFrame(
        {
            "method": cells["method"],
            "setting": cells["setting"],
            "seeds": cells["seeds"],
            "bytes": cells[column],
            "bytes_stderr": cells[f"{column}_stderr"],
            "relative_error": cells["relative_error"],
            "relative_error_stderr": cells["relative_error_stderr"],
            "on_frontier": frontier(cells[column].tolist(), cells["relative_error"].tolist()),
        }
    ).reset_index(drop=True)
    sizes = [cells[item.column] for item in ACCOUNTINGS]
    limits = (max(1.0, min(size.min() for size in sizes)) / 1.6, max(size.max() for size in sizes) * 1.6)
    formats = formats_of(results, dataset)
    theirs = published_sizes(dataset, float(results.first(dataset)["norm2"]))
    shown = theirs if accounting.slug == "published" else theirs.iloc[:0]
    if len(shown):
        limits = (min(limits[0], shown["bytes"].min() / 1.6), max(limits[1], shown["bytes"].max() * 1.6))
    if formats:
        limits = (limits[0], max(limits[1], 1.6 * max(formats.values())))

    def paint(pen: Pen) -> None:
        axes = pen.axes
        bytes_axis(axes, limits, f"bytes, {_counted(accounting)}")
        top = max(1.0, float((data["relative_error"] + data["relative_error_stderr"].fillna(0)).max()))
        axes.set_ylim(-0.03 * top, top * 1.06)
        axes.set_ylabel("relative error")
        for place, (name, size) in enumerate(sorted(formats.items(), key=lambda item: item[1])):
            axes.axvline(size, color=GRID, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
            pen.label(size, top * (1.02 - 0.06 * (place % 3)), name, (2.0, 0.0))
        for row in shown.to_dict("records"):
            style = look(row["method"])
            axes.plot(
                [row["bytes"]], [row["relative_error"]], linestyle="", marker=style.marker, markersize=5.5,
                markerfacecolor="none", markeredgecolor=style.light, markeredgewidth=0.9, zorder=3,
            )  # fmt: skip
        best = data[data["on_frontier"]].sort_values("bytes")
        axes.step(
            [*best["bytes"], limits[1]], [*best["relative_error"], best["relative_error"].iloc[-1]],
            where="post", color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.6)), zorder=2,
        )  # fmt: skip
        for method, points in data.groupby("method", sort=False):
            _series(pen, str(method), points.sort_values("bytes"))
        for row in best.to_dict("records"):
            label = point_name(row["method"], row["setting"])
            pen.place(row["bytes"], row["relative_error"], label)
        ours = data[~data["method"].isin(best["method"])]
        others = shown[~shown["method"].isin(data["method"])]
        for points, more in ((ours, ""), (others, ", published")):
            for row in points.sort_values("relative_error").drop_duplicates("method").to_dict("records"):
                pen.place(row["bytes"], row["relative_error"], look(row["method"]).shown + more)

    return draw(
        f"size-error-{accounting.slug}-{dataset}",
        f"{dataset}: bytes {_counted(accounting)}",
        paint,
        alt=f"Relative error against bytes for {dataset}, bytes {_counted(accounting)}. " + _best_points(data),
        caption=f"{accounting.meaning[:1].upper()}{accounting.meaning[1:]}. {spread_note(data, 'relative_error')} "
        "Labels: the frontier, and the name of a method that is not on it."
        + (" Lines: a method's own best." if cells["method"].duplicated().any() else "")
        + (" Hollow markers: published, NeuKron's over the padded grid." if len(shown) else "")
        + (" Published points stand in the figure with bytes counted as published." if len(theirs) > len(shown) else "")
        + (" Dashed lines: the whole tensor, in its own indices, in usual formats." if formats else ""),
        data=data,
        legend=data["method"].unique(),
        spec=interactive.sizes(dataset, cells, theirs, formats) if accounting is ACCOUNTINGS[0] else None,
    )


def formats_of(results: Results, dataset: str) -> dict[str, int]:
    """Bytes of a data set in usual formats and general compressors, where an exact artifact of it was evaluated."""
    found = (content["formats"] for content in evaluated(results, dataset).values() if "formats" in content)
    return next(found, {})


def spread_note(data: pd.DataFrame, *names: str) -> str:
    """What a figure's bars are, or that there can be none, as a sentence."""
    if (data["seeds"] == 1).all():
        return "Every point is a single run: its spread is not known."
    if not any((data[f"{name}_stderr"] > 0).any() for name in names):
        note = "Bars are left out: the seeds agree."
        return note + (" The other points are single runs." if (data["seeds"] == 1).any() else "")
    single = "a single run has none, " if (data["seeds"] == 1).any() else ""
    return f"Bars: standard error over seeds; {single}a marker hides one that is smaller."


def _series(pen: Pen, method: str, points: pd.DataFrame) -> None:
    """One method's points with error bars over seeds; a thin line joins those that no other of them beats."""
    style = look(method)
    best = points[frontier(points["bytes"].tolist(), points["relative_error"].tolist())]
    pen.axes.plot(
        best["bytes"], best["relative_error"], color=style.light, linestyle=_line(method), linewidth=0.9,
        alpha=0.55, zorder=3,
    )  # fmt: skip
    pen.axes.errorbar(
        points["bytes"], points["relative_error"], xerr=points["bytes_stderr"].fillna(0),
        yerr=points["relative_error_stderr"].fillna(0), fmt="none", color=style.light, elinewidth=1.0, capsize=2.0,
        zorder=4,
    )  # fmt: skip
    for row in points.to_dict("records"):
        spread = f" ± {significant(row['relative_error_stderr'])}" if row["seeds"] > 1 else " (one run)"
        pen.point(
            row["bytes"],
            row["relative_error"],
            method,
            f"{point_name(method, row['setting'])}: {with_prefix(row['bytes'], 'B')}, "
            f"relative error {significant(row['relative_error'])}{spread}",
        )


def _best_points(data: pd.DataFrame) -> str:
    best = data[data["on_frontier"]].sort_values("bytes")
    parts = [
        f"{point_name(row['method'], row['setting'])} "
        f"({with_prefix(row['bytes'], 'B')}, {significant(row['relative_error'])})"
        for row in best.to_dict("records")
    ]
    return "Best for their size: " + ", ".join(parts) + "."


def error_epochs(results: Results, dataset: str) -> Drawing:
    """Relative error against the epoch, one curve a run of every iterative method."""
    data = _error_curves(results, dataset)
    lengths = data.groupby(["method", "setting", "seed"])["epoch"].transform("size")
    data = data[lengths > 1].reset_index(drop=True)
    theirs = published_curve(dataset, float(results.first(dataset)["norm2"]))
    if "neukron" not in set(data["method"]):
        theirs = theirs.iloc[:0]
    return _curves(
        f"error-epochs-{dataset}",
        f"{dataset}: error in training, by epoch",
        data,
        "epoch",
        _rounds(set(data["method"])),
        "One curve a run; line styles tell methods apart. Methods that fit in one pass have no curve."
        + (f" Dotted: published, {theirs['epoch'].iloc[-1]:,} epochs of its own kind." if len(theirs) else ""),
        dataset,
        theirs,
    )


def _rounds(methods: set[str]) -> str:
    """What a curve's methods count: NeuKron epochs, all others sweeps."""
    if methods <= {"neukron"}:
        return "epoch"
    return "epoch (NeuKron) or sweep (others)" if "neukron" in methods else "sweep"


def error_seconds(results: Results, dataset: str) -> Drawing:
    """Relative error against time, one curve a run, one-pass methods as points."""
    data = _error_curves(results, dataset)
    return _curves(
        f"error-seconds-{dataset}",
        f"{dataset}: error in training, by time",
        data[data["seconds"] > 0].reset_index(drop=True),
        "seconds",
        "time since the start of the fit",
        "The same runs against wall time, from the start of the fit: first orders are in it, imports and compiling are "
        "not; a marker where a method fits in one pass.",
        dataset,
    )


def _error_curves(results: Results, dataset: str) -> pd.DataFrame:
    norm2 = float(results.first(dataset)["norm2"])
    frames = []
    for method, setting, seed, history in results.histories_of(dataset, "compression"):
        thin = _thinned(history)
        frames.append(
            pd.DataFrame(
                {
                    "method": method,
                    "setting": setting,
                    "seed": seed,
                    "epoch": thin["epoch"].astype("int64"),
                    "seconds": thin["seconds"].astype(float),
                    "relative_error": thin["error"].astype(float) / norm2,
                }
            )
        )
    return pd.concat(frames, ignore_index=True).dropna().reset_index(drop=True)


def _thinned(history: pd.DataFrame, points: int = CURVE_POINTS) -> pd.DataFrame:
    """Every k-th epoch and the last, so that a long run stays drawable."""
    step = math.ceil(len(history) / points)
    keep = sorted({*range(0, len(history), step), len(history) - 1})
    return history.iloc[keep]


def _curves(
    name: str, title: str, data: pd.DataFrame, x: str, xlabel: str, caption: str, dataset: str,
    theirs: pd.DataFrame | None = None,
) -> Drawing:  # fmt: skip
    """One curve a run of ``relative_error`` against `x`, labelled with its setting where it ends; `theirs` dotted."""
    known = theirs if theirs is not None and len(theirs) else None

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel(xlabel)
        axes.set_ylabel("relative error")
        if data.empty:
            _empty(axes, "no iterative method here")
            return
        if x == "seconds":
            log_axis(axes, "x", data[x], short_time)
        elif known is not None or data[x].max() > 500:
            axes.set_xscale("symlog", linthresh=1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        top = max(1.0, *(float(one["relative_error"].max()) for one in (data, known) if one is not None))
        axes.set_ylim(-0.02 * top, 1.06 * top)
        if known is not None:
            axes.plot(known[x], known["relative_error"], color=look("neukron").light, linestyle=(0, (1, 1.6)))
            pen.label(known[x].iloc[-1], known["relative_error"].iloc[-1], "published")
        _paint_curves(pen, data, x, "relative_error")

    ends = data.groupby(["method", "setting"], sort=False)["relative_error"].min().reset_index()
    text = ", ".join(
        f"{point_name(row['method'], row['setting'])} {significant(row['relative_error'])}"
        for row in ends.to_dict("records")
    )
    return draw(
        name,
        title,
        paint,
        alt=f"{title}. Lowest relative error of any seed: {text or 'none'}.",
        caption=caption,
        data=data,
        legend=data["method"].unique(),
        width=WIDE,
        right=74.0,
        spec=interactive.curves(
            drawn(data), x, "relative_error", xlabel, "relative error", dataset, known is not None, known
        ),
    )


def error_values(dataset: str, kept: dict[tuple[str, str], dict[str, Any]]) -> Drawing:
    """Where the errors lie: error within each bin of values, a line a setting."""
    data = pd.DataFrame(
        [
            {"method": method, "setting": setting, "seed": 0, "from": one["low"], "to": one["high"],
             "cells": one["cells"], "norm2": one["norm2"], "error": one["error"],
             "relative_error": one["error"] / one["norm2"] if one["norm2"] else math.nan}
            for (method, setting), content in kept.items()
            for one in content["values"]
        ]
    )  # fmt: skip
    shown = data[data["norm2"] > 0].reset_index(drop=True)
    share = [100 * share_of_zeros(content) for content in kept.values()]
    caption = "Squared errors of the non-zeros whose size is within a power of two, over their squared values. Of the "
    caption += f"whole error the zero cells have {min(share):.1f} to {max(share):.1f} %, see What is reproduced."
    if shown["from"].nunique() == 1:
        low, high = (f"{shown[name].iloc[0]:g}" for name in ("from", "to"))
        rows = shown.assign(
            group=f"values from {low} to below {high}: all there are",
            label=[point_name(row["method"], row["setting"]) for row in shown.to_dict("records")],
            ours=shown["relative_error"], halfwidth=math.inf, published=math.nan,
            values=pd.Series([(value,) for value in shown["relative_error"]], dtype=object),
        )  # fmt: skip
        columns = ["group", "label", "method", "published", "ours", "halfwidth", "values"]
        title = f"{dataset}: error by the size of a value"
        return dot_rows(
            f"error-values-{dataset}", title, rows[columns], "error within the bin, of its norm", "percent",
            f"{caption} One run a setting.",
        )  # fmt: skip
    return _kept(
        f"error-values-{dataset}",
        f"{dataset}: error by the size of a value",
        data,
        shown,
        ("from", "size of the value (to below its double)"),
        ("relative_error", "error within the bin, of its norm"),
        caption,
        log=True,
    )


def share_of_zeros(content: dict[str, Any]) -> float:
    """Of a setting's error, the part in the zero cells; 0 where that is no more than rounding."""
    whole = math.fsum(one["error"] for one in content["values"])
    share = content["values"][0]["error"] / whole if whole else 0.0
    return float(share) if share > ROUNDED_SHARE else 0.0


def singular_values(dataset: str, kept: dict[tuple[str, str], dict[str, Any]], left_out: Sequence[str] = ()) -> Drawing:
    """The leading singular values of what each setting answers, over those of the data.

    `left_out` names the settings whose every cell would have to be answered, too many for it.
    """
    without = f" Left out, with too many cells to answer one by one: {', '.join(left_out)}." if left_out else ""
    data = pd.DataFrame(
        [
            {"method": method, "setting": setting, "seed": 0, "number": number, "of_data": own, "of_model": found,
             "kept": found / own}
            for (method, setting), content in kept.items()
            for number, (own, found) in enumerate(zip(*content["singular_values"].values(), strict=True), start=1)
            if own > 0
        ]
    )  # fmt: skip
    return _kept(
        f"singular-values-{dataset}",
        f"{dataset}: leading singular values kept",
        data,
        data,
        ("number", "singular value, largest first"),
        ("kept", "share of the data's"),
        "The largest singular values of the matrix that a setting answers, over those of the data. 100 % is all of it; "
        f"truncated SVD keeps exactly those of its rank.{without}",
        log=False,
    )


def _kept(
    name: str, title: str, data: pd.DataFrame, shown: pd.DataFrame, x: tuple[str, str], y: tuple[str, str],
    caption: str, *, log: bool,
) -> Drawing:  # fmt: skip
    """A line a setting of what its artifact keeps, in per cent; `x` and `y` are column and label."""

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel(x[1])
        axes.set_ylabel(y[1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        if log:
            log_axis(axes, "x", shown[x[0]], lambda value: f"{value:,.6g}")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.axhline(1.0, color=MUTED, linewidth=0.9, linestyle=(0, (1, 1.6)), zorder=2)
        _paint_curves(pen, shown, x[0], y[0])

    means = shown.groupby(["method", "setting"], sort=False)[y[0]].mean()
    text = ", ".join(
        f"{point_name(str(key[0]), str(key[1]))} {100 * value:.0f} %"
        for key, value in zip(means.index, means, strict=True)
    )
    return draw(
        name,
        title,
        paint,
        alt=f"{title}. Means: {text}.",
        caption=f"{caption} One run a setting.",
        data=data,
        legend=data["method"].unique(),
        width=WIDE,
        left=52.0,
        right=74.0,
        spec=interactive.curves(shown, x[0], y[0], x[1], y[1], log=log) | {"references": [1]},
    )


def query_times(times: pd.DataFrame) -> Drawing:
    """Seconds that NeuKron takes for a million random cells, against the side of the matrix."""
    data = times.rename(columns={"repeat": "seed"}).assign(method="neukron")
    data.insert(0, "setting", [f"h{hidden}" for hidden in data["hidden"]])
    means = data.groupby(["method", "setting", "side"], as_index=False)["seconds"].mean().assign(seed=0)

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel("rows and columns")
        axes.set_ylabel(f"time of {times['cells'].iloc[0]:,} cells")
        log_axis(axes, "x", means["side"], lambda value: f"{value:,.0f}")
        axes.set_ylim(0, 1.1 * float(data["seconds"].max()))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_time(value) if value else "0"))
        for row in data.to_dict("records"):
            axes.plot([row["side"]], [row["seconds"]], ".", color=look("neukron").light, markersize=3, alpha=0.6)
        _paint_curves(pen, means, "side", "seconds")

    ends = f"{duration(means['seconds'].iloc[0])} at {means['side'].iloc[0]}, " + (
        f"{duration(means['seconds'].iloc[-1])} at {means['side'].iloc[-1]:,}"
    )
    return draw(
        "query-times",
        "NeuKron: time of a million cells and side",
        paint,
        alt=f"Time that NeuKron takes for a million random cells of square matrices: {ends}.",
        caption=f"Random cells of square matrices, {times['repeat'].nunique()} repeats a side (dots) and their mean; "
        "wall times of one thread.",
        data=times,
        legend=["neukron"],
        width=WIDE,
        left=56.0,
        right=40.0,
        spec=interactive.curves(means, "side", "seconds", "rows and columns", "time of a million cells", log=True)
        | {"dots": [[int(row["side"]), float(f"{row['seconds']:.4g}")] for row in data.to_dict("records")]},
    )


def drawn(data: pd.DataFrame) -> pd.DataFrame:
    """Curves with as many points as a figure shows, fewer each where there are many."""
    runs = data.groupby(["method", "setting", "seed"], sort=False)
    points = max(FEWEST_DRAWN, min(CURVE_DRAWN, MOST_DRAWN // max(1, runs.ngroups)))
    parts = [_thinned(run, points) for _, run in runs]
    return pd.concat(parts) if parts else data


def _line(method: str) -> Any:
    """A method's dashes as matplotlib wants them."""
    pattern = dash(method)
    return (0, pattern) if pattern else "-"


def _paint_curves(pen: Pen, data: pd.DataFrame, x: str, y: str) -> None:
    """A curve a run, each setting's label at its end; of many settings the best of each method alone is labelled."""
    ends: list[tuple[float, float, str, str]] = []
    for method, runs in drawn(data).groupby("method", sort=False):
        style = look(str(method))
        for setting, curves in runs.groupby("setting", sort=False):
            end = (-math.inf, 0.0)
            for seed, curve in curves.groupby("seed", sort=False):
                last = (float(curve[x].iloc[-1]), float(curve[y].iloc[-1]))
                end = max(end, last)
                pen.axes.plot(
                    curve[x], curve[y], color=style.light, linestyle=_line(style.name), linewidth=1.3, alpha=0.85
                )
                if len(curve) == 1:
                    tip = f"{point_name(str(method), str(setting))}, seed {seed}: {significant(last[1])}"
                    pen.point(*last, str(method), tip, 5.0)
            ends.append((*end, style.name, str(setting)))
    if len(ends) > MOST_LABELS:
        best = min if y in ("relative_error", "seconds") else max
        names = dict.fromkeys(name for _, _, name, _ in ends)
        ends = [best((end for end in ends if end[2] == name), key=lambda end: end[1]) for name in names]
    _label_ends(pen, [(x_end, y_end, point_name(name, setting)) for x_end, y_end, name, setting in ends])


def _label_ends(pen: Pen, ends: Sequence[tuple[float, float, str]]) -> None:
    """Write each curve's label right of its end, moved apart vertically; one without room is left out."""
    axes = pen.axes
    floor = float(axes.transAxes.transform((0, 0))[1]) * 72 / axes.figure.dpi
    places = [axes.transData.transform((x, y)) * 72 / axes.figure.dpi for x, y, _ in ends]
    taken: list[tuple[float, float]] = []
    for index in sorted(range(len(ends)), key=lambda i: -places[i][1]):
        across, up = (float(value) for value in places[index])
        wanted = up
        while any(abs(across - a) < 70 and abs(wanted - u) < 8.5 for a, u in taken):
            wanted -= 1.0
        if wanted < floor:
            continue
        taken.append((across, wanted))
        x, y, text = ends[index]
        pen.label(x, y, text, (5.0, wanted - up))


def accuracy_sparsity(results: Results, dataset: str) -> Drawing:
    """Test accuracy against block sparsity, every network setting, beside dense."""
    cells = results.networks[results.networks["dataset"] == dataset]
    data = cells[
        ["method", "setting", "seeds", "block_sparsity", "block_sparsity_stderr", "accuracy", "accuracy_stderr"]
    ].reset_index(drop=True)

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel("block sparsity: blocks that are exactly zero")
        axes.set_ylabel("test accuracy")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        axes.set_xlim(-0.04, 1.0)
        spread = data["accuracy_stderr"].fillna(0)
        low, high = float((data["accuracy"] - spread).min()), float((data["accuracy"] + spread).max())
        margin = max(0.01, 0.35 * (high - low))
        axes.set_ylim(low - margin, min(1.005, high + margin))
        for row in data.to_dict("records"):
            style = look(row["method"])
            if row["method"] == "dense":
                axes.axhline(row["accuracy"], color=style.light, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
            axes.errorbar(
                row["block_sparsity"], row["accuracy"], yerr=_or_zero(row["accuracy_stderr"]),
                xerr=_or_zero(row["block_sparsity_stderr"]), fmt="none", color=style.light, elinewidth=1.0,
                capsize=2.0, zorder=4,
            )  # fmt: skip
            share = _percent(row["accuracy"], row["accuracy_stderr"])
            text = f"{point_name(row['method'], row['setting'])}: accuracy {share}"
            pen.point(row["block_sparsity"], row["accuracy"], row["method"], text, 7.0)
        for row in data.to_dict("records"):
            label = point_name(row["method"], row["setting"])
            pen.place(row["block_sparsity"], row["accuracy"], label)

    points = ", ".join(
        f"{point_name(row['method'], row['setting'])} {100 * row['accuracy']:.1f} % "
        f"at {100 * row['block_sparsity']:.0f} % zero blocks"
        for row in data.to_dict("records")
    )
    return draw(
        f"accuracy-sparsity-{dataset}",
        f"{dataset}: accuracy and block sparsity",
        paint,
        alt=f"Test accuracy against block sparsity on {dataset}: {points}.",
        caption={0: "", 1: "The dashed line is the dense network. "}.get(
            int((data["method"] == "dense").sum()), "The dashed lines are the dense networks. "
        )
        + spread_note(data, "accuracy", "block_sparsity"),
        data=data,
        legend=data["method"].unique(),
        left=52.0,
        right=22.0,
        spec=interactive.accuracies(data),
    )


def cost(results: Results, dataset: str) -> Drawing:
    """Parameters, FLOPs, times and file of every network as a multiple of the dense one's."""
    data = cost_ratios(results, dataset)
    groups = list(dict.fromkeys(data["quantity"]))

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.set_yticks([])
        axes.set_xlabel("multiple of dense (log scale)")
        if data.empty:
            _empty(axes, "no dense network to compare with")
            return
        _ratio_axis(axes, data["ratio"])
        height = 0.0
        for quantity in groups:
            group_name(axes, height, quantity)
            height += 0.95
            for row in data[data["quantity"] == quantity].to_dict("records"):
                _cost_row(pen, row, height)
                height += 1.0
            height += 0.25
        axes.set_ylim(height - 0.3, -0.8)

    dearer = data[data["ratio"] > 1 + SAME_COST]
    return draw(
        f"cost-{dataset}",
        f"{dataset}: cost beside dense",
        paint,
        alt=f"Cost of each block-sparse network on {dataset} as a multiple of the dense one's. "
        + "; ".join(
            f"{point_name(r['method'], r['setting'])}: {times(r['ratio'])} x {r['quantity']}"
            for r in data.to_dict("records")
        )
        + ".",
        caption="Left of the line: cheaper than dense; right of it: dearer, by more than "
        f"{100 * SAME_COST:.0f} % {len(dearer)} of {len(data)} here.",
        data=data,
        legend=data["method"].unique(),
        height=max(HEIGHT, 90.0 + 15.0 * (len(data) + 1.2 * len(groups))),
        left=12.0,
        right=30.0,
        spec=interactive.ratios(data),
    )


def cost_ratios(results: Results, dataset: str) -> pd.DataFrame:
    """Cost of each block-sparse setting over dense, one row a quantity and setting.

    FLOPs and times are compared within each run, which counts and times both networks side by side;
    parameters and files need a run of the same network dense, and are left out without one.
    """
    cells = results.networks[results.networks["dataset"] == dataset]
    dense = cells[cells["method"] == "dense"]
    rows = []
    for column, name in COSTS:
        for cell in cells[cells["method"] != "dense"].to_dict("records"):
            if column.endswith("parameters") or column == "file_bytes":
                twin = dense[dense["network"] == cell["network"]]
                base = float(twin.iloc[0][column]) if len(twin) else math.nan
                ratio = cell[column] / base
            else:
                base = cell[f"dense_{column}"]
                timed = column.removesuffix("_seconds")
                ratio = cell[f"{timed}_ratio"] if timed != column else cell[column] / base
            if math.isfinite(ratio):
                rows.append((name, cell["method"], cell["setting"], cell[column], base, ratio))
    return pd.DataFrame(rows, columns=["quantity", "method", "setting", "value", "dense", "ratio"])


def _cost_row(pen: Pen, row: Record, height: float) -> None:
    method, ratio = row["method"], row["ratio"]
    colour = look(method).light
    pen.axes.plot([1.0, ratio], [height, height], color=colour, linewidth=1.4, alpha=0.5, zorder=3)
    verdict = "cheaper than" if ratio < 1 else "dearer than"
    name = point_name(method, row["setting"])
    pen.point(ratio, height, method, f"{name}: {times(ratio)} times dense ({verdict} dense), {row['quantity']}")
    side = 6.0 if ratio >= 1 else -6.0
    pen.axes.annotate(
        f"{name}  {times(ratio)}x", (ratio, height), xytext=(side, 0), textcoords="offset points",
        ha="left" if ratio >= 1 else "right", va="center", fontsize=TEXT - 1.5, color=INK,
    )  # fmt: skip


def network_size(results: Results) -> Drawing:
    """Time of a training step over dense, against the size of the dense network."""
    cells = results.networks[results.networks["method"] != "dense"]
    columns = ["dataset", "network", "method", "setting", "seeds", "dense_train_flops", "step_ratio"]
    data = cells[[*columns, "step_ratio_stderr"]].reset_index(drop=True)

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel("FLOPs of a training step of the dense network")
        axes.set_ylabel("time of a step over dense")
        if data.empty:
            _empty(axes, "only dense networks here")
            return
        log_axis(axes, "x", data["dense_train_flops"], lambda value: with_prefix(value, "", 1))
        axes.set_ylim(0, 1.15 * max(1.0, float(data["step_ratio"].max())))
        axes.axhline(1.0, color=INK, linewidth=1.0, zorder=2)
        for row in data.to_dict("records"):
            x, y, spread = row["dense_train_flops"], row["step_ratio"], _or_zero(row["step_ratio_stderr"])
            colour = look(row["method"]).light
            axes.errorbar(x, y, yerr=spread, fmt="none", color=colour, elinewidth=1.0, capsize=2.0, zorder=4)
            name = f"{row['dataset']} {row['network']}, {point_name(row['method'], row['setting'])}"
            pen.point(x, y, row["method"], f"{name}: {times(y)} times dense")
        for row in data.sort_values("step_ratio").to_dict("records"):
            pen.place(row["dense_train_flops"], row["step_ratio"], _once(row["network"], row["setting"]))

    text = "; ".join(
        f"{row['dataset']} {row['network']}, {point_name(row['method'], row['setting'])}: {times(row['step_ratio'])}"
        for row in data.to_dict("records")
    )
    return draw(
        "step-network-size",
        "Time of a training step and size of the network",
        paint,
        alt=f"Time of a training step as a multiple of the dense network's. {text}.",
        caption="Below the line: faster than dense. Both are timed in the same process. "
        + spread_note(data, "step_ratio"),
        data=data,
        legend=data["method"].unique(),
        width=WIDE,
        left=52.0,
        right=40.0,
        spec=interactive.step_times(data),
    )


def _ratio_axis(axes: Axes, ratios: pd.Series) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(0.3, float(ratios.min()) / 4), max(3.3, float(ratios.max()) * 4))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.axvline(1.0, color=INK, linewidth=1.0, zorder=2)


def accuracy_epochs(results: Results, dataset: str) -> Drawing:
    """Validation accuracy against the epoch, one curve a run of every network."""
    frames = []
    for method, setting, seed, history in results.histories_of(dataset, "network"):
        columns = ["epoch", "seconds", "loss", "validation_accuracy", "block_sparsity"]
        thin = _thinned(history)[columns].reset_index(drop=True)
        thin.insert(0, "seed", seed)
        thin.insert(0, "setting", setting)
        thin.insert(0, "method", method)
        frames.append(thin)
    data = pd.concat(frames, ignore_index=True)

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _paint_curves(pen, data, "epoch", "validation_accuracy")

    return draw(
        f"accuracy-epochs-{dataset}",
        f"{dataset}: validation accuracy in training",
        paint,
        alt=f"Validation accuracy against epoch for every network on {dataset}, one curve a run.",
        caption="One curve a run; line styles tell methods apart.",
        data=data,
        legend=data["method"].unique(),
        left=52.0,
        right=78.0,
        spec=interactive.curves(drawn(data), "epoch", "validation_accuracy", "epoch", "validation accuracy"),
    )


MIXED = " Times of several machines, devices or numbers of threads have no slope."


def scaling(results: Results) -> Drawing:
    """Seconds an epoch against non-zeros on logarithmic axes, with the fitted slope."""
    data = results.scaling[
        ["base", "dataset", "method", "setting", "seeds", "nnz", "seconds_per_epoch", "seconds_per_epoch_stderr"]
    ]
    laws = scaling_laws(results)
    return growth(
        "scaling",
        "NeuKron: time of an epoch and non-zeros",
        data,
        ("nnz", "non-zeros"),
        laws,
        "Uniform samples of the non-zeros and all of them"
        + (", slopes with 95 % intervals" if laws else "")
        + ". A slope of 1 is cost linear in the non-zeros; "
        + f"fewer than {FEWEST_SIZES} sizes are too few to tell. {_schedules(results)}"
        + (MIXED if (results.scaling["places"] > 1).any() else ""),
    )


def growth(
    name: str, title: str, data: pd.DataFrame, x: tuple[str, str], laws: Mapping[tuple[str, str], PowerLaw],
    caption: str,
) -> Drawing:  # fmt: skip
    """Seconds of an epoch of NeuKron against `x` (column, label) on logarithmic axes, a fitted line a series.

    Parameters
    ----------
    data
        A row a point: ``base`` and ``setting``, which name its series, ``dataset``, ``seeds``, `x`,
        ``seconds_per_epoch`` and its ``_stderr``.
    laws
        What was fitted, by ``base`` and ``setting``; a series without has no line.
    """

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.set_xlabel(x[1])
        axes.set_ylabel("time of an epoch", labelpad=2)
        if data.empty:
            _empty(axes, "not run yet")
            return
        log_axis(axes, "x", data[x[0]], lambda value: with_prefix(value, "", 1))
        log_axis(axes, "y", data["seconds_per_epoch"], short_time)
        ends = [
            _growing(pen, str(setting), points, x, laws.get((str(base), str(setting))))
            for (base, setting), points in data.groupby(["base", "setting"], sort=False)
        ]
        _label_ends(pen, ends)

    text = "; ".join(f"{base} {setting}: slope {law}" for (base, setting), law in laws.items())
    return draw(
        name,
        title,
        paint,
        alt=f"Seconds an epoch against {x[1]}, both logarithmic. {text}.",
        caption=f"{caption} {spread_note(data, 'seconds_per_epoch')}",
        data=data,
        legend=["neukron"],
        width=WIDE,
        left=56.0,
        right=84.0,
        spec=interactive.powers(data, laws, x),
    )


def _schedules(results: Results) -> str:
    """What an epoch of the scaling runs is: by the schedule of their plans."""
    drawn = set(zip(results.scaling["dataset"], results.scaling["setting"], strict=True))
    kinds = {
        run.settings.get("schedule", "")
        for run in results.planned
        if run.method == "neukron" and (run.dataset, run.setting) in drawn
    }
    parts = []
    if "fast" in kinds:
        parts.append("An epoch of the fast schedule draws a bounded number of mini-batches, however many non-zeros.")
    if "paper" in kinds:
        parts.append("An epoch of the paper's schedule passes over every non-zero.")
    return " ".join(parts)


def scaling_laws(results: Results) -> dict[tuple[str, str], PowerLaw]:
    """Seconds an epoch as a power of the non-zeros, by data set and setting.

    Left out are those of one size, and those whose times are of several machines, devices or numbers of threads.
    """
    laws = {
        (str(base), str(setting)): fit_power_law(points["nnz"].tolist(), points["seconds_per_epoch"].tolist())
        for (base, setting), points in results.scaling.groupby(["base", "setting"], sort=False)
        if (points["places"] == 1).all()
    }
    return {key: law for key, law in laws.items() if law}


def _growing(
    pen: Pen, setting: str, points: pd.DataFrame, x: tuple[str, str], law: PowerLaw | None
) -> tuple[float, float, str]:
    """One series' points and fitted line; returns where its label belongs and its text."""
    colour = look("neukron").light
    across, up = points[x[0]].to_numpy(float), points["seconds_per_epoch"].to_numpy(float)
    if law:
        ends = np.asarray([across.min(), across.max()])
        pen.axes.plot(ends, law.scale * ends**law.slope, color=colour, linewidth=1.1, zorder=3)
    spread = points["seconds_per_epoch_stderr"].fillna(0)
    pen.axes.errorbar(across, up, yerr=spread, fmt="none", color=colour, elinewidth=1.0, capsize=2.0)
    for row in points.to_dict("records"):
        text = f"{row['dataset']} {setting}: {row[x[0]]:,.0f} {x[1]}, {duration(row['seconds_per_epoch'])} an epoch"
        pen.point(row[x[0]], row["seconds_per_epoch"], "neukron", text)
    return (float(across[-1]), float(up[-1]), f"{setting}: slope {law}" if law else setting)


def _empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_color(GRID)


def _counted(accounting: Accounting) -> str:
    return accounting.name if accounting.slug == "published" else f"in {accounting.name} accounting"


def _once(*names: str) -> str:
    """Names one after the other, one that stands twice once."""
    return " ".join(dict.fromkeys(names))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _percent(value: float, spread: float) -> str:
    return f"{100 * value:.1f} %" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")
