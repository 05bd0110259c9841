"""Write down with DVC what lies here: hashes of what stages take and make, their files in its cache, ``dvc.lock``.

The record is that of ``dvc commit --force``, by DVC's own stages. That command reads ``params.yaml`` twice a stage,
hashes a file once for every stage that takes it, and parses ``dvc.lock`` in a way that keeps comments, of which it has
none; of 1,000 runs this was most of the time.
"""

from __future__ import annotations

import errno
import io
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.files import read_text, write_text
from pipeline.errors import InputError

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from ruamel.yaml import YAML

Lock = dict[str, Any]  # content of a dvc.lock
LOGGERS = ("dvc", "dvc_data", "dvc_objects")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # what is written to refuses
FORBIDDEN = {errno.EACCES, errno.EPERM}


def _yaml() -> YAML:
    """YAML as DVC reads and writes it: version 1.2, in which ``no`` and ``1:30`` are texts; without aliases."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    yaml = YAML(typ="safe")
    yaml.Representer = Representer
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False
    return yaml


def read_lock(path: Path) -> Lock:
    """Read a ``dvc.lock``; an empty file is an empty one.

    Raises
    ------
    InputError
        It is no ``dvc.lock``, for example one with marks of a conflict.
    """
    from ruamel.yaml.error import YAMLError

    try:
        content = _yaml().load(read_text(path)) or {}
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"{path}{line}: no valid YAML; after a merge with conflicts take either side ('git checkout --ours "
            "dvc.lock'), then 'make commit'"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("stages") or {}, dict):
        raise InputError(f"{path}: no dvc.lock; a mapping with the key 'stages' is wanted")
    return content


def lock_text(lock: Lock) -> str:
    """Text of a ``dvc.lock``, as DVC writes it."""
    stream = io.StringIO()
    _yaml().dump(lock, stream)
    return stream.getvalue()


@contextmanager
def recording(root: Path) -> Iterator[Record]:
    """Hold DVC's lock on the checkout `root`, its outputs and inputs hashed; nothing is written before ``write``.

    Raises
    ------
    InputError
        Another DVC is at work there, or DVC refuses: a file is missing, two stages make it, git tracks it.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        repo = Repo(str(root))
        with lock_repo(repo):
            yield Record(repo, root)
    except DvcException as error:
        raise refusal(error) from error


def refusal(error: DvcException | sqlite3.Error) -> InputError:
    """What DVC refuses, in one line; or that the databases are damaged in which it keeps what it found out before."""
    from dvc.dirs import site_cache_dir
    from dvc.lock import LockError

    if isinstance(error, sqlite3.Error):
        return InputError(
            f"DVC's notes on files, under {site_cache_dir()}: {error}; when no DVC is at work, delete that folder: DVC "
            "writes them anew"
        )
    if isinstance(error, LockError):
        return InputError("another DVC is at work in this checkout: when it has ended, the same command again")
    return InputError(f"DVC: {' '.join(str(error).split())}")


@contextmanager
def held_back() -> Iterator[list[logging.LogRecord]]:
    """Keep what DVC's loggers say instead of printing it: on a full disk a line for each of thousands of files."""
    said: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record)

    loggers = [logging.getLogger(name) for name in LOGGERS]
    handlers = [logger.handlers for logger in loggers]
    for logger in loggers:
        logger.handlers = [Keep()]
    try:
        yield said
    finally:
        for logger, before in zip(loggers, handlers, strict=True):
            logger.handlers = before


def say(records: Iterable[logging.LogRecord]) -> None:
    """Print what was held back."""
    for record in records:
        logging.getLogger(record.name).handle(record)


def refused_by_a_disk(said: Iterable[logging.LogRecord], error: BaseException | None = None) -> InputError | None:
    """What a full disk, or one that may not be written to, refused, by DVC's word and an error: one line, or none."""
    found = [record.exc_info[1] for record in said if record.exc_info]
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    for each in found:
        if isinstance(each, OSError) and each.filename and each.errno in FULL | FORBIDDEN:
            names = [str(name) for name in (each.filename, each.filename2) if name]
            where = names[-1] if each.errno in FULL else " -> ".join(names)
            return InputError(f"{where}: {each.strerror}; what is there stays, and the same command goes on")
    return None


class Record:
    """Hashes of what the stages of a checkout take and make, and the way to write them down."""

    def __init__(self, repo: Repo, root: Path) -> None:
        from dvc.utils.serialize import load_path

        self.path = root / "dvc.lock"
        stages = list(repo.index.stages)
        self.ours = [stage for stage in stages if Path(stage.path) == (root / "dvc.yaml").absolute()]
        self.others = [stage for stage in stages if stage not in self.ours]  # a user's own, such as of `dvc add`
        for stage in self.others:
            stage.save(run_cache=False)  # where DVC keeps copies of runs; it takes none whose outputs persist
        params = load_path(str(root / "params.yaml"), repo.fs)
        known: dict[str, Any] = {}
        for stage in self.ours:
            stage.save_outs()
            known |= {out.fs_path: out for out in stage.outs}
        for dep in (dep for stage in self.ours for dep in stage.deps):
            _hash(dep, params, known)

    def write(self) -> bool:
        """Put the files into DVC's cache and write ``dvc.lock``; return whether that changed."""
        from dvc.stage.serialize import to_lockfile

        with held_back() as said:
            for stage in [*self.ours, *self.others]:
                stage.commit(relink=False)  # what is here is what goes into the cache: it is not taken out again
        # DVC itself records files all the same that its cache did not take
        if lost := [path for path in self._objects() if not path.is_file()]:
            raise refused_by_a_disk(said) or InputError(f"{lost[0]} and {len(lost) - 1} more: not written by DVC")
        for stage in self.others:
            stage.dump(update_pipeline=False)
        before = read_lock(self.path) if self.path.is_file() else {}
        stages = dict(before.get("stages") or {})  # of what is no more in dvc.yaml, too
        for stage in self.ours:
            stages |= _plain(to_lockfile(stage))
        now = {"schema": "2.0"} | before | {"stages": stages}
        if changed := now != before:
            write_text(self.path, lock_text(now))
        return changed

    def _objects(self) -> Iterator[Path]:
        """Where DVC's cache is to have what the stages made: lists of folders, and files."""
        for out in (out for stage in [*self.ours, *self.others] for out in stage.outs if out.use_cache):
            names = [out.hash_info.value, *(each.value for _, _, each in (out.obj if out.hash_info.isdir else ()))]
            yield from (Path(out.cache.oid_to_path(name)) for name in names)


def _hash(dep: Dependency, params: dict[str, Any], known: dict[str, Any]) -> None:
    """Give an input its hash, or a set of parameters their values; what is `known` by its path is not read again."""
    from dvc.dependency import ParamsDependency
    from dvc.dependency.base import DependencyDoesNotExistError

    if isinstance(dep, ParamsDependency):
        values = {key: found[0] for key in dep.params if (found := value_at(params, key))}
        if dep.def_path == dep.DEFAULT_PARAMS_FILE and len(values) == len(dep.params) > 0:
            dep.fill_values(values)
        else:
            dep.save()  # another file, all of it, or DVC's own word on a key that is not there
    elif (same := known.get(dep.fs_path)) is not None:
        dep.hash_info, dep.meta = same.hash_info, same.meta
    else:
        try:
            dep.save()
        except DependencyDoesNotExistError:
            if not dep.hash_info:
                raise
            # A colleague's source: what was made of it is here, and Snakemake plans nothing anew. Its record stays.
        known[dep.fs_path] = dep


def value_at(content: Any, key: str) -> list[Any]:
    """The value at a key with dots, in a list; none where there is none."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return []
        content = content[part]
    return [content]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
