"""params.yaml: what is refused, and that it agrees with the code, with DVC and with both YAML dialects."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from pipeline.baselines import find
from pipeline.config import METHODS, load_config, main, setting_arguments, use_experiment
from pipeline.core.step import parse_settings
from pipeline.errors import InputError
from pipeline.neukron import NeuKron


@pytest.fixture
def params(root: Path, tmp_path: Path) -> Path:
    """A copy of the real file, to be damaged."""
    path = tmp_path / "params.yaml"
    path.write_text((root / "params.yaml").read_text())
    return path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


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
        ("{hidden: 5,", "{hiden: 5,", r"flights.neukron.h5: unknown key 'hiden'; did you mean 'hidden'"),
        ("{hidden: 5,", "{hidden: five,", r"flights.neukron.h5: hidden: .*'five'"),
        ("{hidden: 5,", "{hidden: 0,", r"h5: hidden: needs a whole number of at least 1, not 0"),
        ("methods: [t-svd", "methods: [tsvd", r"'tsvd' does not belong here; did you mean 't-svd'"),
        ("  hidden: 30", "  hidden: '30'", r"neukron.hidden: .*'30'"),
        ("  gamma: 10.0", "  gama: 10.0", r"neukron.gama: unknown key 'gama'; did you mean 'gamma'"),
        ("    seeds: [0, 1]", "    seeds: [0, -1]", r"seeds.1: .*-1"),
        ("sample_seed: 0", "sample_seed: 0\nsample_seed: 1", r"params.yaml:\d+: .*'sample_seed' is given twice"),
        ("        t-svd:\n", "        t-sdv:\n", r"method 't-sdv' does not exist; did you mean 't-svd'"),
        ("columns: [259, 324, ", "columns: [259, ", r"email.cur: .*equally long \(values of rows: 5, columns: 4\)"),
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
        section = config.method_defaults(name).model_dump()
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
