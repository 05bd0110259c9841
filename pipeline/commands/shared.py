"""The runs that a repository shares at a revision: resolved by name, fetched one file at a time through DVC."""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.files import atomic_path, sha256_file
from pipeline.core.names import plain_name
from pipeline.errors import InputError, nearest
from pipeline.runs.metrics import Metrics, read_metrics
from pipeline.workflow.record import refusal
from pipeline.workflow.remote import refuse_what_is_no_file, shown

ROOT = PurePosixPath("results/runs")  # of the runs in a repository


class SharedRuns:
    """The runs of one repository at one revision.

    Parameters
    ----------
    address
        ``REPO`` or ``REPO@REV``: a folder or what ``git clone`` takes, and a branch, tag or commit. A folder
        without a revision is taken as it lies there; a remote repository at its default branch.

    Raises
    ------
    InputError
        There is no such repository or revision, or it shares no runs.
    """

    def __init__(self, address: str) -> None:
        from dvc.api import DVCFileSystem

        self.address = shown(address)
        repository, revision = split_address(address)
        folder = Path(repository)
        if folder.is_dir() and not (folder / ".dvc").is_dir() and not _is_bare(folder):
            raise InputError(f"{self.address}: the folder is no checkout that DVC records (no .dvc in it)")
        if revision and folder.is_dir():
            complete(folder, revision)
        with clear_errors(self.address, "the repository"):
            self.files = DVCFileSystem(repository, rev=revision)
            outs = self.files.repo.index.outs if (folder / ".dvc").is_dir() or revision else []
            self._refuse_strange(str(out.hash_info.value) for out in outs if out.hash_info)
            found = self.files.find(str(ROOT))
        self.names = sorted(str(PurePosixPath(path).parent.relative_to(ROOT)) for path in found
                            if path.endswith("/metrics.json"))  # fmt: skip
        if not self.names:
            raise InputError(
                f"{self.address}: no runs are recorded there ({ROOT} in dvc.lock); run 'make commit' there"
            )

    def metrics(self, name: str) -> Metrics:
        """Return the metrics of the run ``<data set>/<method>/<setting>-s<seed>``."""
        from pipeline.config import run_name

        for part in name.split("/"):
            plain_name(part, "run")
        if name not in self.names:
            raise InputError(f"{self.address}: no run '{name}'{nearest(name, self.names)}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "metrics.json"
            self._fetch(f"{ROOT}/{name}/metrics.json", path)
            try:
                metrics = read_metrics(path)
            except InputError as error:
                raise InputError(f"{self.address}: {name}/metrics.json{str(error).removeprefix(str(path))}") from error
        if name != (of := run_name(metrics.dataset, metrics.method, metrics.setting, metrics.seed)):
            raise InputError(
                f"{self.address}: {name}/metrics.json is of the run {of}: its folder was renamed or exchanged; tell "
                "who shared it"
            )
        return metrics

    def pull(self, name: str, to: Path) -> Metrics:
        """Write the model of a run to `to`, whole and checked or not at all, and return the run's metrics."""
        metrics = self.metrics(name)
        with atomic_path(to) as temporary:
            self._fetch(f"{ROOT}/{name}/model.safetensors", temporary)
            if (found := sha256_file(temporary)) != metrics.model_sha256:
                raise InputError(
                    f"{self.address}: {name}/model.safetensors: damaged or exchanged: its SHA-256 is {found[:12]}, "
                    f"metrics.json says {metrics.model_sha256[:12]}; nothing is written; tell who shared it"
                )
        return metrics

    def card(self, name: str, metrics: Metrics) -> str:
        """Say in Markdown what the model of a run is, by its metrics and the plan of this revision."""
        from pipeline.config import load_config
        from pipeline.reporting.provenance import card

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "params.yaml"
            self._fetch("params.yaml", path)
            config = load_config(path)
        runs = {run.folder: run for experiment in config.experiments for run in config.runs(experiment)}
        run = runs.get(f"{ROOT}/{name}")
        if run is None:
            raise InputError(f"{self.address}: {name}: no experiment of its params.yaml plans this run: it has no card")
        return card(run, metrics.model_dump(mode="json"), config.entry_of(run.dataset))

    def _refuse_strange(self, names: Iterable[str]) -> None:
        """Refuse what is no file in the place of objects, here or on the remote."""
        from dvc.config import NoRemoteError

        names, repo = list(names), self.files.repo
        refuse_what_is_no_file(repo.cache.local, names)
        with suppress(NoRemoteError):
            refuse_what_is_no_file(repo.cloud.get_remote_odb(command="pull"), names)

    def _fetch(self, path: str, to: Path) -> None:
        with clear_errors(self.address, path):
            self._refuse_strange(digest for digest in [self.files.info(path).get("md5")] if digest)
            try:
                self.files.get_file(path, str(to))
            except FileNotFoundError as error:
                raise InputError(
                    f"{self.address}: {path}: recorded, but no storage has the object; who made it runs 'make push'"
                ) from error


@contextmanager
def clear_errors(address: str, what: str) -> Iterator[None]:
    """Say in one line what the repository at `address`, or its storage, refuses when `what` is read."""
    from dvc.scm import CloneError, RevError
    from dvc_data.index import DataIndexDirError

    try:
        yield
    except RevError as error:
        raise InputError(f"{address}: {shown(error)}; name a branch, tag or commit after the last @") from error
    except CloneError as error:
        raise InputError(
            f"{address}: no Git repository can be read there; is the address right, and may you read it?"
        ) from error
    except DataIndexDirError as error:
        raise InputError(
            f"{address}: {what}: recorded, but no storage has or gives the list of a folder's files; who made "
            "it runs 'make push', who reads it needs the storage's credentials"
        ) from error
    except InputError:
        raise
    except sqlite3.Error as error:
        raise refusal(error) from error
    except Exception as error:  # each kind of storage has a library with errors of its own
        raise InputError(f"{address}: {what}: cannot be read ({type(error).__name__}: {shown(error)})") from error


def split_address(address: str) -> tuple[str, str | None]:
    """Split ``REPO@REV``; an @ of a user before a host, or in the name of a folder that exists, splits nothing.

    >>> split_address("git@host:group/models.git@v1.2")
    ('git@host:group/models.git', 'v1.2')
    >>> split_address("ssh://git@host/models.git")
    ('ssh://git@host/models.git', None)
    """
    repository, separator, revision = address.rpartition("@")
    is_user = ":" in revision or repository.endswith("://") or ("://" in repository and "/" not in
                                                                repository.partition("://")[2])  # fmt: skip
    if not separator or Path(address).exists() or is_user:
        return address, None
    if not repository or not revision:
        raise InputError(f"{shown(address)}: write REPO or REPO@REV")
    return repository, revision


def complete(folder: Path, revision: str) -> None:
    """Fetch what a partial clone lacks of a revision: DVC reads Git's objects by itself and waits for ever.

    Raises
    ------
    InputError
        The repository that it was cloned from does not give them.
    """
    setting = _git(folder, "config", "--get-regexp", r"^remote\..*\.promisor$").stdout
    if not setting:
        return
    remote = setting.split()[0].removeprefix("remote.").removesuffix(".promisor")
    ask = ("-c", "fetch.negotiationAlgorithm=noop", "fetch", "--no-tags", "--no-write-fetch-head", "--filter=blob:none")
    fetched: list[str] = []
    # DVC takes a branch of the remote, too; first folders are missing, then what is in them
    while missing := _missing(folder, revision) or _missing(folder, f"{remote}/{revision}"):
        done = _git(folder, *ask, "--stdin", remote, given="".join(f"{name}\n" for name in missing))
        if done.returncode or missing == fetched:
            raise InputError(
                f"{folder}@{revision}: a partial clone that lacks {len(missing)} objects of this revision, and "
                f"'{remote}' does not give them; is it there, may you read it? {' '.join(shown(done.stderr).split())}"
            )
        fetched = missing


def _missing(folder: Path, revision: str) -> list[str]:
    """Objects of a revision that are not here; none where it is unknown, which DVC says."""
    listed = _git(folder, "rev-list", "--objects", "--no-walk", "--missing=print", "--end-of-options", revision).stdout
    return [line[1:] for line in listed.splitlines() if line.startswith("?")]


def _git(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, check=False, capture_output=True, text=True, input=given)


def _is_bare(folder: Path) -> bool:
    return (folder / "HEAD").is_file() and (folder / "objects").is_dir()


def result_of(metrics: Metrics) -> dict[str, Any]:
    """What a run reached, by name: the error of a compressor and its bytes, the accuracy of a network."""
    if metrics.kind == "compression":
        return {"relative_error": metrics.relative_error, "bytes": metrics.bytes, "file_bytes": metrics.file_bytes}
    return {"accuracy": metrics.accuracy, "parameters": metrics.inference_parameters, "file_bytes": metrics.file_bytes}
