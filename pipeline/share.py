"""Before DVC is called: are the run folders as planned, is there a record of them, is there a remote?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import Config, load_config
from pipeline.core import step
from pipeline.core.files import PARTIAL
from pipeline.errors import InputError
from pipeline.runs.metrics import FILES, check_model, read_metrics

SHOWN = 10  # problems that a message names one by one
EXAMPLE = """example:
  python -m pipeline.share whole
  python -m pipeline.share recorded
"""


def check_whole(config: Config, root: Path) -> int:
    """Compare the folders that DVC records for the default experiment with the plan; return the number of runs.

    DVC records ``results/runs/<data set>/<method>`` with all that lies there, so that runs of other experiments
    of ``params.yaml`` may be there too, whole.

    Raises
    ------
    InputError
        A file of a run is missing, damaged or exchanged, or there is one that belongs to no run; all are named.
    """
    planned = [run.folder for run in config.runs()]
    problems = [*_missing_and_damaged(config, root), *_extra(config, root)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputError(
            f"the runs of experiment '{config.experiment}' are not as planned, nothing is recorded: "
            f"{'; '.join(problems[:SHOWN])}{more}. Make what is missing with 'snakemake', delete what is not planned"
        )
    return len(planned)


def _shared_runs(config: Config, root: Path) -> Iterator[str]:
    """Folders of the planned runs, and of other experiments' runs that lie beside them."""
    planned = config.runs()
    beside = {(run.dataset, run.method) for run in planned}
    names = dict.fromkeys(run.folder for run in planned)
    for experiment in config.experiments:
        for run in config.runs(experiment):
            if (run.dataset, run.method) in beside and (root / run.folder).is_dir():
                names[run.folder] = None
    yield from names


def _missing_and_damaged(config: Config, root: Path) -> Iterator[str]:
    for folder in _shared_runs(config, root):
        missing = [name for name in FILES if not (root / folder / name).is_file()]
        for name in missing:
            yield f"{folder}/{name} is missing"
        if not missing:
            path = root / folder / "metrics.json"
            try:
                check_model(path, read_metrics(path))
            except InputError as error:
                yield str(error)


def _extra(config: Config, root: Path) -> Iterator[str]:
    runs = set(_shared_runs(config, root))
    for cell in sorted({Path(folder).parent.as_posix() for folder in runs}):
        known = {Path(folder).name for folder in runs if Path(folder).parent.as_posix() == cell}
        for path in sorted((root / cell).iterdir() if (root / cell).is_dir() else ()):
            if path.name not in known:
                yield f"{cell}/{path.name} is in no experiment of params.yaml"
            elif path.is_dir():
                others = sorted(each.name for each in path.iterdir() if not _is_known(each.name))
                yield from (f"{cell}/{path.name}/{name} is no file of a run" for name in others)


def _is_known(name: str) -> bool:
    return name in FILES or name.startswith(PARTIAL)  # which DVC ignores and the next run removes


def whole(options: argparse.Namespace) -> None:
    """Print how many runs are whole, or refuse."""
    config = load_config(options.params)
    print(f"{check_whole(config, options.params.parent)} runs of experiment '{config.experiment}' are whole")


def recorded(options: argparse.Namespace) -> None:
    """Refuse where DVC has no record or no remote: it would say that everything is up to date."""
    from dvc.config import Config as DvcConfig

    root = options.params.parent
    lock = root / "dvc.lock"
    if not lock.is_file():
        raise InputError(
            f"{lock}: no such file, DVC has recorded nothing here; who has the results runs 'snakemake', "
            "'make commit' and 'git commit'; who wants them takes that commit with 'git pull'"
        )
    if not DvcConfig(dvc_dir=str(root / ".dvc"))["core"].get("remote"):
        raise InputError(
            f"{root / '.dvc/config'}: names no remote; add one with 'dvc remote add --default NAME URL', where the "
            "results go to or come from"
        )


ACTIONS = {"whole": whole, "recorded": recorded}


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    arguments = step.parser(
        "Say whether what is to be shared is whole (every file of every planned run, no other) and recorded.", EXAMPLE
    )
    arguments.add_argument(
        "action",
        choices=ACTIONS,
        help="whole: run folders against the plan; recorded: a record, a remote",
    )
    arguments.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the configuration (default: params.yaml)"
    )
    options = arguments.parse_args(argv)
    ACTIONS[options.action](options)


if __name__ == "__main__":
    step.run(main)
