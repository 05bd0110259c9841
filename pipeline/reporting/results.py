"""What a report is made from: the runs' metrics, their histories, and the plan they belong to."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Config, Run, run_name, setting_arguments
from pipeline.errors import InputError
from pipeline.reporting.statistics import CELL, over_seeds
from pipeline.reporting.targets import EVIDENCE, QUERY_TIMES, evaluation_of, runs_of

COMPRESSION = [
    *(
        "error",
        "error_padded",
        "relative_error",
        "relative_halfwidth",
        "fitness",
        "bytes",
        "bytes_equal",
        "bytes_with_order",
        "bytes_published_with_order",
        "file_bytes",
    ),
    *("parameters", "epochs", "seconds", "seconds_per_epoch", "setup_seconds", "order_seconds", "model_seconds"),
    *("cpu_seconds", "peak_rss_bytes"),
]
NETWORK = [
    *("accuracy", "validation_accuracy", "block_sparsity", "parameters", "train_parameters", "inference_parameters"),
    *(
        "train_flops",
        "dense_train_flops",
        "inference_flops",
        "dense_inference_flops",
        "step_seconds",
        "dense_step_seconds",
        "inference_seconds",
        "dense_inference_seconds",
    ),
    *("step_ratio", "inference_ratio", "seconds", "epochs", "peak_rss_bytes", "file_bytes"),
]


Key = tuple[str, str, str, int]  # data set, method, setting, seed
Kind = Literal["compression", "network"]  # of a run, in ``metrics.json``
Record = dict[Hashable, Any]  # one row of a table, by column


@dataclass(frozen=True)
class Results:
    """An experiment's results. Build it with :func:`load_results`."""

    experiment: str
    config: Config
    planned: list[Run]
    runs: pd.DataFrame  # one row a run, as metrics.parquet has it
    histories: dict[Key, pd.DataFrame]  # one row an epoch
    evaluations: dict[Key, dict[str, Any]] = field(default_factory=dict)  # of the runs that have one
    query_times: pd.DataFrame | None = None  # of NeuKron, one row a side and repeat; None where not measured

    @cached_property
    def compression(self) -> pd.DataFrame:
        """Means over seeds of all compressors on whole data sets: one row a data set, method and setting.

        ``relative_halfwidth`` is half the 95 % interval of a run's relative error where it was sampled, else NaN;
        ``bytes_published_with_order`` are the publication's bytes and those of the orders.
        """
        runs = self._of_kind("compression", samples=False)
        halfwidth = (runs["error_high"] - runs["error_low"]) / 2 / runs["norm2"]
        with_order = runs["bytes"] + runs["bytes_with_order"] - runs["bytes_equal"]
        runs = runs.assign(relative_halfwidth=halfwidth, bytes_published_with_order=with_order)
        return over_seeds(runs, COMPRESSION)

    @cached_property
    def networks(self) -> pd.DataFrame:
        """Means over seeds of all networks: one row a data set, method and setting."""
        runs = self._of_kind("network", samples=False)
        ratios = {
            f"{what}_ratio": runs[f"{what}_seconds"].astype(float) / runs[f"dense_{what}_seconds"].astype(float)
            for what in ("step", "inference")
        }
        means = over_seeds(runs.assign(**ratios), NETWORK)
        means.insert(len(CELL), "network", runs.groupby(CELL, sort=False)["network"].first().tolist())
        return means

    @cached_property
    def scaling(self) -> pd.DataFrame:
        """Seconds an epoch against non-zeros: the samples and their whole data set, one row a size and setting.

        Settings are those that some sample was fitted with. ``places`` counts the machines, numbers of threads and
        devices that a setting's times are of: those of several say nothing of the non-zeros.
        """
        runs = self.runs[(self.runs["kind"] == "compression") & (self.runs["method"] == "neukron")]
        keys = [(base_of(name), setting) for name, setting in zip(runs["dataset"], runs["setting"], strict=True)]
        sampled = {key for key, name in zip(keys, runs["dataset"], strict=True) if is_sample(name)}
        of = pd.Series(keys, index=runs.index, dtype=object)
        places = {key: places_of(runs[of == key]) for key in sampled}
        means = over_seeds(runs[np.asarray([key in sampled for key in keys], dtype=bool)], ["nnz", "seconds_per_epoch"])
        means.insert(0, "base", [base_of(name) for name in means["dataset"]])
        means["places"] = [places[key] for key in zip(means["base"], means["setting"], strict=True)]
        return means.sort_values(["base", "setting", "nnz"], kind="stable").reset_index(drop=True)

    @cached_property
    def plans(self) -> list[tuple[str, Run]]:
        """Every run of every experiment with the experiment's name, those of the publications' own grids first."""
        names = sorted(
            self.config.experiments, key=lambda name: (not name.startswith(("paper", "cifar")), name == EVIDENCE)
        )
        return [(name, run) for name in names for run in self.config.runs(name)]

    def compression_datasets(self) -> list[str]:
        """Names of the whole data sets that compressors were fitted to, in the plan's order."""
        return list(dict.fromkeys(self.compression["dataset"]))

    def network_datasets(self) -> list[str]:
        """Names of the data sets that networks were trained on, in the plan's order."""
        return list(dict.fromkeys(self.networks["dataset"]))

    def methods_on(self, dataset: str) -> int:
        """How many compressors were run on a data set."""
        return int(self.compression.loc[self.compression["dataset"] == dataset, "method"].nunique())

    def networks_of(self, dataset: str) -> list[str]:
        """Names of the networks that were trained on a data set, in the plan's order."""
        return list(dict.fromkeys(self.networks.loc[self.networks["dataset"] == dataset, "network"]))

    def first(self, dataset: str) -> pd.Series:
        """Return any run of a data set, a compressor's if there is one, for what all its runs share."""
        runs = self.runs[self.runs["dataset"] == dataset]
        return runs.sort_values("kind", kind="stable").iloc[0]  # compression, network

    def histories_of(self, dataset: str, kind: Kind) -> Iterator[tuple[str, str, int, pd.DataFrame]]:
        """Method, setting, seed and history of each compressor (``compression``) or network on a data set."""
        runs = self.runs[(self.runs["dataset"] == dataset) & (self.runs["kind"] == kind)]
        for method, setting, seed in zip(runs["method"], runs["setting"], runs["seed"], strict=True):
            yield method, setting, int(seed), self.histories[dataset, method, setting, int(seed)]

    def _of_kind(self, kind: str, samples: bool) -> pd.DataFrame:
        wanted = np.asarray([is_sample(name) == samples for name in self.runs["dataset"]], dtype=bool)
        frame: pd.DataFrame = self.runs[(self.runs["kind"] == kind).to_numpy() & wanted]
        return frame


def places_of(runs: pd.DataFrame) -> int:
    """How many machines, numbers of threads and devices the times of these runs are of."""
    return len(runs[["machine", "threads", "device"]].drop_duplicates())


def is_sample(dataset: str) -> bool:
    """Whether the name means a sample of another data set, ``<dataset>.f<fraction>``."""
    return ".f" in dataset


def base_of(dataset: str) -> str:
    """Name of the data set that a sample was drawn from; any other name as it is."""
    return dataset.partition(".f")[0]


def settings_text(run: Run) -> str:
    """A run's settings as ``key=value`` pairs, those that the method chooses left out."""
    return " ".join(setting_arguments(run.settings)[1::2])


def load_results(folder: Path, experiment: str, config: Config, runs_dir: Path) -> Results:
    """Read ``metrics.parquet`` from `folder` and each run's ``history.parquet`` below `runs_dir`.

    Raises
    ------
    InputError
        One of these files is missing or damaged, or the table holds runs that are not the experiment's.
    """
    planned = config.runs(experiment)
    path = folder / "metrics.parquet"
    runs = _read_parquet(path, f"python -m pipeline.aggregate {folder} --experiment {experiment}")
    known = {(run.dataset, run.method, run.setting, run.seed) for run in planned}
    histories = {}
    for dataset, method, setting, seed in zip(
        runs["dataset"], runs["method"], runs["setting"], runs["seed"], strict=True
    ):
        key: Key = (str(dataset), str(method), str(setting), int(seed))
        if key not in known:
            raise InputError(f"{path}: {run_name(*key)} is no run of experiment '{experiment}'; aggregate it again")
        file = runs_dir / run_name(*key) / "history.parquet"
        histories[key] = _read_parquet(file, f"snakemake {file.with_name('metrics.json')}")
    if experiment != EVIDENCE:
        return Results(experiment, config, planned, runs, histories)
    top = runs_dir.parent
    models = dict(zip(histories, runs["model_sha256"], strict=True))
    evaluations = {
        key: content
        for run in runs_of("fig7", planned)
        if (key := (run.dataset, run.method, run.setting, run.seed)) in models
        and (content := _read_evaluation(top / Path(evaluation_of(run)).relative_to("results")))
        and content["model_sha256"] == models[key]
    }
    path = top / Path(QUERY_TIMES).relative_to("results")
    times = pd.read_csv(path) if path.is_file() else None
    return Results(experiment, config, planned, runs, histories, evaluations, times)


def _read_evaluation(path: Path) -> dict[str, Any] | None:
    """An evaluation's content; None where there is none yet."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: no readable JSON; make it again with: snakemake -R {path}") from error
    return content


def _read_parquet(path: Path, command: str) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas(integer_object_nulls=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it with: {command}") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: no readable Parquet file; make it again with: {command}") from error
    return frame
