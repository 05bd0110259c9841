"""Figures for the page: their SVG in few bytes, without a legend, in colours that follow the page's scheme."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.reporting.drawing import LEGEND, SVG, Drawing, marker_path, svg_text
from pipeline.reporting.style import colour_variables, look

_REFERENCE = re.compile(r"(#)([^)]+)")
_STRAIGHT = re.compile(r"[ML][ML\s\d.e+-]*")  # an outline without curves
_ROUNDING = 0.01  # points
_STYLE = re.compile(r' style="([^"]*)"')


def inline_figures(drawings: Mapping[str, Drawing]) -> tuple[dict[str, str], str]:
    """Return each figure's SVG by name, and the style sheet of what several of their elements look like."""
    # No name of ours or of a data set starts with such a prefix, so that every id of the page is one element's.
    figures = {name: _inline(drawing, f"_{index}") for index, (name, drawing) in enumerate(drawings.items())}
    counts = Counter(style for svg in figures.values() for style in _STYLE.findall(svg))
    classes = {style: f"s{index}" for index, (style, count) in enumerate(counts.most_common()) if count > 1}

    def shared(found: re.Match[str]) -> str:
        return f' class="{classes[found[1]]}"' if found[1] in classes else found[0]

    sheet = "".join(f".{name}{{{style}}}\n" for style, name in classes.items())
    return {name: _STYLE.sub(shared, svg) for name, svg in figures.items()}, sheet


def inline_markers(methods: Iterable[str]) -> str:
    """The methods' markers as symbols, drawn by :func:`marker`."""
    symbols = "".join(
        f'<symbol id="marker-{name}" viewBox="-6 -6 12 12">'
        f'<path d="{marker_path(name)}" fill="var(--{colour_variables().get(look(name).light, "muted")})"/></symbol>'
        for name in methods
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true">{symbols}</svg>'


def marker(method: str) -> str:
    """A method's marker as a small SVG for the page's legends; decoration beside its name."""
    return f'<svg class="marker" aria-hidden="true"><use href="#marker-{method}"/></svg>'


def _inline(drawing: Drawing, prefix: str) -> str:
    root = ET.fromstring(drawing.svg)  # noqa: S314 - our own
    _, _, width, height = root.get("viewBox", "").split()
    root.attrib = {"viewBox": f"0 0 {width} {float(height) - LEGEND:g}", "role": "img", "aria-label": drawing.alt}
    _unclip(root)
    _shorten(root, f"{drawing.name}-legend")
    _rename(root, prefix)
    _unwrap(root)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg_text(root)).replace("xlink:href", "href")
    text = re.sub(r"\d+\.\d{2,}", _drawn, text)
    text = re.sub(r"\s*\n\s*", "\n", text).replace(" />", "/>").replace("<defs>\n</defs>\n", "")
    for colour, variable in colour_variables().items():
        text = text.replace(colour, f"var(--{variable})")
    return text


def _unclip(root: ET.Element) -> None:
    """Drop the clipping of straight lines that lie within the rectangle they are clipped to."""
    boxes = {
        f"url(#{clip.get('id')})": tuple(float(rect.get(key, "0")) for key in ("x", "y", "width", "height"))
        for clip in root.iter(f"{SVG}clipPath")
        if (rect := clip.find(f"{SVG}rect")) is not None
    }
    for element in root.iter(f"{SVG}path"):
        outline, box = element.get("d", ""), boxes.get(element.get("clip-path", ""))
        if box is None or not _STRAIGHT.fullmatch(outline):
            continue
        numbers = [float(text) for text in re.findall(r"[-+.\de]+", outline)]
        left, top, width, height = box
        across, down = numbers[::2], numbers[1::2]
        if (
            min(across) >= left - _ROUNDING
            and max(across) <= left + width + _ROUNDING
            and min(down) >= top - _ROUNDING
            and max(down) <= top + height + _ROUNDING
        ):
            del element.attrib["clip-path"]


def _shorten(parent: ET.Element, legend: str) -> None:
    """Drop the legend and what draws nothing: outlines of no colour, turns by no angle, the font that the page sets."""
    for child in list(parent):
        style = child.get("style", "")
        if child.get("id") == legend or child.tag == f"{SVG}style" or style == "fill: none":
            parent.remove(child)
            continue
        if child.get("transform", "").startswith("rotate(-0 "):
            del child.attrib["transform"]
        if style:
            child.set("style", re.sub(r"font-family: [^;]*; ", "", style).replace(": ", ":").replace("; ", ";"))
        if "d" in child.attrib:
            child.set("d", re.sub(r"\s*([MLQCz])\s*", r"\1", child.attrib["d"]).strip())
        _shorten(child, legend)


def _rename(root: ET.Element, prefix: str) -> None:
    """Number the ids that something refers to, and drop the others."""
    short: dict[str, str] = {}

    def renamed(found: re.Match[str]) -> str:
        return f"{found[1]}{short.setdefault(found[2], f'{prefix}-{len(short)}')}"

    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "clip-path" or key.endswith("href"):
                element.set(key, _REFERENCE.sub(renamed, value))
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in short:
            element.set("id", short[name])


def _unwrap(parent: ET.Element) -> None:
    """Put the children of groups that say nothing (no attribute, no tooltip) in their place."""
    for child in list(parent):
        _unwrap(child)
    silent = {
        child for child in parent if child.tag == f"{SVG}g" and not child.attrib and child.find(f"{SVG}title") is None
    }
    parent[:] = [each for child in list(parent) for each in (child if child in silent else [child])]


def _drawn(found: re.Match[str]) -> str:
    """A coordinate to a tenth of a point, one within a marker to a hundredth."""
    value = float(found[0])
    return f"{value:.{1 if value >= 10 else 2}f}".rstrip("0").rstrip(".")
