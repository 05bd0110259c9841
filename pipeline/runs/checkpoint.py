"""Training state on disk, so that an interrupted run goes on where it stopped.

A state lies in ``.cache/checkpoints/<digest of the run's inputs and settings>/``, outside both workflow
tools; the same run finds it again by itself and removes it when it is done. The file is torch's, followed by a
line feed and the SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pipeline.core.files import atomic_path, sha256_json
from pipeline.errors import InputError

ROOT = Path(".cache/checkpoints")


class Checkpoint:
    """The state of one run.

    Parameters
    ----------
    run
        What makes the run what it is (digests of data and settings, seed, versions), as plain values.
    root
        Folder of all states.
    seconds
        Least time between two writes; 0 writes each time.
    """

    def __init__(self, run: dict[str, Any], root: Path = ROOT, seconds: float = 30.0) -> None:
        self.path = root / sha256_json(run) / "state.pt"
        self._seconds = seconds
        self._written = time.monotonic()
        self._stop = False

    @property
    def asked_to_stop(self) -> bool:
        """Whether a signal has asked to stop at the next :meth:`save`."""
        return self._stop

    def load(self) -> dict[str, Any] | None:
        """Return the state of an earlier, unfinished run; None if there is none, or none that was written whole."""
        if not self.path.is_file():
            return None
        try:
            content, _, digest = self.path.read_bytes().rpartition(b"\n")
            if digest.decode() != hashlib.sha256(content).hexdigest():
                raise ValueError("its content is not what was written")
            state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            self.set_aside(str(error))
            return None
        return state

    def set_aside(self, reason: str) -> None:
        """Rename a state that cannot be taken up, and say that the run starts anew."""
        other = self.path.with_suffix(".unusable")
        self.path.replace(other)
        line = " ".join(reason.split())[:200]
        print(f"{self.path}: cannot be taken up ({line}); it is now {other.name}, the run starts anew", file=sys.stderr)

    def save(self, state: dict[str, Any], *, force: bool = False) -> None:
        """Write tensors and plain values, whole or not at all, unless the last write was just now.

        Where the disk is full the run goes on, with a line; the state before stays.

        Raises
        ------
        KeyboardInterrupt
            After writing, if a signal has asked to stop; see :meth:`stopping_on_signals`.
        InputError
            It cannot be written, and a signal has asked to stop: what was reached since the last one is lost.
        """
        if not force and not self._stop and time.monotonic() - self._written < self._seconds:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(content + b"\n" + hashlib.sha256(content).hexdigest().encode())
        except (InputError, OSError) as error:
            if self._stop or force:
                raise
            print(f"{error}; the run goes on", file=sys.stderr)
        self._written = time.monotonic()
        if self._stop:
            print("stopped; the same command goes on from here", file=sys.stderr)
            raise KeyboardInterrupt

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM stop the run at its next :meth:`save`; a second signal stops it at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop = True
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def clear(self) -> None:
        """Remove the state of a finished run."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".unusable").unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()
