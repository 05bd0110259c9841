"""What differs: metrics of an experiment at two revisions, or the models here from those that a lock records."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from pipeline.config import run_name
from pipeline.core import step
from pipeline.core.files import write_json, write_text
from pipeline.errors import InputError

SHOWN = {  # the quantities of a kind of run that a rerun leaves as they are, in the order of their columns
    "compression": ("error", "relative_error", "bytes", "bytes_equal", "bytes_with_order", "file_bytes"),
    "network": ("accuracy", "block_sparsity", "train_parameters", "inference_parameters", "train_flops"),
}
DIGESTS = {"params_sha256": "settings", "data_sha256": "data", "model_sha256": "model"}
EXAMPLE = """examples:
  python -m pipeline.workflow.diff HEAD~1
  python -m pipeline.workflow.diff v1.0 --to HEAD --experiment smoke --json diff.json
  python -m pipeline.workflow.diff --lock evidence/dvc.lock
"""

Runs = dict[str, dict[str, Any]]  # run -> its row of metrics.parquet


def compare(before: Runs, after: Runs) -> list[dict[str, Any]]:
    """One entry a run that differs: `run`, `state` (changed, new, gone), `because` and the `metrics` [old, new].

    Times, dates and machines do not count.
    """
    entries: list[dict[str, Any]] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, {}), after.get(name, {})
        quantities = SHOWN[(new or old)["kind"]]
        pairs = {key: [_plain(old.get(key)), _plain(new.get(key))] for key in quantities}
        because = [what for key, what in DIGESTS.items() if old and new and old[key] != new[key]]
        differs = any(first != second for first, second in pairs.values())
        if differs or because:
            state = "changed" if old and new else "new" if new else "gone"
            entries.append({"run": name, "state": state, "because": because, "metrics": pairs})
    return entries


def _plain(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def markdown(entries: list[dict[str, Any]], before: str, after: str, count: int) -> str:
    """The entries as a Markdown table, a line for each run and quantity that differs."""
    head = f"{len(entries)} of {count} runs differ between {before} and {after}"
    if not entries:
        return f"No run differs between {before} and {after} ({count} runs; times do not count).\n"
    lines = [
        f"{head} (times do not count).",
        "",
        f"| run | what | {before} | {after} | change |",
        "|---|---|--:|--:|--:|",
    ]
    for entry in entries:
        name = f"`{entry['run']}`"
        what = entry["state"] + (f" ({', '.join(entry['because'])})" if entry["because"] else "")
        lines.append(f"| {name} | {what} |  |  |  |")
        for key, (old, new) in entry["metrics"].items():
            if old != new:
                lines.append(f"|  | {key} | {_shown(old)} | {_shown(new)} | {_change(old, new)} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _change(old: Any, new: Any) -> str:
    if not isinstance(old, int | float) or not isinstance(new, int | float) or not old:
        return "-"
    return f"{(new - old) / abs(old):+.2%}"


def read_runs(root: Path, experiment: str, revision: str | None) -> Runs:
    """Rows of ``results/<experiment>/metrics.parquet`` by run, as they lie here (None) or at a revision.

    Raises
    ------
    InputError
        There is no such revision, or it has no results of the experiment, or no storage has them.
    """
    import pyarrow.parquet as pq

    path = f"results/{experiment}/metrics.parquet"
    if revision is None:
        if not (root / path).is_file():
            raise InputError(
                f"{root / path}: no such file; make it with 'snakemake {path}' or fetch it with 'make pull'"
            )
        rows = pq.read_table(root / path).to_pylist()
    else:
        from pipeline.commands.shared import clear_errors, complete

        complete(root, revision)
        with clear_errors(f"{root}@{revision}", path):
            from dvc.api import DVCFileSystem

            try:
                with DVCFileSystem(str(root), rev=revision).open(path, "rb") as file:
                    rows = pq.read_table(file).to_pylist()
            except FileNotFoundError as error:
                raise InputError(
                    f"{path}: revision {revision} has no results of experiment '{experiment}', or no storage has them; "
                    "name one after a 'make commit', whose results were pushed"
                ) from error
    return {run_name(row["dataset"], row["method"], row["setting"], row["seed"]): row for row in rows}


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    arguments = step.parser(
        "Compare the metrics of an experiment at a revision with those here or at another one; times do not count. Or "
        "compare the bits of the models here with those that a lock records.",
        EXAMPLE,
    )
    arguments.add_argument("revision", nargs="?", help="a commit, branch or tag: the side before")
    arguments.add_argument(
        "--lock", type=Path, help="instead: which models here have the bits that this file, of 'make evidence', records"
    )
    arguments.add_argument("--to", help="the side after (default: what lies here)")
    arguments.add_argument("--experiment", help="of params.yaml (default: the one that it names)")
    arguments.add_argument("--markdown", type=Path, help="write the table to this file, too")
    arguments.add_argument("--json", type=Path, help="write the entries to this file")
    options: argparse.Namespace = arguments.parse_args(argv)
    if (options.lock is None) == (options.revision is None):
        arguments.error("name a revision, or a lock by --lock")
    if options.lock:
        _print_bits(options)
    else:
        _print_metrics(options)


def _print_bits(options: argparse.Namespace) -> None:
    from pipeline.workflow.bits import compared, told

    if options.to or options.experiment:
        raise InputError("--lock: compares with what lies here; --to and --experiment are of revisions")
    states = compared(options.lock, Path.cwd())
    _write(options, told(states, str(options.lock)), {"lock": str(options.lock), "runs": states})


def _print_metrics(options: argparse.Namespace) -> None:
    experiment = options.experiment
    if experiment is None:
        from pipeline.config import load_config

        experiment = load_config().experiment
    root = Path.cwd()
    before = read_runs(root, experiment, options.revision)
    after = read_runs(root, experiment, options.to)
    entries = compare(before, after)
    shown = markdown(entries, options.revision, options.to or "here", len({*before, *after}))
    sides = {"experiment": experiment, "before": options.revision, "after": options.to or "here"}
    _write(options, shown, sides | {"runs": entries})


def _write(options: argparse.Namespace, shown: str, content: dict[str, Any]) -> None:
    print(shown, end="")
    if options.markdown:
        write_text(options.markdown, shown)
    if options.json:
        write_json(options.json, content)


if __name__ == "__main__":
    step.run(main)
