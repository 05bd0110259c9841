"""From raw files to the report: one definition of every job, for Snakemake and for DVC.

snakemake                             the default experiment of params.yaml
snakemake -n                          what would be done, and why
snakemake results/demo/report.html    one experiment
snakemake partial                     a report of the runs that are there, in results/<experiment>-partial/
snakemake descriptions                a page about each data set of the default experiment
snakemake flights.neukron             all runs of one data set and method
snakemake --report report.zip         after it: results, captions, settings, run times in one archive
snakemake recorded                    all that DVC records: the default experiment and `recorded` of params.yaml
snakemake paper-small                 the evidence of both papers, as far as two cores get, and RESULTS.md
snakemake fig3                        the runs of one of its figures or tables, and what is published beside ours
"""

import json
import os
import shlex
import sys
from itertools import groupby
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import report as reported

# Jobs run `python`: let it be the one that runs Snakemake, with or without an activated environment.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
sys.path.insert(0, workflow.basedir)

from pipeline.config import load_config, run_name, setting_arguments, together
from pipeline.workflow.closure import code_files
from pipeline.workflow.locks import release_stale
from pipeline.workflow.records import sync
from pipeline.workflow.resources import memory_to_reserve, minutes_to_reserve, work_of
from pipeline.errors import InputError
from pipeline.reporting.outputs import report_files
from pipeline.reporting.targets import (
    EVALUATION,
    EVIDENCE,
    QUERY_TIMES,
    TARGETS,
    expectation,
    measured_seconds,
    measures_of,
    measures_of_experiment,
    runs_of,
)
from pipeline.runs.metrics import FILES

try:
    CONFIG = load_config(Path(workflow.basedir) / "params.yaml")
    EXPERIMENT = config.get("experiment", CONFIG.experiment)
    RUNS = {name: CONFIG.runs(name) for name in {*CONFIG.experiments, EXPERIMENT}}
except InputError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    if release_stale():
        print(
            "the last snakemake here was killed: its locks are released, what it left half done is made again",
            file=sys.stderr,
        )
    try:
        sync()
    except InputError as error:
        raise WorkflowError(str(error)) from None


onsuccess:
    sync()


onerror:
    sync()


DAY = 24 * 60  # minutes
# What DVC records: this experiment and those that params.yaml names beside it.
RECORDED = list(dict.fromkeys([EXPERIMENT, *CONFIG.recorded_experiments()]))
# The data sets of the default experiment.
DATASETS = sorted({run.dataset.partition(".f")[0] for run in RUNS[EXPERIMENT]})
RUN_BY_FOLDER = {run.folder: run for runs in RUNS.values() for run in runs}


def methods(rule_name):
    """Methods that a fitting rule serves, as a wildcard constraint."""
    return (
        "|".join(
            sorted(
                {run.method for run in RUN_BY_FOLDER.values() if run.rule == rule_name}
            )
        )
        or "none"
    )


def the_run(wildcards):
    """The run that a folder stands for."""
    method = wildcards.get("method", "neukron")
    name = run_name(wildcards.dataset, method, wildcards.setting, wildcards.seed)
    folder = f"results/runs/{name}"
    if folder not in RUN_BY_FOLDER:
        raise WorkflowError(
            f"{folder}: no experiment in params.yaml has this run; see python -m pipeline.config"
        )
    return RUN_BY_FOLDER[folder]


def run_tensor(wildcards):
    """The tensor or sample that a run is fitted to."""
    return CONFIG.tensor_path(the_run(wildcards).dataset)


def run_labels(wildcards):
    """The class labels of a network's images."""
    return CONFIG.label_path(the_run(wildcards).dataset)


def run_arguments(wildcards):
    """Names, seed and settings of a run as the arguments of its step."""
    run = the_run(wildcards)
    arguments = [
        "--dataset",
        run.dataset,
        "--setting",
        run.setting,
        "--seed",
        str(run.seed),
    ]
    return shlex.join([*arguments, *setting_arguments(run.settings)])


def run_memory(wildcards, input, attempt):
    """Memory to reserve in MB: what the cost model predicts and a margin, twice as much at each attempt."""
    return memory_to_reserve(run_work(wildcards), attempt, input.size_mb)


def run_minutes(wildcards, attempt):
    """Time to reserve; a run that ends when it makes no progress has a day."""
    return minutes_to_reserve(run_work(wildcards), attempt, default=DAY)


def run_work(wildcards):
    """What decides the cost of a run."""
    run = the_run(wildcards)
    return work_of(run.rule, run.method, CONFIG.size_of(run.dataset), run.settings)


def shown(experiment, files):
    """Files of an experiment as `snakemake --report` shows them: with a caption, by kind."""
    kinds = {".html": "page", ".svg": "figure", ".csv": "table", ".txt": "page"}
    found = []
    for file in map(Path, files):
        kind = kinds.get(file.suffix, "origin")
        found.append(
            reported(
                f"results/{experiment}/{file}",
                caption=f"pipeline/reporting/captions/{kind}.rst",
                category=experiment,
                subcategory=kind,
                labels={"file": file.stem, "format": file.suffix[1:]},
            )
        )
    return found


def whole(runs):
    """All files of each run."""
    return [f"{run.folder}/{file}" for run in runs for file in FILES]


wildcard_constraints:
    dataset=r"[a-z0-9][a-z0-9._-]*",
    setting=r"[a-z0-9][a-z0-9._-]*",
    experiment=r"[a-z0-9][a-z0-9_-]*",
    fraction=r"[0-9.]+",
    seed=r"\d+",


envvars:
    "PATH",


localrules:
    all,
    download,
    convert,
    descriptions,
    partial,


rule all:
    default_target: True
    input:
        f"results/{EXPERIMENT}/report.html",
        whole(RUNS[EXPERIMENT]),


rule download:
    input:
        [
            f"data/raw/{name}/{file}"
            for name in DATASETS
            for file in CONFIG.datasets[name].files
        ],
    log:
        "logs/download.log",
    conda:
        "environment.yaml"


rule convert:
    input:
        [f"data/tensors/{name}.parquet" for name in DATASETS],
    log:
        "logs/convert.log",
    conda:
        "environment.yaml"


for name, entry in CONFIG.datasets.items():

    rule:
        name:
            f"download_{name}"
        input:
            entry.own_files(Path("data/raw") / name),
            code=code_files("download"),
        output:
            [f"data/raw/{name}/{file}" for file in entry.files],
        log:
            f"logs/download/{name}.log",
        benchmark:
            f"logs/benchmarks/download/{name}.tsv"
        retries: 1
        localrule: True  # a cluster's nodes may have no network
        conda:
            "environment.yaml"
        params:
            dataset=name,
            checksums=entry.checksums(),
        shell:
            "python -m pipeline.download {params.dataset} 2> {log}"

    rule:
        name:
            f"convert_{name}"
        input:
            [f"data/raw/{name}/{file}" for file in entry.files],
            code=code_files("convert"),
        output:
            tensor=f"data/tensors/{name}.parquet",
            labels=[
                f"data/tensors/{name}.labels-{mode}.parquet" for mode in entry.labels
            ],
        log:
            f"logs/convert/{name}.log",
        benchmark:
            f"logs/benchmarks/convert/{name}.tsv"
        conda:
            "environment.yaml"
        resources:
            mem_mb=lambda wildcards, input, attempt: attempt
            * (1000 + 30 * int(input.size_mb)),
            runtime=lambda wildcards, input, attempt: attempt
            * (20 + int(input.size_mb / 10)),
        params:
            dataset=name,
            entry=entry.deciding(),
        shell:
            "python -m pipeline.convert {params.dataset} 2> {log}"


rule describe:
    input:
        tensor="data/tensors/{dataset}.parquet",
        code=code_files("describe"),
    output:
        page="results/descriptions/{dataset}.html",
        figure="results/descriptions/{dataset}.svg",
        distributions="results/descriptions/{dataset}.csv",
        tables="results/descriptions/{dataset}.summary.csv",
    log:
        "logs/describe/{dataset}.log",
    benchmark:
        "logs/benchmarks/describe/{dataset}.tsv"
    conda:
        "environment.yaml"
    shell:
        "python -m pipeline.describe {input.tensor} {output.page} > {log} 2>&1"


rule descriptions:
    input:
        [f"results/descriptions/{name}.html" for name in DATASETS],
    log:
        "logs/descriptions.log",
    conda:
        "environment.yaml"


rule sample:
    input:
        tensor="data/tensors/{dataset}.parquet",
        code=code_files("sample"),
    output:
        "data/samples/{dataset}/f{fraction}-s{seed}.parquet",
    log:
        "logs/sample/{dataset}.f{fraction}-s{seed}.log",
    benchmark:
        "logs/benchmarks/sample/{dataset}.f{fraction}-s{seed}.tsv"
    conda:
        "environment.yaml"
    shell:
        "python -m pipeline.sample {input.tensor} {output} --fraction {wildcards.fraction} --seed {wildcards.seed} --no-labels 2> {log}"


rule train_neukron:
    input:
        tensor=run_tensor,
        code=code_files("train_neukron"),
    output:
        model="results/runs/{dataset}/neukron/{setting}-s{seed}/model.safetensors",
        metrics="results/runs/{dataset}/neukron/{setting}-s{seed}/metrics.json",
        history="results/runs/{dataset}/neukron/{setting}-s{seed}/history.parquet",
    log:
        "logs/train_neukron/{dataset}/{setting}-s{seed}.log",
    benchmark:
        "logs/benchmarks/train_neukron/{dataset}/{setting}-s{seed}.tsv"
    conda:
        "environment.yaml"
    threads: 1
    resources:
        mem_mb=run_memory,
        runtime=run_minutes,
        device="auto",  # a profile may ask for cuda: then a job without a GPU fails
    params:
        folder=subpath(output.model, parent=True),
        arguments=run_arguments,
    shell:
        "python -m pipeline.train_neukron {input.tensor} {params.folder} {params.arguments}"
        " --threads {threads} --device {resources.device} 2> {log}"


rule fit_baseline:
    input:
        tensor=run_tensor,
        code=lambda wildcards: CONFIG.code_of("fit_baseline", wildcards.method),
    output:
        model="results/runs/{dataset}/{method}/{setting}-s{seed}/model.safetensors",
        metrics="results/runs/{dataset}/{method}/{setting}-s{seed}/metrics.json",
        history="results/runs/{dataset}/{method}/{setting}-s{seed}/history.parquet",
    log:
        "logs/fit_baseline/{dataset}/{method}/{setting}-s{seed}.log",
    benchmark:
        "logs/benchmarks/fit_baseline/{dataset}/{method}/{setting}-s{seed}.tsv"
    wildcard_constraints:
        method=methods("fit_baseline"),
    conda:
        "environment.yaml"
    threads: 1
    resources:
        mem_mb=run_memory,
        runtime=run_minutes,
    params:
        folder=subpath(output.model, parent=True),
        arguments=run_arguments,
    shell:
        "python -m pipeline.fit_baseline {input.tensor} {params.folder} --method {wildcards.method} {params.arguments}"
        " --threads {threads} > {log} 2>&1"


rule train_kpd:
    input:
        tensor=run_tensor,
        labels=run_labels,
        code=code_files("train_kpd"),
    output:
        model="results/runs/{dataset}/{method}/{setting}-s{seed}/model.safetensors",
        metrics="results/runs/{dataset}/{method}/{setting}-s{seed}/metrics.json",
        history="results/runs/{dataset}/{method}/{setting}-s{seed}/history.parquet",
    log:
        "logs/train_kpd/{dataset}/{method}/{setting}-s{seed}.log",
    benchmark:
        "logs/benchmarks/train_kpd/{dataset}/{method}/{setting}-s{seed}.tsv"
    wildcard_constraints:
        method=methods("train_kpd"),
    conda:
        "environment.yaml"
    threads: 1
    resources:
        mem_mb=run_memory,
        runtime=run_minutes,
        device="auto",  # a profile may ask for cuda: then a job without a GPU fails
    params:
        folder=subpath(output.model, parent=True),
        arguments=run_arguments,
    shell:
        "python -m pipeline.train_kpd {input.tensor} {params.folder} --labels {input.labels}"
        " --method {wildcards.method} {params.arguments} --threads {threads} --device {resources.device} > {log} 2>&1"


rule evaluate:
    input:
        tensor=run_tensor,
        model="results/runs/{dataset}/{method}/{setting}-s{seed}/model.safetensors",
        code=code_files("evaluate"),
    output:
        EVALUATION,
    log:
        "logs/evaluate/{dataset}/{method}/{setting}-s{seed}.log",
    benchmark:
        "logs/benchmarks/evaluate/{dataset}/{method}/{setting}-s{seed}.tsv"
    conda:
        "environment.yaml"
    threads: 1
    shell:
        "python -m pipeline.evaluate {input.tensor} {input.model} {output} --threads {threads} > {log} 2>&1"


rule query_times:
    input:
        code=code_files("query_times"),
    output:
        QUERY_TIMES,
    log:
        "logs/query_times.log",
    benchmark:
        "logs/benchmarks/query_times.tsv"
    conda:
        "environment.yaml"
    threads: 1
    shell:
        "python -m pipeline.query_times {output} --threads {threads} > {log} 2>&1"


for name, runs in RUNS.items():

    rule:
        name:
            f"aggregate_{name}"
        input:
            whole(runs),
        output:
            f"results/{name}/metrics.parquet",
            shown(name, ["metrics.csv", "summary.json"]),
        log:
            f"logs/aggregate/{name}.log",
        benchmark:
            f"logs/benchmarks/aggregate/{name}.tsv"
        conda:
            "environment.yaml"
        params:
            experiment=name,
        shell:
            "python -m pipeline.aggregate results/{params.experiment} --experiment {params.experiment} > {log} 2>&1"

    rule:
        name:
            f"report_{name}"
        # The runs' histories come by way of the aggregation: a run made again changes its table. As inputs of every
        # file of the report they would be most of what Snakemake records of 1,000 runs.
        input:
            f"results/{name}/metrics.parquet",
            measures_of_experiment(name, runs),
        output:
            shown(name, report_files(CONFIG, name)),
        log:
            f"logs/report/{name}.log",
        benchmark:
            f"logs/benchmarks/report/{name}.tsv"
        conda:
            "environment.yaml"
        params:
            experiment=name,
        shell:
            "python -m pipeline.report results/{params.experiment} --experiment {params.experiment} > {log} 2>&1"


# All runs of one data set and method: what a DVC stage asks for.
for (dataset, method), runs in groupby(
    together(run for name in RECORDED for run in RUNS[name]),
    key=lambda run: (run.dataset, run.method),
):
    runs = list(runs)

    rule:
        name:
            f"{dataset}.{method}"
        input:
            whole(runs),
        log:
            f"logs/{dataset}.{method}.log",
        localrule: True
        conda:
            "environment.yaml"


rule recorded:
    input:
        [f"results/{name}/report.html" for name in RECORDED],
        [file for name in RECORDED for file in whole(RUNS[name])],
    log:
        "logs/recorded.log",
    localrule: True
    conda:
        "environment.yaml"


# The evidence of both papers: all of it, or what one figure or table needs, where params.yaml has the experiment.
WANTED = {
    name: (
        target.experiment,
        runs_of(name, RUNS[target.experiment]),
        measures_of(name, RUNS[target.experiment]),
    )
    for name, target in TARGETS.items()
    if target.experiment in RUNS
}
if EVIDENCE in RUNS:
    WANTED[EVIDENCE] = (EVIDENCE, RUNS[EVIDENCE], [f"results/{EVIDENCE}/report.html"])

for name in sorted(WANTED.keys() & set(sys.argv[1:])):
    plan, runs, measures = WANTED[name]
    if not runs and not measures:
        raise WorkflowError(f"{name}: {TARGETS[name].what}: no run here measures it")
    if "--target-jobs" not in sys.argv:
        todo = [run for run in runs if not Path(run.folder, "metrics.json").exists()]
        further = sum(
            not Path(file).exists() for file in measures if not file.endswith(".html")
        )
        hours = CONFIG.experiments[plan].hours
        usual = 2 * 3600 * hours / len(RUNS[plan]) if hours else None
        known = (
            measured_seconds(Path("evidence/tables/runs.csv"))
            if plan == EVIDENCE
            else {}
        )
        print(
            f"{name}:", expectation(runs, todo, further, known, usual), file=sys.stderr
        )
        if name in TARGETS:
            print(
                f"{name}: all that was published needs {TARGETS[name].needs};"
                " RESULTS.md says what is not at hand",
                file=sys.stderr,
            )

for name, (plan, runs, measures) in WANTED.items():

    rule:
        name:
            name
        input:
            whole(runs),
            measures,
        log:
            f"logs/targets/{name}.log",
        localrule: True
        conda:
            "environment.yaml"
        params:
            command=(
                f"python -m pipeline.report --experiment {plan} --results RESULTS.md"
                if name == EVIDENCE
                else (
                    f"echo {shlex.join(measures)} is shown in the report of {plan}"
                    if not runs
                    else f"python -m pipeline.aggregate results/{plan}-partial --experiment {plan} --partial"
                    f" && python -m pipeline.report results/{plan}-partial --experiment {plan}"
                )
            ),
        shell:
            "({params.command}) > {log} 2>&1"


rule partial:
    log:
        f"logs/partial/{EXPERIMENT}.log",
    conda:
        "environment.yaml"
    params:
        experiment=EXPERIMENT,
    shell:
        "(python -m pipeline.aggregate results/{params.experiment}-partial --experiment {params.experiment} --partial"
        " && python -m pipeline.report results/{params.experiment}-partial --experiment {params.experiment})"
        " > {log} 2>&1"
