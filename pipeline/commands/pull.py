"""``kronflow pull``: one model of a shared repository, checked against what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.command_line import Commands, add_command, print_rows, short
from pipeline.core.files import refuse_clashes, write_text


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands, "pull", _run, "Fetch the model of one run from a repository, and check that it is the one measured."
    )
    command.add_argument("repository", metavar="REPO[@REV]", help="a folder or what git clone takes; a branch, tag ..")
    command.add_argument("name", metavar="RUN", help="for example flights/neukron/h15-s0; see kronflow list")
    command.add_argument("-o", "--output", type=Path, required=True, help="the .safetensors file to write")
    command.add_argument("--card", type=Path, help="also write what it is and where it comes from, as Markdown")


def _run(options: argparse.Namespace) -> None:
    """Fetch, check, and say what it is."""
    from pipeline.commands.shared import SharedRuns, result_of

    refuse_clashes([], [options.output, *([options.card] if options.card else [])])
    shared = SharedRuns(options.repository)
    metrics = shared.pull(options.name, options.output)
    if options.card:
        write_text(options.card, shared.card(options.name, metrics))
    print_rows(
        [
            ("run", options.name),
            *((name, short(value)) for name, value in result_of(metrics).items()),
            ("data_sha256", metrics.data_sha256),
            ("model_sha256", f"{metrics.model_sha256} (checked)"),
            ("file", str(options.output)),
        ]
    )
