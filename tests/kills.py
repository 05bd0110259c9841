"""Kill -9 at random moments, then the same command again: the same bits, and no file of ours left over.

python -m tests.kills --times 20 --seed 0    a training, a step and a whole workflow, so often each
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import step
from pipeline.sparse.synth import synthetic
from tests.checkout import CLICKS, ENVIRONMENT, PATIENCE, PROGRAMS, TINY, copy_checkout, write_clicks
from tests.warm import Template

MOST_TRIES = 5  # for each kill that is wanted
ROOT = Path(__file__).resolve().parent.parent
# A state after every epoch, so that many a kill meets the writing of one.
EAGER = """
from pipeline.runs import checkpoint
from pipeline.train_neukron import main

checkpoint.Checkpoint.__init__.__defaults__ = (checkpoint.ROOT, 0.0)
main()
"""
TRAINING = ["-m", "eager", "x.parquet", "run", "--set", "hidden=4", "--set", "max_epochs=40"]
STEP = ["-m", "pipeline.convert", "clicks"]
WORKFLOW = ["snakemake", "--quiet", "progress", "host", "rules", "--", "results/tiny/summary.json"]
# Kills then meet the work, and not the second in which libraries are imported.
STEPS = Template(
    "numba", "numpy", "pandas", "pyarrow.parquet", "pydantic", "safetensors", "scipy.sparse", "torch", "yaml"
)
PLAN = f"experiment: tiny\nexperiments:\n{TINY}datasets:\n{CLICKS}"


def prepare(folder: Path) -> None:
    """A checkout with a small data set and plan of its own."""
    folder.mkdir(parents=True)
    copy_checkout(ROOT, folder)
    (folder / "params.yaml").write_text(PLAN)
    (folder / "eager.py").write_text(EAGER)
    write_clicks(folder)
    raw = folder / "data/raw/clicks/clicks.csv"
    raw.parent.mkdir(parents=True)
    shutil.copy(folder / "clicks.csv", raw)
    synthetic((32, 64), 500, 0.6).write_parquet(folder / "x.parquet")


def disturbed(command: list[str], folder: Path, results: str, times: int, chance: random.Random) -> str:
    """Run `command` to its end, then again and again with kills, and say how that went.

    Raises
    ------
    AssertionError
        Other bits than without a kill, or a file that should not be there.
    """

    template = STEPS if command[0] == "-m" else PROGRAMS

    def begin() -> float:
        template.start(command, folder, ENVIRONMENT, Path(os.devnull))
        return time.monotonic()

    def to_its_end() -> dict[str, bytes]:
        shutil.rmtree(folder / results, ignore_errors=True)
        begin()
        assert template.wait(PATIENCE) == 0
        return contents(folder, results)

    shutil.rmtree(folder / results, ignore_errors=True)
    program = [sys.executable, *command] if command[0] == "-m" else command
    subprocess.run(program, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)  # as users start it
    wanted = contents(folder, results)
    assert wanted, results
    started = time.monotonic()
    assert to_its_end() == wanted
    span = time.monotonic() - started
    killed = tries = 0
    while killed < times:
        tries += 1
        assert tries <= MOST_TRIES * times, f"{killed} of {tries} met before they ended"
        if chance.random() < 0.5:  # half of the kills meet a run that goes on, half one that begins
            shutil.rmtree(folder / results, ignore_errors=True)
        started = begin()
        try:
            template.wait(chance.uniform(0.0, 1.0) * span)
        except subprocess.TimeoutExpired:
            template.kill()
            killed += 1
        else:  # it ended sooner than the last one: the machine is less busy, or it had less to do
            span = time.monotonic() - started
            shutil.rmtree(folder / results, ignore_errors=True)
    found = to_its_end()
    assert found == wanted, sorted(name for name in found.keys() | wanted if found.get(name) != wanted.get(name))
    left = sorted(str(path.relative_to(folder)) for path in leftovers(folder))
    assert not left, left
    return f"{killed} of {tries} killed, {len(wanted)} files with the same bits, nothing left over"


def contents(folder: Path, results: str) -> dict[str, bytes]:
    """What a rerun leaves as it is, by path: neither times nor what holds them."""
    files = [path for path in (folder / results).rglob("*") if path.is_file()]
    names = ("model.safetensors", "summary.json")
    same = [path for path in files if path.name in names or path.parent.name == "tensors"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in same}


def leftovers(folder: Path) -> Iterator[Path]:
    """Half files, states, locks and marks of jobs that did not end."""
    for place in (".cache/partial", ".cache/checkpoints", ".snakemake/incomplete", ".snakemake/locks"):
        yield from (folder / place).glob("*")
    yield from folder.rglob(".partial-*")


CASES: dict[str, tuple[list[str], str]] = {
    "training": (TRAINING, "run"),
    "step": (STEP, "data/tensors"),
    "workflow": (WORKFLOW, "results"),
}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    arguments = step.parser(__doc__)
    arguments.add_argument("--times", type=int, default=20, help="kills of each case; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=0, help="of the moments; default: %(default)s")
    arguments.add_argument("--only", choices=CASES, help="this case alone; all if not given")
    options = arguments.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "checkout"
        prepare(folder)
        for name in [options.only] if options.only else CASES:
            command, results = CASES[name]
            print(
                f"{name}: {disturbed(command, folder, results, options.times, random.Random(options.seed))}", flush=True
            )


if __name__ == "__main__":
    step.run(main)
