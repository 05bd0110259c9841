"""Threads for the shares of a product: those of torch itself, or a pool beside them.

After each operation torch's OpenMP threads spin for a while and hold their cores. Threads of another kind, which come
next, wait for those cores; torch's own take up the work at once. So shares are handed to ``GOMP_parallel`` of the very
runtime that torch is linked with. GNU's OpenMP has it, and so do LLVM's and Intel's on Linux. Where there is none, as
on macOS, and in a process forked from one that has imported this, in which OpenMP would wait for threads that are not
there, a pool of Python's threads does the same.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def _torch_parallel() -> Any:
    """``GOMP_parallel(body, data, threads, flags)`` as torch calls it, or None.

    As the dynamic linker looks for it: among what the whole process shares, which comes first if a library was
    preloaded, then in what torch's library itself needs. What another package has brought along is not found.
    """
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    for library in (None, Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"):
        try:
            parallel = ctypes.CDLL(library if library is None else str(library)).GOMP_parallel
        except (AttributeError, OSError, TypeError):
            continue
        parallel.argtypes, parallel.restype = (_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return parallel
    return None


_parallel = _torch_parallel()
_process = os.getpid()


def is_of_torch() -> bool:
    """Whether shares are done by torch's own threads in this process, not by a pool."""
    return _parallel is not None and os.getpid() == _process


def each(work: Callable[[int], T], count: int, threads: int) -> list[T]:
    """Return ``[work(0), .., work(count - 1)]``, begun in this order as threads become free, `threads` at a time.

    Of calls that fail the first is raised here; after it no other is begun. Called from within `work` it is done by the
    calling thread alone.
    """
    if min(threads, count) <= 1 or _pools.is_ours:
        return [work(part) for part in range(count)]
    if not is_of_torch():
        return list(_pool(min(threads, count), os.getpid()).map(work, range(count)))
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    parts = itertools.count()

    def take(_: int | None) -> None:
        part = 0
        try:
            while not errors and (part := next(parts)) < count:
                results[part] = work(part)
        except BaseException as error:  # an interrupt too: none may pass through OpenMP
            errors[part] = error

    # always all of them: a team that is smaller than the one before ends threads, which the next would have to start
    _parallel(_Body(take), None, threads, 0)
    if errors:
        raise errors.pop(min(errors))
    return [results[part] for part in range(count)]


class _OfPool(threading.local):
    """Whether this thread is of a pool, whose others may all be waiting for theirs."""

    is_ours = False

    def mark(self) -> None:
        """This thread is."""
        self.is_ours = True


_pools = _OfPool()


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads that are kept for the next call; a forked process has none of its parent's and gets its own."""
    return ThreadPoolExecutor(workers, initializer=_pools.mark)
