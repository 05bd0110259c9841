"""The HTML page: everything in one file, no request to anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.methods import METHODS
from pipeline.reporting import findings, tables
from pipeline.reporting.drawing import Drawing, marker_svg
from pipeline.reporting.results import ACCOUNTINGS, Results
from pipeline.reporting.style import TIMES, look, point_name, significant, variables, with_prefix


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
        "sentence": _sentence,
    }
    environment.globals |= {"marker": lambda method: Markup(marker_svg(method)), "look": look, "point_name": point_name}  # noqa: S704 - our own
    return environment.get_template("report.html").render(context(results, drawings))


def context(results: Results, drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    """What the template shows."""
    methods = [name for name in METHODS if name in set(results.runs["method"])]
    methods += [name for name in dict.fromkeys(results.runs["method"]) if name not in methods]
    return {
        "experiment": results.experiment,
        "missing": len(results.planned) - len(results.runs),
        "planned": len(results.planned),
        "facts": facts(results, methods),
        "sentences": findings.summary_sentences(results),
        "accountings": ACCOUNTINGS,
        "methods": methods,
        "compressors": [_compression_section(results, name, drawings) for name in results.compression_datasets()],
        "networks": [_network_section(results, name, drawings) for name in results.network_datasets()],
        "scaling": drawings.get("scaling"),
        "smallest": tables.smallest_table(results),
        "datasets": tables.dataset_table(results),
        "runs": tables.run_table(results),
        "versions": tables.versions(results),
        "devices": sorted(set(results.runs["device"])),
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
        "comparisons": findings.compare(results, dataset),
        "frontier": findings.on_frontier(results, dataset),
        "notes": [findings.settings_note(results, dataset, "compression"), *findings.error_notes(results, dataset)],
        "beyond": [look(name).shown for name in findings.beyond(results, dataset)],
        "sizes": [drawings[f"size-error-{item.slug}-{dataset}"] for item in ACCOUNTINGS],
        "curves": [drawings[f"error-epochs-{dataset}"], drawings[f"error-seconds-{dataset}"]],
        "table": tables.compression_table(results, dataset),
    }


def _network_section(results: Results, dataset: str, drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    cells = results.networks[results.networks["dataset"] == dataset]
    return {
        "name": dataset,
        "description": results.config.datasets[dataset].description,
        "methods": list(dict.fromkeys(cells["method"])),
        "figures": [drawings[f"{figure}-{dataset}"] for figure in ("accuracy-sparsity", "cost", "accuracy-epochs")],
        "table": tables.network_table(results, dataset),
        "notes": [findings.settings_note(results, dataset, "network")],
    }


def _sentence(text: str) -> str:
    """Text with a capital at its start and a full stop at its end."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _shape(text: str) -> str:
    return f" {TIMES} ".join(f"{int(size):,}" for size in text.strip("[]").split(","))
