"""The GPUs of one machine, shared by several jobs: each holds those that it computes on, and others wait for one.

A job holds a GPU by a lock of the operating system on a file named after the GPU, which ends with its process, however
that ends. Jobs of all users meet in one folder of the machine's temporary files.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "kronflow-gpus"
PAUSE = 0.2  # seconds between two looks for a free one


@contextmanager
def held(device: str) -> Iterator[str]:
    """Hold the GPUs that this job computes on; wait, with a line, while others hold them.

    Parameters
    ----------
    device
        ``cpu`` (nothing is held), ``cuda`` (any that is free), or one by its number.

    Yields
    ------
    str
        The device to compute on. Processes that a launcher has started get ``cuda`` back and take the GPU of their
        own number; the first of them on this machine holds the GPUs of all, in ascending order, so that no two groups
        wait for each other.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        yield device
        return
    import torch

    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count > 1:
        with ExitStack() as stack:
            if int(os.environ["LOCAL_RANK"]) == 0:
                for name in sorted(names[:count]):
                    stack.enter_context(one_of([name]))
            yield device
        return
    with one_of(names if not number else [names[int(number)]]) as name:
        index = names.index(name)
        torch.cuda.set_device(index)
        yield f"cuda:{index}"


@contextmanager
def one_of(names: Sequence[str], folder: Path = FOLDER) -> Iterator[str]:
    """Hold the first of the GPUs `names` that is free, and give its name; wait while all are held."""
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o777)  # jobs of other users meet here too
    told = False
    while True:
        for name in names:
            handle = _opened(folder / f"{name}.lock")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            try:
                yield name
            finally:
                os.close(handle)
            return
        if not told:
            print(f"waiting: other jobs compute on all {len(names)} GPUs that this one may take", file=sys.stderr)
            told = True
        time.sleep(PAUSE)


def _opened(path: Path) -> int:
    with suppress(FileExistsError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.chmod(path, 0o666)  # noqa: PTH101, S103 - another user's job takes the same lock
        return handle
    return os.open(path, os.O_RDWR)
