"""Numbers of both publications, as the package holds them; see the README beside them."""

from __future__ import annotations

import functools
from importlib.resources import files

import pandas as pd

METHOD_NAMES = {
    "NeuKron": "neukron", "T-SVD": "t-svd", "KronFit": "kronfit", "CMD": "cmd", "CUR": "cur", "ACCAMS": "accams",
    "bACCAMS": "baccams", "CP": "cp", "Tucker": "tucker", "CSF (lossless)": "lossless",
}  # fmt: skip


@functools.cache
def published(name: str) -> pd.DataFrame:
    """A table of published numbers, by the name of its file."""
    with (files("pipeline.reporting") / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        frame: pd.DataFrame = pd.read_csv(file)
    return frame


def published_curve(dataset: str, norm2: float) -> pd.DataFrame:
    """NeuKron's published training curve on a data set, over the padded grid: ``epoch`` from 1, ``relative_error``."""
    table = published("neukron_fig12")
    own = table[(table["dataset"] == dataset) & (table["epoch"] > 0)]
    return pd.DataFrame({"epoch": own["epoch"], "relative_error": own["error"] / norm2}).reset_index(drop=True)


def published_sizes(dataset: str, norm2: float) -> pd.DataFrame:
    """Published points of a data set: ``method`` (by our name), ``bytes`` as published, ``relative_error``.

    NeuKron's error is over the padded grid.
    """
    table = published("neukron_fig3")
    own = table[table["dataset"] == dataset]
    return pd.DataFrame(
        {"method": own["method"].map(METHOD_NAMES), "bytes": own["bytes"], "relative_error": own["error"] / norm2}
    ).reset_index(drop=True)
