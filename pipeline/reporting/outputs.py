"""Ways of counting bytes, and names of the files that the report step writes, from the plan alone.

Imports neither pandas nor matplotlib, so that a workflow can list its outputs quickly.
"""

from __future__ import annotations

from typing import NamedTuple

from pipeline.config import Config
from pipeline.methods import METHODS
from pipeline.reporting.targets import EVIDENCE, runs_of

AGGREGATED = {  # files of the aggregation, each with what is in every one of them
    "metrics.parquet": b"params_sha256",
    "metrics.csv": b"kind,dataset,method,setting,",
    "summary.json": b'"seeds"',
}
CRATE = "ro-crate-metadata.json"
ALWAYS = ["report.html", "headlines.txt", "cards.md", CRATE]
# Figures beside one target each, of all data sets together.
TARGET_FIGURES = {
    "fig4": "ablation", "fig11": "sequence-models", "fig5": "training-time", "fig10": "synthetic-fitness",
    "fig14": "epoch-width", "fig15": "epoch-parts", "table4": "gamma",
}  # fmt: skip
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


def figure_names(config: Config, experiment: str) -> list[str]:
    """Names of the figures of a whole experiment, in the order of the page."""
    runs = config.runs(experiment)
    evaluated = {run.dataset for run in runs_of("fig7", runs)} if experiment == EVIDENCE else set()
    names = []
    for dataset, network in dict.fromkeys((run.dataset, METHODS[run.method].kind == "network") for run in runs):
        if network:
            names += [f"{figure}-{dataset}" for figure in ("accuracy-sparsity", "cost", "accuracy-epochs")]
        elif ".f" not in dataset:
            names += [f"size-error-{accounting}-{dataset}" for accounting in (item.slug for item in ACCOUNTINGS)]
            names += [f"error-epochs-{dataset}", f"error-seconds-{dataset}"]
            if dataset in evaluated:
                names += [f"error-values-{dataset}"]
                names += [f"singular-values-{dataset}"] if len(config.datasets[dataset].shape or []) == 2 else []
    sizes = {(run.dataset, run.settings["network"]) for run in runs if METHODS[run.method].kind == "network"}
    if len(sizes) > 1:
        names.append("step-network-size")
    if any(".f" in run.dataset for run in runs):
        names.append("scaling")
    if experiment == EVIDENCE:
        names += ["query-times", *TARGET_FIGURES.values()]
    return names


def report_files(config: Config, experiment: str) -> list[str]:
    """Paths of all files of a report, relative to the experiment's folder."""
    figures = [f"figures/{name}.{suffix}" for name in figure_names(config, experiment) for suffix in ("svg", "csv")]
    data = [f"croissant/{name}.json" for name in dict.fromkeys(run.dataset for run in config.runs(experiment))]
    return [*ALWAYS, *figures, *(f"tables/{name}.csv" for name in TABLES), *data]
