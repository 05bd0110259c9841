"""What the commands share: their parsers, sizes and shares in their arguments, aligned lines."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any

from pipeline.core import step
from pipeline.core.settings import SEEDS
from pipeline.errors import InputError

LIST_LIMIT = 20  # lists longer than this are summed up
Commands = Any  # argparse's special action has no public name


def add_command(commands: Commands, name: str, run_it: Callable[[argparse.Namespace], None], text: str) -> Any:
    """Add a command and return its parser; `run_it` is called with what was parsed."""
    command = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=run_it)
    return command


def add_fitting(command: argparse.ArgumentParser) -> None:
    """Add what every command that fits takes: the seed and the number of threads."""
    command.add_argument(
        "--seed", action=step.WholeNumber, least=0, below=SEEDS, default=0, help="of the random numbers (default: 0)"
    )
    command.add_argument(
        "--threads",
        action=step.WholeNumber,
        least=1,
        below=step.MOST_THREADS + 1,
        help="of each fit (default: all cores)",
    )


def parse_share(text: str) -> float:
    """Read ``0.3`` or ``30%`` as a relative error from 0 to 1."""
    match = re.fullmatch(r"\s*(\d*\.?\d+(?:[eE]-?\d+)?)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= share <= 1:
        raise InputError(f"--error {text}: write a share of the squared norm from 0 to 1, such as 0.3 or 30%")
    return share


def printable(text: str) -> str:
    """Text without characters that could move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def short(value: Any) -> str:
    """A value of a line for people."""
    if isinstance(value, dict) and value:
        return ", ".join(f"{printable(str(key))}={short(part)}" for key, part in value.items())
    if isinstance(value, list):
        numbers = all(isinstance(part, int) for part in value)
        shown = (" x " if numbers else ", ").join(short(part) for part in value[:LIST_LIMIT])
        return shown + (f" .. ({len(value)} in all)" if len(value) > LIST_LIMIT else "")
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
