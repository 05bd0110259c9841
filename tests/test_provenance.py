"""Where results come from: cards, Croissant and RO-Crate say what is recorded, in the form their readers want."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pipeline import aggregate, report
from pipeline.config import Run, load_config
from pipeline.core import step
from pipeline.core.files import sha256_file
from pipeline.reporting.outputs import report_files
from tests.test_files import small_disk
from tests.test_report import make_report, write_params, write_runs

NOTHING: dict[str, Any] = {"datasets": [], "methods": []}
EDIT = {
    "seeds": [0],
    "neukron": {"datasets": ["flights"]},
    "matrix_baselines": {"datasets": ["flights"], "methods": ["t-svd", "lossless"]},
    "tensor_baselines": NOTHING,
    "networks": {"datasets": ["digits"], "methods": ["dense", "kpd"]},
    "scaling": {"datasets": ["kjv-4gram"], "fractions": [0.5]},
}


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """The folder of a report, and its runs."""
    folder = tmp_path_factory.mktemp("provenance")
    params = write_params(root, folder, EDIT)
    content = yaml.safe_load(params.read_text())
    content["datasets"]["flights"] |= {"description": "who | flies\nwhere", "licence": "mine, and nobody's"}
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    runs = write_runs(params, folder / "results/runs")
    return make_report(params, folder / "results/runs", folder / "results/demo"), runs


def metrics_of(folder: Path, run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder.parent / "runs" / run.name / "metrics.json").read_text())
    return content


def test_every_artifact_has_a_card_with_what_was_recorded(made: tuple[Path, list[Run]]) -> None:
    folder, runs = made
    sections = re.split(r"^## ", (folder / "cards.md").read_text(), flags=re.MULTILINE)[1:]
    assert [each.partition("\n")[0] for each in sections] == [run.folder.removeprefix("results/runs/") for run in runs]
    for run, section in zip(runs, sections, strict=True):
        metrics = metrics_of(folder, run)
        for known in ("model_sha256", "data_sha256"):
            assert f"`{metrics[known]}`" in section
        for key, value in run.settings.items():
            assert value is None or f"{key}=" in section
        if metrics["kind"] == "network":
            assert f"| {metrics['accuracy']:.2%} |" in section
        else:
            counted = re.findall(r"^\| (.+?) \| ([\d,]+) \| (\S+) \| (\S+) \|$", section, re.MULTILINE)
            orders = metrics["bytes_with_order"] - metrics["bytes_equal"]
            assert {name: int(count.replace(",", "")) for name, count, *_ in counted} == {
                "equal": metrics["bytes_equal"],
                "equal + orders": metrics["bytes_with_order"],
                "as published": metrics["bytes"],
                "as published + orders": metrics["bytes"] + orders,
            }
            assert {float(relative) for *_, relative, _ in counted} == {float(f"{metrics['relative_error']:.6g}")}
            assert f"--index {' '.join('0' for _ in metrics['shape'])}\n" in section
    assert "`flights`: who \\| flies where; 104 x 4,043, 44,396 non-zeros |" in sections[0]
    assert "a sample (share 0.5)" in sections[-1]


def test_croissant_names_the_tensor_its_columns_and_its_licence(made: tuple[Path, list[Run]]) -> None:
    folder, runs = made
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "croissant").iterdir()}
    assert set(found) == {run.dataset for run in runs}
    for run in runs:
        content = found[run.dataset]
        (tensor,) = content["distribution"]
        assert tensor["sha256"] == metrics_of(folder, run)["data_sha256"]
        path = Path(os.path.normpath(folder / "croissant" / tensor["contentUrl"]))
        sample = ".f" in run.dataset
        assert path.parent == folder.parent.parent / ("data/samples/kjv-4gram" if sample else "data/tensors")
        for records in content["recordSet"]:
            columns = [field["source"]["extract"]["column"] for field in records["field"]]
            assert columns == [*(f"mode_{mode}" for mode in range(len(columns) - 1)), "value"]
    assert len(found["kjv-4gram.f0.5"]["recordSet"][0]["field"]) == 5
    assert found["flights"]["license"] == "mine, and nobody's"
    assert found["digits"]["license"] == "https://spdx.org/licenses/CC0-1.0"


def test_croissant_is_read_by_its_own_library(made: tuple[Path, list[Run]]) -> None:
    library = pytest.importorskip("mlcroissant", reason="mlcroissant, which validates Croissant, is not installed")
    for path in (made[0] / "croissant").iterdir():
        assert library.Dataset(path).metadata.name == json.loads(path.read_text())["name"]


def test_the_crate_names_every_file_model_and_run(made: tuple[Path, list[Run]]) -> None:
    folder, runs = made
    content = json.loads((folder / "ro-crate-metadata.json").read_text())
    assert content["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    graph = {entity["@id"]: entity for entity in content["@graph"]}
    assert len(graph) == len(content["@graph"])
    descriptor = graph["ro-crate-metadata.json"]
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    root = graph["./"]
    assert root["datePublished"] == max(metrics_of(folder, run)["date"] for run in runs)
    parts = {each["@id"] for each in root["hasPart"]}
    config = load_config(folder.parent.parent / "params.yaml")
    written = {*report_files(config, "demo"), "metrics.parquet", "metrics.csv", "summary.json"} - {
        "ro-crate-metadata.json"
    }
    assert {part for part in parts if not part.startswith("../")} == written
    for name in written:
        assert graph[name]["sha256"] == sha256_file(folder / name)
    for run in runs:
        action = graph[f"#run-{run.dataset}-{run.method}-{run.setting}-s{run.seed}"]
        ((data,), (model,)) = ([graph[each["@id"]] for each in action[key]] for key in ("object", "result"))
        assert sha256_file(folder / model["@id"]) == model["sha256"]
        assert data["sha256"] == metrics_of(folder, run)["data_sha256"]
        assert graph[action["instrument"]["@id"]]["@type"] == "SoftwareApplication"
        assert {data["@id"], model["@id"]} <= parts and {"@id": action["@id"]} in root["mentions"]

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            if set(value) == {"@id"}:
                return {value["@id"]}
            return set().union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    outside = {"https://w3id.org/ro/crate/1.1"}
    assert references(content["@graph"]) <= graph.keys() | outside


@pytest.mark.parametrize(
    ("module", "limit", "file"),
    [(aggregate, 500, "metrics.parquet"), (report, 2000, "figures/"), (report, 60_000, "report.html")],
)
def test_a_full_disk_is_told_by_the_last_steps_too(
    made: tuple[Path, list[Run]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    module: ModuleType, limit: int, file: str,
) -> None:  # fmt: skip
    folder = made[0]
    shutil.copy(folder / "metrics.parquet", tmp_path)
    names = ["--experiment", "demo", "--params", str(folder.parent.parent / "params.yaml"), "--runs-dir"]
    with small_disk(limit), pytest.raises(SystemExit) as stopped:
        step.run(module.main, [str(tmp_path), *names, str(folder.parent / "runs")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2
    assert line.startswith(f"error: {tmp_path}/{file}") and "cannot write: " in line
