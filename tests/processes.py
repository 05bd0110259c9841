"""Several processes that share one fit: of a function, or of a step as its help says to start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch


def together(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call ``function(rank, *arguments)`` in `count` processes, forked from one that has only what is not ours."""
    forkserver.set_forkserver_preload(["numba", "numpy", "pandas", "pyarrow.parquet", "pytest", "safetensors", "torch"])
    torch.multiprocessing.start_processes(function, arguments, count, start_method="forkserver")


def launch(module: str, root: Path, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """Start the step `module` of the checkout `root`: input, `folder` for its results, other arguments."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, "-m", module, arguments[0], str(folder), *arguments[1:]],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_in_training(process: subprocess.Popen[str], epochs: int) -> None:
    """Wait until the progress bar has moved, then end the processes as a cluster would."""
    assert process.stderr is not None
    seen = ""
    while f"/{epochs}" not in seen.replace(f" 0/{epochs}", ""):
        piece = process.stderr.read(20)
        assert piece, f"ended before its first epoch: {seen}"
        seen += piece
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode != 0
