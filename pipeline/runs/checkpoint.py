"""Training state on disk, so that an interrupted run goes on where it stopped.

A state lies in ``.cache/checkpoints/<digest of the run's inputs and settings>/``, outside both workflow
tools; the same run finds it again by itself and removes it when it is done. The file is torch's, followed by a
line feed and the SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from pipeline.core.files import atomic_path, sha256_json
from pipeline.errors import InputError

ROOT = Path(".cache/checkpoints")
UNFIT = (  # what a state that is of something else, or was changed, makes of its reader and of the run
    AssertionError, AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


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
            if not isinstance(state, dict):
                raise TypeError(f"it holds a {type(state).__name__}")
        except (*UNFIT, EOFError, OSError, RecursionError, MemoryError, pickle.UnpicklingError) as error:
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
        OSError
            It cannot be written, and a signal has asked to stop: what was reached since the last one is lost. No
            InputError: the run has not failed, and the state before serves.
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
                cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                why = f"the state cannot be written, what was reached since the last one is lost ({cause})"
                raise OSError(getattr(cause, "errno", None), why, str(self.path)) from error
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


def check_like(saved: Any, fresh: Any, name: str) -> None:
    """Refuse a part of a saved state that is of another kind than the same part of a fresh one.

    Names, types, lengths, shapes and types of numbers are the same, reals are finite. Lists of texts or reals may be
    shorter, and a text is one of the fresh ones: candidates drop out in the course of a run.

    Raises
    ------
    ValueError
        With the name of the first that differs.
    """
    if isinstance(fresh, torch.Tensor):
        if not isinstance(saved, torch.Tensor) or (saved.shape, saved.dtype) != (fresh.shape, fresh.dtype):
            raise ValueError(f"'{name}' is no {fresh.dtype} of shape {tuple(fresh.shape)}")
        if saved.is_floating_point() and not bool(torch.isfinite(saved).all()):
            raise ValueError(f"'{name}' has a number that is not finite")
    elif isinstance(fresh, dict):
        if not isinstance(saved, dict) or saved.keys() != fresh.keys():
            raise ValueError(f"'{name}' has not the entries {list(fresh)}")
        for key, value in fresh.items():
            check_like(saved[key], value, f"{name}.{key}")
    elif isinstance(fresh, list | tuple):
        texts = all(isinstance(one, str) for one in fresh)
        shorter = isinstance(fresh, list) and (texts or all(isinstance(one, float) for one in fresh))
        if type(saved) is not type(fresh) or len(saved) > len(fresh) or (len(saved) < len(fresh) and not shorter):
            raise ValueError(f"'{name}' is no {type(fresh).__name__} of {len(fresh)}")
        if texts and not all(isinstance(one, str) and one in fresh for one in saved):
            raise ValueError(f"'{name}' has what is none of {fresh}")
        for one, other in zip(saved, fresh, strict=False):
            check_like(one, other, name)
    elif isinstance(fresh, float):
        if not isinstance(saved, float) or not math.isfinite(saved):
            raise ValueError(f"'{name}' is no finite number")
    elif type(saved) is not type(fresh):
        raise ValueError(f"'{name}' is no {type(fresh).__name__}")


class Optimiser(Protocol):
    """Adam or AdamW, torch's or of the same shape."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameters and how they are moved."""

    def state_dict(self) -> dict[str, Any]:
        """Moments and groups."""


def check_optimiser(saved: Any, optimiser: Optimiser) -> None:
    """Refuse the state of an Adam or AdamW that is not of the same parameters, with moments and rates as they may be.

    Raises
    ------
    ValueError
        With what differs; a learning rate may be lower than that of `optimiser`, which is fresh.
    """
    fresh = optimiser.state_dict()
    check_like(saved, {"state": saved.get("state"), "param_groups": fresh["param_groups"]}, "optimiser")
    for group, other in zip(saved["param_groups"], fresh["param_groups"], strict=True):
        most = max(other["lr"], other.get("initial_lr", 0.0))
        if group | {"lr": 0} != other | {"lr": 0} or not 0 <= group["lr"] <= most:
            raise ValueError("the optimiser is another one")
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = saved["state"]
    if not isinstance(moments, dict):
        raise TypeError("the optimiser has no moments")
    for place, entry in moments.items():
        if type(place) is not int or not 0 <= place < len(parameters):
            raise ValueError("the optimiser has moments of something else")
        alike = {"step": torch.zeros(()), **dict.fromkeys(("exp_avg", "exp_avg_sq"), parameters[place].detach())}
        check_like(entry, alike, "optimiser")
        if float(entry["step"]) < 0 or bool((entry["exp_avg_sq"] < 0).any()):
            raise ValueError("the optimiser's moments are none")
