"""The typed model of ``params.yaml``, and the list of runs that an experiment asks for.

Only orchestration and reporting read this module: the steps take plain arguments, so that a change
here reruns nothing by itself. A test keeps each method's section equal to its constructor's defaults.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from pipeline.baselines import module_of
from pipeline.core import stages as dvc
from pipeline.core import step
from pipeline.core.closure import code_files
from pipeline.core.files import write_text
from pipeline.core.settings import SEEDS, problem_with, settings_of
from pipeline.core.yaml_files import read_yaml
from pipeline.errors import InputError, nearest
from pipeline.methods import BASELINES, METHODS, Method

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Block = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class Section(BaseModel):
    """Base of all sections: no unknown key, no silent conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=True)


class RawFile(Section):
    """One published file: its checksum and where to get it, in order of preference."""

    sha256: Digest | None = None  # None: recorded in data/registry.lock at the first download
    size: Positive | None = None  # bytes
    sources: Annotated[list[str], Field(min_length=1)]


class Dataset(Section):
    """One registry entry."""

    description: str
    licence: str
    citation: str
    format: str
    options: dict[str, Any] = {}
    labels: list[Annotated[int, Field(ge=0)]] = []  # modes whose labels become a file
    mirror: str | None = None  # folder in a mirror; default: the data set's name
    registration: str | None = None  # where to get files that need an account
    files: Annotated[dict[str, RawFile], Field(min_length=1)]
    shape: list[Positive] | None = None
    nnz: Positive | None = None
    norm2: float | None = None

    def deciding(self) -> dict[str, Any]:
        """What decides the bytes of the tensor, beside the raw files: not what is written for people."""
        return self.model_dump(include={"format", "options", "labels", "shape", "nnz", "norm2"})

    def checksums(self) -> dict[str, str | None]:
        """Published sha256 of every raw file."""
        return {name: file.sha256 for name, file in self.files.items()}

    def own_files(self) -> list[str]:
        """Files on the user's disk that raw files are copies of, those that are there: a mirror may have them too."""
        sources = [file.sources[0] for file in self.files.values() if len(file.sources) == 1]
        paths = [source.removeprefix("file:") for source in sources if source.startswith("file:")]
        return [path for path in paths if Path(path).is_file()]


class NetworkSettings(Section):
    """What the dense network and its block-sparse counterparts share."""

    network: Literal["linear", "lenet5", "vit-tiny", "vit-base", "swin-tiny"] = "linear"
    epochs: Positive = 30
    batch: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 1.0e-2
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 1.0e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augment: Literal["none", "shift", "shift-flip", "strong"] = "none"
    mixup: Annotated[float, Field(ge=0)] = 0.0


class SparseSettings(NetworkSettings):
    """What all methods that zero blocks share."""

    block_sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.5
    layers: str = "all"


class BlockSettings(SparseSettings):
    block: Block = [2, 2]


class KPDSettings(BlockSettings):
    rank: Positive = 2


class KPDChoiceSettings(SparseSettings):
    blocks: Annotated[list[Block], Field(min_length=2)] = [[2, 2], [2, 4], [2, 8]]
    rank: Positive = 2


class ElasticGroupLassoSettings(BlockSettings):
    l2: Annotated[float, Field(ge=0)] = 1.0e-2


class RigLSettings(BlockSettings):
    interval: Positive = 100
    drop: Fraction = 0.3
    distribution: Literal["uniform", "erk"] = "uniform"


class MethodGroup(Section):
    datasets: list[str] = []
    methods: list[str] = []


class NeuKronGroup(Section):
    datasets: list[str] = []


class Scaling(Section):
    datasets: list[str] = []
    fractions: list[Fraction] = []


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
    return {"-".join(f"{key}{_name_of(value)}" for key, value in row.items()): row for row in combined}


def _name_of(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value).lower()


SettingName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
NamedSettings = Annotated[dict[SettingName, dict[str, Any]], BeforeValidator(_named)]
Settings = dict[str, NamedSettings]  # method -> setting's name -> values
Grid = dict[str, Settings]  # data set -> its settings


class Experiment(Section):
    """A named grid: which data sets, methods, settings and seeds."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    neukron: NeuKronGroup = NeuKronGroup()
    matrix_baselines: MethodGroup = MethodGroup()
    tensor_baselines: MethodGroup = MethodGroup()
    networks: MethodGroup = MethodGroup()
    scaling: Scaling = Scaling()
    settings: Grid

    def settings_of(self, dataset: str, method: str) -> dict[str, dict[str, Any]]:
        """Settings by name of `method` on `dataset`; a sample has those of what it is a sample of."""
        return self.settings.get(dataset.partition(".f")[0], {}).get(method, {})


class Config(Section):
    """The whole of ``params.yaml``."""

    experiment: str
    experiments: dict[Name, Experiment]
    sample_seed: Seed = 0
    datasets: dict[Name, Dataset]

    def method_defaults(self, method: str) -> Section:
        """The section that holds `method`'s defaults."""
        section: Section = getattr(self, method.replace("-", "_"))
        return section

    def tensor_path(self, dataset: str) -> str:
        """Where the tensor of a data set, or of its sample ``<dataset>.f<fraction>``, lies."""
        name, separator, fraction = dataset.partition(".f")
        if separator:
            return f"data/samples/{name}/f{fraction}-s{self.sample_seed}.parquet"
        return f"data/tensors/{name}.parquet"

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
        name = experiment or self.experiment
        if name not in self.experiments:
            raise InputError(f"experiment '{name}' is not in params.yaml{nearest(name, self.experiments)}")
        return list(self._runs(self.experiments[name]))

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
                merged = self.method_defaults(method).model_dump() | values
                for seed in seeds:
                    yield Run(rule, dataset, method, setting, seed, merged)


NETWORK_SECTIONS: dict[str, type[Section]] = {
    "dense": NetworkSettings,
    "kpd": KPDSettings,
    "kpd-group": KPDSettings,
    "kpd-choice": KPDChoiceSettings,
    "random-mask": BlockSettings,
    "group-lasso": BlockSettings,
    "elastic-group-lasso": ElasticGroupLassoSettings,
    "rigl": RigLSettings,
    "magnitude": BlockSettings,
}


def _section_of(method: Method) -> type[Section]:
    """The model of a method's section: what its class declares."""
    if method.kind == "network":
        return NETWORK_SECTIONS[method.name]
    kind = method.load()

    def check(name: str) -> BeforeValidator:
        def checked(value: Any) -> Any:
            if problem := problem_with(kind, name, value):
                raise PydanticCustomError("setting", "{problem}", {"problem": problem})
            return value

        return BeforeValidator(checked)

    fields: dict[str, Any] = {
        name: (Annotated[Any, check(name)], entry.default) for name, entry in settings_of(kind).items()
    }
    return create_model(f"{kind.__name__}Settings", __base__=Section, **fields)


SECTIONS = {name: _section_of(method) for name, method in METHODS.items()}
_FIELDS: dict[str, Any] = {
    name.replace("-", "_"): (section, Field(alias=name, default_factory=section)) for name, section in SECTIONS.items()
}
_Params = create_model("_Params", __base__=Config, **_FIELDS)


class Run(NamedTuple):
    """One fit: which step makes it, from what, with which settings."""

    rule: str
    dataset: str
    method: str
    setting: str
    seed: int
    settings: dict[str, Any]

    @property
    def folder(self) -> str:
        """Where its model, metrics and history lie."""
        return f"results/runs/{self.dataset}/{self.method}/{self.setting}-s{self.seed}"


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
    try:
        config = _Params.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error, content)}") from error
    for key, problem in _problems(config):
        raise InputError(f"{path}: {key}: {problem}")
    return config


def _explain(error: ValidationError, content: Any) -> str:
    """Turn pydantic's first complaint into ``key: problem``, with the nearest valid key for an unknown one."""
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]  # often why another is missing
    first = (unknown or problems)[0]
    keys = [str(part) for part in first["loc"]]
    path = ".".join(keys) or "content"
    if first["type"] == "extra_forbidden":
        known = _known_keys(_Params, keys[:-1])
        return f"{path}: unknown key '{keys[-1]}'{nearest(keys[-1], known)}"
    if first["type"] == "missing":
        return f"{path}: this key is missing"
    return f"{path}: {first['msg']}, not {first.get('input')!r}"


def _known_keys(model: type[BaseModel], keys: list[str]) -> Iterable[str]:
    """Names of the fields that the section at `keys` has."""
    for position, key in enumerate(keys):
        field = next((f for name, f in model.model_fields.items() if key in (name, f.alias)), None)
        if field is None:
            return []
        nested = list(_model_types(field.annotation))
        if not nested:
            return []
        skip = 1 if "dict" in str(field.annotation) else 0
        return _known_keys(nested[0], keys[position + 1 + skip :])
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_types(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _model_types(part)


def _problems(config: Config) -> Iterator[tuple[str, str]]:
    """What types alone cannot check: names that must exist, settings that must fit their method."""
    if config.experiment not in config.experiments:
        yield "experiment", f"'{config.experiment}' does not exist{nearest(config.experiment, config.experiments)}"
    meaning: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
    for name, plan in config.experiments.items():
        key = f"experiments.{name}"
        for dataset, settings in plan.settings.items():
            if dataset not in config.datasets:
                yield f"{key}.settings", f"data set '{dataset}' does not exist{nearest(dataset, config.datasets)}"
            yield from _settings_problems(config, settings, f"{key}.settings.{dataset}")
        yield from _group_problems(config, plan, key)
        for run in config.runs(name):
            known = meaning.setdefault((run.dataset, run.method, run.setting), (name, run.settings))
            if known[1] != run.settings:
                yield (
                    f"{key}.settings.{run.dataset}.{run.method}.{run.setting}",
                    f"means something else in experiment '{known[0]}'; give one of them another name",
                )


def _group_problems(config: Config, plan: Experiment, key: str) -> Iterator[tuple[str, str]]:
    groups: list[tuple[str, list[str], list[str], tuple[str, ...]]] = [
        ("neukron", plan.neukron.datasets, ["neukron"], ("neukron",)),
        ("scaling", plan.scaling.datasets, ["neukron"], ("neukron",)),
        ("matrix_baselines", plan.matrix_baselines.datasets, plan.matrix_baselines.methods, BASELINES),
        ("tensor_baselines", plan.tensor_baselines.datasets, plan.tensor_baselines.methods, _of_any_order()),
        ("networks", plan.networks.datasets, plan.networks.methods, tuple(NETWORK_SECTIONS)),
    ]
    for group, datasets, methods, allowed in groups:
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
            model = SECTIONS[method]
            try:
                model.model_validate(config.method_defaults(method).model_dump() | values)
            except ValidationError as error:
                first = error.errors()[0]
                name = str(first["loc"][0])
                if first["type"] == "extra_forbidden":
                    problem = f"unknown key '{name}'{nearest(name, model.model_fields)}"
                else:
                    problem = f"{name}: {first['msg']}, not {first.get('input')!r}"
                yield f"{key}.{method}.{setting}", problem


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
    """Point ``params.yaml`` (default target of Snakemake) and ``dvc.yaml``, which is written anew, at `name`."""
    written = dvc.text(load_config(params), name)
    text = params.read_text(encoding="utf-8")
    write_text(params, re.sub(r"^experiment:.*$", f"experiment: {name}", text, flags=re.MULTILINE))
    write_text(stages, written)


def main(argv: list[str] | None = None) -> None:
    """Check ``params.yaml`` and list the runs that an experiment asks for."""
    arguments = step.parser("Check params.yaml and list the runs of an experiment, one a line.")
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
