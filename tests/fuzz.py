"""Damaged files against all that reads them: how each ends, counted by kind.

A target is a valid file, a way to damage it and a way to ask it. Every damaged file is asked in a process of its
own, with limits of memory and processor time, and ends in one of

- ``refused``: an InputError of one line; ``same``: the answer of the whole file; ``changed``: another answer
  (wrong where a checksum was kept);
- ``not finite``, ``lines`` (an error of more than one), ``traceback``, ``crash``, ``hang``, ``memory``: wrong always.

``python -m tests.fuzz --seconds 60 --seed 0`` prints the table and ends with status 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError

KINDS = ("refused", "same", "changed", "not finite", "lines", "traceback", "crash", "hang", "memory")
GOOD = ("refused", "same", "changed")
MEMORY = 1 << 30  # bytes above what the process had
PROCESSOR = 20.0  # seconds for one file
WAITING = 300.0  # seconds without an answer, of which a busy machine may take most
BATCH = 20  # files a process
CASES = int(os.environ.get("KRONFLOW_FUZZ", "20"))  # of a target in a test
SEED = int(os.environ.get("KRONFLOW_FUZZ_SEED", "0"))

Damage = Callable[[bytes, np.random.Generator], bytes]
Ask = Callable[[dict[str, Path]], Any]


@dataclass(frozen=True)
class Target:
    """Valid files, how one of them is damaged, and how they are asked.

    Attributes
    ----------
    boundary
        Its row in the table.
    name
        Which of the boundary's files.
    files
        Content by name; each damaged set has one that is damaged.
    ask
        Gives numbers, texts and arrays from the files, or raises InputError.
    kept
        Whether a checksum stays that tells of every change, so that another answer is wrong.
    """

    boundary: str
    name: str
    files: dict[str, bytes]
    damage: Damage
    ask: Ask
    kept: bool = False

    def case(self, seed: int, number: int) -> dict[str, bytes]:
        """The damaged files of a number, which this alone decides."""
        label = zlib.crc32(f"{self.boundary}{self.name}".encode())
        rng = np.random.default_rng([seed, label, number])
        hit = list(self.files)[int(rng.integers(len(self.files)))]
        return self.files | {hit: self.damage(self.files[hit], rng)}


class NotFiniteError(Exception):
    """An answer with NaN or infinity."""


def fingerprint(answer: Any) -> str:
    """A digest of an answer; NaN and infinity are none."""
    digest = hashlib.sha256()

    def visit(part: Any) -> None:
        if isinstance(part, np.ndarray):
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise NotFiniteError
            digest.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        elif isinstance(part, dict):
            visit(list(part.items()))
        elif isinstance(part, list | tuple):
            digest.update(f"{len(part)}(".encode())
            for one in part:
                visit(one)
        else:
            if isinstance(part, float) and not np.isfinite(part):
                raise NotFiniteError
            digest.update(repr(part).encode() + b";")

    visit(answer)
    return digest.hexdigest()


def _asked(target: Target, paths: dict[str, Path]) -> tuple[str, str]:
    try:
        return "answered", fingerprint(target.ask(paths))
    except InputError as error:
        return ("lines" if "\n" in str(error).strip() else "refused"), str(error)
    except NotFiniteError:
        return "not finite", ""
    except MemoryError as error:
        return "memory", f"{error!r} {_place(error)}"
    except BaseException as error:
        return "traceback", f"{error!r} {_place(error)}"


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/pipeline/" in frame.filename] or frames
    return f"at {own[-1].filename.rpartition('/pipeline/')[2]}:{own[-1].lineno}"


def _attend(target: Target, cases: list[dict[str, bytes]], folder: Path, report: int) -> None:
    """In a child: ask each set of files and report its outcome."""
    import pyarrow as pa
    import torch

    torch.set_num_threads(1)  # a child has no threads of its parent's pools, and would wait for them
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own takes addresses in advance
    warnings.filterwarnings("error", category=RuntimeWarning, module="pipeline")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    paths = {name: folder / name for name in target.files}
    for files in cases:
        for name, content in files.items():
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            paths[name].write_bytes(content)
        message = pickle.dumps(_asked(target, paths))
        os.write(report, struct.pack("<q", len(message)) + message)
    os._exit(0)


def outcomes(target: Target, cases: list[dict[str, bytes]]) -> Iterator[tuple[str, str]]:
    """The outcome of each case; a child that dies or hangs is replaced after the case that it was at."""
    done = 0
    while done < len(cases):
        with tempfile.TemporaryDirectory() as folder:
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    _attend(target, cases[done:], Path(folder), write_end)
                finally:
                    os._exit(1)
            os.close(write_end)
            while done < len(cases):
                found = _message(read_end, child)
                done += 1
                yield found
                if found[0] in ("hang", "crash"):
                    break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read_end)


def _message(pipe: int, child: int) -> tuple[str, str]:
    head = _read(pipe, 8, child)
    body = _read(pipe, struct.unpack("<q", head)[0], child) if isinstance(head, bytes) else head
    if isinstance(body, str):
        return body, ""
    result: tuple[str, str] = pickle.loads(body)  # noqa: S301 - of our own child
    return result


def _read(pipe: int, count: int, child: int) -> bytes | str:
    """So many bytes, or why there are none."""
    data, begun, spent = b"", time.monotonic(), _processor_seconds(child)
    while len(data) < count:
        if select.select([pipe], [], [], 1.0)[0]:
            part = os.read(pipe, count - len(data))
            if not part:
                return "crash"
            data += part
        elif _processor_seconds(child) - spent > PROCESSOR or time.monotonic() - begun > WAITING:
            return "hang"
    return data


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Count:
    """Outcomes of one target."""

    def __init__(self, target: Target, seed: int = SEED) -> None:
        self.target, self.seed, self.number = target, seed, 0
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        ((state, self.whole),) = outcomes(target, [target.files])
        if state != "answered":
            raise AssertionError(f"{target.boundary}, {target.name}: the whole file is {state}: {self.whole}")

    def more(self, count: int = BATCH) -> None:
        """Ask so many more damaged files."""
        cases = [self.target.case(self.seed, self.number + one) for one in range(count)]
        for case, (state, detail) in zip(cases, outcomes(self.target, cases), strict=True):
            if state == "answered":
                state = "same" if detail == self.whole else "changed"
            if case == self.target.files:
                self.number += 1
                continue
            self.found[state] += 1
            if state not in GOOD or (self.target.kept and state == "changed"):
                where = f"{self.target.boundary}, {self.target.name}, seed {self.seed}, number {self.number}"
                self.wrong.append(f"{where}: {state} {detail[:300]}")
            self.number += 1


def check(targets: list[Target], cases: int = CASES) -> None:
    """Fail where a damaged file of any target ends in what is wrong."""
    wrong = []
    for target in targets:
        counted = Count(target)
        counted.more(cases)
        wrong += counted.wrong
    assert not wrong, "\n".join(wrong)


def all_targets() -> list[Target]:
    """Those of every test file."""
    from tests import test_fuzz_artifacts, test_fuzz_readers, test_fuzz_states, test_fuzz_tensors

    files = (test_fuzz_artifacts, test_fuzz_tensors, test_fuzz_readers, test_fuzz_states)
    return [target for file in files for target in file.targets()]


def main(argv: list[str] | None = None) -> int:
    """Ask damaged files for some time, print the table, and return how many ended in what is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=60.0, help="time for all targets; default: %(default)s")
    arguments.add_argument("--seed", type=int, default=SEED, help="of the damage; default: %(default)s")
    arguments.add_argument("--files", type=int, default=10**9, help="most damaged files of a target")
    arguments.add_argument("--only", default="", help="boundaries or files whose name has this text")
    options = arguments.parse_args(argv)
    begun = time.monotonic()
    targets = [each for each in all_targets() if options.only in f"{each.boundary}, {each.name}"]
    counts = [Count(target, options.seed) for target in targets]
    left = counts
    while left and (time.monotonic() - begun < options.seconds or not all(each.number for each in counts)):
        for counted in left:
            told = len(counted.wrong)
            counted.more()
            print("".join(f"{line}\n" for line in counted.wrong[told:]), end="", flush=True)
            if time.monotonic() - begun > options.seconds and all(each.number for each in counts):
                break
        left = [each for each in counts if each.number < options.files]
    print(table(counts))
    return sum(len(each.wrong) for each in counts)


def table(counts: list[Count]) -> str:
    """Outcomes by boundary, one a line."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for counted in counts:
        rows[counted.target.boundary].update(counted.found)
    width = max(map(len, rows))
    lines = [f"{'':<{width}}  {'files':>8}" + "".join(f"{kind:>11}" for kind in KINDS)]
    for boundary, found in rows.items():
        numbers = "".join(f"{found[kind]:>11,}" for kind in KINDS)
        lines.append(f"{boundary:<{width}}  {found.total():>8,}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
