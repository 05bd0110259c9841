"""params.yaml: what is refused, and that it agrees with the code, with DVC and with both YAML dialects."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.baselines import find
from pipeline.config import METHODS, load_config, main, setting_arguments, use_experiment
from pipeline.core.settings import settings_of
from pipeline.core.step import parse_settings
from pipeline.datasets.registry import read_entry
from pipeline.errors import InputError
from pipeline.methods import settings_page
from pipeline.neukron import NeuKron
from tests.checkout import change


@pytest.fixture
def params(root: Path, tmp_path: Path) -> Path:
    """A copy of the real file, to be damaged."""
    path = tmp_path / "params.yaml"
    path.write_text((root / "params.yaml").read_text())
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("experiment: demo", "experiment: dem", r"experiment: 'dem' does not exist; did you mean 'demo'"),
        ("experiment: demo", "experimnt: demo", r"unknown key 'experimnt'; did you mean 'experiment'"),
        (
            "datasets: [flights, ",
            "datasets: [fligts, ",
            r"neukron.datasets: 'fligts' does not exist; did you mean 'flights'",
        ),
        ("{hidden: 5,", "{hiden: 5,", r"flights.neukron.h5.hiden: unknown key 'hiden'; did you mean 'hidden'"),
        ("{hidden: 5,", "{hidden: five,", r"flights.neukron.h5.hidden: .*'five'"),
        ("{hidden: 5,", "{hidden: 0,", r"h5.hidden: needs a whole number of at least 1, not 0"),
        ("  batch: 64\n", "  bacth: 64\n", r"networks.bacth: unknown key 'bacth'; did you mean 'batch'"),
        ("  batch: 64\n", "  batch: 0\n", r"networks.batch: needs a whole number of at least 1, not 0"),
        ("kpd: {}", "kpd: {rnk: 3}", r"kpd.rnk: unknown key 'rnk'; did you mean 'rank'"),
        ("defaults: {hidden: 10,", "defaults: {hiden: 10,", r"ablation.defaults.hiden: unknown key 'hiden'"),
        ("defaults: {hidden: 10,", "defaults: {hidden: no,", r"ablation.defaults.hidden: needs a whole number"),
        ("[[2, 2], [2, 4], [2, 8]]", "[[2, 2], [2, 2]]", r"kpd-choice: blocks=.*all different"),
        ("norm2: 9731008.0", "norm2: '9731008'", r"datasets.flights.norm2: needs a number, not '9731008'"),
        ("      flights.csv.zip:\n", "      ../flights.csv.zip:\n", r"'../flights.csv.zip': is no plain name"),
        ("methods: [t-svd", "methods: [tsvd", r"'tsvd' does not belong here; did you mean 't-svd'"),
        ("  hidden: 30", "  hidden: '30'", r"neukron.hidden: .*'30'"),
        ("  gamma: 10.0", "  gama: 10.0", r"neukron.gama: unknown key 'gama'; did you mean 'gamma'"),
        ("    seeds: [0, 1]", "    seeds: [0, -1]", r"seeds.1: .*-1"),
        ("sample_seed: 0", "sample_seed: 0\nsample_seed: 1", r"params.yaml:\d+: .*'sample_seed' is given twice"),
        ("        t-svd: {", "        t-sdv: {", r"method 't-sdv' does not exist; did you mean 't-svd'"),
        ("columns: [259, 324, ", "columns: [259, ", r"email.cur: .*equally long \(values of rows: 5, columns: 4\)"),
        ("settings: [h10p3]}", "settings: [h10p4]}", r"scaling.settings: 'h10p4' is no setting.*did you mean 'h10p3'"),
        ("    seeds: [0, 1]", "    seeds: [0, 1, 0]", r"experiments.demo.seeds: 0 is given twice"),
        ("fractions: [0.25, 0.5]", "fractions: [0.25, 2.5e-1]", r"demo.scaling.fractions: 0.25 is given twice"),
        (
            "datasets: [flights-month,",
            "datasets: [flights, flights-month,",
            r"demo: run 'flights/cp/r4-s0' is asked for by",
        ),
        ("methods: [cp, truncation]", "methods: [cp, cp]", r"demo.tensor_baselines.methods: 'cp' is given twice"),
        ("t-svd: {rank: [10, 20,", "t-svd: {rank: [20, 20,", r"t-svd: .*give the same values twice"),
        ("recorded: []", "recorded: [smoke, smoke]", r"recorded: 'smoke' is given twice"),
        ("sample_seed: 0", "sample_seed: [", r"params.yaml:\d+: no valid YAML"),
    ],
)
def test_mistakes_are_refused_with_key_value_and_remedy(params: Path, old: str, new: str, message: str) -> None:
    change(params, old, new)
    with pytest.raises(InputError, match=message):
        load_config(params)


def test_missing_file_and_missing_section(params: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")
    change(params, "sample_seed: 0", "")
    assert load_config(params).sample_seed == 0  # has a default
    params.write_text("experiment: demo\n")
    with pytest.raises(InputError, match="experiments: this key is missing"):
        load_config(params)


def test_a_setting_may_not_mean_two_things(params: Path) -> None:
    content = yaml.safe_load(params.read_text())
    other = copy.deepcopy(content["experiments"]["demo"])
    other["settings"]["flights"]["neukron"]["h5"]["hidden"] = 6
    content["experiments"]["other"] = other
    params.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"neukron.h5: means something else"):
        load_config(params)


def test_samples_have_all_settings_of_the_whole_or_those_named(root: Path) -> None:
    plan = load_config(root / "params.yaml").experiments["paper-small"]
    assert set(plan.settings_of("threads", "neukron")) == {"h10e200", "h10p3"}
    assert set(plan.settings_of("threads.f0.5", "neukron")) == {"h10p3"}
    plan.scaling.settings = []
    assert set(plan.settings_of("threads.f0.5", "neukron")) == {"h10e200", "h10p3"}


def test_both_yaml_dialects_read_the_same(root: Path) -> None:
    text = (root / "params.yaml").read_text()
    assert yaml.safe_load(text) == YAML(typ="safe", pure=True).load(text)


def test_defaults_are_those_of_the_constructors(root: Path) -> None:
    config = load_config(root / "params.yaml")
    ours = {"seed", "device", "max_seconds", "threads"}
    compressors = [name for name, method in METHODS.items() if method.kind != "network"]
    assert compressors
    for name in compressors:
        signature = inspect.signature(NeuKron if name == "neukron" else find(name))
        expected = {key: p.default for key, p in signature.parameters.items() if key not in ours}
        section = config.method_defaults(name)
        comparable: dict[str, Any] = {
            key: tuple(value) if isinstance(expected.get(key), tuple) else value for key, value in section.items()
        }
        assert comparable == expected, name


def test_stochastic_methods_are_known_as_such() -> None:
    for name, method in METHODS.items():
        if method.kind != "network":
            assert (NeuKron if name == "neukron" else find(name)).stochastic == method.stochastic, name


def test_settings_survive_the_command_line(root: Path) -> None:
    for experiment in load_config(root / "params.yaml").experiments:
        for run in load_config(root / "params.yaml").runs(experiment):
            given = {key: value for key, value in run.settings.items() if value is not None}
            assert parse_settings(setting_arguments(run.settings)[1::2]) == given


def test_lists_of_values_are_run_in_step(root: Path) -> None:
    paper = load_config(root / "params.yaml").experiments["paper"]
    assert paper.settings_of("email", "cur")["rows13-columns324"] == {"rows": 13, "columns": 324}
    accams = paper.settings_of("email", "accams")
    assert list(accams) == [f"stencils5-clusters{k}" for k in (4, 8, 16, 32, 48)]
    assert list(paper.settings_of("email", "truncation"))[:2] == ["keep0.02", "keep0.05"]
    assert paper.settings_of("email", "lossless") == {"default": {}}


def test_runs_of_the_demo(root: Path) -> None:
    config = load_config(root / "params.yaml")
    runs = config.runs("demo")
    folders = [run.folder for run in runs]
    assert len(set(folders)) == len(folders)
    assert "results/runs/flights/neukron/h5-s1" in folders
    assert "results/runs/flights/t-svd/r4-s0" in folders
    assert "results/runs/flights/t-svd/r4-s1" not in folders  # not stochastic
    sample = next(run for run in runs if run.dataset == "kjv-3gram.f0.25")
    assert config.tensor_path(sample.dataset) == "data/samples/kjv-3gram/f0.25-s0.parquet"


def test_listing_prints_one_run_a_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--params", str(root / "params.yaml"), "--experiment", "demo"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(load_config(root / "params.yaml").runs("demo"))
    assert all(line.startswith("results/runs/") for line in lines)


def test_use_points_both_files_at_an_experiment(root: Path, params: Path) -> None:
    stages = params.with_name("dvc.yaml")
    stages.write_text((root / "dvc.yaml").read_text())
    use_experiment("smoke", params, stages)
    assert load_config(params).experiment == "smoke"
    assert "experiments.demo" not in stages.read_text() and "results/demo" not in stages.read_text()
    use_experiment("demo", params, stages)
    assert stages.read_text() == (root / "dvc.yaml").read_text()
    with pytest.raises(InputError, match="'nope'"):
        use_experiment("nope", params, stages)


def test_the_page_of_settings_is_what_the_code_declares(root: Path) -> None:
    page = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "old; write it anew with: python -m pipeline.methods > docs/settings.md"
    assert all(f"## {name}\n" in page for name in METHODS)


def test_every_argument_of_every_command_and_benchmark_is_explained(root: Path) -> None:
    calls = [
        (file, call)
        for folder in ("pipeline", "benchmarks", "tests")
        for file in (root / folder).rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
    ]
    bare = [
        f"{file.relative_to(root)}:{call.lineno}"
        for file, call in calls
        if "help" not in {word.arg for word in call.keywords}
        and "'version'" not in ast.unparse(call)
        and not ast.unparse(call).startswith("early.")  # a first look at arguments; its help is never shown
    ]
    assert len(calls) > 100 and not bare


@pytest.mark.parametrize("step_name", ["fit_baseline", "train_kpd", "train_neukron"])
def test_help_of_a_step_tells_its_methods_and_settings(step_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"pipeline.{step_name}").main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    kind = {"fit_baseline": "baseline", "train_kpd": "network", "train_neukron": "neukron"}[step_name]
    for name, method in METHODS.items():
        if method.kind == kind:
            assert f"  {name}: {method.meaning}" in shown
            assert all(f" {setting}=" in shown for setting in settings_of(method.settings_class()))


def test_shared_defaults_lie_under_what_is_more_special(params: Path) -> None:
    change(params, "  epochs: 30\n", "  epochs: 31\n")  # of all networks
    change(params, "kpd: {}", "kpd: {rank: 5}")
    runs = {run.folder: run for name in ("blocks", "mnist") for run in load_config(params).runs(name)}
    assert runs["results/runs/digits/kpd/b2x4-s0"].settings["epochs"] == 31
    assert runs["results/runs/digits/kpd/b2x4-s0"].settings["rank"] == 5
    linear, lenet = (runs[f"results/runs/mnist/kpd/{name}-s0"].settings for name in ("b2x4", "lenet5"))
    assert (linear["epochs"], linear["batch"], linear["rank"]) == (10, 256, 5)  # the experiment's, the method's
    assert (lenet["epochs"], lenet["batch"]) == (8, 64)  # the setting's own
    assert "rank" not in runs["results/runs/mnist/rigl/b2x4-s0"].settings  # rigl has none


def test_the_reader_of_one_entry_and_the_plan_refuse_alike(params: Path) -> None:
    change(params, "nnz: 44396", "nnz: 44396.5")
    with pytest.raises(InputError) as by_plan:
        load_config(params)
    with pytest.raises(InputError) as by_reader:
        read_entry(params, "flights")
    assert str(by_plan.value) == str(by_reader.value)
