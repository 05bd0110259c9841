"""Snakemake's locks, released where the process that took them is dead.

Snakemake names no holder in its locks, so that after a ``kill -9`` they stand until someone says ``--unlock``. Here
each Snakemake holds a shared lock of the operating system while it lives; who gets an exclusive one is alone.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

HOLDERS = Path(".cache/snakemake.lock")


def release_stale(root: Path = Path()) -> int:
    """Register this process in the tree `root`, and remove the locks there if no other one is; return how many.

    To be called before Snakemake takes its own locks. The registration ends with the process, however that ends.
    """
    path = root / HOLDERS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # stays open: it is the registration
    except OSError:
        return 0  # a tree that may only be read: Snakemake itself says what it cannot write
    released = 0
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # another one is at work; its locks hold
    except OSError:
        return 0  # a file system without locks: Snakemake's own message tells of --unlock
    else:
        for lock in (root / ".snakemake" / "locks").glob("*.lock"):
            lock.unlink(missing_ok=True)
            released += 1
    fcntl.flock(handle, fcntl.LOCK_SH)
    return released
