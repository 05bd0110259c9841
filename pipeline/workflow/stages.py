"""``dvc.yaml``, written from the plan: the same jobs as in the Snakefile, a stage for each of its targets.

Every command is a Snakemake target, so that there is one definition of a job; what a stage depends on is what
that target's rule takes as input and parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.workflow.closure import code_files, code_paths
from pipeline.workflow.records import PACK

if TYPE_CHECKING:
    from pipeline.config import Config, Run

HEAD = """\
# DVC records what Snakemake makes: every command is a Snakemake target, so that there is one definition of a job.
# Written by `python -m pipeline.config --use {name}` (or `make experiment NAME={name}`) from params.yaml and from
# what the code imports; do not edit it by hand.
"""


def stages(config: Config, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Stages of the experiments `names` by name, in the order of the workflow."""
    plans = {name: config.runs(name) for name in names}
    runs = [run for plan in plans.values() for run in plan]
    datasets = sorted({run.dataset.partition(".f")[0] for run in runs})
    found: dict[str, dict[str, Any]] = {}
    for dataset in datasets:
        found[stage_name("download", dataset)] = _download(config, dataset)
    for dataset in datasets:
        found[stage_name("convert", dataset)] = _convert(config, dataset)
    for dataset in sorted({run.dataset for run in runs if ".f" in run.dataset}):
        found[stage_name("sample", dataset)] = _sample(config, dataset)
    for rule, dataset, method in dict.fromkeys(_cell(run) for run in sorted(runs, key=_cell)):
        having = [name for name, plan in plans.items() if any(_cell(run) == (rule, dataset, method) for run in plan)]
        found[stage_name(rule, dataset, method)] = _fit(config, having, rule, dataset, method)
    for name, plan in plans.items():
        found |= _ends(config, name, plan)
    return found | {"records": _records(names, runs)}


def text(config: Config, names: Sequence[str]) -> str:
    """The whole of ``dvc.yaml`` for some experiments, the default one first."""
    content = {"vars": [{"smk": "snakemake --quiet progress host rules --"}], "stages": stages(config, names)}
    return HEAD.format(name=names[0]) + yaml.safe_dump(content, sort_keys=False, width=120)


def stage_name(*parts: str) -> str:
    """A name that DVC takes: the parts joined, a dot as an underscore.

    >>> stage_name("train_neukron", "kjv-3gram.f0.25", "neukron")
    'train_neukron-kjv-3gram_f0_25-neukron'
    """
    return re.sub(r"[^a-zA-Z0-9_-]", "_", "-".join(parts))


def _cell(run: Run) -> tuple[str, str, str]:
    return run.rule, run.dataset, run.method


def _stage(
    target: str, deps: Iterable[str], outs: Iterable[str], params: Iterable[str] = (), push: bool = True
) -> dict[str, Any]:
    stage: dict[str, Any] = {"cmd": f"${{smk}} {target}", "deps": sorted(deps)}
    if names := sorted(params):
        stage["params"] = names
    options = {"persist": True} if push else {"persist": True, "push": False}
    return stage | {"outs": [{path: dict(options)} for path in outs]}


def _download(config: Config, dataset: str) -> dict[str, Any]:
    code = code_paths(code_files("download"))
    entry = config.datasets[dataset]
    # files that need registration lie under a checksum, and a mirror may have them in their place
    own = [path for paths in entry.sources_on_disk().values() for path in paths if entry.registration is None]
    return _stage(
        f"download_{dataset}", [*code, *own], [f"data/raw/{dataset}"], [f"datasets.{dataset}.files"], entry.push
    )


def _convert(config: Config, dataset: str) -> dict[str, Any]:
    entry = config.datasets[dataset]
    params = [f"datasets.{dataset}.{key}" for key in entry.deciding() if key in entry.model_fields_set]
    outs = [config.tensor_path(dataset), *(f"data/tensors/{dataset}.labels-{mode}.parquet" for mode in entry.labels)]
    return _stage(
        f"convert_{dataset}", [f"data/raw/{dataset}", *code_paths(code_files("convert"))], outs, params, entry.push
    )


def _sample(config: Config, dataset: str) -> dict[str, Any]:
    base = dataset.partition(".f")[0]
    whole, sample = config.tensor_path(base), config.tensor_path(dataset)
    return _stage(sample, [whole, *code_paths(code_files("sample"))], [sample], push=config.datasets[base].push)


def _fit(config: Config, names: Sequence[str], rule: str, dataset: str, method: str) -> dict[str, Any]:
    """All runs of a method on a data set, of the experiments `names` that have some."""
    base = dataset.partition(".f")[0]
    deps = [config.tensor_path(dataset), *code_paths(config.code_of(rule, method))]
    if rule == "train_kpd":
        deps.append(config.label_path(dataset))
    params = [key for key in (method, *(["networks"] if rule == "train_kpd" else [])) if config.methods.get(key)]
    for name in names:
        params += [f"experiments.{name}.seeds", f"experiments.{name}.settings.{base}.{method}"]
        params += [f"experiments.{name}.defaults"] if config.experiments[name].defaults else []
    return _stage(f"{dataset}.{method}", deps, [f"results/runs/{dataset}/{method}"], params)


def _cells(runs: Iterable[Run]) -> list[str]:
    return sorted({f"results/runs/{run.dataset}/{run.method}" for run in runs})


def _ends(config: Config, name: str, runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Aggregate and report."""
    from pipeline.reporting.outputs import report_files

    folder = f"results/{name}"
    aggregate = _stage(
        f"{folder}/summary.json",
        _cells(runs),
        [f"{folder}/metrics.csv", f"{folder}/metrics.parquet"],
        [f"experiments.{name}"],
    )
    aggregate["metrics"] = [{f"{folder}/summary.json": {"persist": True}}]
    pages = [f"{folder}/{each}" for each in sorted({file.partition("/")[0] for file in report_files(config, name)})]
    report = _stage(
        f"{folder}/report.html", [f"{folder}/metrics.parquet", *_cells(runs)], pages, [f"experiments.{name}"]
    )
    return {stage_name("aggregate", name): aggregate, stage_name("report", name): report}


def _records(names: Sequence[str], runs: list[Run]) -> dict[str, Any]:
    """Snakemake's records of all that was made: the last stage, so that they are complete."""
    return _stage("recorded", [*(f"results/{name}/report.html" for name in names), *_cells(runs)], [PACK])
