"""Pieces of work on several threads: torch's own where it runs on OpenMP, else those of a pool.

torch's threads go on spinning for a while after each of its operations, so that other threads would compete with
them for the cores; joining them, work between two operations of torch's starts at once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _parallel_region() -> Any:
    """``GOMP_parallel`` of the OpenMP library that torch has loaded; None where there is none.

    GNU's and LLVM's library both have this entry: it calls a function with its argument on each thread of a team,
    this one among them, and returns when all have returned.
    """
    folders = [Path(torch.__file__).parent / "lib", Path(torch.__file__).parent.parent / "torch.libs"]
    loaded = os.RTLD_NOW | getattr(os, "RTLD_NOLOAD", 0)
    for path in (path for folder in folders for path in sorted(folder.glob("lib*omp*.so*"))):
        try:
            region = ctypes.CDLL(str(path), mode=loaded).GOMP_parallel
        except (OSError, AttributeError):
            continue
        region.argtypes, region.restype = [_Callback, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return region
    return None


_region = _parallel_region()
_process = os.getpid()
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def run(work: Callable[[int], T], count: int, threads: int) -> list[T]:
    """Return ``[work(0), .., work(count - 1)]``, made by up to `threads` threads that take the next as they are free.

    An exception in `work` is raised here when the others have ended.
    """
    team = min(threads, count)
    if team <= 1:
        return [work(number) for number in range(count)]
    numbers = iter(range(count))
    done: dict[int, T] = {}
    failed: list[BaseException] = []

    def take(_: Any = None) -> None:
        try:
            for number in numbers:
                done[number] = work(number)
        except BaseException as error:  # it must not be lost in a callback
            failed.append(error)

    if _region and os.getpid() == _process:  # a fork inherits the library's state but not its threads
        _region(_Callback(take), None, team, 0)
    else:
        key = (os.getpid(), team - 1)
        pool = _pools.get(key) or _pools.setdefault(key, ThreadPoolExecutor(team - 1))
        others = [pool.submit(take) for _ in range(team - 1)]
        take()
        for other in others:
            if not other.cancel():  # one that no thread has begun by now has nothing left to do
                other.result()
    if failed:
        raise failed[0]
    return [done[number] for number in range(count)]
