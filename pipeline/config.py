"""The typed model of ``params.yaml``, and the list of runs that an experiment asks for.

Only orchestration and reporting read this module: the steps take plain arguments, so that a change
here reruns nothing by itself. What a setting may be is said where it is declared, see :mod:`pipeline.core.settings`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from pipeline.baselines import module_of
from pipeline.core import step
from pipeline.core.files import write_text
from pipeline.core.names import plain_name
from pipeline.core.sections import Fraction, Name, Section, Seed, checked
from pipeline.core.settings import defaults, problem_with, settings_of
from pipeline.core.yaml_files import read_yaml
from pipeline.datasets.registry import Dataset
from pipeline.errors import InputError, nearest
from pipeline.methods import BASELINES, METHODS, NETWORKS
from pipeline.workflow import stages as dvc
from pipeline.workflow.closure import code_files
from pipeline.workflow.resources import Size, size_of

EXAMPLE = """examples:
  python -m pipeline.config --experiment paper
  python -m pipeline.config --use demo
"""
SHARED = "networks"  # the section of what all networks share
MOST_RUNS = 20_000  # of an experiment: planners list each with all its files


class MethodGroup(Section):
    datasets: list[str] = []
    methods: list[str] = []


class NeuKronGroup(Section):
    datasets: list[str] = []


class Scaling(Section):
    datasets: list[str] = []
    fractions: list[Fraction] = []
    settings: list[str] = []  # of NeuKron on the samples; none: all that it has on the whole


def _named(settings: Any) -> Any:
    """Turn ``{rows: [10, 20], columns: [30, 40]}`` into ``{rows10-columns30: {rows: 10, columns: 30}, ...}``.

    Lists are run in step, a single value stands for all; settings that have names already stay as they are.
    """
    if not isinstance(settings, dict) or not settings or any(isinstance(value, dict) for value in settings.values()):
        return settings
    lengths = {len(value) for value in settings.values() if isinstance(value, list)} or {1}
    if len(lengths) > 1:
        given = ", ".join(f"{key}: {len(value)}" for key, value in settings.items() if isinstance(value, list))
        raise ValueError(f"Lists that are run in step must be equally long (values of {given})")
    count = lengths.pop()
    columns = [value if isinstance(value, list) else [value] * count for value in settings.values()]
    combined = [dict(zip(settings, row, strict=True)) for row in zip(*columns, strict=True)]
    named = {"-".join(f"{key}{_name_of(value)}" for key, value in row.items()): row for row in combined}
    if len(named) < count:
        raise ValueError("Lists that are run in step give the same values twice")
    return named


def _name_of(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value).lower()


SettingName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
NamedSettings = Annotated[dict[SettingName, dict[str, Any]], BeforeValidator(_named)]
Settings = dict[str, NamedSettings]  # method -> setting's name -> values
Grid = dict[str, Settings]  # data set -> its settings


class Experiment(Section):
    """A named grid: which data sets, methods, settings and seeds; `hours` it is expected to take on two cores."""

    hours: Annotated[float, Field(gt=0)] | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000)]
    neukron: NeuKronGroup = NeuKronGroup()
    matrix_baselines: MethodGroup = MethodGroup()
    tensor_baselines: MethodGroup = MethodGroup()
    networks: MethodGroup = MethodGroup()
    scaling: Scaling = Scaling()
    defaults: dict[str, Any] = {}  # lie under every setting of the methods that have them
    settings: Grid

    def settings_of(self, dataset: str, method: str) -> dict[str, dict[str, Any]]:
        """Settings by name of `method` on `dataset`; a sample has those of what it is a sample of, or some of them."""
        whole, _, fraction = dataset.partition(".f")
        found = self.settings.get(whole, {}).get(method, {})
        chosen = (fraction and self.scaling.settings) or found
        return {name: values for name, values in found.items() if name in chosen}


class Config(Section):
    """The whole of ``params.yaml``; the sections of the methods, and what networks share, in `methods`."""

    experiment: str
    recorded: list[str] = []  # experiments that DVC records beside the default one
    experiments: dict[Name, Experiment]
    sample_seed: Seed = 0
    datasets: dict[Name, Dataset]
    methods: dict[str, dict[str, Any]] = {}

    def method_defaults(self, method: str) -> dict[str, Any]:
        """Defaults of `method`: its class's, over them what networks share, over that its own section."""
        kind = METHODS[method].settings_class()
        shared = self.methods.get(SHARED, {}) if METHODS[method].kind == "network" else {}
        return _over(defaults(kind), shared) | self.methods.get(method, {})

    def tensor_path(self, dataset: str) -> str:
        """Where the tensor of a data set, or of its sample ``<dataset>.f<fraction>``, lies."""
        name, separator, fraction = dataset.partition(".f")
        if separator:
            return f"data/samples/{name}/f{fraction}-s{self.sample_seed}.parquet"
        return f"data/tensors/{name}.parquet"

    def size_of(self, dataset: str, root: Path = Path()) -> Size:
        """Size of a data set's tensor or sample: as the registry says, else as its file, where that is there."""
        fraction = dataset.partition(".f")[2]
        entry = self.entry_of(dataset)
        share = float(fraction) if fraction else 1.0
        return size_of(entry.shape, entry.nnz, share, root / self.tensor_path(dataset))

    def entry_of(self, dataset: str) -> Dataset:
        """The registry's entry of a data set, or of what a sample was drawn from."""
        return self.datasets[dataset.partition(".f")[0]]

    def label_path(self, dataset: str) -> str:
        """Where the labels of the last mode (the images' classes) lie."""
        labels = self.datasets[dataset].labels
        if not labels:
            raise InputError(f"params.yaml: datasets.{dataset}: has no labels, which a network needs")
        return f"data/tensors/{dataset}.labels-{labels[-1]}.parquet"

    def code_of(self, rule: str, method: str) -> list[str]:
        """Source files that decide a run's result."""
        return code_files(rule, module_of(method) if rule == "fit_baseline" else None)

    def runs(self, experiment: str | None = None) -> list[Run]:
        """Every run of an experiment (the default one if none is named), in a fixed order."""
        name = plain_name(experiment or self.experiment, "experiment")
        if name not in self.experiments:
            raise InputError(f"experiment '{name}' is not in params.yaml{nearest(name, self.experiments)}")
        found = list(itertools.islice(self._runs(self.experiments[name]), MOST_RUNS + 1))
        if len(found) > MOST_RUNS:
            raise InputError(
                f"params.yaml: experiments.{name}: more than {MOST_RUNS:,} runs; name fewer seeds or settings"
            )
        return found

    def recorded_experiments(self) -> list[str]:
        """Names of the experiments whose results DVC records, the default one first."""
        return list(dict.fromkeys([self.experiment, *self.recorded]))

    def recorded_runs(self) -> list[Run]:
        """Every run of the recorded experiments once, those of one data set and method together."""
        return together(run for name in self.recorded_experiments() for run in self.runs(name))

    def _runs(self, plan: Experiment) -> Iterator[Run]:
        cells: list[tuple[str, str, str]] = []
        cells += [("train_neukron", dataset, "neukron") for dataset in plan.neukron.datasets]
        for group in (plan.matrix_baselines, plan.tensor_baselines):
            cells += [("fit_baseline", *cell) for cell in itertools.product(group.datasets, group.methods)]
        cells += [("train_kpd", *cell) for cell in itertools.product(plan.networks.datasets, plan.networks.methods)]
        for dataset, fraction in itertools.product(plan.scaling.datasets, plan.scaling.fractions):
            cells.append(("train_neukron", f"{dataset}.f{fraction}", "neukron"))
        for rule, dataset, method in cells:
            seeds = plan.seeds if METHODS[method].stochastic else [0]
            for setting, values in plan.settings_of(dataset, method).items():
                merged = _over(self.method_defaults(method), plan.defaults) | values
                for seed in seeds:
                    yield Run(rule, dataset, method, setting, seed, merged)


def _over(below: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`below` with those values of `given` that it has a place for."""
    return below | {key: value for key, value in given.items() if key in below}


def run_name(dataset: str, method: str, setting: str, seed: Any) -> str:
    """A run's name, which is also where its files lie below the folder of all runs.

    >>> run_name("flights", "neukron", "h4", 0)
    'flights/neukron/h4-s0'
    """
    return f"{dataset}/{method}/{setting}-s{seed}"


class Run(NamedTuple):
    """One fit: which step makes it, from what, with which settings."""

    rule: str
    dataset: str
    method: str
    setting: str
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """See :func:`run_name`."""
        return run_name(self.dataset, self.method, self.setting, self.seed)

    @property
    def folder(self) -> str:
        """Where its model, metrics and history lie."""
        return f"results/runs/{self.name}"


def together(runs: Iterable[Run]) -> list[Run]:
    """Runs without repetition, those of one data set and method after each other."""
    cells: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs:
        cells.setdefault((run.dataset, run.method), {})[run.folder] = run
    return [run for cell in cells.values() for run in cell.values()]


def load_config(path: str | Path = "params.yaml") -> Config:
    """Read and check ``params.yaml``.

    Raises
    ------
    InputError
        The file is missing or no YAML; a key is unknown, missing or given twice; a value has the wrong
        type or range; an experiment names a data set, method or setting that does not exist. The message
        names the key, the value and the nearest valid name.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: sections with names are wanted, not {type(content).__name__}")
    named = {key: content[key] for key in content if key in (SHARED, *METHODS)}
    for key in content:
        if key not in named and key not in Config.model_fields.keys() - {"methods"}:
            raise InputError(f"{path}: {key}: unknown key '{key}'{nearest(str(key), [*Config.model_fields, *METHODS])}")
    rest = {key: value for key, value in content.items() if key not in named}
    config = checked(Config, rest | {"methods": {key: value or {} for key, value in named.items()}}, str(path))
    for key, problem in _problems(config):
        raise InputError(f"{path}: {key}: {problem}")
    return config


def _problems(config: Config) -> Iterator[tuple[str, str]]:
    """What types alone cannot check: names that must exist, settings that must fit their method."""
    if config.experiment not in config.experiments:
        yield "experiment", f"'{config.experiment}' does not exist{nearest(config.experiment, config.experiments)}"
    for name in config.recorded:
        if name not in config.experiments:
            yield "recorded", f"'{name}' does not exist{nearest(name, config.experiments)}"
    yield from _repeated("recorded", config.recorded)
    meaning: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
    for method, values in config.methods.items():
        yield from _value_problems(list(NETWORKS) if method == SHARED else [method], values, method)
        if method != SHARED:
            yield from _together(config, method, {}, method)
    for name, plan in config.experiments.items():
        key = f"experiments.{name}"
        asked = sorted({method for settings in plan.settings.values() for method in settings if method in METHODS})
        yield from _value_problems(asked, plan.defaults, f"{key}.defaults")
        for dataset, settings in plan.settings.items():
            if dataset not in config.datasets:
                yield f"{key}.settings", f"data set '{dataset}' does not exist{nearest(dataset, config.datasets)}"
            yield from _settings_problems(config, settings, f"{key}.settings.{dataset}")
        yield from _repeated(f"{key}.seeds", plan.seeds)
        yield from _group_problems(config, plan, key)
        planned: set[str] = set()
        for run in config.runs(name):
            if run.name in planned:
                yield key, f"run '{run.name}' is asked for by two groups; name its data set or method in one of them"
            planned.add(run.name)
            known = meaning.setdefault((run.dataset, run.method, run.setting), (name, run.settings))
            if known[1] != run.settings:
                yield (
                    f"{key}.settings.{run.dataset}.{run.method}.{run.setting}",
                    f"means something else in experiment '{known[0]}'; give one of them another name",
                )


def _repeated(key: str, values: list[Any]) -> Iterator[tuple[str, str]]:
    """What stands more than once in a list."""
    for value in {value: None for place, value in enumerate(values) if value in values[:place]}:
        yield key, f"{value!r} is given twice"


def _group_problems(config: Config, plan: Experiment, key: str) -> Iterator[tuple[str, str]]:
    groups: list[tuple[str, list[str], list[str], tuple[str, ...]]] = [
        ("neukron", plan.neukron.datasets, ["neukron"], ("neukron",)),
        ("scaling", plan.scaling.datasets, ["neukron"], ("neukron",)),
        ("matrix_baselines", plan.matrix_baselines.datasets, plan.matrix_baselines.methods, BASELINES),
        ("tensor_baselines", plan.tensor_baselines.datasets, plan.tensor_baselines.methods, _of_any_order()),
        ("networks", plan.networks.datasets, plan.networks.methods, NETWORKS),
    ]
    for part, listed in (("fractions", plan.scaling.fractions), ("settings", plan.scaling.settings)):
        yield from _repeated(f"{key}.scaling.{part}", listed)
    for dataset, setting in itertools.product(plan.scaling.datasets, plan.scaling.settings):
        if setting not in (having := plan.settings_of(dataset, "neukron")):
            yield (
                f"{key}.scaling.settings",
                f"'{setting}' is no setting of neukron on '{dataset}'{nearest(setting, having)}",
            )
    for group, datasets, methods, allowed in groups:
        yield from _repeated(f"{key}.{group}.datasets", datasets)
        yield from _repeated(f"{key}.{group}.methods", methods)
        for dataset in datasets:
            if dataset not in config.datasets:
                yield f"{key}.{group}.datasets", f"'{dataset}' does not exist{nearest(dataset, config.datasets)}"
        for method in methods:
            if method not in allowed:
                yield f"{key}.{group}.methods", f"'{method}' does not belong here{nearest(method, allowed)}"
        for dataset, method in itertools.product(datasets, methods):
            if not plan.settings_of(dataset, method):
                yield (
                    f"{key}.settings.{dataset}",
                    f"no setting for method '{method}', which {group} asks for; add one, for example "
                    f"{method}: {{default: {{}}}}",
                )


def _of_any_order() -> tuple[str, ...]:
    return tuple(name for name in BASELINES if not METHODS[name].matrices_only)


def _settings_problems(config: Config, settings: Settings, key: str) -> Iterator[tuple[str, str]]:
    for method, named in settings.items():
        if method not in METHODS:
            yield key, f"method '{method}' does not exist{nearest(method, METHODS)}"
            continue
        for setting, values in named.items():
            yield from _value_problems([method], values, f"{key}.{method}.{setting}")
            yield from _together(config, method, values, f"{key}.{method}.{setting}")


def _together(config: Config, method: str, values: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    """What the method's own check says of all its settings together."""
    try:
        METHODS[method].settings_class()(**config.method_defaults(method) | values).check_settings()
    except InputError as error:
        yield key, str(error)


def _value_problems(methods: list[str], values: dict[str, Any], key: str) -> Iterator[tuple[str, str]]:
    """Values that none of `methods` has a setting for, or that do not fit one that has."""
    classes = [METHODS[method].settings_class() for method in methods]
    for name, value in values.items():
        having = [kind for kind in classes if name in settings_of(kind)]
        if not having:
            known = {each for kind in classes for each in settings_of(kind)}
            yield f"{key}.{name}", f"unknown key '{name}'{nearest(str(name), known)}"
        for problem in filter(None, (problem_with(kind, name, value) for kind in having)):
            yield f"{key}.{name}", f"{problem}, not {value!r}"


def setting_arguments(settings: dict[str, Any]) -> list[str]:
    """Settings as the ``--set KEY=VALUE`` arguments of a step, defaults included, None left out."""
    arguments = []
    for key, value in settings.items():
        if value is not None:
            arguments += ["--set", f"{key}={_yaml_value(value)}"]
    return arguments


def _yaml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return ".inf" if math.isinf(value) else f"{value:.17g}" if value == int(value) else repr(value)
    return str(value).replace(" ", "")


def use_experiment(name: str, params: Path, stages: Path) -> None:
    """Point ``params.yaml`` (default target of Snakemake) and ``dvc.yaml``, which is written anew, at `name`.

    Other experiments stay recorded: those that ``recorded`` lists, and the last one if ``dvc.lock`` has its results.
    """
    config = load_config(params)
    locked = read_yaml(lock).get("stages") or {} if (lock := stages.with_name("dvc.lock")).is_file() else {}
    kept = config.recorded + [config.experiment] * (dvc.stage_name("report", config.experiment) in locked)
    others = [each for each in dict.fromkeys(kept) if each != name]
    written = dvc.text(config, [name, *others])
    text = re.sub(r"^experiment:.*$", f"experiment: {name}", params.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if others != config.recorded:
        line = f"recorded: [{', '.join(others)}]"
        text, count = re.subn(r"^recorded: *\[.*?\]", line, text, count=1, flags=re.MULTILINE)
        if not count and config.recorded:
            raise InputError(f"{params}: recorded: write the names on one line, as in '{line}'")
        text = text if count else f"{line}\n{text}"
    write_text(params, text)
    write_text(stages, written)


def main(argv: list[str] | None = None) -> None:
    """Check ``params.yaml`` and list the runs that an experiment asks for."""
    arguments = step.parser("Check params.yaml and list the runs of an experiment, one a line.", EXAMPLE)
    arguments.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the file to check (default: params.yaml)"
    )
    arguments.add_argument("--experiment", help="default: the one that params.yaml names")
    arguments.add_argument("--name", action="store_true", help="only print the name of the experiment")
    arguments.add_argument("--use", metavar="NAME", help="make NAME the default experiment of params.yaml and dvc.yaml")
    options = arguments.parse_args(argv)
    if options.use:
        use_experiment(options.use, options.params, options.params.with_name("dvc.yaml"))
    config = load_config(options.params)
    if options.name or options.use:
        print(config.experiment)
        return
    for run in config.runs(options.experiment):
        print(run.folder, *setting_arguments(run.settings))


if __name__ == "__main__":
    step.run(main)
