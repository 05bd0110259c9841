"""Compiled functions on several threads at once: those of torch itself, or a pool beside them.

After each operation torch's OpenMP threads spin for a while and hold their cores. Threads of another kind, which come
next, wait for those cores; torch's own take up the work at once. So it is handed to ``GOMP_parallel`` of the very
runtime that torch is linked with. GNU's OpenMP has it, and so do LLVM's and Intel's on Linux. Where there is none, as
on macOS, and in a process forked from one that has imported this, in which OpenMP would wait for threads that are not
there, a pool of Python's threads does the same. No thread needs Python's lock while it is at work.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

cgutils: Any = _cgutils  # which has no types
LINE = 8  # numbers of 64 bits in a line of the cache

_body = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])


def _torch_parallel() -> int:
    """Address of ``GOMP_parallel(body, data, threads, flags)`` as torch calls it; 0 where there is none for this.

    As the dynamic linker looks for it: among what the whole process shares, which comes first if a library was
    preloaded, then in what torch's library itself needs. What another package has brought along is not found.
    """
    # forked from one that may have used OpenMP before it was asked for this
    is_forked = type(multiprocessing.current_process()).__name__ == "ForkProcess"
    if is_forked or "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return 0
    for library in (None, str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")):
        try:
            parallel = ctypes.CDLL(library).GOMP_parallel
        except (AttributeError, OSError, TypeError):
            continue
        return ctypes.cast(parallel, ctypes.c_void_p).value or 0
    return 0


_parallel = _torch_parallel()
_process = os.getpid()


def is_of_torch() -> bool:
    """Whether work is done by torch's own threads in this process, not by a pool."""
    return _parallel != 0 and os.getpid() == _process


def run(launch: Callable[..., int], shares: int, threads: int, *arguments: Any) -> None:
    """Have up to `threads` threads at work on so many shares, which they draw in turn.

    Parameters
    ----------
    launch
        Compiled: ``launch(parallel, threads, turns, *arguments)`` returns :func:`on_threads` of a body and its
        arguments. The body draws a share by ``drawn(turns, 0)`` until there is none left and, if it has one, its own
        number, below `threads` and `shares`, by ``drawn(turns, 1)``.

    Raises
    ------
    MemoryError
        What a compiled function raises in a thread.
    """
    turns = np.zeros(2 * LINE, dtype=np.int64)
    workers = min(threads, shares)
    if workers <= 1:
        failed = launch(0, 1, turns, *arguments)
    elif is_of_torch():  # all threads: a team smaller than the one before ends some, which the next would have to start
        failed = launch(_parallel, threads, turns, *arguments)
    else:
        pool = _pool(workers, os.getpid())
        failed = sum(pool.map(lambda _: launch(0, 1, turns, *arguments), range(workers)))
    if failed:
        raise MemoryError(f"no memory for the work of {failed} of {threads} threads")


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads that are kept for the next call; a forked process has none of its parent's and gets its own."""
    return ThreadPoolExecutor(workers)


def _on_threads(_, body, arguments, parallel, threads):  # type: ignore[no-untyped-def]
    """Call ``body(*arguments)`` on each of `threads` threads by `parallel`, if it is 0 on this one; how many failed."""
    kinds = tuple(arguments.types)
    body.dispatcher.compile(kinds)
    compiled = body.dispatcher.overloads[kinds]

    def emit(context, builder, signature, values):  # type: ignore[no-untyped-def]
        _, given, parallel, threads = values
        context.add_linking_libs([compiled.library])
        count = ir.IntType(64)
        shared = cgutils.alloca_once(builder, ir.LiteralStructType([given.type, count]))
        where = cgutils.gep_inbounds(builder, shared, 0, 0), cgutils.gep_inbounds(builder, shared, 0, 1)
        builder.store(given, where[0])
        builder.store(count(0), where[1])

        function = ir.Function(builder.module, _body, builder.module.get_unique_name("on_thread"))
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block("entry"))
        of_all = inner.bitcast(function.args[0], shared.type)
        own = cgutils.unpack_tuple(inner, inner.load(cgutils.gep_inbounds(inner, of_all, 0, 0)))
        status, _ = context.call_internal_no_propagate(inner, compiled.fndesc, compiled.signature, own)
        with cgutils.if_unlikely(inner, status.is_error):
            inner.atomic_rmw("add", cgutils.gep_inbounds(inner, of_all, 0, 1), count(1), "monotonic")
        inner.ret_void()

        data = builder.bitcast(shared, cgutils.voidptr_t)
        with builder.if_else(builder.icmp_unsigned("==", parallel, parallel.type(0))) as (alone, together):
            with alone:
                builder.call(function, [data])
            with together:
                number = ir.IntType(32)
                kind = ir.FunctionType(ir.VoidType(), [function.type, cgutils.voidptr_t, number, number])
                runtime = builder.inttoptr(parallel, kind.as_pointer())
                builder.call(runtime, [function, data, builder.trunc(threads, number), number(0)])
        return builder.load(where[1])

    return types.int64(body, arguments, types.intp, types.intp), emit


on_threads: Any = intrinsic(_on_threads)


def _drawn(_, turns, which):  # type: ignore[no-untyped-def]
    """The next number, from 0 on, of those drawn by all threads; there are two such rows, `which` is 0 or 1."""

    def emit(context, builder, signature, values):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, values[0])
        place = builder.mul(values[1], values[1].type(LINE))
        return builder.atomic_rmw("add", builder.gep(array.data, [place]), values[1].type(1), "monotonic")

    return types.int64(turns, types.int64), emit


drawn: Any = intrinsic(_drawn)
