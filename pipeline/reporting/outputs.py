"""Names of the files that the report step writes, from the plan alone.

Imports neither pandas nor matplotlib, so that a workflow can list its outputs quickly.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.config import Run
from pipeline.methods import METHODS

ALWAYS = ["report.html", "headlines.txt"]
TABLES = ["datasets", "compression", "smallest", "networks", "scaling", "runs"]


def figure_names(runs: Iterable[Run]) -> list[str]:
    """Names of the figures of an experiment with these runs, in the order of the page."""
    runs = list(runs)
    names = []
    for dataset, network in dict.fromkeys((run.dataset, METHODS[run.method].kind == "network") for run in runs):
        if network:
            names += [f"{figure}-{dataset}" for figure in ("accuracy-sparsity", "cost", "accuracy-epochs")]
        elif ".f" not in dataset:
            names += [f"size-error-{accounting}-{dataset}" for accounting in ("equal", "with-orders", "published")]
            names += [f"error-epochs-{dataset}", f"error-seconds-{dataset}"]
    if any(".f" in run.dataset for run in runs):
        names.append("scaling")
    return names


def report_files(runs: Iterable[Run]) -> list[str]:
    """Paths of all files of a report, relative to the experiment's folder."""
    figures = [f"figures/{name}.{suffix}" for name in figure_names(runs) for suffix in ("svg", "csv")]
    return [*ALWAYS, *figures, *(f"tables/{name}.csv" for name in TABLES)]
