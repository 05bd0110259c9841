"""Work that is given up when its time is over, wherever it is then."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

LEAST = 0.05  # seconds between two looks at the clock, at least and at most
MOST = 3600.0
AGAIN = 5.0  # seconds until it is raised once more, where a library's callback has swallowed it
NOT_WITHIN = ("numba.core", "importlib", "_frozen_importlib")  # what is half done there would stay so in this process


class OutOfTimeError(Exception):
    """The time of what was running is over."""


@contextmanager
def given_up_after(left: Callable[[], float]) -> Iterator[None]:
    """Raise :class:`OutOfTimeError` in the block once no time is left; compiled code is waited for.

    Imports and the compiling of kernels are finished before. Signals reach the main thread only: in any other the
    block runs to its end.

    Parameters
    ----------
    left
        Seconds until then, of whatever clock; asked again when they seem to have passed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def look_again(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, min(max(seconds, LEAST), MOST))

    def look(number: int, frame: FrameType | None) -> None:
        seconds = left()
        over = seconds <= 0 and not _within(frame)
        look_again(AGAIN if over else seconds)
        if over:
            raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, look)
    try:
        look_again(left())
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _within(frame: FrameType | None) -> bool:
    """Whether a frame or one that called it belongs to what is not given up."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(NOT_WITHIN):
            return True
        frame = frame.f_back
    return False
