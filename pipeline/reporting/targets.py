"""The figures and tables of both publications as targets: what each shows and which runs it needs.

Imports neither pandas nor matplotlib, so that the workflow can list a target's runs quickly.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Run, run_name
from pipeline.methods import METHODS

EVIDENCE = "paper-small"  # the experiment that the targets' runs are taken from
EVALUATION = "results/evaluations/{dataset}/{method}/{setting}-s{seed}.json"
QUERY_TIMES = "results/query-times.csv"
START_SECONDS = 4.0  # of processor time that a run takes beside its fit
TIMED_EPOCHS = 5  # of the paper's schedule, that fit nothing yet


class Target(NamedTuple):
    """One figure or table.

    `chooses` says whether a run belongs to it; `needs` is what one must have for all of it, `experiment` the one that
    its runs are of. `measures` are the files that it is read from beside the runs' own, of the runs chosen.
    """

    what: str
    chooses: Callable[[Run], bool]
    needs: str
    experiment: str = EVIDENCE
    measures: Callable[[list[Run]], list[str]] = lambda runs: []


def _compressor(run: Run) -> bool:
    return METHODS[run.method].kind != "network"


def _plain(run: Run) -> bool:
    """Whether a run is of NeuKron as it is by default, but for its size and its epochs."""
    usual = {"cell": "lstm", "gamma": 10.0, "pairs": "shingles", "scale": "learned", "order_init": "auto"}
    return run.method == "neukron" and all(run.settings.get(name) == value for name, value in usual.items())


def _fitted(run: Run) -> bool:
    """Whether a run is a :func:`_plain` one that fits: a few epochs of the paper's schedule only time one."""
    return _plain(run) and not (run.settings["schedule"] == "paper" and run.settings["max_epochs"] <= TIMED_EPOCHS)


def _is(*datasets: str) -> Callable[[Run], bool]:
    return lambda run: run.dataset.partition(".f")[0] in datasets


def _ablated(run: Run) -> bool:
    """NeuKron of one width on email, whole and with one part taken away."""
    return run.dataset == "email" and run.method == "neukron" and run.settings["hidden"] == 10


def _whole(run: Run) -> bool:
    return _compressor(run) and ".f" not in run.dataset and not run.dataset.startswith("synth-")


def _scaled(run: Run) -> bool:
    """A sample or the whole; an epoch of the paper's schedule passes over every non-zero, one of the fast does not."""
    return run.method == "neukron" and run.dataset.startswith("threads") and run.settings["schedule"] == "paper"


def _compared(run: Run) -> bool:
    return _whole(run) and (run.method != "neukron" or _fitted(run))


def _evaluated(run: Run) -> bool:
    return _compared(run) and run.seed == 0


def evaluation_of(run: Run) -> str:
    """Where the evaluation of a run's artifact lies."""
    return EVALUATION.format(dataset=run.dataset, method=run.method, setting=run.setting, seed=run.seed)


def _evaluations(runs: list[Run]) -> list[str]:
    return [evaluation_of(run) for run in runs]


def _network(*methods: str) -> Callable[[Run], bool]:
    return lambda run: METHODS[run.method].kind == "network" and (not methods or run.method in methods)


SETS = "email, nyc, tky, kasandr, threads, twitch, nips, enron, 3-gram and 4-gram"

TARGETS: dict[str, Target] = {
    "fig3": Target("size against error, all methods", _compared, SETS),
    "fig4": Target("ablation: error relative to the whole method",
                   lambda run: _ablated(run) and run.settings["cell"] in ("lstm", "seeds"), SETS),
    "fig5": Target("total training time: orders, model, set-up", lambda run: _whole(run) and _fitted(run), SETS),
    "fig6": Target("epoch time against non-zeros", _scaled, "samples of every data set"),
    "fig7": Target("error by value bin", _evaluated, SETS, measures=_evaluations),
    "fig8": Target("leading singular values kept", _evaluated, "the matrices", measures=_evaluations),
    "fig9": Target("size against error, further accountings", _compared, SETS),
    "fig10": Target("R-MAT tensors: fitness against skew, order and side",
                    lambda run: _compressor(run) and run.dataset.startswith("synth-"), "nothing but time"),
    "fig11": Target("LSTM, GRU and Transformer",
                    lambda run: _ablated(run) and (_plain(run) or run.settings["cell"] in ("gru", "transformer")),
                    SETS),
    "fig12": Target("training curves", lambda run: _whole(run) and _fitted(run), SETS),
    "fig13": Target("time of a million cells, by side", lambda run: False, "nothing but time",
                    measures=lambda runs: [QUERY_TIMES]),
    "fig14": Target("epoch time against hidden size", lambda run: run.dataset == "email" and _plain(run), SETS),
    "fig15": Target("epoch time against non-zeros, orders and model apart", _scaled, "samples of every data set"),
    "table3": Target("data sets: semantics, shape, non-zeros", _whole, SETS),
    "table4": Target("effect of gamma", lambda run: run.dataset == "email" and run.method == "neukron"
                     and run.settings["hidden"] == 30, "email, nyc, tky and kasandr"),
    "table5": Target("complexities beside measured exponents", _scaled, "samples of every data set"),
    "table6": Target("seconds an epoch", lambda run: _whole(run) and _plain(run), f"{SETS}; four RTX 2080 Ti"),
    "table7": Target("properties of the data sets", _whole, SETS),
    "kpd-linear": Target("linear layers: accuracy, exact sparsity, parameters and FLOPs",
                         lambda run: _network()(run) and run.settings["network"] in ("linear", "mlp"), "MNIST"),
    "kpd-lenet": Target("LeNet-5", lambda run: _network()(run) and run.settings["network"] == "lenet5",
                        "MNIST", "mnist"),
    "kpd-vit": Target("ViT and Swin on CIFAR-100",
                      lambda run: _network()(run) and run.settings["network"] not in ("linear", "mlp", "lenet5"),
                      "CIFAR-100 and days of a GPU", "cifar"),
    "kpd-blocks": Target("choice of the block", _network("kpd-choice"), "MNIST"),
    "kpd-flops": Target("parameters and FLOPs: formula, counted, wall time", _network("kpd", "dense"), "MNIST"),
}  # fmt: skip


def runs_of(target: str, runs: Iterable[Run]) -> list[Run]:
    """Those of `runs` that a target shows."""
    return [run for run in runs if TARGETS[target].chooses(run)]


def measures_of(target: str, runs: Iterable[Run]) -> list[str]:
    """The files that a target is read from beside those of its runs."""
    return TARGETS[target].measures(runs_of(target, runs))


def measures_of_experiment(experiment: str, runs: Iterable[Run]) -> list[str]:
    """Those of all targets whose runs are of an experiment, each once."""
    own = list(runs)
    files = [file for name, target in TARGETS.items() if target.experiment == experiment
             for file in measures_of(name, own)]  # fmt: skip
    return list(dict.fromkeys(files))


def measured_seconds(table: Path) -> dict[str, float]:
    """Processor seconds of runs by name, as ``tables/runs.csv`` of a report has them; none where there is no file."""
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        run_name(row["dataset"], row["method"], row["setting"], int(row["seed"])): float(row["cpu_seconds"])
        for row in rows
    }


def expectation(
    runs: Sequence[Run], missing: Sequence[Run], measures: int, known: Mapping[str, float], usual: float | None
) -> str:
    """What is about to be run and how long that takes on two cores, in a line.

    `measures` counts the files that are to be measured beside the runs' own; `known` are processor seconds of runs by
    name, `usual` those of any other of the experiment, where that is known.
    """
    what = f"{len(missing)} of {len(runs)} runs" if runs else "no run"
    what += f" and {measures} measurement{'s' * (measures != 1)}" if measures else ""
    minutes = sum(known.get(run.name, usual or 0.0) + START_SECONDS for run in missing) / 2 / 60
    time = f"about {minutes:.0f} minutes" if 1 <= minutes < 90 else f"about {minutes / 60:.1f} hours"
    time = f"{'a minute or less' if minutes < 1 else time} on two cores"
    unknown = sum(run.name not in known for run in missing) if usual is None else 0
    if unknown:
        time = f"{time} for all but {unknown}" if unknown < len(missing) else "how long is not known"
    after = f": {time}" if missing else ""
    return f"{what} to be made{after}; stop with Ctrl-C and go on with the same command"
