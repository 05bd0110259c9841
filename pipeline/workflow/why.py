"""Why Snakemake would make something again: which input, parameter or code file changed, and from what to what."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core import step
from pipeline.core.files import sha256_file
from pipeline.errors import InputError

EXAMPLE = """examples:
  python -m pipeline.workflow.why
  python -m pipeline.workflow.why results/runs/flights/neukron/h15-s0/metrics.json
  python -m pipeline.workflow.why flights.neukron --json
"""
NONE = "-"  # where something was not, or is no more


class Change(NamedTuple):
    """One reason of one job: its kind (`input`, `code`, `parameter`, `output`, `upstream`, ..), of what, from, to."""

    job: str
    kind: str
    what: str
    old: str
    new: str


def changes(target: str | None, root: Path) -> list[Change]:
    """All reasons of the jobs that `target` (the default one: None) needs, in the order of the workflow.

    Raises
    ------
    InputError
        There is no such target, or the configuration is wrong; what Snakemake says.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings

    _digest.cache_clear()
    problems: list[BaseException] = []
    with redirect_stdout(StringIO()), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        try:
            workflow = api.workflow(ResourceSettings(cores=1), snakefile=root / "Snakefile", workdir=root)
            settings = DAGSettings(targets={target} if target else frozenset(), max_checksum_file_size=1 << 60)
            workflow.dag(settings)
            inner = workflow._workflow
            inner.dag_settings = settings
            inner._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
            inner._build_dag()
        except Exception as error:  # Snakemake has classes of its own for each
            problems.append(error)
        else:
            return [change for job in _in_order(inner.dag) for change in _of_job(job, inner)]
    raise InputError(f"{target or 'the default target'}: {_said(str(problems[0])) or 'cannot be planned'}")


def _said(text: str) -> str:
    """What Snakemake says, in one line; what an input function refuses, without where in which code that was."""
    found = re.search(r"WorkflowError:\s+(.*?)\s+Wildcards:", text, re.DOTALL)
    return " ".join((found[1] if found else text).split())


def _in_order(dag: Any) -> list[Any]:
    return [job for level in dag.toposorted() for job in sorted(level, key=str) if dag.needrun(job)]


def _of_job(job: Any, workflow: Any) -> Iterator[Change]:
    """The reasons of one job; those that are only that another job runs before in one line."""
    dag, records, reason = workflow.dag, workflow.persistence, workflow.dag.reason(job)
    name = str(job.output[0]) if job.output else job.rule.name
    for paths, state in ((reason.missing_output, "missing"), (reason.incomplete_output, "left half done")):
        if paths:
            yield Change(name, "output", ", ".join(sorted(Path(path).name for path in paths)), NONE, state)
    if job.output and records.input(job.output[0]) is not None:  # all reasons: Snakemake stops at the first one
        makers = [files for maker, files in dag.dependencies[job].items() if dag.needrun(maker)]
        yield from _inputs(name, job, records, {str(file) for files in makers for file in files})
        if found := records.params_changed(job):
            yield from (Change(name, "parameter", *row) for row in parameters(found.only_old, found.only_new))
        if (old := records.code(job.output[0])) != (new := job.rule.shellcmd):
            yield Change(name, "command", "Snakefile", str(old), str(new))
    if reason.forced:
        yield Change(name, "asked for", "forced", NONE, NONE)
    if reason.updated_input_run:
        before = sorted({_made_by(each, job, dag) for each in map(str, reason.updated_input_run)})
        yield Change(name, "upstream", ", ".join(before), NONE, "runs before")


def _made_by(path: str, job: Any, dag: Any) -> str:
    makers = [maker for maker, files in dag.dependencies[job].items() if path in map(str, files)]
    return str(makers[0].rule.name) if makers else path


def _inputs(name: str, job: Any, records: Any, remade: set[str]) -> Iterator[Change]:
    """Inputs with another content than recorded, new ones and those that are none any more; not those of `remade`."""
    before, now = set(records.input(job.output[0])), {str(each) for each in job.input}
    for each in sorted(now & before - remade):
        old = {str(digest) for digest in records.input_checksums(job, each) if digest}
        new = _digest(each)
        if old and new not in old:
            yield Change(name, _kind(each), each, _short(min(old)), _short(new))
    for each in sorted(now - before):
        yield Change(name, _kind(each), each, NONE, "is new")
    for each in sorted(before - now):
        yield Change(name, _kind(each), each, "was one", NONE)


@cache
def _digest(path: str) -> str:
    return f"sha256:{sha256_file(path)}" if Path(path).is_file() else "is missing"


def _kind(path: str) -> str:
    return "code" if path.startswith("pipeline/") else "input"


def _short(digest: str) -> str:
    algorithm, _, text = digest.partition(":")
    return f"{algorithm} {text[:12]}" if text else digest


def parameters(old: set[str], new: set[str]) -> Iterator[tuple[str, str, str]]:
    """Parameters by key with old and new value, from what Snakemake keeps: texts of Python values."""
    before, after = (_flat([_value(each) for each in sorted(values)]) for values in (old, new))
    for key in sorted({*before, *after}):
        if before.get(key, NONE) != after.get(key, NONE):
            yield key, before.get(key, NONE), after.get(key, NONE)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _flat(values: list[Any], prefix: str = "") -> dict[str, str]:
    """Keys and values of mappings and of a step's arguments.

    >>> _flat(["--seed 0 --set hidden=5 --set cell=lstm", {"nnz": 3}])
    {'seed': '0', 'hidden': '5', 'cell': 'lstm', 'nnz': '3'}
    """
    found: dict[str, str] = {}
    for value in values:
        if isinstance(value, dict):
            for key, inner in value.items():
                found |= (
                    _flat([inner], f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": str(inner)}
                )
        elif isinstance(value, str) and value.startswith("--"):
            words = shlex.split(value)
            for option, given in zip(words[::2], words[1::2], strict=False):
                key, separator, text = given.partition("=")
                found |= {key: text} if option == "--set" and separator else {option.removeprefix("--"): given}
        else:
            found[f"{prefix}value" if prefix else str(value)] = str(value)
    return found


def table(rows: list[Change]) -> str:
    """The reasons as a Markdown table, each job named once."""
    lines = ["| to be made | what changed | which | before | now |", "|---|---|---|---|---|"]
    last = ""
    for change in rows:
        cells = [f"`{change.job}`" if change.job != last else "", change.kind, change.what, change.old, change.new]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        last = change.job
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    arguments = step.parser(
        "Say why Snakemake would make a target: which input, parameter (by its key) or code file changed since it was "
        "made, from what to what.",
        EXAMPLE,
    )
    arguments.add_argument("target", nargs="?", help="a file or a target of the Snakefile (default: the default one)")
    arguments.add_argument("--json", action="store_true", help="for programs")
    options: argparse.Namespace = arguments.parse_args(argv)
    rows = changes(options.target, Path.cwd())
    if options.json:
        print(json.dumps([change._asdict() for change in rows], indent=2))
    else:
        print(table(rows) if rows else f"{options.target or 'the default target'}: up to date, nothing changed")


if __name__ == "__main__":
    step.run(main)
