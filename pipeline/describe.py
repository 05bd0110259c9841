"""Step: a sparse tensor -> a page about it, with its distributions as figure and as tables."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.commands.source import Reading, add_reading, read_tensor
from pipeline.core import step
from pipeline.core.files import atomic_path, refuse_clashes, write_text
from pipeline.datasets.readers.columnar import is_sparse_tensor
from pipeline.errors import InputError
from pipeline.sparse.stats import Block, Description, Distribution, describe
from pipeline.sparse.stream import TensorReader

DISTRIBUTIONS = ("quantity", "of", "number", "count")
SUMS = ("sum_mean", "sum_median", "sum_largest")
SUMMARY = ("of", "size", "nnz", "density", "norm2", "empty", "mean", "median", "largest", *SUMS)
CREATOR = "kronflow describe"  # by these the files beside a page are known as its own
PANEL = 2.6  # inches
COLUMNS = 3
INK, MUTED, GRID, ACCENT = "#1b2530", "#5a6673", "#dfe4ea", "#0068a8"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kronflow",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ --ground: #fffffe; --ink: #1b2530; --muted: #5a6673; --grid: #dfe4ea; --accent: #0068a8;
  color-scheme: light; }}
@media screen and (prefers-color-scheme: dark) {{
  :root {{ --ground: #11161c; --ink: #e8edf2; --muted: #9fabb8; --grid: #313b46; --accent: #5db8f5;
    color-scheme: dark; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0; }}
.lead {{ color: var(--muted); margin-top: .25rem; }}
.table {{ overflow-x: auto; margin: 1.5rem 0; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ padding: .35rem .75rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ color: var(--muted); font-weight: 600; }}
a {{ color: var(--accent); }}
:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }}
.panels svg {{ width: 100%; height: auto; break-inside: avoid; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{tables}
<h2>Distributions</h2>
<p>Both axes are logarithmic. A degree counts an index's non-zeros; a sum adds up their values, as Table 7 of NeuKron's
supplement does. {numbers}</p>
<div class="panels">
{panels}
</div>
</main>
</body>
</html>
"""
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent"}
LARGEST_INLINE = 300_000  # characters of a table that the page carries along


Panel = tuple[str, str, Distribution]  # quantity, what it is counted over, how often each number occurs


def distributions(description: Description, mode_names: tuple[str, ...]) -> Iterator[Panel]:
    """Yield the quantity, what it is counted over, and the distribution, in the order of the panels."""
    for name, degrees in zip(mode_names, description.degrees, strict=True):
        yield "degree", name, degrees
    for name, sums in zip(mode_names, description.sums, strict=True):
        yield "sum", name, sums
    yield "value", "non-zero", description.values
    yield "component size", "component", description.components


def table_rows(description: Description, mode_names: tuple[str, ...]) -> list[list[str]]:
    """Return the rows of the table of modes, its header first."""
    head = ["mode", "size", "without non-zeros"]
    rows = [[*head, *(f"{which} {what}" for what in ("degree", "sum") for which in ("mean", "median", "largest"))]]
    for name, size, empty, degrees, sums in zip(
        mode_names, description.shape, description.empty, description.degrees, description.sums, strict=True
    ):
        numbers = [f"{size:,}", f"{empty:,}", f"{degrees.mean:,.4g}", f"{degrees.median:,.0f}"]
        numbers += [f"{degrees.largest:,.0f}", f"{sums.mean:,.4g}", f"{sums.median:,.6g}", f"{sums.largest:,.6g}"]
        rows.append([name, *numbers])
    return rows


def summary_rows(description: Description) -> list[list[str]]:
    """Return the rows of the table about the whole tensor, its header first."""
    values, components = description.values, description.components
    total = float(np.dot(components.numbers, components.counts))
    return [
        [
            "non-zeros",
            "density",
            "norm\N{SUPERSCRIPT TWO}",
            "median value",
            "largest value",
            "components",
            "in the largest",
        ],
        [
            f"{description.nnz:,}",
            f"{description.density:.3g}",
            f"{description.norm2:,.6g}",
            f"{values.median:,.6g}",
            f"{values.largest:,.6g}",
            f"{int(components.counts.sum()):,}",
            f"{components.largest / total:.1%} of all indices",
        ],
    ]


def distribution_csv(description: Description, mode_names: tuple[str, ...]) -> str:
    """Return all distributions as one table: quantity, of, number, count."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(DISTRIBUTIONS)
    for quantity, over, each in distributions(description, mode_names):
        numbers, counts = each.numbers.tolist(), each.counts.tolist()
        table.writerows(
            [quantity, over, f"{number:.17g}", count] for number, count in zip(numbers, counts, strict=True)
        )
    return text.getvalue()


def figure_svg(panels: Sequence[Panel], columns: int = COLUMNS) -> str:
    """Draw distributions on logarithmic axes; the same ones give the same text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(columns * PANEL, rows * PANEL), layout="constrained")
        for position, (quantity, over, each) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, position + 1)
            shown = each.numbers > 0  # a logarithm has no place for the rest; the table lists it
            axes.loglog(each.numbers[shown], each.counts[shown], ".", color=ACCENT, markersize=4)
            axes.set_title(_title(quantity, over), color=INK)
            axes.set_xlabel(quantity)
            axes.set_ylabel(f"number of {over}s" if over != "component" else "number of components")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": CREATOR})
    return buffer.getvalue()


def _title(quantity: str, over: str) -> str:
    return f"{quantity} of a {over}" if over != "component" else quantity


def panel_svg(panel: Panel, number: int) -> str:
    """One distribution for the page, which may be narrow: ids of its own, colours of the page, its words."""
    text = figure_svg([panel], 1)
    text = re.sub(r'((?: id="|href="#|url\(#))', rf"\1p{number}-", text[text.index("<svg") :])
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    quantity, over, each = panel
    words = f"{_title(quantity, over)}: median {each.median:,.6g}, largest {each.largest:,.6g}"
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(words)}"', 1)


def page(title: str, description: Description, mode_names: tuple[str, ...], numbers: str, csv_name: str) -> str:
    """Return the page as one self-contained HTML text; `numbers` is the table behind the panels."""
    sizes = " \N{MULTIPLICATION SIGN} ".join(f"{size:,}" for size in description.shape)
    names = " \N{MULTIPLICATION SIGN} ".join(mode_names)
    name = html.escape(csv_name)
    where = f"The numbers behind the panels are in {name} beside this page."
    if len(numbers) <= LARGEST_INLINE:
        coded = base64.b64encode(numbers.encode()).decode()
        where = f'The numbers behind the panels: <a download="{name}" href="data:text/csv;base64,{coded}">{name}</a>.'
    panels = [panel_svg(panel, number) for number, panel in enumerate(distributions(description, mode_names))]
    return PAGE.format(
        title=html.escape(title),
        lead=html.escape(f"{names}, {sizes}"),
        tables=_table(summary_rows(description), "The whole tensor")
        + _table(table_rows(description, mode_names), "Its modes"),
        numbers=where,
        panels="\n".join(panels),
    )


def _table(rows: list[list[str]], name: str) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = line(rows[0], "th") + "".join(line(row, "td") for row in rows[1:])
    return f'<div class="table" role="region" aria-label="{name}" tabindex="0"><table>{body}</table></div>\n'


def main(argv: list[str] | None = None) -> None:
    """Describe one tensor."""
    arguments = step.parser(
        "Describe a Parquet sparse tensor: size and density; how the degrees and sums of each mode, the values and the "
        "sizes of the connected components are distributed. Writes a page, and beside it the figure (.svg), the "
        "distributions (.csv) and the tables (.summary.csv).",
        "example: python -m pipeline.describe data/tensors/flights.parquet results/descriptions/flights.html",
    )
    arguments.add_argument("tensor", type=Path, help="Parquet sparse tensor, or data in another known format")
    arguments.add_argument("output", type=Path, help="page to write, ending in .html")
    add_reading(arguments)
    options = arguments.parse_args(argv)
    output: Path = options.output
    reading = Reading.of(options)
    reads = [options.tensor, *reading.more]
    refuse_clashes(reads, [output])
    if output.suffix.lower() != ".html":
        raise InputError(f"{output}: a page ends in .html; files of its name with other endings go beside it")
    marks = {".csv": _line(DISTRIBUTIONS), ".svg": CREATOR.encode(), ".summary.csv": _line(SUMMARY[:9]).rstrip()}
    refuse_clashes(reads, [output], {output.with_suffix(suffix): mark for suffix, mark in marks.items()})
    blocks, shape, names = _opened(options.tensor, reading)
    description = describe(blocks, shape)
    figure = figure_svg(list(distributions(description, names)))
    table = distribution_csv(description, names)
    write_text(output.with_suffix(".csv"), table)
    write_text(output.with_suffix(".svg"), figure)
    _write_summary(output.with_suffix(".summary.csv"), description, names)
    write_text(output, page(options.tensor.stem, description, names, table, output.with_suffix(".csv").name))
    print(f"{description.nnz:,} non-zeros described -> {output}", file=sys.stderr)


class _Blocks:
    """The non-zeros of a Parquet tensor, as often as they are asked for."""

    def __init__(self, reader: TensorReader) -> None:
        self.reader = reader

    def __iter__(self) -> Iterator[Block]:
        return ((coords, values.astype(np.float64)) for coords, values in self.reader.blocks())


def _opened(path: Path, reading: Reading) -> tuple[Iterable[Block], tuple[int, ...], tuple[str, ...]]:
    """Non-zeros, shape and names of the modes; what is no Parquet tensor is read into memory."""
    other = reading != Reading() or path.suffix.lower() != ".parquet"
    if other or (path.is_file() and not is_sparse_tensor(path)):
        X = read_tensor(path, reading)
        return [(X.coords, X.values)], X.shape, X.mode_names
    reader = TensorReader(path)
    return _Blocks(reader), reader.shape, reader.mode_names


def _line(columns: tuple[str, ...]) -> bytes:
    return f"{','.join(columns)}\n".encode()


def _write_summary(path: Path, description: Description, mode_names: tuple[str, ...]) -> None:
    """Write the tables of the page as numbers: one line for the tensor, one a mode."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(SUMMARY)
        values = description.values
        whole = [
            "tensor",
            "x".join(map(str, description.shape)),
            description.nnz,
            description.density,
            description.norm2,
        ]
        table.writerow([*whole, "", values.mean, values.median, values.largest, "", "", ""])
        modes = zip(
            mode_names, description.shape, description.empty, description.degrees, description.sums, strict=True
        )
        for name, size, empty, degrees, sums in modes:
            numbers = [each for of in (degrees, sums) for each in (of.mean, of.median, of.largest)]
            table.writerow([name, size, description.nnz, "", "", empty, *numbers])


if __name__ == "__main__":
    step.run(main)
