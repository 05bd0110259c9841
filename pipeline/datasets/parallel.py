"""Work on pieces of data in threads: compiled code leaves Python's lock, so that they help."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_WORKERS = 4  # more would wait for the thread that gives out the pieces

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield ``work(item)`` in the order of the items, a few of which are under way at a time.

    >>> list(in_order(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    workers = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
