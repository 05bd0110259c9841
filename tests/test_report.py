"""The report: one page without outside requests, figures whose CSV is what they show, the same bytes on every run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline import aggregate, report
from pipeline.config import Run, load_config, setting_arguments
from pipeline.core.step import parse_settings
from pipeline.errors import InputError
from pipeline.methods import METHODS
from pipeline.reporting.figures import scaling, scaling_laws
from pipeline.reporting.findings import Comparison, compare, compare_networks
from pipeline.reporting.outputs import ACCOUNTINGS, report_files
from pipeline.reporting.results import Results, load_results
from pipeline.reporting.style import dash
from pipeline.runs.metrics import write_metrics
from pipeline.runs.record import params_digest, write_history

SHAPES = {
    "flights": ([104, 4043], 44396, 9731008.0),
    "flights-month": ([12, 104, 4043], 171096, 1501912.0),
    "kjv-3gram": ([8912, 9120, 9377], 531220, 4211377.0),
    "kjv-4gram": ([8123, 8255, 8412, 8440], 612345, 990211.0),
}
# What the invented runs of each data set reach: its floor and, per unit of the logarithm of the size, the gain.
EASE = {"flights": 0.34, "flights-month": 0.52, "kjv-3gram": 0.41, "kjv-4gram": 0.76}


def write_params(root: Path, folder: Path, edit: dict[str, Any] | None = None) -> Path:
    """The project's params.yaml with one experiment on four tensors, digits, and samples of the largest."""
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["experiment"] = "demo"
    compressors = {
        "neukron": {"h8": {"hidden": 8, "max_epochs": 20}, "h16": {"hidden": 16, "max_epochs": 20}},
        "t-svd": {"r1": {"rank": 1}, "r4": {"rank": 4}, "r16": {"rank": 16}},
        "cp": {"r1": {"rank": 1}, "r4": {"rank": 4}},
        "truncation": {"k02": {"keep": 0.02}, "k10": {"keep": 0.1}, "k30": {"keep": 0.3}},
        "lossless": {"default": {}},
    }
    networks = {"dense": {"default": {}}, "kpd": {"b2x2": {"block": [2, 2]}, "b2x4": {"block": [2, 4]}}}
    content["experiments"] = {
        "demo": {
            "seeds": [0, 1],
            "neukron": {"datasets": list(SHAPES)},
            "matrix_baselines": {"datasets": ["flights"], "methods": ["t-svd", "cp", "truncation", "lossless"]},
            "tensor_baselines": {"datasets": list(SHAPES)[1:], "methods": ["cp", "truncation", "lossless"]},
            "networks": {"datasets": ["digits"], "methods": ["dense", "kpd"]},
            "scaling": {"datasets": ["kjv-4gram"], "fractions": [0.25, 0.5]},
            "settings": dict.fromkeys(SHAPES, compressors) | {"digits": networks},
        }
        | (edit or {})
    }
    entry = {"licence": "CC0-1.0", "citation": "Someone, 2014", "format": "flights",
             "files": {"a.csv": {"sources": ["file:a.csv"]}}}  # fmt: skip
    content["datasets"] = {name: entry | {"description": f"{name}, invented"} for name in [*SHAPES, "digits"]}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


MODEL = b"stands for a model"


def common(run: Run, seconds: float, epochs: int, parameters: int) -> dict[str, Any]:
    return {
        "dataset": run.dataset,
        "method": run.method,
        "setting": run.setting,
        "seed": run.seed,
        "parameters": parameters,
        "epochs": epochs,
        "seconds": seconds,
        "seconds_per_epoch": seconds / epochs,
        "cpu_seconds": seconds + 2.0,
        "machine": "A processor",
        "cores": 2,
        "threads": 1,
        "date": f"2026-01-02T03:04:{run.seed:02d}Z",
        "commit": "0123456789ab",
        "peak_rss_bytes": 310_000_000 + parameters * 40,
        "peak_gpu_bytes": 0,
        "device": "cpu",
        "versions": {"python": "3.11.2", "kronflow": "0.1.0", "numpy": "2.3.0"},
        "params_sha256": params_digest(run.method, run.seed, parse_settings(setting_arguments(run.settings)[1::2])),
        "data_sha256": f"{sum(map(ord, run.dataset)):064x}",
        "model_sha256": hashlib.sha256(MODEL).hexdigest(),
    }


def compression(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Invented but plausible metrics and history of a compressor's run."""
    base, _, fraction = run.dataset.partition(".f")
    shape, nnz, norm2 = SHAPES[base]
    nnz, norm2 = int(nnz * float(fraction or 1)), norm2 * float(fraction or 1)
    orders = math.ceil(sum(n * math.log2(n) for n in shape) / 8)
    epochs = {"neukron": 20, "cp": 12}.get(run.method, 1)
    if run.method == "neukron":
        h, D = run.settings["hidden"], len(shape)
        reals = 2 * (2**D - 1) * h + 8 * h * h + 8 * h + sum(2**d * (h + 1) for d in range(1, D + 1)) + 2**D + 1
        sizes, relative = (4 * reals, 4 * reals, 4 * reals + orders), EASE[base] + 1.4 / h + 0.006 * run.seed
    elif run.method in ("t-svd", "cp"):
        rank = run.settings["rank"]
        reals = rank * (sum(shape) + 1)
        sizes = (8 * reals, 4 * reals, 4 * reals)
        relative = (
            max(0.02, EASE[base] + 0.16 - 0.13 * math.log2(rank)) + 0.004 * run.seed + 0.01 * (run.method == "cp")
        )
    else:
        keep = run.settings.get("keep", 1.0)
        coded = int(nnz * (0.2 if base == "flights" else 1.1) * keep**0.9)
        reals, sizes, relative = 0, (coded, coded, coded + orders), (1 - keep) ** 2 if keep < 1 else 0.0
    seconds = epochs * nnz * 2.1e-7 * (1 + 0.1 * run.seed) * (8 if run.method == "neukron" else 1)
    metrics = common(run, seconds, epochs, reals) | {
        "kind": "compression",
        "shape": shape,
        "nnz": nnz,
        "norm2": norm2,
        "error": relative * norm2,
        "error_padded": relative * norm2 * 1.02 if run.method == "neukron" else None,
        "relative_error": relative,
        "fitness": 1 - relative**0.5,
        "bytes": sizes[0],
        "bytes_equal": sizes[1],
        "bytes_with_order": sizes[2],
        "file_bytes": sizes[2] + 900,
    }
    history = [
        {
            "epoch": epoch,
            "error": norm2 * (relative + (1 - relative) * math.exp(-epoch / 3) * (epoch < epochs)),
            "seconds": seconds * epoch / epochs,
        }
        | ({"csf_bytes": 12 * nnz} if run.method == "lossless" else {})
        for epoch in range(1, epochs + 1)
    ]
    return metrics, history


def network(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Invented but plausible metrics and history of a network's run, on 64 x 10 weights where it is linear."""
    dense = 650 if run.settings["network"] == "linear" else 1_125_386
    m2, n2 = run.settings.get("block", (1, 1))
    sparse = run.method == "kpd"
    trained = 3 * (10 // m2) * (64 // n2) + 2 * m2 * n2 + 10 if sparse else dense
    accuracy = (0.953 if m2 * n2 == 4 else 0.941 if sparse else 0.9611) + 0.004 * run.seed
    metrics = common(run, 1.9 if sparse else 1.1, 30, trained) | {
        "kind": "network",
        "network": run.settings["network"],
        "accuracy": accuracy,
        "validation_accuracy": accuracy + 0.005,
        "train_loss": 0.11,
        "block_sparsity": 0.5 if sparse else 0.0,
        "train_parameters": trained,
        "inference_parameters": dense // 2 if sparse else dense,
        "train_flops": int(64 * 2 * dense * 2 * (1.4 if sparse else 1)),
        "inference_flops": int(64 * 2 * dense * (0.71 if sparse else 1)),
        "dense_train_flops": 64 * 2 * dense * 2,
        "dense_inference_flops": 64 * 2 * dense,
        "batch": 64,
        "step_seconds": 3.1e-4 if sparse else 1.6e-4,
        "dense_step_seconds": 1.6e-4,
        "inference_seconds": 0.4e-4 if sparse else 0.8e-4,
        "dense_inference_seconds": 0.8e-4,
        "file_bytes": 4 * trained + 700,
    }
    history = [
        {
            "epoch": epoch,
            "loss": 0.1 + 2 * math.exp(-epoch / 4),
            "validation_accuracy": accuracy - 0.6 * math.exp(-epoch / 4),
            "block_sparsity": min(0.5, epoch / 40) if sparse else 0.0,
            "seconds": 0.05 * epoch,
        }
        for epoch in range(1, 31)
    ]
    return metrics, history


def write_runs(params: Path, runs_dir: Path) -> list[Run]:
    runs = load_config(params).runs("demo")
    for run in runs:
        metrics, history = network(run) if METHODS[run.method].kind == "network" else compression(run)
        folder = runs_dir / run.name
        write_history(folder / "history.parquet", history)
        write_metrics(folder / "metrics.json", metrics)
        (folder / "model.safetensors").write_bytes(MODEL)
    return runs


def make_report(params: Path, runs_dir: Path, folder: Path, *extra: str) -> Path:
    names = ["--experiment", "demo", "--params", str(params), "--runs-dir", str(runs_dir)]
    aggregate.main([str(folder), *names, *extra])
    report.main([str(folder), *names])
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Path, Path, list[Run]]:
    """A params.yaml and the runs that it asks for."""
    folder = tmp_path_factory.mktemp("world")
    params = write_params(root, folder)
    return params, folder / "runs", write_runs(params, folder / "runs")


@pytest.fixture(scope="module")
def folder(world: tuple[Path, Path, list[Run]]) -> Path:
    """The report on these runs."""
    params, runs_dir, _ = world
    return make_report(params, runs_dir, params.parent / "demo")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """All start tags of a page with their attributes, and the tags left open or closed wrongly."""

    VOID = frozenset({"meta", "link", "path", "use", "rect", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_all_files_of_the_plan_and_no_others(world: tuple[Path, Path, list[Run]], folder: Path) -> None:
    aggregated = {"metrics.parquet", "metrics.csv", "summary.json"}
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == set(report_files(load_config(world[0]), "demo")) | aggregated


def test_page_asks_nothing_of_anyone(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        for key in ("src", "srcset", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(key) or ""
            assert re.match(r"$|#|data:", value), f"<{tag} {key}={value}>"
    assert not re.search(r"@import|@font-face|<iframe|<img|<object|fetch\(|XMLHttpRequest|import\(", page)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)'\"]*)", page))
    assert "://" not in page


def test_page_is_well_formed_with_unique_ids(page: str) -> None:
    tags = Tags(page)
    assert tags.wrong == []
    assert tags.open == []
    ids = [attributes["id"] for _, attributes in tags.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for _, attributes in tags.tags if (attributes.get("href") or "").startswith("#")]
    assert {str(target)[1:] for target in targets} <= set(ids)


def test_page_mailed_alone_has_no_dead_link(page: str) -> None:
    links = [str(attributes["href"]) for tag, attributes in Tags(page).tags if tag == "a"]
    assert links
    assert [link for link in links if not link.startswith("#")] == []


def test_page_says_where_when_and_of_what_code_its_runs_are(page: str) -> None:
    made = page[page.index("Machine, code and libraries") :]
    for name, what in {
        "machine": "A processor, 2 cores",
        "threads a run": "1",
        "made (UTC)": "2026-01-02 03:04",
        "commit": "0123456789ab",
    }.items():
        assert re.search(rf"<dt>{re.escape(name)}</dt><dd>{re.escape(what)}</dd>", made), name
    drawers = re.findall(r'<details class="drawer">(.*?)</details>', page, flags=re.DOTALL)
    assert len(drawers) == 4 * 3 + 3 + 1
    for text in drawers:
        for name in (
            "runs",
            "data, SHA-256",
            "machine",
            "device",
            "threads a run",
            "made (UTC)",
            "versions",
            "command",
        ):
            assert f"<dt>{name}</dt>" in text
    assert "hidden 8, max_epochs 20" in drawers[0]


def test_page_data_cannot_leave_its_element(world: tuple[Path, Path, list[Run]], folder: Path, page: str) -> None:
    from pipeline.reporting import interactive
    from pipeline.reporting.results import load_results

    text = page[page.index('id="data">') + len('id="data">') :]
    found = json.loads(text[: text.index("</script>")])
    assert len(found["runs"]["dataset"]) == len(pd.read_csv(folder / "metrics.csv"))
    results = load_results(folder, "demo", load_config(world[0]), world[1])
    hostile = dataclasses.replace(results, experiment="</script><b>")
    block = interactive.block(hostile, {}, ["neukron", *dict.fromkeys(results.runs["method"])])
    assert "<" not in block
    assert json.loads(block)["experiment"] == "</script><b>"


def test_page_is_accessible(page: str) -> None:
    tags = Tags(page).tags
    figures = [attributes for tag, attributes in tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(figures) == 4 * 6 + 3 + 1
    assert all(attributes["role"] == "img" and len(str(attributes["aria-label"])) > 40 for attributes in figures)
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert page.count("<table") == page.count("<caption")
    assert '<html lang="en">' in page


def test_page_follows_the_colour_scheme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    used = set(re.findall(r"var\(--([\w-]+)\)", page))
    assert used - set(re.findall(r"--([\w-]+):", page)) == set()
    drawn = "".join(re.findall(r"<svg.*?</svg>|^\.s\d+{.*?}", page, flags=re.DOTALL | re.MULTILINE))
    assert len(re.findall(r"(?:fill|stroke): ?var", drawn)) > 50
    colours = set(re.findall(r"(?:fill|stroke): ?(#\w+)", drawn))
    assert colours <= {"#000000"}, "a fixed colour in a figure does not follow the scheme"


def test_same_inputs_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    few = {"matrix_baselines": {"datasets": [], "methods": []}, "neukron": {"datasets": ["kjv-3gram"]}}
    tensors = {"tensor_baselines": {"datasets": ["kjv-3gram"], "methods": ["cp", "lossless"]}}
    params = write_params(root, tmp_path, few | tensors)
    write_runs(params, tmp_path / "runs")
    folder = make_report(params, tmp_path / "runs", tmp_path / "demo")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for step, seed in (("aggregate", "1"), ("report", "2")):  # another process, another order of hashing
        subprocess.run(
            [sys.executable, "-m", f"pipeline.{step}", str(folder), "--params", str(params),
             "--runs-dir", str(tmp_path / "runs")],
            cwd=root, env=os.environ | {"PYTHONHASHSEED": seed}, check=True,
        )  # fmt: skip
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def tooltips(folder: Path, name: str) -> list[str]:
    """Tooltips of the points of a figure, which say what each shows."""
    tree = ET.parse(folder / "figures" / f"{name}.svg")  # noqa: S314 - our own file
    return [str(title.text) for title in tree.iter("{http://www.w3.org/2000/svg}title")]


def drawn_points(folder: Path, name: str) -> list[tuple[float, float]]:
    """Page coordinates of a figure's points, in the order in which they were drawn."""
    tree = ET.parse(folder / "figures" / f"{name}.svg")  # noqa: S314 - our own file
    found = []
    for group in tree.iter("{http://www.w3.org/2000/svg}g"):
        if f"{name}-point-" in group.get("id", ""):
            use = next(group.iter("{http://www.w3.org/2000/svg}use"))
            found.append((float(use.get("x", "nan")), float(use.get("y", "nan"))))
    return found


@pytest.mark.parametrize("accounting", ["equal", "with-orders", "published", "published-orders"])
def test_size_figure_shows_its_csv_and_the_csv_the_metrics(folder: Path, accounting: str) -> None:
    name = f"size-error-{accounting}-flights"
    data = pd.read_csv(folder / "figures" / f"{name}.csv")
    runs = pd.read_csv(folder / "metrics.csv")
    runs["published"] = runs["bytes"] + runs["bytes_with_order"] - runs["bytes_equal"]
    column = {
        "equal": "bytes_equal",
        "with-orders": "bytes_with_order",
        "published": "bytes",
        "published-orders": "published",
    }[accounting]
    runs = runs[runs["dataset"] == "flights"]
    for row in data.to_dict("records"):
        own = runs[(runs["method"] == row["method"]) & (runs["setting"] == row["setting"])]
        assert row["seeds"] == len(own)
        assert row["bytes"] == pytest.approx(own[column].mean())
        assert row["relative_error"] == pytest.approx(own["relative_error"].mean())
        if len(own) > 1:
            expected = own["relative_error"].std() / len(own) ** 0.5
            assert row["relative_error_stderr"] == pytest.approx(expected)
    data = pd.concat([group.sort_values("bytes") for _, group in data.groupby("method", sort=False)])
    points = drawn_points(folder, name)
    assert len(points) == len(data)
    # The axes are logarithmic in bytes and linear in the error, so positions are affine in these.
    for position, values in ((0, data["bytes"].map(math.log10)), (1, data["relative_error"])):
        shown = pd.Series([point[position] for point in points], index=data.index)
        assert abs(shown.corr(values)) == pytest.approx(1.0, abs=1e-9)


def test_curve_csv_holds_every_epoch_of_every_run(world: tuple[Path, Path, list[Run]], folder: Path) -> None:
    data = pd.read_csv(folder / "figures" / "error-epochs-kjv-3gram.csv")
    assert set(data["method"]) == {"neukron", "cp"}
    own = data[(data["method"] == "neukron") & (data["setting"] == "h16") & (data["seed"] == 1)]
    history = pd.read_parquet(world[1] / "kjv-3gram/neukron/h16-s1/history.parquet")
    assert own["epoch"].tolist() == history["epoch"].tolist()
    assert own["relative_error"].tolist() == pytest.approx((history["error"] / SHAPES["kjv-3gram"][2]).tolist())


def test_scaling_figure_finds_the_slope(folder: Path) -> None:
    data = pd.read_csv(folder / "figures" / "scaling.csv")
    assert sorted(data["dataset"].unique()) == ["kjv-4gram", "kjv-4gram.f0.25", "kjv-4gram.f0.5"]
    assert pd.read_csv(folder / "tables" / "scaling.csv")["slope"].to_list() == pytest.approx([1.0] * 6, abs=1e-3)
    svg = (folder / "figures" / "scaling.svg").read_text()
    assert "slope 1.00" in svg
    for text in ((folder / "headlines.txt").read_text(), (folder / "report.html").read_text()):
        assert "too few sizes to tell" in text
    assert len(tooltips(folder, "scaling")) == 6


def test_only_times_of_one_setting_and_one_place_have_a_slope(root: Path, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"datasets": [], "methods": []}
    edit = {"neukron": {"datasets": ["kjv-4gram"]}, "matrix_baselines": nothing, "tensor_baselines": nothing,
            "networks": nothing,
            "scaling": {"datasets": ["kjv-4gram"], "fractions": [0.25, 0.5], "settings": ["h8"]}}  # fmt: skip
    params = write_params(root, tmp_path, edit)
    runs = write_runs(params, tmp_path / "runs")
    assert {run.setting for run in runs} == {"h8", "h16"}
    names = ["--experiment", "demo", "--params", str(params), "--runs-dir", str(tmp_path / "runs")]

    def results() -> Results:
        aggregate.main([str(tmp_path / "demo"), *names])
        return load_results(tmp_path / "demo", "demo", load_config(params), tmp_path / "runs")

    assert set(results().scaling["setting"]) == {"h8"}  # h16 was fitted to the whole alone
    assert list(scaling_laws(results())) == [("kjv-4gram", "h8")]
    assert "several machines" not in scaling(results()).caption
    path = next(tmp_path.glob("runs/kjv-4gram.f0.5/neukron/h8-s0/metrics.json"))
    path.write_text(path.read_text().replace("A processor", "Another"))
    assert not scaling_laws(results())
    assert "Times of several machines, devices or numbers of threads have no slope." in scaling(results()).caption


def test_samples_are_only_in_the_scaling_figure(folder: Path) -> None:
    for name in ("compression", "smallest"):
        assert not pd.read_csv(folder / "tables" / f"{name}.csv")["dataset"].str.contains(".f", regex=False).any()


def test_cost_figure_says_where_the_block_sparse_network_loses(folder: Path) -> None:
    data = pd.read_csv(folder / "figures" / "cost-digits.csv")
    ratios = data.groupby("quantity")["ratio"].first()
    assert ratios["time of a training step (measured)"] == pytest.approx(3.1 / 1.6)
    assert ratios["time of an inference batch (measured)"] == pytest.approx(0.5)
    assert ratios["bytes of the file"] == pytest.approx((4 * 498 + 700) / (4 * 650 + 700))
    assert any("dearer than dense" in text for text in tooltips(folder, "cost-digits"))


def test_page_tells_wins_and_losses(page: str) -> None:
    assert re.search(r'class="verdict win">at least [\d.]+\N{MULTIPLICATION SIGN} smaller', page)
    assert re.search(r'class="verdict loss">at least [\d.]+\N{MULTIPLICATION SIGN} larger', page)
    assert "another is as accurate in fewer bytes on flights." in page
    for name in ("equal", "equal + orders", "as published", "as published + orders"):
        assert f"<dt>{name}</dt>" in page


def test_smallest_artifact_by_hand(folder: Path) -> None:
    found = pd.read_csv(folder / "tables" / "smallest.csv")
    row = found[
        (found["dataset"] == "flights") & (found["relative_error_at_most"] == 0) & (found["accounting"] == "equal")
    ]
    assert row[["method", "bytes"]].to_numpy().tolist() == [["lossless", int(44396 * 0.2)]]
    assert (found["relative_error"] <= found["relative_error_at_most"]).all()


def test_data_sets_table_has_the_bytes_of_compressed_sparse_fibres(
    world: tuple[Path, Path, list[Run]], folder: Path
) -> None:
    table = pd.read_csv(folder / "tables" / "datasets.csv").set_index("dataset")["csf_bytes"]
    counted = {run.dataset for run in world[2] if run.method == "lossless"}
    assert counted
    for name, size in table.items():
        assert size == 12 * SHAPES[str(name)][1] if name in counted else pd.isna(size)


def test_runs_table_has_a_command_for_every_number(world: tuple[Path, Path, list[Run]], folder: Path) -> None:
    table = pd.read_csv(folder / "tables" / "runs.csv")
    assert table["command"].tolist() == [f"snakemake --force {run.folder}/metrics.json" for run in world[2]]
    assert table["params_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert table[table["method"] == "t-svd"]["settings"].tolist() == ["rank=1", "rank=4", "rank=16"]


def test_page_says_what_the_settings_stand_for(page: str) -> None:
    assert "NeuKron h8 = hidden 8, max_epochs 20; NeuKron h16 = hidden 16, max_epochs 20; T-SVD r1 = rank 1" in page
    assert "Settings: KPD b2x4 = block [2, 4]; all else as by default." in page


def test_headlines_are_eleven_aligned_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main(["--headlines", str(folder)])
    first, empty, *rest = capsys.readouterr().out.splitlines()
    assert first == f"Report: {folder / 'report.html'}"
    assert empty == ""
    text = (folder / "headlines.txt").read_text()
    assert rest == text.splitlines()
    body = rest[rest.index(next(line for line in rest if line.startswith("data set"))) + 1 :]
    assert len(body) == 11
    assert max(map(len, rest)) <= 130
    assert len({line.index("larger") > 0 for line in body if "larger" in line}) == 1
    assert any("equal + orders" in line and "kB" in line for line in body)
    assert any("KPD b2x2: step 1.9x, inference 0.50x" in line and "50 % of blocks zero" in line for line in body)
    assert body[-1].startswith("kjv-4gram")
    assert str(folder) not in text


def test_headlines_without_a_report_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no report here yet; make it with: python -m pipeline\.report"):
        report.main(["--headlines", str(tmp_path)])


def test_partial_report_says_so(world: tuple[Path, Path, list[Run]], tmp_path: Path) -> None:
    params, _, _ = world
    for run in load_config(params).runs("demo"):
        if run.dataset in ("flights", "digits") and run.method in ("t-svd", "neukron", "dense"):
            metrics, history = network(run) if run.dataset == "digits" else compression(run)
            target = tmp_path / "runs" / run.name
            write_history(target / "history.parquet", history)
            write_metrics(target / "metrics.json", metrics)
            (target / "model.safetensors").write_bytes(MODEL)
    partial = make_report(params, tmp_path / "runs", tmp_path / "demo", "--partial")
    text = (partial / "report.html").read_text()
    assert "56 of 65 runs of this experiment are missing" in text
    assert "9 of 65 runs (partial)" in (partial / "headlines.txt").read_text()
    assert not (partial / "figures" / "size-error-equal-kjv-3gram.svg").exists()
    assert len(pd.read_csv(partial / "figures" / "cost-digits.csv")) == 0


@pytest.mark.parametrize(
    "edit",
    [
        {"neukron": {"datasets": []}, "tensor_baselines": {"datasets": [], "methods": []},
         "scaling": {"datasets": [], "fractions": []}},
        {"neukron": {"datasets": []}, "matrix_baselines": {"datasets": [], "methods": []},
         "tensor_baselines": {"datasets": [], "methods": []}, "scaling": {"datasets": [], "fractions": []}},
        {"matrix_baselines": {"datasets": [], "methods": []}, "tensor_baselines": {"datasets": [], "methods": []},
         "networks": {"datasets": [], "methods": []}, "seeds": [3], "neukron": {"datasets": ["flights", "kjv-4gram"]}},
        {"neukron": {"datasets": []}, "matrix_baselines": {"datasets": [], "methods": []},
         "tensor_baselines": {"datasets": [], "methods": []}, "networks": {"datasets": [], "methods": []},
         "scaling": {"datasets": ["kjv-4gram"], "fractions": [0.5]}},
    ],
    ids=["no NeuKron", "only networks", "only NeuKron, one seed", "only one sample"],
)  # fmt: skip
def test_experiments_of_any_extent_have_a_report(root: Path, tmp_path: Path, edit: dict[str, Any]) -> None:
    params = write_params(root, tmp_path, edit)
    write_runs(params, tmp_path / "runs")
    folder = make_report(params, tmp_path / "runs", tmp_path / "demo")
    for name in report_files(load_config(params), "demo"):
        assert (folder / name).stat().st_size > 0, name
    tags = Tags((folder / "report.html").read_text())
    assert tags.wrong == []
    lines = (folder / "headlines.txt").read_text()
    assert "nan" not in lines
    assert ("NeuKron's best" in lines) == ("NeuKron" in lines and "NeuKron: not run" not in lines)
    assert not re.search(r"\bnan\b", (folder / "report.html").read_text())


def test_an_error_of_what_is_no_better_than_nothing_is_not_recommended(root: Path, tmp_path: Path) -> None:
    edit = {"neukron": {"datasets": ["summary"]}, "seeds": [0], "matrix_baselines": {}, "tensor_baselines": {},
            "networks": {}, "scaling": {}}  # fmt: skip
    params = write_params(root, tmp_path, edit)
    # a data set may be called what a section of the page is called
    params.write_text(params.read_text().replace("flights:", "summary:"))
    SHAPES["summary"], EASE["summary"] = SHAPES["flights"], 1.0
    try:
        write_runs(params, tmp_path / "runs")
    finally:
        del SHAPES["summary"], EASE["summary"]
    folder = make_report(params, tmp_path / "runs", tmp_path / "demo")
    lines, page = ((folder / name).read_text() for name in ("headlines.txt", "report.html"))
    assert lines.startswith("Experiment demo: 2 runs.")
    assert lines.count("none: storing nothing has error 1") == 2
    assert "(one run): worse than storing nothing" in page
    assert "No run of this experiment has a published number beside it" in page
    assert len(re.findall(r' id="summary"', page)) == 1


def test_a_data_set_may_have_compressors_and_networks(root: Path, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"datasets": [], "methods": []}
    mixed = {
        "neukron": {"h8": {"hidden": 8, "max_epochs": 20}},
        "truncation": {"k10": {"keep": 0.1}},
        "dense": {"default": {}},
        "kpd": {"b2x2": {"block": [2, 2]}},
    }
    edit = {
        "seeds": [0],
        "neukron": {"datasets": ["flights"]},
        "matrix_baselines": {"datasets": ["flights"], "methods": ["truncation"]},
        "tensor_baselines": nothing,
        "networks": {"datasets": ["flights"], "methods": ["dense", "kpd"]},
        "scaling": {"datasets": [], "fractions": []},
        "settings": {"flights": mixed},
    }
    params = write_params(root, tmp_path, edit)
    content = yaml.safe_load(params.read_text())
    content["datasets"]["flights"]["labels"] = [1]
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    write_runs(params, tmp_path / "runs")
    folder = make_report(params, tmp_path / "runs", tmp_path / "demo")
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {*report_files(load_config(params), "demo"), "metrics.parquet", "metrics.csv", "summary.json"}
    curves = pd.read_csv(folder / "figures/error-epochs-flights.csv")
    assert set(curves["method"]) == {"neukron"}  # truncation has no epochs
    last = curves[curves["method"] == "neukron"].sort_values("epoch").iloc[-1]
    assert last["relative_error"] == pytest.approx(EASE["flights"] + 1.4 / 8)
    assert set(pd.read_csv(folder / "figures/accuracy-epochs-flights.csv")["method"]) == {"dense", "kpd"}
    assert pd.read_csv(folder / "tables/datasets.csv")["nnz"].tolist() == [SHAPES["flights"][1]]
    page = (folder / "report.html").read_text()
    assert Tags(page).wrong == []
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "<dt>data set</dt><dd>1</dd>" in page


def test_networks_are_compared_with_their_own_dense_twin(root: Path, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"datasets": [], "methods": []}
    small, large = {"network": "linear"}, {"network": "mlp"}
    edit = {
        "seeds": [0, 1], "neukron": {"datasets": []}, "matrix_baselines": nothing, "tensor_baselines": nothing,
        "networks": {"datasets": ["digits"], "methods": ["dense", "kpd"]}, "scaling": {"datasets": [], "fractions": []},
        "settings": {"digits": {"dense": {"small": small, "large": large},
                                "kpd": {"small": small | {"block": [2, 2]}, "large": large | {"block": [2, 2]}}}},
    }  # fmt: skip
    params = write_params(root, tmp_path, edit)
    write_runs(params, tmp_path / "runs")
    folder = make_report(params, tmp_path / "runs", tmp_path / "demo")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} >= set(
        report_files(load_config(params), "demo")
    )
    cost = pd.read_csv(folder / "figures/cost-digits.csv")
    bases = cost[cost["quantity"] == "parameters at inference"].set_index("setting")["dense"]
    assert bases.to_dict() == {"small": 650, "large": 1_125_386}
    sizes = pd.read_csv(folder / "figures/step-network-size.csv").set_index("network")
    assert sizes["step_ratio"].to_dict() == pytest.approx({"linear": 3.1 / 1.6, "mlp": 3.1 / 1.6})
    assert sizes["dense_train_flops"].to_dict() == {"linear": 166_400, "mlp": 288_098_816}
    assert 'data-figure="step-network-size"' in (folder / "report.html").read_text()


def test_missing_and_damaged_inputs_are_named(world: tuple[Path, Path, list[Run]], tmp_path: Path) -> None:
    params, runs_dir, _ = world
    names = ["--experiment", "demo", "--params", str(params), "--runs-dir"]
    with pytest.raises(
        InputError, match=r"metrics\.parquet: no such file; make it with: python -m pipeline\.aggregate"
    ):
        report.main([str(tmp_path), *names, str(runs_dir)])
    aggregate.main([str(tmp_path), *names, str(runs_dir)])
    with pytest.raises(InputError, match=r"h8-s0/history\.parquet: no such file; make it with: snakemake"):
        report.main([str(tmp_path), *names, str(tmp_path)])
    (tmp_path / "metrics.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match=r"metrics\.parquet: no readable Parquet file"):
        report.main([str(tmp_path), *names, str(runs_dir)])


def test_long_histories_are_thinned_but_keep_their_end(world: tuple[Path, Path, list[Run]], tmp_path: Path) -> None:
    from pipeline.reporting.figures import CURVE_POINTS, error_epochs
    from pipeline.reporting.results import load_results

    params, runs_dir, _ = world
    results = load_results(params.parent / "demo", "demo", load_config(params), runs_dir)
    history = pd.DataFrame({"epoch": range(1, 5001), "error": [1.0] * 5000, "seconds": [float(i) for i in range(5000)]})
    key = ("flights", "neukron", "h8", 0)
    results.histories[key] = history
    data = error_epochs(results, "flights").data
    own = data[(data["method"] == "neukron") & (data["setting"] == "h8") & (data["seed"] == 0)]
    assert len(own) <= CURVE_POINTS + 1
    assert own["epoch"].iloc[-1] == 5000


def test_templates_are_part_of_the_distribution(root: Path) -> None:
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    patterns = tool["setuptools"]["package-data"]["pipeline.reporting"]
    package = root / "pipeline" / "reporting"
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    assert shipped == {path for part in ("templates", "published", "captions") for path in (package / part).iterdir()}


def test_where_no_rival_was_run_nothing_is_won(root: Path, tmp_path: Path) -> None:
    alone = {"matrix_baselines": {}, "networks": {}, "scaling": {}}
    alone["tensor_baselines"] = {"datasets": ["kjv-3gram"], "methods": ["cp"]}
    params = write_params(root, tmp_path, alone)
    write_runs(params, tmp_path / "runs")
    folder = make_report(params, tmp_path / "runs", tmp_path / "demo")
    page, lines = (folder / "report.html").read_text(), (folder / "headlines.txt").read_text().splitlines()
    # four accountings, three data sets, at NeuKron's error and at its bytes
    assert page.count('class="verdict none">no rival run') == 24
    assert "On flights, flights-month and kjv-4gram no rival of NeuKron was run" in page
    assert "No rival of NeuKron was run on this data set" in page
    for line in lines:
        if line.startswith(("flights", "kjv-4gram")):
            assert line.endswith("no rival run") and "not run" in line
    assert any(line.startswith("kjv-3gram") and not line.endswith("no rival run") for line in lines)


def cells_of(*rows: tuple[str, str, float, float]) -> pd.DataFrame:
    """Cells of one data set: method, setting, bytes in every accounting, relative error."""
    columns = {item.column: [row[2] for row in rows] for item in ACCOUNTINGS}
    names = {"dataset": "d", "method": [row[0] for row in rows], "setting": [row[1] for row in rows]}
    seeds = {"relative_error": [row[3] for row in rows], "relative_error_stderr": math.nan, "seeds": 1}
    return pd.DataFrame(names | columns | seeds)


def outcomes(
    *rivals: tuple[str, str, float, float], stderr: dict[str, float] | None = None
) -> tuple[Comparison, Comparison]:
    """NeuKron with 100 bytes and an error of 0.5 beside rivals: at its error, at its bytes; `stderr` of three seeds."""
    cells = cells_of(("neukron", "h", 100, 0.5), *rivals)
    for method, value in (stderr or {}).items():
        cells.loc[cells["method"] == method, ["relative_error_stderr", "seeds"]] = (value, 3)
    found = SimpleNamespace(compression=cells)
    at_error, at_bytes = (compare(found, "d", measure)[0] for measure in ("error", "bytes"))  # type: ignore[arg-type]
    return at_error, at_bytes


@pytest.mark.parametrize(
    ("rivals", "at_error", "at_bytes"),
    [
        # smaller and more accurate: proved on both counts
        ([("cp", "a", 50, 0.4)], "at least 2.0x larger", "at least 1.2x higher error"),
        # run on both sides, and its run beyond NeuKron's is worse: between them it cannot be better
        ([("cp", "a", 300, 0.6), ("cp", "b", 900, 0.4)], "at least 3.0x smaller", "at least 1.2x lower error"),
        # both larger and more accurate, and nothing near: what it would need at NeuKron's error or bytes is unknown
        ([("cp", "a", 900, 0.1)], "not comparable", "not comparable"),
        # both smaller and less accurate: the same
        ([("cp", "a", 20, 0.7)], "not comparable", "not comparable"),
        # at NeuKron's error within a twentieth
        ([("cp", "a", 200, 0.49)], "at least 2.0x smaller", "not comparable"),
        # one method decided, one not
        ([("cp", "a", 200, 0.5), ("tucker", "a", 300, 0.1)], "not comparable", "not comparable"),
        # lossless has one size only: it is larger, and nothing else is open
        ([("lossless", "default", 400, 0.0)], "at least 4.0x smaller", "no other is as small"),
        ([("lossless", "default", 50, 0.0)], "at least 2.0x larger", "higher error: the other is exact"),
        ([("cp", "a", 100, 0.5)], "same size", "same error"),
        ([("truncation", "a", 0, 0.5)], "larger: the other takes no bytes", "same error"),
        ([], "no rival run", "no rival run"),
    ],
)
def test_a_verdict_is_what_the_runs_prove(
    rivals: list[tuple[str, str, float, float]], at_error: str, at_bytes: str
) -> None:
    found = outcomes(*rivals)
    assert [item.verdict for item in found] == [at_error, at_bytes]
    for item in found:
        assert item.wins == (item.outcome == "win")


@pytest.mark.parametrize(
    ("rival", "stderr", "at_bytes"),
    [
        (("cp", "a", 90, 0.45), {"neukron": 0.02}, "no difference shown"),  # 0.5 +- 0.086
        (("cp", "a", 90, 0.40), {"neukron": 0.02}, "at least 1.2x higher error"),
        (("cp", "a", 90, 0.40), {"neukron": 0.02, "cp": 0.04}, "no difference shown"),
        (("cp", "a", 99, 0.55), {"neukron": 0.02}, "no difference shown"),
        (("cp", "a", 99, 0.60), {"neukron": 0.02}, "at least 1.2x lower error"),
        (("lossless", "default", 90, 0.0), {"neukron": 0.2}, "higher error: the other is exact"),
        (("cp", "a", 90, 0.45), {"cp": 0.2}, "at least 1.1x higher error"),  # one run of NeuKron, which the page says
    ],
)
def test_errors_that_the_seeds_do_not_tell_apart_are_no_difference(
    rival: tuple[str, str, float, float], stderr: dict[str, float], at_bytes: str
) -> None:
    assert outcomes(rival, stderr=stderr)[1].verdict == at_bytes


def test_a_win_holds_wherever_in_its_interval_the_error_is() -> None:
    rivals = (("cp", "a", 200, 0.55), ("cp", "b", 900, 0.4))
    assert outcomes(*rivals, stderr={"neukron": 0.01})[0].verdict == "at least 2.0x smaller"  # 0.5 +- 0.043
    assert outcomes(*rivals, stderr={"neukron": 0.02})[0].verdict == "not comparable"  # cp a may be as accurate


def test_what_only_the_seeds_leave_open_asks_for_seeds_and_not_for_a_setting() -> None:
    at_error, _ = outcomes(("cp", "a", 200, 0.55), ("cp", "b", 900, 0.4), stderr={"neukron": 0.02})
    assert (at_error.outcome, at_error.open_methods, at_error.unsettled) == ("open", (), ("cp",))
    words = "3 seeds are too few to tell it from CP: run more of them, as seeds of params.yaml has them."
    assert at_error.remedy == words
    # beyond NeuKron's bytes CP has an error of 0.51 at least, and NeuKron's own is 0.5 +- 0.086
    at_bytes = outcomes(("cp", "a", 101, 0.51), ("cp", "b", 90, 0.6), stderr={"neukron": 0.02})[1]
    assert at_bytes.outcome == "open" and at_bytes.remedy.startswith("3 seeds are too few: run more of them")
    # a method of which nothing was run near wants a setting, whatever the seeds
    at_error, _ = outcomes(("cp", "a", 200, 0.55), ("tucker", "a", 900, 0.1), stderr={"neukron": 0.02})
    assert at_error.remedy.startswith("No setting of Tucker was run near enough")


def test_what_is_not_comparable_says_how_to_make_it_so() -> None:
    at_error, at_bytes = outcomes(("cp", "a", 900, 0.1))
    assert at_error.remedy.startswith("No setting of CP was run near enough at an error of 0.500;")
    assert "kronflow compress .. --error 0.5" in at_error.remedy
    assert "kronflow compress .. --bytes 100" in at_bytes.remedy


@pytest.mark.parametrize(
    ("seeds", "other", "words"),
    [
        ((0.02, 3), 0.5, "30.0 points higher"),
        ((0.02, 3), 0.79, "no difference shown"),
        ((float("nan"), 1), 0.5, "single runs cannot tell"),
        ((0.02, 3), None, "no rival run"),
    ],
)
def test_kpd_is_judged_beside_the_best_of_its_sparsity(
    seeds: tuple[float, int], other: float | None, words: str
) -> None:
    rows = [("kpd", 0.8, 0.5, *seeds), ("dense", 0.9, 0.0, *seeds), ("rigl", 0.95, 0.1, *seeds)]
    rows += [("magnitude", other, 0.49, *seeds)] if other is not None else []
    rows += [("kpd-choice", 0.79, 0.5, *seeds), ("kpd-group", 0.78, 0.5, *seeds)]  # no rivals of KPD
    names = ["method", "accuracy", "block_sparsity", "accuracy_stderr", "seeds"]
    frame = pd.DataFrame(rows, columns=names).assign(dataset="d", setting="b", network="linear")
    found = compare_networks(SimpleNamespace(networks=frame), "d")  # type: ignore[arg-type]
    assert words in found.verdict
    assert found.dense is not None and found.dense["accuracy"] == 0.9
    # rigl is more accurate, but a tenth as sparse
    assert (found.rival is None) == (other is None) and (other is None or found.rival["method"] == "magnitude")


def test_captions_claim_only_what_is_drawn(root: Path, tmp_path: Path) -> None:
    single = {"seeds": [0], "networks": {"datasets": ["digits"], "methods": ["kpd"]}, "scaling": {}}
    single |= {"tensor_baselines": {}, "neukron": {"datasets": ["flights"]}}
    params = write_params(root, tmp_path, single)
    write_runs(params, tmp_path / "runs")
    page = (make_report(params, tmp_path / "runs", tmp_path / "demo") / "report.html").read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
    assert not any("Bars:" in text or "dashed" in text for text in captions)
    assert sum("single run" in text for text in captions) == 4 + 1  # sizes, accuracy
    assert "Single runs; bold" in page


def test_captions_name_bars_and_dashes_where_they_are(page: str) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
    bars = "Bars: standard error over seeds; a single run has none, a marker hides one that is smaller."
    assert sum(bars in text for text in captions) == 16
    assert sum("The dashed line is the dense network." in text for text in captions) == 1


def test_a_code_keeps_no_reals_and_the_table_says_so(folder: Path, page: str) -> None:
    rows = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*?truncation(?:(?!</tr>).)*?k10.*?</tr>", page, flags=re.DOTALL)
    table = [row for row in rows if "data-v" in row]
    assert table
    assert not any(re.search(r'data-v="0(\.0)?">0<', row) for row in table)


def test_every_method_has_its_own_dash_beside_its_colour_and_marker() -> None:
    for networks in (False, True):
        names = [name for name, item in METHODS.items() if (item.kind == "network") == networks]
        assert len({dash(name) for name in names}) == len(names)
        assert len({METHODS[name].marker for name in names}) == len(names)


def test_a_large_experiment_has_a_bounded_page(root: Path, tmp_path: Path) -> None:
    ranks = {f"r{rank}": {"rank": rank} for rank in range(1, 41)}
    edit: dict[str, Any] = {
        "seeds": [0, 1, 2],
        "neukron": {"datasets": []},
        "matrix_baselines": {},
        "networks": {},
        "scaling": {},
        "tensor_baselines": {"datasets": ["flights", "kjv-3gram"], "methods": ["cp"]},
        "settings": {"flights": {"cp": ranks}, "kjv-3gram": {"cp": ranks}},
    }
    params = write_params(root, tmp_path, edit)
    runs = write_runs(params, tmp_path / "runs")
    assert len(runs) == 240
    page = (make_report(params, tmp_path / "runs", tmp_path / "demo") / "report.html").read_text()
    assert len(page.encode()) < 2_000_000
    assert page.count("snakemake --force results/runs") == 25  # the rest is in the data, and in tables/runs.csv
    assert "The first 25 of 240; all are in tables/runs.csv" in page
    assert "On flights and kjv-3gram a single method was run: nothing is said about who is smaller." in page
    assert "Smallest for a relative error" not in page
