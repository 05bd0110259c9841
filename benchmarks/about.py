"""What every table says about the machine and the day it was measured on, and where it is written."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
