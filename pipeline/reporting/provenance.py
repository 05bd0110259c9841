"""Where results come from, for people and for other programs, from what is recorded alone.

A card for each artifact (Markdown), Croissant metadata for each data set, and one RO-Crate for the experiment.
Sources: RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) with the profile Process Run Crate 0.5; Croissant 1.0
(http://mlcommons.org/croissant/1.0). The same results give the same bytes.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Run, setting_arguments
from pipeline.core.files import sha256_file
from pipeline.datasets.registry import Dataset
from pipeline.methods import METHODS
from pipeline.reporting.outputs import ACCOUNTINGS

if TYPE_CHECKING:
    from pipeline.reporting.results import Results

Row = Mapping[str, Any]  # the metrics of a run, as metrics.json has them
Entity = dict[str, Any]  # a node of JSON-LD

CRATE = "https://w3id.org/ro/crate/1.1"
CROISSANT = "http://mlcommons.org/croissant/"
SOFTWARE = "#kronflow"
TYPES = {".parquet": "application/x-parquet", ".safetensors": "application/octet-stream"}
TERMS = [  # of Croissant, as its specification's context has them
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
]
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": CROISSANT,
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "rai": f"{CROISSANT}RAI/",
    **{term: f"cr:{term}" for term in TERMS},
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


def rows(results: Results) -> list[tuple[Run, dict[str, Any]]]:
    """The runs that are there, in the plan's order, each with its metrics as its ``metrics.json`` has them."""
    planned = {(run.dataset, run.method, run.setting, run.seed): run for run in results.planned}
    found = []
    for row in results.runs.astype(object).where(results.runs.notna(), None).to_dict("records"):
        content = {str(key): json.loads(value) if str(value)[:1] in ("[", "{") else value for key, value in row.items()}
        found.append((planned[row["dataset"], row["method"], row["setting"], int(row["seed"])], content))
    return found


def card(run: Run, metrics: Row, entry: Dataset) -> str:
    """What an artifact is, in Markdown: trained on what, how, with which error in how many bytes, how to query it.

    Parameters
    ----------
    run
        What was planned.
    metrics
        What was measured.
    entry
        The registry's entry of its data set.
    """
    name = run.folder.removeprefix("results/runs/")
    settings = " ".join(setting_arguments(run.settings)[1::2]) or "none"
    sample = f", a sample (share {run.dataset.partition('.f')[2]})" if ".f" in run.dataset else ""
    made = [f"{str(metrics['date'])[:10]} in {metrics['seconds']:.3g} s of fit on {metrics['threads']} thread(s) of"]
    made += [f"{metrics['machine']} ({metrics['device']}), commit {metrics['commit'] or 'unknown'},"]
    made += [" ".join(f"{library} {version}" for library, version in sorted(metrics["versions"].items()))]
    facts = [
        ("file", f"`{run.folder}/model.safetensors`, {metrics['file_bytes']:,} bytes"),
        ("SHA-256", f"`{metrics['model_sha256']}`"),
        ("method", f"{METHODS[run.method].shown}: {METHODS[run.method].meaning}"),
        ("settings", f"`{settings}`, seed {run.seed}"),
        ("trained on", f"`{run.dataset}`{sample}: {entry.description}; {_size(metrics, entry)}"),
        ("SHA-256 of the data", f"`{metrics['data_sha256']}`"),
        ("licence and source of the data", f"{entry.licence}; {entry.citation}"),
        ("made", " ".join(made)),
    ]
    lines = [f"## {name}", "", "| what | |", "|---|---|", *(f"| {what} | {_cell(value)} |" for what, value in facts)]
    return "\n".join([*lines, "", *(_measured(metrics)), "", *_usage(name, metrics)]) + "\n"


def _size(metrics: Row, entry: Dataset) -> str:
    shape, nnz = metrics.get("shape") or entry.shape, metrics.get("nnz") or entry.nnz
    if shape is None or nnz is None:
        return "size not recorded"
    return f"{' x '.join(f'{side:,}' for side in shape)}, {nnz:,} non-zeros"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _measured(metrics: Row) -> Iterator[str]:
    """Error by accounting of a compressor; accuracy beside counts of a network."""
    if metrics["kind"] == "network":
        yield "| accuracy on the test part | zero blocks | parameters trained | parameters kept | bytes on disk |"
        yield "|--:|--:|--:|--:|--:|"
        kept, trained = metrics["inference_parameters"], metrics["train_parameters"]
        yield (
            f"| {metrics['accuracy']:.2%} | {metrics['block_sparsity']:.1%} | {trained:,} | {kept:,} | "
            f"{metrics['file_bytes']:,} |"
        )
        return
    orders = metrics["bytes_with_order"] - metrics["bytes_equal"]
    counts = {**metrics, "bytes_published_with_order": metrics["bytes"] + orders}
    yield "| accounting | bytes | relative error | squared error |"
    yield "|---|--:|--:|--:|"
    for each in ACCOUNTINGS:
        yield f"| {each.name} | {counts[each.column]:,} | {metrics['relative_error']:.6g} | {metrics['error']:.8g} |"
    yield ""
    yield f"The relative error is the squared error over the squared norm of the data, {metrics['norm2']:.8g}. Bytes:"
    yield "; ".join(f"{each.name}: {each.meaning}" for each in ACCOUNTINGS) + "."
    if low_high := metrics.get("error_interval") or _interval(metrics):
        yield f"It was sampled: 95 % interval of the squared error {low_high[0]:.8g} to {low_high[1]:.8g}."


def _interval(metrics: Row) -> tuple[float, float] | None:
    low, high = metrics.get("error_low"), metrics.get("error_high")
    return None if low is None or high is None else (low, high)


def _usage(name: str, metrics: Row) -> list[str]:
    if metrics["kind"] == "network":
        use = [
            "python -c \"import pipeline; print(pipeline.load('m.safetensors').network)\"  # .predict(images): classes"
        ]
    else:
        use = [f"kronflow query m.safetensors --index {' '.join(['0'] * len(metrics['shape']))}"]
        use += ["kronflow info m.safetensors"]
    return ["```bash", f"kronflow pull REPO {name} -o m.safetensors  # checked against the SHA-256 above", *use, "```"]


def cards(results: Results) -> str:
    """The cards of all artifacts of an experiment, one after the other."""
    found = [card(run, metrics, results.config.entry_of(run.dataset)) for run, metrics in rows(results)]
    head = (
        f"# Artifacts of the experiment {results.experiment}\n\nOne card each, written from what the runs recorded.\n"
    )
    return "\n".join([head, *found])


def croissant(results: Results, folder: Path, root: Path) -> dict[str, Entity]:
    """Croissant metadata of the tensors that the runs were fitted to, by name.

    Parameters
    ----------
    folder
        Where they will lie.
    root
        Of the checkout, to which the tensors' paths are relative.
    """
    found: dict[str, Entity] = {}
    for run, metrics in rows(results):
        if run.dataset not in found:
            entry = results.config.entry_of(run.dataset)
            path = os.path.relpath(root / results.config.tensor_path(run.dataset), folder)
            order = len(metrics.get("shape") or entry.shape or [])
            found[run.dataset] = _croissant(run.dataset, entry, metrics["data_sha256"], path, order)
    return found


def _croissant(name: str, entry: Dataset, digest: str, path: str, order: int) -> Entity:
    tensor: Entity = {"@type": "cr:FileObject", "@id": "tensor", "name": Path(path).name, "contentUrl": path}
    tensor |= {"encodingFormat": TYPES[".parquet"], "sha256": digest}
    fields: list[Entity] = [
        {
            "@type": "cr:Field",
            "@id": f"non-zeros/{column}",
            "name": column,
            "description": meaning,
            "dataType": kind,
            "source": {"fileObject": {"@id": "tensor"}, "extract": {"column": column}},
        }
        for column, meaning, kind in (
            *((f"mode_{mode}", f"index in mode {mode}, from 0", "sc:Integer") for mode in range(order)),
            ("value", "value of the cell", "sc:Float"),
        )
    ]
    description = f"{entry.description}. A sparse tensor: one row for each cell that is not zero."
    if ".f" in name:
        description += f" A random sample of these cells, share {name.partition('.f')[2]}."
    records = {"@type": "cr:RecordSet", "@id": "non-zeros", "name": "non-zeros", "field": fields} if order else None
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": description,
        "conformsTo": f"{CROISSANT}1.0",
        "license": licence_url(entry.licence),
        "citeAs": entry.citation,
        "isBasedOn": [
            {"@type": "sc:CreativeWork", "name": file, "identifier": f"sha256:{raw.sha256 or 'not published'}"}
            for file, raw in entry.files.items()
        ],
        "distribution": [tensor],
        "recordSet": [records] if records else [],
    }


def licence_url(licence: str) -> str:
    """The address of a licence that SPDX has, other words as they are.

    >>> licence_url("CC-BY-4.0"), licence_url("free for research")
    ('https://spdx.org/licenses/CC-BY-4.0', 'free for research')
    """
    named = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.]*(-[A-Za-z0-9.]+)*-[0-9]+(\.[0-9]+)*", licence)
    return f"https://spdx.org/licenses/{licence}" if named else licence


def crate(results: Results, folder: Path, runs_dir: Path, root: Path, files: Iterable[str]) -> Entity:
    """``ro-crate-metadata.json``: data, models, the run that made each, and the files of the report.

    Parameters
    ----------
    folder
        Holds the report; paths are relative to it.
    runs_dir, root
        Hold the runs; the checkout.
    files
        The report's files, relative to `folder`, as they lie there.
    """
    found = rows(results)
    graph: dict[str, Entity] = {}

    def add(entity: Entity) -> Entity:
        graph.setdefault(entity["@id"], entity)
        return {"@id": entity["@id"]}

    dates = sorted(str(metrics["date"]) for _, metrics in found)
    parts = [add(_file(file, folder / file)) for file in sorted(files)]
    actions = []
    for run, metrics in found:
        entry = results.config.entry_of(run.dataset)
        data = add(_data(run.dataset, entry, metrics, os.path.relpath(root / results.config.tensor_path(run.dataset),
                                                                      folder)))  # fmt: skip
        add(_licence(entry.licence))
        path = os.path.relpath(runs_dir / Path(run.folder).relative_to("results/runs"), folder)
        model = add(_model(f"{path}/model.safetensors", run, metrics))
        parts += [data, model]
        actions.append(add(_action(run, metrics, add(_method(run.method)), data, model)))
        add(_software(found))
    about: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Kronflow: results of the experiment {results.experiment}",
        "description": f"Models of {len(found)} runs, what was measured on each, and a report.",
        "datePublished": dates[-1],
        "license": add(
            _licence("each part under the licence of its data; models under that of what they were fitted to")
        ),
        "conformsTo": {"@id": "https://w3id.org/ro/wfrun/process/0.5"},
        "hasPart": _once(parts),
        "mentions": _once(actions),
    }
    add({"@id": "https://w3id.org/ro/wfrun/process/0.5", "@type": "CreativeWork", "name": "Process Run Crate",
         "version": "0.5"})  # fmt: skip
    descriptor = {"@id": "ro-crate-metadata.json", "@type": "CreativeWork", "about": {"@id": "./"}}
    descriptor["conformsTo"] = {"@id": CRATE}
    terms = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
    return {"@context": [f"{CRATE}/context", terms], "@graph": [descriptor, about, *graph.values()]}


def _once(references: list[Entity]) -> list[Entity]:
    return [{"@id": name} for name in dict.fromkeys(each["@id"] for each in references)]


def _file(name: str, path: Path) -> Entity:
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    size = {"contentSize": str(path.stat().st_size), "sha256": sha256_file(path)}
    return {"@id": name, "@type": "File", "name": path.name, "encodingFormat": kind, **size}


def _data(name: str, entry: Dataset, metrics: Row, path: str) -> Entity:
    return {
        "@id": path,
        "@type": "File",
        "name": name,
        "description": f"{entry.description}; {_size(metrics, entry)}",
        "encodingFormat": TYPES[".parquet"],
        "sha256": metrics["data_sha256"],
        "license": {"@id": _licence(entry.licence)["@id"]},
        "citation": entry.citation,
    }


def _licence(licence: str) -> Entity:
    url = licence_url(licence)
    known = url.startswith("https://")
    name = url if known else f"#licence-{re.sub('[^a-z0-9]+', '-', licence.lower()).strip('-')}"
    return {"@id": name, "@type": "CreativeWork", "name": licence, "description": f"Licence: {licence}"}


def _model(path: str, run: Run, metrics: Row) -> Entity:
    if metrics["kind"] == "network":
        reached = f"accuracy {metrics['accuracy']:.4f}, {metrics['inference_parameters']:,} parameters"
    else:
        reached = f"relative error {metrics['relative_error']:.6g}, {metrics['bytes']:,} bytes as published"
    return {
        "@id": path,
        "@type": "File",
        "name": run.folder.removeprefix("results/runs/"),
        "description": f"{METHODS[run.method].shown}: {reached}",
        "encodingFormat": TYPES[".safetensors"],
        "contentSize": str(metrics["file_bytes"]),
        "sha256": metrics["model_sha256"],
    }


def _action(run: Run, metrics: Row, method: Entity, data: Entity, model: Entity) -> Entity:
    settings = " ".join(setting_arguments(run.settings)[1::2]) or "no settings"
    return {
        "@id": f"#run-{run.dataset}-{run.method}-{run.setting}-s{run.seed}",
        "@type": "CreateAction",
        "name": f"{METHODS[run.method].shown} fitted to {run.dataset}",
        "description": f"{settings}, seed {run.seed}; commit {metrics['commit'] or 'unknown'}, {metrics['machine']}",
        "instrument": method,
        "object": [data],
        "result": [model],
        "endTime": str(metrics["date"]),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }


def _method(name: str) -> Entity:
    method = METHODS[name]
    return {
        "@id": f"#method-{name}",
        "@type": "SoftwareApplication",
        "name": method.shown,
        "description": method.meaning,
        "isPartOf": {"@id": SOFTWARE},
    }


def _software(found: list[tuple[Run, dict[str, Any]]]) -> Entity:
    versions = sorted({metrics["versions"]["kronflow"] for _, metrics in found if "kronflow" in metrics["versions"]})
    libraries = sorted({f"{name} {version}" for _, row in found for name, version in row["versions"].items()})
    return {
        "@id": SOFTWARE,
        "@type": "SoftwareApplication",
        "name": "Kronflow",
        "softwareVersion": ", ".join(versions) or "unknown",
        "softwareRequirements": ", ".join(libraries),
    }
