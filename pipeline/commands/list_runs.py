"""``kronflow list``: the runs that a repository shares."""

from __future__ import annotations

import argparse
import json

from pipeline.commands.command_line import Commands, add_command, print_rows, short


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands, "list", _run, "List the runs that a repository shares at a revision, with error and bytes."
    )
    command.add_argument("repository", metavar="REPO[@REV]", help="a folder or what git clone takes; a branch, tag ..")
    command.add_argument("--json", action="store_true", help="for programs")


def _run(options: argparse.Namespace) -> None:
    """Print one line a run; bytes are as the method's own publication counts them, file_bytes those on disk."""
    from pipeline.commands.shared import SharedRuns, result_of

    shared = SharedRuns(options.repository)
    found = {name: result_of(shared.metrics(name)) for name in shared.names}
    if options.json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        print_rows([(name, short(result)) for name, result in found.items()])
