"""Shares of rows on torch's own threads and, where there are none, on a pool."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from pipeline.kpd import fused, team


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def meet(barrier: threading.Barrier) -> int:
    """Passes only if as many threads as the barrier counts are at work."""
    barrier.wait(30)
    return threading.get_native_id()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are listed in /proc")
def test_torch_and_shares_have_the_same_threads(two_threads: None) -> None:
    if not team.is_of_torch():
        pytest.skip("this torch has no OpenMP")
    torch.rand(1 << 16).add_(1.0)  # large enough for torch to share it
    those_of_torch = {int(thread.name) for thread in Path("/proc/self/task").iterdir()}
    barrier = threading.Barrier(2)
    at_work = set(team.each(lambda _: meet(barrier), 4, 2))
    assert len(at_work) == 2
    assert at_work <= those_of_torch


def check_sharing() -> None:
    """Rows are shared once, in turn and at once; shares may be shared in turn; errors and interrupts arrive."""
    barrier = threading.Barrier(2)
    results = fused.share(3 * fused.WIDTH + 1, 2, 4, lambda start, stop: (start, stop, meet(barrier)))
    edges = [0, fused.WIDTH, 2 * fused.WIDTH, 3 * fused.WIDTH, 3 * fused.WIDTH + 1]
    assert [(start, stop) for start, stop, _ in results] == list(pairwise(edges))
    assert len({thread for *_, thread in results}) == 2

    with ThreadPoolExecutor(2) as callers:
        shares = callers.map(lambda rows: fused.share(rows, 2, 50, lambda start, stop: stop - start), (1000, 2001))
    assert [sum(share) for share in shares] == [1000, 2001]

    assert team.each(lambda a: team.each(lambda b: (a, b), 2, 2), 3, 2) == [[(a, 0), (a, 1)] for a in range(3)]
    assert team.each(str, 0, 2) == []

    def fail(part: int) -> None:
        if part in (2, 3):
            raise error(part)

    for error in (ValueError, KeyboardInterrupt):
        for threads in (1, 2, 3):
            with pytest.raises(error, match="2"):
                team.each(fail, 5, threads)
    assert team.each(abs, 5, 2) == [0, 1, 2, 3, 4]


def test_shares_are_done_once_and_their_errors_raised() -> None:
    check_sharing()


def test_a_forked_process_has_threads_of_its_own() -> None:
    def work() -> None:
        assert not team.is_of_torch()
        check_sharing()

    team.each(abs, 2, 2)  # torch's threads are at work before
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(60)
    assert child.exitcode == 0
