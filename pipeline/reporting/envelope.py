"""The figure of ``kronflow frontier``: the least error known at every size, and what other formats take."""

from __future__ import annotations

import pandas as pd

from pipeline.reporting.axes import bytes_axis
from pipeline.reporting.drawing import Drawing, Pen, draw
from pipeline.reporting.statistics import frontier
from pipeline.reporting.style import INK, MUTED

STORED, FREE = "stored", "free"
LINES = {STORED: (0, ()), FREE: (0, (4, 2))}
ROOM = 1.6  # beyond the least and the largest size drawn


def on_envelope(points: pd.DataFrame) -> pd.Series:
    """Whether each fit is one that none of its accounting beats in both bytes and error.

    Parameters
    ----------
    points
        Columns ``orders`` (stored or free), ``bytes``, ``relative_error``.
    """
    best = [
        pd.Series(frontier(group["bytes"].tolist(), group["relative_error"].tolist()), index=group.index)
        for _, group in points.groupby("orders")
    ]
    return pd.concat(best).reindex(points.index)


def envelope_figure(name: str, points: pd.DataFrame, exact: dict[str, int]) -> Drawing:
    """Relative error against bytes of all fits, the envelope of each accounting, and exact formats along the bottom.

    Parameters
    ----------
    points
        As of :func:`on_envelope`, with ``method`` and ``settings``.
    exact
        Bytes of what holds the tensor exactly, by name.
    """
    chosen = on_envelope(points)
    best = points[chosen].sort_values("bytes")
    sizes = [*points["bytes"], *exact.values()]
    limits = (max(1.0, min(sizes)) / ROOM, max(sizes) * ROOM)

    def paint(pen: Pen) -> None:
        axes = pen.axes
        bytes_axis(axes, limits, "bytes of the file")
        axes.set_ylim(-0.03, 1.06)
        axes.set_ylabel("relative error")
        for orders, group in best.groupby("orders"):
            axes.step(
                [*group["bytes"], limits[1]], [*group["relative_error"], group["relative_error"].iloc[-1]],
                where="post", color=INK, linewidth=1.0, linestyle=LINES[str(orders)], zorder=3,
            )  # fmt: skip
        for row, on in zip(points.to_dict("records"), chosen, strict=True):
            text = f"{row['method']} {row['settings']}, orders {row['orders']}"
            said = f"{text}: {row['bytes']:,} bytes, {row['relative_error']:.4f}"
            pen.point(row["bytes"], row["relative_error"], row["method"], said, 6.0 if on else 3.5)
        for number, (label, size) in enumerate(sorted(exact.items(), key=lambda item: item[1])):
            axes.axvline(size, color=MUTED, linewidth=0.6, linestyle=(0, (1, 2)), zorder=1)
            axes.text(size, 0.99 - 0.07 * number, f" {label}", color=MUTED, fontsize=7, va="top", ha="left", zorder=6)

    said = "; ".join(
        f"orders {row['orders']}, {row['bytes']:,} bytes: {row['relative_error']:.3f} by {row['method']}"
        for row in best.to_dict("records")
    )
    return draw(
        "envelope",
        f"{name}: the least error known at every size",
        paint,
        alt=f"Relative error against bytes. {said}.",
        caption="Line: envelope with orders stored; dashed: orders left out. Dotted: bytes of exact formats.",
        data=points,
        legend=points["method"].unique(),
        width=520.0,
        height=340.0,
    )
