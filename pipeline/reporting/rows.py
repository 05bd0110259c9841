"""A figure of rows: a case each, the mean and a dot a seed, the published number beside it."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.reporting import interactive
from pipeline.reporting.axes import group_name, log_axis, short_time
from pipeline.reporting.drawing import HEIGHT, Drawing, Pen, draw
from pipeline.reporting.results import Record
from pipeline.reporting.style import INK, MUTED, PLUS_MINUS, TIMES, duration, look, shortened, significant

WIDE = 390.0  # points
MOST_LETTERS = 40  # of a row's name that are drawn
LETTER = 4.9  # points that a letter of a row's name takes
Form = Literal["number", "seconds", "ratio", "percent"]


def shown(value: float, form: Form) -> str:
    """A number in the form of its axis.

    >>> shown(0.5, "percent"), shown(1.5, "ratio"), shown(0.25, "seconds"), shown(1234.0, "number")
    ('50.0 %', '1.50×', '250 ms', '1,230')
    """
    if form == "percent":
        return f"{significant(100 * value)} %"
    if form == "seconds":
        return duration(value)
    return significant(value) + (TIMES if form == "ratio" else "")


def dot_rows(
    name: str, title: str, data: pd.DataFrame, label: str, form: Form, caption: str, *, log: bool = False,
    reference: float | None = None,
) -> Drawing:  # fmt: skip
    """Draw a row a case, under the name of its group.

    Parameters
    ----------
    data
        ``group``, ``label``, ``method``; ``ours``, the mean; ``values``, a tuple of one number a seed; ``halfwidth`` of
        the 95 % interval, infinite for a single run; ``published``, NaN where there is no such number.
    label
        Of the axis.
    reference
        Marked across the figure; lines start there.
    """
    groups = list(dict.fromkeys(data["group"]))
    numbers = pd.Series([*data["ours"], *data["published"].dropna(), *(v for own in data["values"] for v in own)])
    longest = min(MOST_LETTERS, max((len(text) for text in data["label"]), default=0))

    def paint(pen: Pen) -> None:
        axes = pen.axes
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.set_xlabel(label)
        if data.empty:
            axes.text(0.5, 0.5, "not run yet", transform=axes.transAxes, ha="center", color=MUTED)
            axes.set_yticks([])
            return
        if log:
            log_axis(axes, "x", numbers, short_time if form == "seconds" else lambda value: shown(value, form))
        else:
            axes.set_xlim(min(0.0, float(numbers.min())), 1.15 * float(numbers.max()))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, form) if value else "0"))
        start = axes.get_xlim()[0] if reference is None else reference
        if reference is not None:
            axes.axvline(reference, color=INK, linewidth=1.0, zorder=2)
        height, ticks = 0.0, []
        for group in groups:
            group_name(axes, height, group)
            height += 1.0
            for row in data[data["group"] == group].to_dict("records"):
                colour = look(row["method"]).light
                axes.plot([start, row["ours"]], [height, height], color=colour, linewidth=1.2, alpha=0.45, zorder=3)
                axes.plot(row["values"], [height] * len(row["values"]), ".", color=colour, markersize=3.5, zorder=4)
                if math.isfinite(row["published"]):
                    axes.plot(
                        [row["published"]], [height], linestyle="", marker=look(row["method"]).marker, markersize=6.0,
                        markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.9, zorder=6,
                    )  # fmt: skip
                pen.point(row["ours"], height, row["method"], told(row, form), 5.0)
                ticks.append((height, shortened(str(row["label"]), MOST_LETTERS)))
                height += 1.0
            height += 0.3
        axes.set_ylim(height - 0.3, -0.8)
        axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])

    plain = data.assign(values=[" ".join(f"{value:.9g}" for value in own) for own in data["values"]])
    return draw(
        name,
        title,
        paint,
        alt=f"{title}. " + "; ".join(f"{row['group']}, {told(row, form)}" for row in data.to_dict("records")) + ".",
        caption=caption,
        data=plain,
        legend=data["method"].unique(),
        width=WIDE,
        height=max(HEIGHT, 90.0 + 13.0 * (len(data) + 1.3 * len(groups))),
        left=14.0 + LETTER * longest,
        right=26.0,
        spec=interactive.dot_rows(data, form, "log" if log else "linear", label, reference),
    )


def told(row: Record, form: Form) -> str:
    """A row's numbers in words."""
    ours, half, theirs = (float(row[name]) for name in ("ours", "halfwidth", "published"))
    text = f"{row['label']}: {shown(ours, form)}"
    text += f" {PLUS_MINUS} {shown(half, form)}" if math.isfinite(half) else " (one run)"
    return text + (f", published {shown(theirs, form)}" if math.isfinite(theirs) else "")
