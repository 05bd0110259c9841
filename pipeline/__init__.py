"""Kronflow: compress sparse matrices and tensors, train block-sparse networks, compare fairly."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

try:
    __version__ = version("kronflow")
except PackageNotFoundError:  # a bare checkout on a machine that only has the methods' libraries
    __version__ = "0+unknown"

__all__ = ["__version__", "load", "pull"]


def load(path: str | Path) -> Any:
    """Give back the fitted model that an artifact holds, whatever method wrote it.

    Parameters
    ----------
    path
        A ``.safetensors`` file written by a method's ``save``.

    Returns
    -------
    A fitted compressor (``predict``, ``error``, ``size``) or a network module.

    Raises
    ------
    pipeline.errors.InputError
        The file is no Kronflow artifact, is damaged, or names an unknown method.
    """
    from pipeline.runs.artifact import read_artifact, restored

    tensors, metadata = read_artifact(path)
    return restored(path, _class_of(metadata.get("method"), path), tensors, metadata)


def pull(repository: str, run: str, to: str | Path) -> Path:
    """Fetch the model of one run from a repository that shares its results, and return its path, `to`.

    Parameters
    ----------
    repository
        ``REPO`` or ``REPO@REV``: a folder or what ``git clone`` takes, and a branch, tag or commit.
    run
        ``<data set>/<method>/<setting>-s<seed>``, for example ``flights/neukron/h15-s0``.
    to
        The ``.safetensors`` file to write; it is written whole and checked, or not at all.

    Raises
    ------
    pipeline.errors.InputError
        No such repository, revision, run or object; or the file is not the one that ``metrics.json`` was
        measured on.
    """
    from pathlib import Path

    from pipeline.commands.shared import SharedRuns

    SharedRuns(repository).pull(run, Path(to))
    return Path(to)


def _class_of(method: Any, path: str | Path) -> Any:
    """Class of the method that an artifact names; imported when asked for, so that a T-SVD needs no torch."""
    from pipeline.errors import InputError, nearest
    from pipeline.methods import COMPRESSORS, METHODS

    known = (*COMPRESSORS, "kpd")  # networks' artifacts all name themselves so
    if not isinstance(method, str) or method not in known:
        shown = str(method)[:60]
        raise InputError(f"{path}: method '{shown}' is unknown{nearest(shown, known)}")
    return METHODS[method].load()
