"""Compiled functions on torch's own threads and, where there are none, on a pool."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from pipeline.kpd import team
from pipeline.kpd.team import drawn, on_threads


@njit(nogil=True)
def _count(turns, counts, refused):  # type: ignore[no-untyped-def]
    """Count which share is drawn how often, and by which thread's number."""
    share = drawn(turns, 0)
    if share < len(counts):
        me = drawn(turns, 1)
    while share < len(counts):
        if share == refused:
            raise MemoryError
        counts[share, me] += 1
        share = drawn(turns, 0)


@njit(nogil=True)
def count(parallel, threads, *arguments):  # type: ignore[no-untyped-def]
    return on_threads(_count, arguments, parallel, threads)


def counted(shares: int, threads: int, refused: int = -1) -> np.ndarray:
    counts = np.zeros((shares, threads), dtype=np.int64)
    team.run(count, shares, threads, counts, refused)
    return counts


def check_sharing() -> None:
    """Each share is done once, whatever the threads and however many call at once; errors arrive."""
    for threads in (1, 2, 3):
        for shares in (0, 1, 2, 1000):
            assert np.array_equal(counted(shares, threads).sum(axis=1), np.ones(shares))
    with ThreadPoolExecutor(3) as callers:
        for counts in callers.map(lambda shares: counted(shares, 2), (1000, 2001, 2)):
            assert np.all(counts.sum(axis=1) == 1)
    for threads in (1, 2):
        with pytest.raises(MemoryError, match=f"1 of {threads} threads"):
            counted(5, threads, refused=3)


def test_shares_are_done_once_and_errors_raised() -> None:
    check_sharing()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are listed in /proc")
def test_work_needs_no_threads_beside_those_of_torch(two_threads: None) -> None:
    if not team.is_of_torch():
        pytest.skip("this torch has no OpenMP")
    torch.rand(1 << 16).add_(1.0)  # large enough for torch to share it
    before = set(Path("/proc/self/task").iterdir())
    counted(1000, 2)
    assert set(Path("/proc/self/task").iterdir()) <= before


def test_a_forked_process_has_threads_of_its_own() -> None:
    def work() -> None:
        assert not team.is_of_torch()
        check_sharing()
        importlib.reload(team)  # as if it were imported only here
        assert not team.is_of_torch()

    counted(2, 2)  # torch's threads are at work before
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 0
