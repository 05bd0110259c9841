"""Gather the ``metrics.json`` of every run of an experiment into one table and one summary."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pipeline.config import Run, load_config, setting_arguments
from pipeline.core import step
from pipeline.core.files import atomic_path, refuse_clashes, write_json
from pipeline.core.names import plain_name
from pipeline.errors import InputError
from pipeline.reporting.outputs import AGGREGATED
from pipeline.runs.metrics import CompressionMetrics, Metrics, NetworkMetrics, check_model, read_metrics
from pipeline.runs.record import params_digest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SUMMARY = {
    "compression": ["error", "relative_error", "fitness", "bytes", "bytes_equal", "bytes_with_order"],
    "network": [
        "accuracy",
        "block_sparsity",
        "train_parameters",
        "inference_parameters",
        "train_flops",
        "inference_flops",
    ],
}


def collect(runs: Sequence[Run], runs_dir: Path, experiment: str, partial: bool = False) -> list[Metrics]:
    """Read and check the metrics of `runs`, in their order.

    Parameters
    ----------
    runs
        What the experiment asks for.
    runs_dir
        The folder that holds ``<dataset>/<method>/<setting>-s<seed>/metrics.json``.
    experiment
        Its name, for messages.
    partial
        Leave missing runs out instead of refusing.

    Raises
    ------
    InputError
        Runs are missing (all are listed); a file breaks the schema, names another run or was made with
        other settings; a model is missing or not the one that was measured; two runs of one data set were
        fitted to different data.
    """
    paths = [(run, runs_dir / run.name / "metrics.json") for run in runs]
    missing = [run.name for run, path in paths if not path.is_file()]
    if missing and not partial:
        raise InputError(
            f"{runs_dir}: {len(missing)} of {len(runs)} runs of experiment '{experiment}' are missing: "
            f"{', '.join(missing)}; make them with: snakemake results/{experiment}/metrics.parquet, "
            "or give --partial to go on without them"
        )
    found = [(run, path, read_metrics(path)) for run, path in paths if path.is_file()]
    if not found:
        raise InputError(f"{runs_dir}: no run of experiment '{experiment}' is there yet; nothing to aggregate")
    for run, path, metrics in found:
        _check_identity(run, path, metrics)
        check_model(path, metrics)
    _check_data([(path, metrics) for _, path, metrics in found])
    return [metrics for _, _, metrics in found]


def _check_identity(run: Run, path: Path, metrics: Metrics) -> None:
    """Refuse metrics that another run, or the same run with other settings, left at `path`."""
    for key in ("dataset", "method", "setting", "seed"):
        found, wanted = getattr(metrics, key), getattr(run, key)
        if found != wanted:
            raise InputError(f"{path}: {key}: '{found}' does not belong here, '{wanted}' does; make this run again")
    expected = params_digest(run.method, run.seed, step.parse_settings(setting_arguments(run.settings)[1::2]))
    if metrics.params_sha256 != expected:
        raise InputError(
            f"{path}: params_sha256: {metrics.params_sha256[:12]} was made with other settings than params.yaml "
            f"gives ({expected[:12]}); make it again with: snakemake {run.folder}/metrics.json"
        )


def _check_data(found: Iterable[tuple[Path, Metrics]]) -> None:
    """Refuse to compare runs that were fitted to different versions of a data set."""
    first: dict[str, tuple[Path, str]] = {}
    for path, metrics in found:
        other, digest = first.setdefault(metrics.dataset, (path, metrics.data_sha256))
        if digest != metrics.data_sha256:
            raise InputError(
                f"{path}: data_sha256: {metrics.data_sha256[:12]} differs from {digest[:12]} in {other}: "
                f"the two saw different versions of '{metrics.dataset}'; make the older run again"
            )


def to_table(metrics: Sequence[Metrics]) -> pa.Table:
    """One row a run, with the same typed columns whatever kinds of run there are.

    Counts are int64, measurements float64, names strings; lists and mappings are JSON text, and
    ``error_interval`` becomes ``error_low`` and ``error_high``.
    """
    import pyarrow as pa

    rows = [_flat(item.model_dump(mode="json")) for item in metrics]
    return pa.Table.from_pylist(rows, schema=_schema())


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    low, high = content.pop("error_interval", None) or (None, None)
    if content["kind"] == "compression":
        content |= {"error_low": low, "error_high": high}
    return {
        key: json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value
        for key, value in content.items()
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    fields: dict[str, pa.DataType] = {name: pa.string() for name in ("kind", "dataset", "method", "setting")}
    for model in (CompressionMetrics, NetworkMetrics):
        for name, field in model.model_fields.items():
            if name == "error_interval":
                fields |= {"error_low": pa.float64(), "error_high": pa.float64()}
            else:
                fields.setdefault(name, _arrow_type(field.annotation))
    return pa.schema(list(fields.items()))


def _arrow_type(annotation: Any) -> pa.DataType:
    """Arrow type of a schema field: optional or annotated numbers by their number, all else as text."""
    import pyarrow as pa

    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    numbers = {int: pa.int64(), float: pa.float64()}
    return numbers.get(annotation, pa.string())


def summarise(runs: pd.DataFrame) -> dict[str, Any]:
    """Nested dict data set -> method -> setting -> means over seeds, for ``dvc metrics``.

    Where there are several seeds each mean has its standard error beside it as ``<name>_stderr``.
    Holds nothing that a rerun changes: no times, no dates, no machine.
    """
    from pipeline.reporting.statistics import CELL, over_seeds

    summary: dict[str, Any] = {}
    for kind, quantities in SUMMARY.items():
        for cell in over_seeds(runs[runs["kind"] == kind], quantities).to_dict("records"):
            entry: dict[str, Any] = {"seeds": cell["seeds"]}
            for name in quantities:
                entry[name] = _number(cell[name])
                if cell["seeds"] > 1:
                    entry[f"{name}_stderr"] = _number(cell[f"{name}_stderr"])
            dataset, method, setting = (cell[key] for key in CELL)
            summary.setdefault(dataset, {}).setdefault(method, {})[setting] = entry
    return summary


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def aggregate(metrics: Sequence[Metrics], folder: Path) -> None:
    """Write ``metrics.parquet``, ``metrics.csv`` and ``summary.json`` into `folder`."""
    import pyarrow.parquet as pq

    table = to_table(metrics)
    with atomic_path(folder / "metrics.parquet") as temporary:
        pq.write_table(table, temporary)
    frame = table.to_pandas(integer_object_nulls=True)
    with atomic_path(folder / "metrics.csv") as temporary:
        frame.to_csv(temporary, index=False)
    write_json(folder / "summary.json", summarise(frame))


def main(argv: list[str] | None = None) -> None:
    """Command line of this step."""
    arguments = step.parser(
        "Gather the metrics of every run of an experiment: metrics.parquet and metrics.csv (one row a run) "
        "and summary.json (means and standard errors over seeds).",
        epilog="example:\n  python -m pipeline.aggregate results/demo --experiment demo",
    )
    arguments.add_argument("folder", type=Path, nargs="?", help="where to write (default: results/EXPERIMENT)")
    arguments.add_argument("--experiment", help="of params.yaml (default: the one that it names)")
    arguments.add_argument("--params", default="params.yaml", help="the configuration (default: params.yaml)")
    arguments.add_argument(
        "--runs-dir", type=Path, default=Path("results/runs"), help="holds the runs (default: results/runs)"
    )
    arguments.add_argument("--partial", action="store_true", help="go on without the runs that are missing")
    options = arguments.parse_args(argv)
    config = load_config(options.params)
    experiment = plain_name(options.experiment or config.experiment, "experiment")
    folder = options.folder or Path("results") / experiment
    refuse_clashes([], [folder], {folder / name: mark for name, mark in AGGREGATED.items()})
    aggregate(collect(config.runs(experiment), options.runs_dir, experiment, options.partial), folder)


if __name__ == "__main__":
    step.run(main)
