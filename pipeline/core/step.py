"""What every command line of the workflow shares: settings, errors, exit status."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

import yaml

from pipeline.core import yaml_files
from pipeline.core.secrets import masked
from pipeline.errors import InputError

SHOWN = 80  # characters of what was given, in a message
LONGEST = 2000  # characters of a message
LONGEST_WORD = 600  # of them without a blank: a path of several long names
MOST_THREADS = 1024
CONTROLS = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
MOVES = r"\r|\x1b(?=\[A)"  # what draws a progress bar again


class WholeNumber(argparse.Action):
    """Action of arguments that are whole numbers of at least `least`, smaller than `below`; others are wrong input."""

    def __init__(
        self, option_strings: list[str], dest: str, *, least: int, below: int | None = None, **others: Any
    ) -> None:
        super().__init__(option_strings, dest, **others)
        self.least, self.below = least, below

    def __call__(self, _: Any, namespace: argparse.Namespace, value: Any, option: str | None = None) -> None:
        """Store the number."""
        number = whole_number(value)
        if number is None or number < self.least or (self.below is not None and number >= self.below):
            bound = "" if self.below is None else f" and below {self.below:,}"
            raise InputError(f"{option} {value[:SHOWN]}: needs a whole number of at least {self.least}{bound}")
        setattr(namespace, self.dest, number)


def whole_number(text: str) -> int | None:
    """The whole number of at most 64 bits that plain digits say, blanks around them aside; None for other text.

    >>> whole_number(" -17"), whole_number("1_0"), whole_number("9" * 30)
    (-17, None, None)
    """
    match = re.fullmatch(r"\s*([+-]?[0-9]{1,20})\s*", text)
    number = int(match[1]) if match else 1 << 63
    return number if -(1 << 63) <= number < 1 << 63 else None


class _Parser(argparse.ArgumentParser):
    """A parser whose help ends with a list of settings, made only when the help is asked for.

    What it cannot parse is wrong input like any other: one line.
    """

    def __init__(self, *arguments: Any, settings: Callable[[], str] | None = None, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.settings = settings

    def format_help(self) -> str:
        """Return the help, examples last."""
        if self.settings:
            self.epilog, self.settings = "\n\n".join(filter(None, [self.settings(), self.epilog])), None
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise the line that says what is wrong."""
        raise InputError(f"{message}; '{self.prog} --help' says what belongs there")


def parser(
    description: str, epilog: str | None = None, settings: Callable[[], str] | None = None
) -> argparse.ArgumentParser:
    """Return an argument parser in the house style: first line of a docstring, examples kept as written.

    `settings` gives the list of settings that the help shows.
    """
    return _Parser(
        prog=_called(),
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        settings=settings,
    )


def _called() -> str | None:
    """How this program is called, such as ``python -m pipeline.report``; None for a file of its own."""
    module = sys.modules["__main__"].__spec__
    return f"python -m {module.name.removesuffix('.__main__')}" if module else None


def add_settings(arguments: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``, the way a method's settings are given on the command line."""
    arguments.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of the method, in YAML notation; may be given several times",
    )


def parse_settings(pairs: Sequence[str], option: str = "--set", texts: Collection[str] = ()) -> dict[str, Any]:
    """Turn ``["hidden=8", "cell=gru"]`` into ``{"hidden": 8, "cell": "gru"}``.

    Parameters
    ----------
    texts
        Keys whose values are taken as they are written, unless in quotes or null; signs such as ``|`` and ``::``
        would be something else in YAML.

    Raises
    ------
    InputError
        A pair without ``=``, a key given twice, or a value that is no YAML.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise InputError(f"{option} {pair}: write KEY=VALUE, for example --set hidden=8 or --read base=0")
        if key in settings:
            raise InputError(f"{option} {pair}: '{key}' is given twice; give it once")
        if key in texts and (len(text) == 1 or text[:1] not in ("'", '"')) and text != "null":
            settings[key] = text
            continue
        try:
            settings[key] = yaml_files.parse(text)
        except yaml.YAMLError as error:
            why = str(getattr(error, "problem", None) or error)[:SHOWN]
            raise InputError(f"{option} {pair[:SHOWN]}: '{text[:SHOWN]}' is no YAML value ({why})") from error
    return settings


class _Plain:
    """A stream to a terminal on which nothing from a file moves the cursor, changes colours or turns text around.

    Control characters are written as escapes; `allowed` are those that progress bars need. Web addresses lose the
    passwords in them.
    """

    def __init__(self, stream: TextIO, allowed: str = "") -> None:
        self._stream = stream
        self._pattern = re.compile(f"(?!{allowed}){CONTROLS}" if allowed else CONTROLS)

    def write(self, text: str) -> int:
        """Write text."""
        shown = masked(text) if "://" in text else text
        return self._stream.write(self._pattern.sub(lambda found: ascii(found[0])[1:-1], shown))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> None:
    """Call a step's `main` and leave with the right exit status.

    Wrong input (:class:`InputError`, a missing file, a full disk, more than memory or the stack hold) is one line
    on standard error and status 2; an interrupt is status 130; a reader of our output that leaves early
    (``... | head -1``) is status 141, as for any program, without a word; a defect of ours keeps its traceback
    and status 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label that the terminal cannot show is no failure
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Plain(sys.stdout), _Plain(sys.stderr, MOVES)
    try:
        try:
            main(argv)
        except SystemExit:  # of argparse, which has printed help
            sys.stdout.flush()
            raise
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:
        _leave_quietly()
    except MemoryError as error:
        _fail(f"out of memory ({error or 'no more to be had'}); take smaller settings, or a machine with more")
    except RecursionError as error:
        _fail(f"nested too deeply ({error})")
    except UnicodeEncodeError as error:
        if "surrogates" not in error.reason:
            raise
        _fail(f"{error.object!a}: is no text in UTF-8, which a library needs as a file's name; rename it")
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        sys.stdout, sys.stderr = streams


def _fail(message: str) -> None:
    line = " ".join(word if len(word) <= LONGEST_WORD else f"{word[:SHOWN]}.." for word in message.split())
    cut = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} .. {line[-LONGEST // 2 :]}"
    shown = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in cut)
    with suppress(OSError):  # the log may lie on the disk that is full
        print(f"error: {shown}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _leave_quietly() -> None:
    """End without the message that Python prints where it cannot write out what is left in its buffer."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    raise SystemExit(128 + signal.SIGPIPE)


def limit_threads(count: int) -> None:
    """Limit every numerical library to `count` threads; call before importing torch or NumPy.

    Numba, once imported, holds on to the number it found in the environment (a later change there makes its
    next compilation fail), so that its own setting is used then.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    if numba := sys.modules.get("numba"):
        numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    else:
        os.environ["NUMBA_NUM_THREADS"] = str(count)
