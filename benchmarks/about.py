"""What every table says about the machine and the day it was measured on, and where it is written."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core import step

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Name of the processor."""
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def circumstances(**options: Any) -> dict[str, Any]:
    """Options of the run, load before it, cores, processor, Python, date."""
    return options | {
        "load": os.getloadavg()[0],
        "cores": os.cpu_count() or 1,
        "processor": processor(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def told(about: dict[str, Any]) -> str:
    """The same as a sentence, with what a busy machine means for wall times."""
    line = f"{about['processor']}, {about['cores']} cores, Python {about['python']}, {about['date']}, "
    line += f"load {about['load']:.1f} before."
    if about["load"] > about["cores"]:
        line += " The machine was busy with other work: of wall times only ratios tell something, roughly."
    return line


def write(name: str, results: dict[str, Any], table: Callable[[dict[str, Any]], str]) -> None:
    """Write ``<name>.json`` and ``<name>.md``, and print the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table(results))
    print(table(results))


def by_data_set(
    argv: list[str] | None,
    name: str,
    title: str,
    about: str,
    measured: Callable[[Path], dict[str, Any]],
    rows: Callable[[dict[str, Any]], list[str]],
) -> None:
    """Measure the data sets that the command line names and write a row each; those that are not run keep theirs.

    Parameters
    ----------
    name, title
        Of the files below ``results``, and the table's heading.
    about
        The bench's docstring: purpose in its first line, the command in its last.
    measured
        Measures the tensor of a file.
    rows
        Markdown of the table, and what is to be read with it, of everything that is stored.
    """
    parser = step.parser(about.split("\n")[0])
    parser.add_argument(
        "--tensors", type=Path, default=Path("data/tensors"), help="folder of the tensors; default: %(default)s"
    )
    parser.add_argument(
        "--datasets",
        nargs="*",
        default=["flights", "flights-month", "kjv-3gram", "kjv-4gram", "email", "threads"],
        help="those to measure; default: %(default)s",
    )
    options = parser.parse_args(argv)
    step.limit_threads(1)
    at = RESULTS / f"{name}.json"
    stored: dict[str, Any] = json.loads(at.read_text()) if at.exists() else {}
    for dataset in options.datasets:
        path = options.tensors / f"{dataset}.parquet"
        if not path.exists():
            print(f"{dataset}: left out, no {path}")
            continue
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before"
        stored[dataset] = measured(path) | {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "load": load,
        }
        at.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    lines = [f"# {title}", "", f"`{about.split(chr(10) * 2)[-1].strip()}`", "", *rows(stored), ""]
    for dataset, found in sorted(stored.items()):  # rows of before the machine was told have none
        lines.append(f"- {dataset}: {', '.join(found[key] for key in ('date', 'machine', 'load') if key in found)}")
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
