"""Run every benchmark, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline.core import step

FOLDER = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    arguments = step.parser(__doc__)
    names = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    arguments.add_argument(
        "--only", nargs="+", choices=names, default=names, help="benchmarks to run; all if not given"
    )
    arguments.add_argument("--device", default="cpu", help="cpu or cuda; passed to the benchmarks that know devices")
    options = arguments.parse_args(argv)
    for name in options.only:
        command = [sys.executable, "-m", f"benchmarks.bench_{name}"]
        if options.device != "cpu":
            if "--device" not in (FOLDER / f"bench_{name}.py").read_text(encoding="utf-8"):
                continue
            command += ["--device", options.device]
        print(f"== {name}", flush=True)
        subprocess.run(command, check=True)
    print(f"tables: {FOLDER / 'results'}")


if __name__ == "__main__":
    step.run(main)
