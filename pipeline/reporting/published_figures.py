"""Figures that stand beside one figure or table of a publication each, of all data sets together.

Their numbers are the scoreboard's lines, so that a figure and its verdict cannot differ; those of growth are fitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from pipeline.reporting.drawing import Drawing
from pipeline.reporting.figures import MIXED, growth
from pipeline.reporting.outputs import TARGET_FIGURES
from pipeline.reporting.reproduction import chosen, target_lines, widths
from pipeline.reporting.results import Results, base_of, places_of
from pipeline.reporting.rows import Form, dot_rows
from pipeline.reporting.statistics import PowerLaw, fit_power_law, over_seeds
from pipeline.reporting.targets import EVIDENCE, TARGETS

DOTS = "Large: the mean over seeds; dots: a seed each"
HOLLOW = "; hollow: published"


class Rows(NamedTuple):
    """How the lines of a target are drawn as rows."""

    label: str
    form: Form
    caption: str
    log: bool = False
    reference: float | None = None


ROWS = {
    "fig4": Rows("error over the whole method's", "ratio", "NeuKron without one of its parts, seed by seed over the "
                 "error of the whole one. N-H: pairs drawn at random, not by shingle; N-A: one shared seed matrix in "
                 "place of the LSTM; N-F: the scale fixed; N-I: a random start of the orders.", reference=1.0),
    "fig11": Rows("error over the LSTM's", "ratio", "A GRU or a Transformer in place of the LSTM, of the same width, "
                  "seed by seed. The publication's numbers are not read off.", reference=1.0),
    "fig5": Rows("seconds", "seconds", "What a fit takes: set-up (imports, compiling; in no other time), choosing and "
                 "searching orders, the model. Not published for these data.", log=True),
    "fig10": Rows("fitness", "number", "R-MAT tensors of a million draws: three skews of a cube; two, four and six "
                  "modes. 1 is exact. The publication's numbers are not read off."),
    "table4": Rows("squared error over the padded grid", "number", "The inverse temperature of the order search: 1, "
                   "10, or infinite, which is hill climbing."),
}  # fmt: skip


def published_figures(results: Results) -> Iterator[Drawing]:
    """Those of the experiment that the targets' runs are of; none of another."""
    if results.experiment != EVIDENCE:
        return
    for target, name in TARGET_FIGURES.items():
        if target in ROWS:
            yield _rows(results, target, name)
        elif target == "fig14":
            yield _widths(results, name)
        else:
            yield _parts(results, name)


def _rows(results: Results, target: str, name: str) -> Drawing:
    how, lines = ROWS[target], target_lines(results, target)
    lines = lines[lines["ours"].notna()]
    cases = [case.rpartition(", ") for case in lines["case"]]
    data = lines.assign(group=[case[0] for case in cases], label=[case[2] for case in cases])[
        ["group", "label", "method", "published", "ours", "halfwidth", "values"]
    ]
    hollow = HOLLOW if data["published"].notna().any() else ""
    return dot_rows(
        name, f"{target}: {TARGETS[target].what}", data, how.label, how.form, f"{how.caption} {DOTS}{hollow}.",
        log=how.log, reference=how.reference,
    )  # fmt: skip


def _widths(results: Results, name: str) -> Drawing:
    """Seconds an epoch by the width of the model."""
    data = widths(results)
    data = data.assign(base=data["dataset"], setting="by width")
    caption = "Widths of the LSTM on the same data. The matrix products of a step grow with the square of the width, "
    caption += "all else with the width itself."
    return _growth(name, "fig14", data, ("hidden", "width of the model"), caption, chosen(results, "fig14"))


def _parts(results: Results, name: str) -> Drawing:
    """Seconds an epoch against non-zeros, of the orders and of the model."""
    runs = chosen(results, "fig15")
    parts = {"order_seconds": "orders", "model_seconds": "model"}
    shares = {part: runs[part].astype(float) / runs["epochs"].astype(float) for part in parts}
    means = over_seeds(runs.assign(**shares), ["nnz", *parts])
    frames = [
        means.assign(
            base=[base_of(dataset) for dataset in means["dataset"]],
            setting=what,
            seconds_per_epoch=means[part],
            seconds_per_epoch_stderr=means[f"{part}_stderr"],
        )
        for part, what in parts.items()
    ]
    data = pd.concat(frames).sort_values(["setting", "nnz"], kind="stable")
    caption = "Time of a fit over its epochs: of the model, and of the orders, whose first choice is in it."
    return _growth(name, "fig15", data, ("nnz", "non-zeros"), caption, runs)


def _growth(
    name: str, target: str, data: pd.DataFrame, x: tuple[str, str], caption: str, runs: pd.DataFrame
) -> Drawing:
    """A figure of an epoch's times; `runs` are those that they are of."""
    columns = ["base", "dataset", "method", "setting", "seeds", x[0], "seconds_per_epoch", "seconds_per_epoch_stderr"]
    laws: dict[tuple[str, str], PowerLaw] = {}
    alike = places_of(runs) <= 1
    for (base, setting), points in data.groupby(["base", "setting"], sort=False):
        law = fit_power_law(points[x[0]].tolist(), points["seconds_per_epoch"].tolist())
        if law and alike:
            laws[str(base), str(setting)] = law
    return growth(
        name,
        f"{target}: {TARGETS[target].what}",
        data[columns].reset_index(drop=True),
        x,
        laws,
        caption + ("" if alike else MIXED) + (" Slopes with 95 % intervals." if laws else ""),
    )
