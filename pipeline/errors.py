"""The one exception that means: the input is wrong, and this line says what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input from outside: a file, a key, a value.

    The message is one line that names the file, the line or key, the value and the remedy; those of a library that it
    quotes may have several. Command lines turn it into that line and exit status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def is_whole(value: object, least: int) -> bool:
    """Whether `value` is a whole number, no truth value, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to `name`, else the list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}"
