"""Axes that a reader can read: logarithmic ones with few round ticks, of bytes, counts and times."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pipeline.reporting.style import GROUND, INK, TEXT, with_prefix


def bytes_axis(axes: Axes, limits: tuple[float, float], label: str) -> None:
    """A logarithmic axis of bytes with readable ticks."""
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_xlabel(label)
    log_ticks(axes.xaxis, limits, lambda value: with_prefix(value, "B", 1))


def log_ticks(axis: Axis, limits: tuple[float, float], text: Callable[[float], str]) -> None:
    """Ticks at powers of ten, and at their double and fivefold where few powers are in view."""
    decades = math.log10(limits[1] / limits[0])
    subs = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def log_axis(axes: Axes, which: Literal["x", "y"], values: pd.Series, text: Callable[[float], str]) -> None:
    """Make an axis logarithmic, with limits around `values` and readable ticks."""
    limits = (float(values.min()) / 1.3, float(values.max()) * 1.3)
    axes.set(**{f"{which}scale": "log", f"{which}lim": limits})
    log_ticks(axes.xaxis if which == "x" else axes.yaxis, limits, text)


def short_time(seconds: float) -> str:
    """A tick's time: one digit and seconds with a prefix, as a logarithmic axis needs it."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor * 0.9995:
            return f"{seconds / factor:,.3g} {unit}"
    return f"{seconds:.1g} s"


def group_name(axes: Axes, height: float, text: str) -> None:
    """The name of a group of rows, above them at the left edge."""
    axes.text(
        0.0, height, text, transform=axes.get_yaxis_transform(), fontsize=TEXT - 1, color=INK, va="center",
        bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 1.5}, zorder=4,
    )  # fmt: skip
