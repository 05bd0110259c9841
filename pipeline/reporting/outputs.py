"""Ways of counting bytes, and names of the files that the report step writes, from the plan alone.

Imports neither pandas nor matplotlib, so that a workflow can list its outputs quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.config import Run
from pipeline.methods import METHODS

CRATE = "ro-crate-metadata.json"
ALWAYS = ["report.html", "headlines.txt", "cards.md", CRATE]
TABLES = ["datasets", "compression", "smallest", "networks", "scaling", "reproduction", "runs"]


class Accounting(NamedTuple):
    """One way of counting an artifact's bytes: its column, its name in files and in words, and what it charges."""

    column: str
    slug: str
    name: str
    meaning: str


ACCOUNTINGS = [
    Accounting(
        "bytes_equal",
        "equal",
        "equal",
        "every method pays 4 bytes for each real number it keeps; orders of rows and columns cost nothing",
    ),
    Accounting(
        "bytes_with_order",
        "with-orders",
        "equal + orders",
        "the same, plus what it takes to store the orders, so that the artifact answers in the tensor's own indices",
    ),
    Accounting(
        "bytes",
        "published",
        "as published",
        "what the method's own publication charges, for example 4 bytes a number for NeuKron and 8 for T-SVD and CP",
    ),
    Accounting(
        "bytes_published_with_order",
        "published-orders",
        "as published + orders",
        "the publication's count, plus what it takes to store the orders",
    ),
]


def figure_names(runs: Iterable[Run]) -> list[str]:
    """Names of the figures of an experiment with these runs, in the order of the page."""
    runs = list(runs)
    names = []
    for dataset, network in dict.fromkeys((run.dataset, METHODS[run.method].kind == "network") for run in runs):
        if network:
            names += [f"{figure}-{dataset}" for figure in ("accuracy-sparsity", "cost", "accuracy-epochs")]
        elif ".f" not in dataset:
            names += [f"size-error-{accounting}-{dataset}" for accounting in (item.slug for item in ACCOUNTINGS)]
            names += [f"error-epochs-{dataset}", f"error-seconds-{dataset}"]
    if any(".f" in run.dataset for run in runs):
        names.append("scaling")
    return names


def report_files(runs: Iterable[Run]) -> list[str]:
    """Paths of all files of a report, relative to the experiment's folder."""
    runs = list(runs)
    figures = [f"figures/{name}.{suffix}" for name in figure_names(runs) for suffix in ("svg", "csv")]
    data = [f"croissant/{name}.json" for name in dict.fromkeys(run.dataset for run in runs)]
    return [*ALWAYS, *figures, *(f"tables/{name}.csv" for name in TABLES), *data]
