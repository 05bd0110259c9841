"""From matplotlib to SVG that is the same on every run and carries tooltips."""

from __future__ import annotations

import functools
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as MarkerPath

from pipeline.reporting.style import GROUND, INK, RC, TEXT, look

WIDTH, HEIGHT, LEGEND = 304.0, 256.0, 34.0  # points; the legend's strip lies below the drawing
Box = tuple[float, float, float, float]  # left, bottom, right, top
SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"


@dataclass(frozen=True)
class Drawing:
    """A finished figure: its file name, what it shows, the plotted numbers, and the SVG."""

    name: str
    title: str
    alt: str
    caption: str
    data: pd.DataFrame
    svg: str  # a file of its own, legend included
    spec: dict[str, Any] | None = None  # what the page's script draws instead


@dataclass
class Pen:
    """What a drawing function works with: the axes, and the tooltips that it leaves for the SVG."""

    axes: Axes
    tooltips: dict[str, str] = field(default_factory=dict)
    taken: list[Box] = field(default_factory=list)  # what markers cover, in points
    labels: list[Box] = field(default_factory=list)  # and what labels do

    def point(self, x: float, y: float, method: str, text: str, size: float = 6.0) -> None:
        """Put a method's marker at (x, y), with `text` shown on hovering."""
        style = look(method)
        across, up = (float(value) for value in self.axes.transData.transform((x, y)) * 72 / self.axes.figure.dpi)
        self.taken.append((across - size / 2, up - size / 2, across + size / 2, up + size / 2))
        gid = f"point-{len(self.tooltips)}"
        self.tooltips[gid] = text
        size *= {"*": 1.5, "D": 0.88, "s": 1.15, "^": 0.9}.get(style.marker, 1.0)
        self.axes.plot(
            [x], [y], linestyle="", marker=style.marker, color=style.light,
            markersize=size, markeredgecolor=GROUND, markeredgewidth=0.8, gid=gid, zorder=5, clip_on=False,
        )  # fmt: skip

    def place(self, x: float, y: float, text: str) -> None:
        """Write `text` near the point (x, y), where it hides as little as can be of the markers yet drawn.

        It is left out where it would touch another label or the drawing's edge: the tooltip still says it. Axes
        limits and scales must be set; draw the markers first.
        """
        dots = 72 / self.axes.figure.dpi
        at = self.axes.transData.transform((x, y)) * dots
        right = float(self.axes.figure.bbox.width) * dots
        left = float(self.axes.bbox.x0) * dots
        wide = 4.9 * len(text)
        corners = [
            (5.0, 5.5),
            (5.0, -6.0),
            (-wide - 5.0, 5.5),
            (-wide - 5.0, -6.0),
            (-wide / 2, 10.0),
            (-wide / 2, -11.0),
        ]
        boxes = [(at[0] + dx, at[1] + dy - 4.0, at[0] + dx + wide, at[1] + dy + 4.0) for dx, dy in corners]
        free = [
            index
            for index, box in enumerate(boxes)
            if box[0] >= left and box[2] <= right and not any(_overlap(box, label) for label in self.labels)
        ]
        if not free:
            return
        best = min(free, key=lambda index: sum(_overlap(boxes[index], taken) for taken in self.taken))
        self.labels.append(boxes[best])
        self.label(x, y, text, corners[best])

    def label(self, x: float, y: float, text: str, offset: tuple[float, float] = (5.0, 3.0)) -> None:
        """Write `text` beside (x, y); `offset` in points."""
        self.axes.annotate(
            text, (x, y), xytext=offset, textcoords="offset points", color=INK,
            fontsize=TEXT - 1.5, va="center", annotation_clip=False, zorder=6,
            bbox={"facecolor": GROUND, "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
        )  # fmt: skip


def _overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(up, 0.0)


def draw(
    name: str,
    title: str,
    paint: Callable[[Pen], None],
    *,
    alt: str,
    caption: str,
    data: pd.DataFrame,
    legend: Iterable[str] = (),
    width: float = WIDTH,
    height: float = HEIGHT,
    left: float = 46.0,
    right: float = 14.0,
    spec: dict[str, Any] | None = None,
) -> Drawing:
    """Run `paint` on empty axes and return the drawing.

    Parameters
    ----------
    name
        File name without suffix; also the salt of the SVG's ids, so that no two figures of a page share one.
    title
        Written above the axes.
    paint
        Draws `data` with the pen it is given.
    legend
        Methods to explain below the drawing.
    width, height, left, right
        Size of the drawing without its legend, and the margins beside the axes, in points.
    spec
        The same for the page's script, see :mod:`pipeline.reporting.interactive`.
    """
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}):
        total = height + LEGEND
        figure = Figure(figsize=(width / 72, total / 72))
        FigureCanvasSVG(figure)
        bottom, top = LEGEND + 38.0, 26.0
        axes = figure.add_axes(
            (left / width, bottom / total, 1 - (left + right) / width, 1 - (bottom + top) / total),
        )
        figure.text(6 / width, 1 - 12 / total, title, fontweight="bold", fontsize=TEXT + 0.5, va="center", color=INK)
        pen = Pen(axes)
        paint(pen)
        handles = [_handle(method) for method in legend]
        if handles:
            figure.legend(
                handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=4, frameon=False,
                fontsize=TEXT - 1, handletextpad=0.3, columnspacing=1.2, borderpad=0.2,
            ).set_gid("legend")  # fmt: skip
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = _clean(buffer.getvalue(), name, pen.tooltips)
    root.set("role", "img")
    root.set("aria-label", alt)
    return Drawing(name, title, alt, caption, data, svg_text(root) + "\n", spec)


def _handle(method: str) -> Line2D:
    style = look(method)
    return Line2D([], [], linestyle="", marker=style.marker, color=style.light, markersize=5.5, label=style.shown)


def _clean(content: bytes, name: str, tooltips: dict[str, str]) -> ET.Element:
    """Drop the metadata, prefix every id with the figure's name, and add the tooltips."""
    root = ET.fromstring(content)  # noqa: S314 - written by matplotlib a moment ago
    for metadata in root.findall(f"{SVG}metadata"):
        root.remove(metadata)
    for element in root.iter():
        if "id" in element.attrib:
            text = tooltips.get(element.attrib["id"])
            if text:
                title = ET.Element(f"{SVG}title")
                title.text = text
                element.insert(0, title)
            element.set("id", f"{name}-{element.attrib['id']}")
        for key, value in element.attrib.items():
            if key in ("href", f"{_XLINK}href"):
                element.set(key, re.sub("^#", f"#{name}-", value))
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    return root


def svg_text(root: ET.Element) -> str:
    """SVG as text, with the namespaces' usual names."""
    ET.register_namespace("", SVG[1:-1])
    ET.register_namespace("xlink", _XLINK[1:-1])
    return ET.tostring(root, encoding="unicode")


_COMMANDS = {
    MarkerPath.MOVETO: "M",
    MarkerPath.LINETO: "L",
    MarkerPath.CURVE3: "Q",
    MarkerPath.CURVE4: "C",
    MarkerPath.CLOSEPOLY: "Z",
}


@functools.cache
def marker_path(method: str) -> str:
    """A method's marker as the outline of an SVG path around (0, 0), from -4.5 to 4.5."""
    marker = MarkerStyle(look(method).marker)
    path = marker.get_path().transformed(marker.get_transform())
    scale = 4.5 / float(np.abs(np.asarray(path.vertices)).max())
    outline = ""
    for points, code in path.iter_segments():
        outline += _COMMANDS[code]
        if code != MarkerPath.CLOSEPOLY:
            upright = np.asarray(points).reshape(-1, 2) * (scale, -scale)  # SVG's y points down
            outline += " ".join(f"{value:.2f}" for value in upright.ravel())
    return outline
