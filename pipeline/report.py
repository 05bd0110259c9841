"""Turn an experiment's aggregated results into one self-contained HTML page, figures and tables."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import load_config
from pipeline.core import step
from pipeline.core.files import atomic_path, write_json, write_text
from pipeline.core.names import plain_name
from pipeline.errors import InputError


def report(folder: Path, experiment: str, params: str | Path, runs_dir: Path) -> None:
    """Write ``report.html``, ``headlines.txt``, ``figures/`` and ``tables/`` into `folder`, and where they come from.

    That is ``cards.md``, ``croissant/`` and ``ro-crate-metadata.json``, see :mod:`pipeline.reporting.provenance`.
    The same inputs give the same bytes.

    Parameters
    ----------
    folder
        Holds ``metrics.parquet`` of the aggregation.
    experiment
        Its name in the configuration.
    params
        The configuration file.
    runs_dir
        Holds each run's ``history.parquet``.
    """
    from pipeline.reporting.figures import all_figures
    from pipeline.reporting.findings import headlines
    from pipeline.reporting.outputs import AGGREGATED, CRATE, report_files
    from pipeline.reporting.page import render
    from pipeline.reporting.provenance import cards, crate, croissant
    from pipeline.reporting.published_figures import published_figures
    from pipeline.reporting.results import load_results
    from pipeline.reporting.tables import all_tables

    results = load_results(folder, experiment, load_config(params), runs_dir)
    drawings = {drawing.name: drawing for drawing in (*all_figures(results), *published_figures(results))}
    for drawing in drawings.values():
        write_text(folder / "figures" / f"{drawing.name}.svg", drawing.svg)
        with atomic_path(folder / "figures" / f"{drawing.name}.csv") as temporary:
            drawing.data.to_csv(temporary, index=False)
    for name, table in all_tables(results).items():
        with atomic_path(folder / "tables" / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
    write_text(folder / "headlines.txt", headlines(results))
    write_text(folder / "report.html", render(results, drawings))
    write_text(folder / "cards.md", cards(results))
    root = Path(params).parent
    for name, content in croissant(results, folder / "croissant", root).items():
        write_json(folder / "croissant" / f"{name}.json", content)
    written = [
        file for file in (*AGGREGATED, *report_files(results.config, results.experiment)) if (folder / file).is_file()
    ]
    write_json(folder / CRATE, crate(results, folder, runs_dir, root, [file for file in written if file != CRATE]))


def write_results(
    path: Path, folder: Path, experiment: str, params: str | Path, runs_dir: Path, lock: Path | None = None
) -> None:
    """Write the scoreboard of both publications as Markdown; of what was not run it says so.

    `lock` is what :mod:`pipeline.workflow.bits` wrote of these runs.
    """
    if lock is not None and not lock.is_file():
        raise InputError(f"--lock {lock}: no such file; 'make evidence' writes it from dvc.lock")
    from pipeline.reporting.reproduction import markdown
    from pipeline.reporting.results import load_results

    there = (folder / "metrics.parquet").is_file()
    results = load_results(folder, experiment, load_config(params), runs_dir) if there else None
    write_text(path, markdown(results, experiment, lock.as_posix() if lock else None))


def print_headlines(folder: Path) -> None:
    """Print where the report is and its most telling lines."""
    path = folder / "headlines.txt"
    if not path.is_file() or not (folder / "report.html").is_file():
        raise InputError(f"{path}: no report here yet; make it with: python -m pipeline.report {folder}")
    print(f"Report: {folder / 'report.html'}\n")
    print(path.read_text(encoding="utf-8"), end="")


def main(argv: list[str] | None = None) -> None:
    """Command line of this step."""
    arguments = step.parser(
        "Turn an experiment's aggregated results into report.html (one file, opens anywhere), headlines.txt, "
        "figures/ (SVG and CSV), tables/ (CSV); cards.md, croissant/ and ro-crate-metadata.json tell their origin.",
        epilog="examples:\n  python -m pipeline.report results/demo --experiment demo\n"
        "  python -m pipeline.report --headlines results/demo",
    )
    arguments.add_argument("folder", type=Path, nargs="?", help="holds metrics.parquet (default: results/EXPERIMENT)")
    arguments.add_argument("--experiment", help="of params.yaml (default: the one that it names)")
    arguments.add_argument("--params", default="params.yaml", help="the configuration (default: params.yaml)")
    arguments.add_argument(
        "--runs-dir", type=Path, default=Path("results/runs"), help="holds the runs (default: results/runs)"
    )
    arguments.add_argument(
        "--headlines", action="store_true", help="print the report's path and its most telling lines, make nothing"
    )
    arguments.add_argument(
        "--results", type=Path, metavar="FILE", help="write only the scoreboard of both publications, as Markdown"
    )
    arguments.add_argument(
        "--lock", type=Path, metavar="FILE", help="with --results: the record of these runs' bits, for it to name"
    )
    options = arguments.parse_args(argv)
    if options.headlines and options.folder:
        print_headlines(options.folder)
        return
    experiment = plain_name(options.experiment or load_config(options.params).experiment, "experiment")
    folder = options.folder or Path("results") / experiment
    if options.headlines:
        print_headlines(folder)
    elif options.results:
        write_results(options.results, folder, experiment, options.params, options.runs_dir, options.lock)
    else:
        report(folder, experiment, options.params, options.runs_dir)


if __name__ == "__main__":
    step.run(main)
