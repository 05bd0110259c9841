"""Which bits an experiment's models have: the part of ``dvc.lock`` that says so, and a rerun beside it.

``metrics.json`` and ``history.parquet`` hold times, so that their bits are of one run; a model's are the same wherever
code, settings, data, libraries and processor model are.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import step
from pipeline.core.files import write_text
from pipeline.core.names import plain_name
from pipeline.core.yaml_files import read_yaml
from pipeline.errors import InputError
from pipeline.workflow.record import Lock, lock_text, read_lock, value_at

if TYPE_CHECKING:
    from pipeline.config import Config

MODEL = "model.safetensors"
Hashes = Callable[[str], str | None]  # DVC's hash of a file or folder by its path; None where there is none
State = dict[str, Any]  # a run: `run`, `state` (same, differs, missing) and what may be `because`


def hashes(root: Path) -> Hashes:
    """DVC's own hash of what lies below `root`, without what ``.dvcignore`` names.

    Raises
    ------
    InputError
        `root` is no checkout that DVC records.
    """
    from dvc_data.hashfile.build import build

    from pipeline.workflow.merge_lock import Objects

    objects = Objects(root)
    known: dict[str, str | None] = {}

    def of(path: str) -> str | None:
        if path not in known:
            there = (root / path).absolute()
            known[path] = None
            if there.exists():
                _, _, made = build(
                    objects.cache, str(there), objects.repo.fs, "md5", dry_run=True, ignore=objects.repo.dvcignore
                )
                known[path] = str(made.hash_info.value)
        return known[path]

    return of


def excerpt(config: Config, experiment: str, lock: Lock, params: dict[str, Any], of: Hashes) -> Lock:
    """What `lock` records of the experiment's data and models, with each model's hash under ``files`` of its folder.

    Raises
    ------
    InputError
        The lock has no stage of some run, or the code, data or settings recorded or the models here are others: then
        the lock does not say what made the models.
    """
    from pipeline.workflow.stages import stages

    runs = config.runs(experiment)
    recorded = lock.get("stages") or {}
    kept: Lock = {}
    for name, stage in stages(config, [experiment]).items():
        out = next(iter(stage["outs"][0]))
        if not out.startswith(("results/runs/", "data/")):
            continue  # tables and pages hold times
        if name not in recorded:
            raise InputError(f"dvc.lock: has no stage '{name}'; 'snakemake {experiment}', then 'make commit'")
        entry = dict(recorded[name])
        if other := list(_other(entry, params, of)):
            raise InputError(
                f"dvc.lock: stage '{name}': {' and '.join(other)} here are not what it records; "
                f"'snakemake {experiment}', then 'make commit'"
            )
        if out.startswith("results/runs/"):
            (made,) = entry["outs"]
            if of(out) != made["md5"]:
                raise InputError(f"dvc.lock: {out} here is not what it records; 'make commit'")
            models = sorted(f"{Path(run.folder).name}/{MODEL}" for run in runs if str(Path(run.folder).parent) == out)
            listed = [{"relpath": path, "md5": of(f"{out}/{path}")} for path in models]
            if lacking := [each["relpath"] for each in listed if each["md5"] is None]:
                raise InputError(f"{out}/{lacking[0]}: no such file; 'snakemake {experiment}', then 'make commit'")
            entry["outs"] = [made | {"files": listed}]
        kept[name] = entry
    return {"schema": lock.get("schema", "2.0"), "stages": kept}


def compare(lock: Lock, params: dict[str, Any], of: Hashes) -> list[State]:
    """Each run that an :func:`excerpt` records beside the one here.

    `because` holds which of settings, data and code are others here, each as recorded for all runs of a method on a
    data set.
    """
    states: list[State] = []
    for stage in (lock.get("stages") or {}).values():
        models = [(out["path"], each) for out in stage.get("outs", []) for each in out.get("files", [])]
        for folder, model in models:
            here = of(f"{folder}/{model['relpath']}")
            state = "missing" if here is None else "same" if here == model["md5"] else "differs"
            run = f"{folder.removeprefix('results/runs/')}/{Path(model['relpath']).parent}"
            because = list(_other(stage, params, of)) if state == "differs" else []
            states.append({"run": run, "state": state, "because": because})
    if not states:
        raise InputError("the lock names no model; one that 'make evidence' wrote is wanted, such as evidence/dvc.lock")
    return sorted(states, key=lambda each: str(each["run"]))


def _other(stage: Lock, params: dict[str, Any], of: Hashes) -> Iterator[str]:
    """Which of settings, data and code are here, and not as a stage records them."""
    recorded = (stage.get("params") or {}).get("params.yaml", {})
    if any(value_at(params, key) != [value] for key, value in recorded.items()):
        yield "settings"
    changed = [dep["path"] for dep in stage.get("deps", []) if of(dep["path"]) not in (None, dep["md5"])]
    if any(path.startswith("data/") for path in changed):
        yield "data"
    if any(not path.startswith("data/") for path in changed):
        yield "code"


def told(states: Iterable[State], name: str) -> str:
    """The comparison in words: counts, each run that differs, and how many a method and data set lacks."""
    states = list(states)
    counts = Counter(each["state"] for each in states)
    lines = [
        f"{name}: {len(states)} models. Here: {counts['same']} with the same bits, {counts['differs']} that differ, "
        f"{counts['missing']} missing."
    ]
    differing = [each for each in states if each["state"] == "differs"]
    if differing:
        lines += ["", "| differs | what else is not as recorded |", "|---|---|"]
        lines += [f"| `{each['run']}` | {', '.join(each['because']) or 'nothing'} |" for each in differing]
        lines += [
            "",
            "Where nothing else differs: another processor model, device or version of a library than the record's "
            "(evidence/tables/runs.csv has those of paper-small), or a damaged file. The same bits hold per processor "
            "model.",
        ]
    missing = Counter(str(Path(each["run"]).parent) for each in states if each["state"] == "missing")
    if missing:
        lines += ["", f"missing: {', '.join(f'{cell} {count}' for cell, count in missing.items())}"]
    return "\n".join(lines) + "\n"


def compared(path: Path, root: Path) -> list[State]:
    """The runs that the lock at `path` records beside those of the checkout `root`."""
    return compare(read_lock(path), read_yaml(root / "params.yaml"), hashes(root))


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    arguments = step.parser(
        "Write what dvc.lock records of an experiment's data, code, settings and models, if all of it is as it lies "
        "here. To compare a rerun with it: python -m pipeline.workflow.diff --lock FILE.",
        epilog="example:\n  python -m pipeline.workflow.bits --experiment paper-small evidence/dvc.lock",
    )
    arguments.add_argument("output", type=Path, help="the file to write")
    arguments.add_argument("--experiment", help="of params.yaml (default: the one that it names)")
    options: argparse.Namespace = arguments.parse_args(argv)
    from pipeline.config import load_config

    config, root = load_config("params.yaml"), Path.cwd()
    experiment = plain_name(options.experiment or config.experiment, "experiment")
    if not (root / "dvc.lock").is_file():
        raise InputError(f"{root / 'dvc.lock'}: no such file; 'make experiment NAME={experiment}', 'make commit'")
    text = lock_text(
        excerpt(config, experiment, read_lock(root / "dvc.lock"), read_yaml(root / "params.yaml"), hashes(root))
    )
    write_text(options.output, text)


if __name__ == "__main__":
    step.run(main)
