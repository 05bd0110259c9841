"""Commands forked from a process that has imported their libraries: the same without the second that a start takes.

Half of a `snakemake -n`, and most of a short step, is the import of what is not ours. A template imports that once
and forks a child for each command; the child gets its own folder, environment and arguments, imports our package from
where it stands, and ends as the program does. No test here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path


class Template:
    """A process that has imported modules, none of them ours, and forks; one command at a time.

    It is started by the first command and ends with the process that asked.
    """

    def __init__(self, *modules: str) -> None:
        self._modules = modules
        self._process: subprocess.Popen[str] | None = None
        self.pid = 0

    def start(self, command: list[str], folder: Path, environment: dict[str, str], output: Path) -> None:
        """Start a program by its name, or ``["-m", module, ...]``; what it prints goes into a file."""
        if self._process is None:
            clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            self._process = subprocess.Popen(
                [sys.executable, __file__, *self._modules], stdin=-1, stdout=-1, text=True, env=clean
            )
        assert self._process.stdin is not None
        print(json.dumps([command, str(folder), environment, str(output)]), file=self._process.stdin, flush=True)
        self.pid = self._number()

    def wait(self, timeout: float) -> int:
        """Status of the command as of :class:`subprocess.Popen`, which says what is raised after so many seconds."""
        assert self._process is not None
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self._number()

    def kill(self) -> int:
        """End the command as `kill -9` does; its status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self._number()

    def _number(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        return int(self._process.stdout.readline())


def _become(command: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    """In a child: end as the command does."""
    for path, flags, descriptors in ((os.devnull, os.O_RDONLY, [0]), (output, os.O_WRONLY | os.O_CREAT, [1, 2])):
        opened = os.open(path, flags, 0o644)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]  # not the folder of this file
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path.insert(0, folder)
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.exit(importlib.import_module(f"{command[0]}.cli").main())


def _serve() -> None:
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # what no child has to look through again
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            _become(*json.loads(line))
            break
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
