"""The HTML page: everything in one file, no request to anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.methods import METHODS
from pipeline.reporting import findings, interactive, tables
from pipeline.reporting.drawing import Drawing
from pipeline.reporting.inline import inline_figures, inline_markers, marker
from pipeline.reporting.outputs import ACCOUNTINGS, TARGET_FIGURES
from pipeline.reporting.reproduction import ALONE, chosen, scoreboard
from pipeline.reporting.results import Kind, Results
from pipeline.reporting.style import TIMES, duration, look, point_name, significant, variables, with_prefix

SHOWN_RUNS = 25  # rows of the table of all runs that stand on a page without its script


def render(results: Results, drawings: Mapping[str, Drawing]) -> str:
    """Return the page as HTML text.

    Parameters
    ----------
    results
        What :func:`pipeline.reporting.results.load_results` gave.
    drawings
        The figures by name, as :func:`pipeline.reporting.figures.all_figures` yields them.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bytes": lambda value: with_prefix(value, "B"),
        "significant": significant,
        "count": lambda value: with_prefix(value, ""),
        "percent": lambda value: f"{100 * value:.1f}\N{NO-BREAK SPACE}%",
        "sentence": _sentence,
    }
    environment.globals |= {
        "marker": lambda method: Markup(marker(method)),  # noqa: S704 - our own
        "look": look,
        "point_name": point_name,
        "spread": findings.own_spread,
    }
    return environment.get_template("report.html").render(context(results, drawings))


def context(results: Results, drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    """What the template shows."""
    methods = [name for name in METHODS if name in set(results.runs["method"])]
    methods += [name for name in dict.fromkeys(results.runs["method"]) if name not in methods]
    figures, sheet = inline_figures(drawings)
    board = scoreboard(results)
    return {
        "inline": {name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - our own
        "figure_styles": Markup(sheet),  # noqa: S704 - our own
        "markers": Markup(inline_markers(methods)),  # noqa: S704 - our own
        "experiment": results.experiment,
        "missing": len(results.planned) - len(results.runs),
        "planned": len(results.planned),
        "present": len(results.runs),
        "facts": facts(results, methods),
        "sentences": findings.summary_sentences(results),
        "accountings": ACCOUNTINGS,
        "methods": methods,
        "compressors": [_compression_section(results, name, drawings) for name in results.compression_datasets()],
        "networks": [_network_section(results, name, drawings) for name in results.network_datasets()],
        "scaling": drawings.get("scaling"),
        "step_times": drawings.get("step-network-size"),
        "query_times": drawings.get("query-times"),
        "scaling_provenance": provenance(results, None, "compression") if "scaling" in drawings else [],
        "smallest": tables.smallest_table(results),
        "targets": [
            (drawings[name], _target_facts(results, target))
            for target, name in TARGET_FIGURES.items()
            if name in drawings
        ],
        "reproduction": tables.reproduction_table(board),
        "alone": int((board["verdict"] == ALONE).sum()),
        "unmet": tables.unmet_table(board),
        "datasets": tables.dataset_table(results),
        "runs": tables.run_table(results, SHOWN_RUNS),
        "versions": tables.versions(results),
        "made": made(results.runs),
        "data": Markup(interactive.block(results, drawings, methods)),  # noqa: S704 - JSON that ends no element
        "light": variables(dark=False),
        "dark": variables(dark=True),
    }


def facts(results: Results, methods: list[str]) -> list[tuple[str, str]]:
    """The experiment's extent: a number and what it counts."""
    seeds = results.runs["seed"].nunique()
    sets = len({*results.compression_datasets(), *results.network_datasets()})
    return [
        (str(sets), "data set" if sets == 1 else "data sets"),
        (str(len(methods)), "method" if len(methods) == 1 else "methods"),
        (str(len(results.runs)), "runs"),
        (str(seeds), "seed" if seeds == 1 else "seeds"),
    ]


def made(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Where, when and of which code runs were made: a name and what it was, several where they differ."""

    def several(values: list[Any]) -> str:
        found = sorted({str(value) for value in values if value is not None and not pd.isna(value)})
        return ", ".join(found) if len(found) <= 4 else f"{found[0]} .. {found[-1]} ({len(found)})"

    days = sorted(str(value)[:16].replace("T", " ") for value in runs["date"])
    machines = [f"{row['machine']}, {row['cores']} cores" for row in runs.to_dict("records")]
    return [
        ("machine", several(machines)),
        ("device", several(runs["device"].tolist())),
        ("threads a run", several(runs["threads"].tolist())),
        ("made (UTC)", days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"),
        ("commit", several(runs["commit"].tolist()) or "unknown"),
        ("time of the fits", duration(float(runs["seconds"].sum()))),
    ]


def provenance(results: Results, dataset: str | None, kind: Kind) -> list[tuple[str, str]]:
    """What the figures of a data set (None: of scaling) were made from: runs, settings, data, circumstances."""
    runs = results.runs[results.runs["kind"] == kind]
    names = {dataset} if dataset else set(results.scaling["dataset"])
    runs = runs[runs["dataset"].isin(names)]
    of = dataset or "scaling"
    settings = findings.settings_note(results, dataset, kind) if dataset else ""
    digests = [f"{row[0]} {row[1][:16]}" for row in sorted(set(zip(runs["dataset"], runs["data_sha256"], strict=True)))]
    command = f"snakemake results/{results.experiment}/report.html"
    found = [("runs", f"{len(runs)} of {of}"), ("parameters", settings), ("data, SHA-256", ", ".join(digests))]
    versions = ", ".join(f"{name} {version}" for name, version in tables.versions(results, runs).items())
    return [item for item in [*found, *made(runs), ("versions", versions), ("command", command)] if item[1]]


def _target_facts(results: Results, target: str) -> list[tuple[str, str]]:
    """What the figure of a target was made from."""
    runs = chosen(results, target)
    facts = [("runs", str(len(runs))), *made(runs)] if len(runs) else []
    return [*facts, ("command", f"snakemake {target}")]


def _compression_section(results: Results, dataset: str, drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    run = results.first(dataset)
    cells = results.compression[results.compression["dataset"] == dataset]
    return {
        "name": dataset,
        "description": results.config.datasets[dataset].description,
        "shape": _shape(run["shape"]),
        "nnz": f"{int(run['nnz']):,}",
        "norm2": f"{float(run['norm2']):,.10g}",
        "methods": list(dict.fromkeys(cells["method"])),
        "duels": [
            ("At its error", "smallest other as accurate", findings.compare(results, dataset, "error")),
            ("At its bytes", "most accurate other as small", findings.compare(results, dataset, "bytes")),
        ],
        "provenance": provenance(results, dataset, "compression"),
        "frontier": findings.on_frontier(results, dataset),
        "notes": [findings.settings_note(results, dataset, "compression"), *findings.error_notes(results, dataset)],
        "beyond": [look(name).shown for name in findings.beyond(results, dataset)],
        "sizes": [drawings[f"size-error-{item.slug}-{dataset}"] for item in ACCOUNTINGS],
        "curves": [drawings[f"error-epochs-{dataset}"], drawings[f"error-seconds-{dataset}"]],
        "kept": [
            drawings[name]
            for figure in ("error-values", "singular-values")
            if (name := f"{figure}-{dataset}") in drawings
        ],
        "table": tables.compression_table(results, dataset),
    }


def _network_section(results: Results, dataset: str, drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    cells = results.networks[results.networks["dataset"] == dataset]
    return {
        "name": dataset,
        "description": results.config.datasets[dataset].description,
        "methods": list(dict.fromkeys(cells["method"])),
        "comparisons": [
            findings.compare_networks(results, dataset, network) for network in results.networks_of(dataset)
        ],
        "provenance": provenance(results, dataset, "network"),
        "figures": [drawings[f"{figure}-{dataset}"] for figure in ("accuracy-sparsity", "cost", "accuracy-epochs")],
        "table": tables.network_table(results, dataset),
        "notes": [findings.settings_note(results, dataset, "network")],
    }


def _sentence(text: str) -> str:
    """Text with a capital at its start and a full stop at its end."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _shape(text: str) -> str:
    return f" {TIMES} ".join(f"{int(size):,}" for size in text.strip("[]").split(","))
