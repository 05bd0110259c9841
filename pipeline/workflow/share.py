"""Around DVC: are the run folders as planned, is there a record of them, does the remote answer, whose turn is it?"""

from __future__ import annotations

import argparse
import logging
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import step
from pipeline.core.files import PARTIAL, sha256_file
from pipeline.errors import InputError
from pipeline.workflow.merge_lock import Objects
from pipeline.workflow.record import held_back, read_lock, recording, refusal, refused_by_a_disk, say
from pipeline.workflow.records import FOLDER, outs_of, replaced, stages_of, sync
from pipeline.workflow.remote import answering, probe, refuse_what_is_no_file

if TYPE_CHECKING:
    from pipeline.config import Config

SHOWN = 10  # problems that a message names one by one
EXAMPLE = """examples:
  python -m pipeline.workflow.share commit
  python -m pipeline.workflow.share push
"""


def check_whole(config: Config, root: Path) -> int:
    """Compare the folders that DVC records with the plan of the recorded experiments; return the number of runs.

    DVC records ``results/runs/<data set>/<method>`` with all that lies there, so that runs of other experiments
    of ``params.yaml`` may be there too, whole.

    Raises
    ------
    InputError
        A file of a run is missing, damaged or exchanged, or there is one that belongs to no run; all are named.
    """
    planned = config.recorded_runs()
    problems = [*_missing_and_damaged(_shared_runs(config, root), root), *_extra(config, root)]
    if problems:
        raise InputError(
            f"the runs of {_named(config)} are not as planned: {_some(problems)}. Make what is missing with "
            "'snakemake recorded', or fetch it with 'make pull'; delete what is not planned. Nothing is recorded before"
        )
    return len(planned)


def _some(problems: list[str], separator: str = "; ") -> str:
    more = f"{separator}and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return f"{separator.join(problems[:SHOWN])}{more}"


def _named(config: Config) -> str:
    names = config.recorded_experiments()
    return f"experiment{'s' if len(names) > 1 else ''} {', '.join(repr(name) for name in names)}"


def _shared_runs(config: Config, root: Path) -> Iterator[str]:
    """Folders of the planned runs, and of other experiments' runs that lie beside them."""
    planned = config.recorded_runs()
    beside = {(run.dataset, run.method) for run in planned}
    names = dict.fromkeys(run.folder for run in planned)
    for experiment in config.experiments:
        for run in config.runs(experiment):
            if (run.dataset, run.method) in beside and (root / run.folder).is_dir():
                names[run.folder] = None
    yield from names


def _missing_and_damaged(folders: Iterable[str], root: Path) -> Iterator[str]:
    from pipeline.config import run_name
    from pipeline.runs.metrics import FILES, check_model, read_metrics

    for folder in folders:
        missing = [name for name in FILES if not (root / folder / name).is_file()]
        for name in missing:
            yield f"{folder}/{name} is missing"
        if not missing:
            path = root / folder / "metrics.json"
            try:
                metrics = read_metrics(path)
                check_model(path, metrics)
            except InputError as error:
                yield str(error)
            else:
                of = run_name(metrics.dataset, metrics.method, metrics.setting, metrics.seed)
                if folder != f"results/runs/{of}":
                    yield f"{folder}/metrics.json is of the run {of}: its folder was renamed or exchanged"


def _extra(config: Config, root: Path) -> Iterator[str]:
    from pipeline.runs.metrics import FILES

    known: dict[str, set[str]] = {}
    for folder in _shared_runs(config, root):
        known.setdefault(Path(folder).parent.as_posix(), set()).add(Path(folder).name)
    for cell, names in sorted(known.items()):
        for path in sorted((root / cell).iterdir() if (root / cell).is_dir() else ()):
            if path.name not in names:
                yield f"{cell}/{path.name} is in no experiment of params.yaml"
            elif path.is_dir():
                others = sorted(each.name for each in path.iterdir() if each.name not in FILES)
                # half files of a killed step: DVC ignores them and the next run removes them
                yield from (
                    f"{cell}/{path.name}/{name} is no file of a run" for name in others if not name.startswith(PARTIAL)
                )


def whole(root: Path) -> None:
    """Print how many runs are whole, or refuse."""
    from pipeline.config import load_config

    config = load_config(root / "params.yaml")
    print(f"{check_whole(config, root)} runs of {_named(config)} are whole")


def commit(root: Path) -> None:
    """Record what Snakemake has made, if the runs are as planned and nothing is left to do."""
    refuse_links(root)
    sync(root)
    with _planning(root) as nothing_to_do:
        whole(root)
        try:
            with recording(root) as record:
                nothing_to_do()
                refuse_exchanged_sources(root)
                record.write()
        except InputError:
            nothing_to_do()  # first of all where what is missing is still to be made
            raise
    print("recorded in dvc.lock; 'git commit' it, then 'make push'")


def refuse_exchanged_sources(root: Path) -> None:
    """Refuse a source of one's own whose copy under ``data/raw`` is another: Snakemake looks at newer files only.

    Raises
    ------
    InputError
        A source was exchanged for a file with an older time, as ``cp -p`` and ``rsync -a`` do.
    """
    from pipeline.config import load_config

    config = load_config(root / "params.yaml")
    for dataset in {run.dataset.partition(".f")[0] for run in config.recorded_runs()}:
        for name, paths in config.datasets[dataset].sources_on_disk().items():
            source = next((root / path for path in paths if (root / path).is_file()), None)
            copy = root / "data/raw" / dataset / name
            if source and copy.is_file() and sha256_file(source) != sha256_file(copy):
                raise InputError(
                    f"{source}: is not what {copy} was copied from, and no newer, so that Snakemake does not see it; "
                    f"'touch {source}', then 'snakemake'"
                )


@contextmanager
def _planning(root: Path) -> Iterator[Callable[[], None]]:
    """Let Snakemake plan, beside what is done here and takes as long; its word, waited for, may refuse."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "recorded"]
    plan = subprocess.Popen(command, cwd=root, stdout=-1, stderr=-2, text=True)

    @cache
    def said() -> str:
        return plan.communicate()[0]

    def nothing_to_do() -> None:
        text = said()
        if plan.returncode:
            raise InputError(text.strip())
        if "Nothing to be done" not in text:
            raise InputError("results are not up to date; run 'snakemake recorded' first")

    try:
        yield nothing_to_do
    finally:
        plan.kill()
        plan.wait()


def refuse_links(root: Path) -> None:
    """Refuse a cache that DVC shares with the working tree by links.

    What a program writes in place goes through a link into the cache's object.

    Raises
    ------
    InputError
        Some configuration of DVC, this checkout's or the user's, asks for links.
    """
    from dvc.config import Config as DvcConfig

    kinds = DvcConfig(dvc_dir=str(root / ".dvc"))["cache"].get("type") or []
    if links := [kind for kind in kinds if kind in ("hardlink", "symlink")]:
        raise InputError(
            f"DVC's cache.type is {', '.join(kinds)}: through a {links[0]} what a program writes in place would "
            "go into the cache itself; 'dvc config --local cache.type reflink,copy', then 'dvc checkout --relink'"
        )


def default_remote(root: Path) -> tuple[str, dict[str, Any]]:
    """Name and settings of the remote; refuse where DVC has no record or no remote: it would call that up to date."""
    from dvc.config import Config as DvcConfig

    lock = root / "dvc.lock"
    if not lock.is_file():
        raise InputError(
            f"{lock}: no such file, DVC has recorded nothing here; who has the results runs 'snakemake', "
            "'make commit' and 'git commit'; who wants them takes that commit with 'git pull'"
        )
    config = DvcConfig(dvc_dir=str(root / ".dvc"))
    name = config["core"].get("remote")
    if not name:
        raise InputError(
            f"{root / '.dvc/config'}: names no remote; add one with 'make remote URL=..', where the results go to or "
            "come from"
        )
    if name not in config["remote"]:
        known = ", ".join(config["remote"]) or "none"
        raise InputError(f"{root / '.dvc/config'}: its remote '{name}' has no address (known: {known})")
    return name, dict(config["remote"][name])


def push(root: Path) -> None:
    """Send what is recorded, if the remote takes it."""
    name, remote = default_remote(root)
    probe(name, remote, write=True)
    if not remote.get("verify"):
        print(
            f"remote '{name}' is not set to 'verify': plain 'dvc pull' takes what is damaged there; "
            f"'dvc remote modify {name} verify true' and commit that, once for all",
            file=sys.stderr,
        )
    _dvc_push()
    with answering(name, remote, write=True):
        _send_lost(root)


class Places:
    """Where the recorded objects are: in the cache here, on the remote; asked object by object.

    DVC takes a folder's files to be where the folder's list is, so that it sends none again that was lost since.
    """

    def __init__(self, root: Path) -> None:
        self.objects = Objects(root)
        self.cache = self.objects.cache
        self.remote = self.objects.repo.cloud.get_remote_odb(command="status")
        self.paths = dict(self._recorded(root))
        self.here = {name for name in self.paths if Path(self.cache.oid_to_path(name)).is_file()}

    @cached_property
    def there(self) -> set[str]:
        """Objects on the remote."""
        return set(self.remote.oids_exist(list(self.paths)))

    def _recorded(self, root: Path) -> Iterator[tuple[str, str]]:
        """Objects of what is recorded and shared, and what they are of; of lists that nobody has only the list."""
        kept = kept_back(root)
        for out in recorded_outs(root):
            if out["path"] not in kept:
                yield out["md5"], out["path"]
                if out["md5"].endswith(".dir"):
                    with suppress(InputError):
                        for path, name in self.objects.read(out["md5"]).items():
                            yield name, f"{out['path']}/{path}"

    def paths_of(self, names: set[str]) -> list[str]:
        """What these objects are of."""
        return sorted(self.paths[name] for name in names)

    def send(self, names: set[str]) -> None:
        """Put objects that are here onto the remote."""
        for name in sorted(names):
            self.remote.add(self.cache.oid_to_path(name), self.cache.fs, name)


def refuse_strange_objects(root: Path) -> None:
    """Refuse what lies on a folder's remote in the place of objects and is no file."""
    remote = Objects(root).repo.cloud.get_remote_odb(command="pull")
    # lists of folders first: to name what is in them, they are read
    refuse_what_is_no_file(remote, [out["md5"] for out in recorded_outs(root)])
    refuse_what_is_no_file(remote, Places(root).paths)


def _send_lost(root: Path) -> None:
    """Send again what the remote had and has no more; refuse where some of it is not here either."""
    places = Places(root)
    lost = set(places.paths) - places.there
    places.send(lost & places.here)
    if sent := places.paths_of(lost & places.here):
        print(f"{len(sent)} objects that the remote had lost were sent again: {_some(sent, ', ')}")
    if gone := places.paths_of(lost - places.here):
        raise InputError(
            f"recorded, neither here nor on the remote: {_some(gone)}; whoever has them runs 'make push', or "
            "'snakemake' makes them again"
        )


def pull(root: Path) -> None:
    """Fetch what is recorded, if the remote gives it, and check every model against what was measured on it."""
    refuse_links(root)
    name, remote = default_remote(root)
    probe(name, remote, write=False)
    kept, recorded = kept_back(root), [out["path"] for out in recorded_outs(root)]
    if FOLDER in recorded:
        raise InputError(
            f"{root / 'dvc.lock'}: has Snakemake's records file by file, as an older Kronflow wrote it: 'git checkout' "
            "that revision to pull what it records; or who has the results runs 'snakemake recorded' and 'make commit'"
        )
    refuse_strange_objects(root)
    # without names DVC goes through all outs once, with names once for each
    with replaced(root):
        _fetch(root, name, remote, [path for path in recorded if path not in kept] if kept else None)
    if kept:
        print(
            f"{len(kept)} files or folders are not shared, by the licence of their data set (push: false): "
            f"{_some(sorted(kept), ', ')}; make them with 'snakemake {_tensors(kept)}' before anything else",
            file=sys.stderr,
        )
    cells = [root / out for out in recorded if out.startswith("results/runs/")]
    runs = sorted(path.relative_to(root).as_posix() for cell in cells for path in cell.iterdir() if path.is_dir())
    if problems := list(_missing_and_damaged(runs, root)):
        raise InputError(
            f"what was pulled is not what was measured: {_some(problems)}. If the remote has it so, who made it runs "
            "'make push' again after deleting the damaged object there"
        )
    print(f"{len(runs)} runs are whole, their models those that were measured")


def _tensors(kept: set[str]) -> str:
    return " ".join(sorted(path for path in kept if path.startswith(("data/tensors/", "data/samples/"))))


def kept_back(root: Path) -> set[str]:
    """Outs that DVC records and does not send."""
    return {path for path, options in outs_of(root).items() if options.get("push") is False}


def own_sources(root: Path) -> set[str]:
    """Files of somebody's own that data sets are made of, as ``dvc.yaml`` names them."""
    from pipeline.config import load_config

    entries = load_config(root / "params.yaml").datasets.values()
    listed = {path for entry in entries for paths in entry.sources_on_disk().values() for path in paths}
    return listed & {dep for stage in stages_of(root).values() for dep in stage.get("deps", [])}


def recorded_outs(root: Path) -> list[dict[str, Any]]:
    """Outs, with `path` and `md5`, that stand in ``dvc.lock`` and are still of a stage."""
    stages = stages_of(root)
    locked = read_lock(root / "dvc.lock").get("stages") or {}
    return [out for name, stage in locked.items() if name in stages for out in stage.get("outs", [])]


def _fetch(root: Path, name: str, remote: dict[str, Any], paths: list[str] | None) -> None:
    """Fetch from the remote with every object checked, which DVC leaves out unless a remote is set to `verify`."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    with answering(name, remote, write=False):
        try:
            with held_back() as said:
                found = Repo(str(root), config={"remote": {name: {"verify": True}}}).pull(targets=paths)
        except LockError as error:
            raise refusal(error) from error
        except (DvcException, OSError) as error:
            if here := refused_by_a_disk(said, error):
                raise here from error
            say(said[:SHOWN])
            probe(name, remote, write=False)  # says so where it is gone by now
            places = Places(root)
            absent = places.paths_of(set(places.paths) - places.here)
            files = [path for path in absent if not any(other.startswith(f"{path}/") for other in absent)]
            if not files:  # all is here, and does not get into its place
                raise InputError(f"'dvc checkout' would fail: {' '.join(str(error).split())}") from error
            raise InputError(
                f"from '{name}' not all could be fetched: {_some(files)}. The "
                "same command goes on where it stopped; what is missing there, or damaged (then deleted there first): "
                "who made it runs 'make push' again"
            ) from error
    say(said)
    print(f"{found['stats']['fetched']} files fetched, {found['stats']['added']} added")


def _dvc_push() -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "push"], check=False)
    if done.returncode:
        raise InputError(
            "dvc push did not finish; what it said stands above. The same command goes on where it stopped"
        )


def status(root: Path) -> None:
    """Print what differs between here, the record and the remote, and whose turn it is."""
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    name, remote = default_remote(root)
    repo = Repo(str(root))
    outs = [out["path"] for out in recorded_outs(root)]
    found, own = repo.status(), own_sources(root)
    changed, absent_here = differing(found, kept_back(root) | own)
    _tell("here: differs from the record", changed, "'snakemake', then 'make commit'; or 'make pull'")
    gone = [path for path in absent_here if not (root / path).exists()]
    kept = [path for path in gone if path not in own]
    _tell("not here, not shared by the licence of its data set", kept, "'snakemake' makes it from its source")
    _tell("not here, a colleague's source", own & set(gone), "nothing is made again; what was made of it is shared")
    _tell("git: dvc.lock is not committed", _git(root, "status", "--porcelain", "--", "dvc.lock"), "'git commit'")
    _tell("git: commits that are only here", _git(root, "log", "--oneline", "@{upstream}.."), "'git push'")
    _tell("git: commits that are not here", _git(root, "log", "--oneline", "..@{upstream}"), "'git pull', 'make pull'")
    probe(name, remote, write=False)
    with answering(name, remote, write=False):
        places = Places(root)
        recorded = set(places.paths)
        unsent = places.paths_of(places.here - places.there)
    absent = places.paths_of(places.there - places.here)
    lost = places.paths_of(recorded - places.here - places.there)
    for what, paths, remedy in (
        (f"recorded here, not on '{name}'", unsent, "your turn: 'make push'"),
        (f"on '{name}', not here", absent, "'make pull'"),
        ("recorded, neither here nor there", lost, "who made them runs 'make push', or 'snakemake' makes them again"),
    ):
        _tell(what, [next((out for out in outs if path.startswith(f"{out}/")), path) for path in paths], remedy)
    if not (changed or unsent or absent or lost):
        print(f"here, the record and '{name}' are the same")


def differing(changed: dict[str, Any], kept: set[str]) -> tuple[list[str], list[str]]:
    """Stages that differ from the record, by what DVC says of them; and paths of `kept`, which are only absent.

    >>> differing({"fit": [{"changed deps": {"data/x": "deleted"}}], "end": ["changed command"]}, {"data/x"})
    (['end'], ['data/x'])
    """
    stages, absent = [], set()
    for name, entries in sorted(changed.items()):
        parts = [part for entry in entries if isinstance(entry, dict) for part in entry.values()]
        states = [state for part in parts for state in part.items()]
        mine = [path for path, state in states if path in kept and state in ("deleted", "not in cache")]
        absent |= {*mine}
        if len(mine) < len(states) or not all(isinstance(entry, dict) for entry in entries):
            stages.append(name)
    return stages, sorted(absent)


def _tell(what: str, items: Iterable[str], remedy: str) -> None:
    counts = Counter(items)
    if counts:
        shown = [item if count == 1 else f"{item} ({count})" for item, count in counts.items()]
        print(f"{what} ({counts.total()}): {_some(shown, ', ')}\n  -> {remedy}")


def _git(root: Path, *arguments: str) -> list[str]:
    """Lines that git prints; none where it has nothing to say, such as of a branch without an upstream."""
    done = subprocess.run(["git", *arguments], cwd=root, check=False, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


ACTIONS = {"whole": whole, "commit": commit, "push": push, "pull": pull, "status": status}


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    arguments = step.parser(
        "Say whether what is to be shared is whole (every file of every planned run, no other) and record it; push, "
        "pull and compare with the remote, which has to answer first.",
        EXAMPLE,
    )
    arguments.add_argument("action", choices=ACTIONS, help="what to do with it")
    arguments.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="the configuration (default: params.yaml)"
    )
    options: argparse.Namespace = arguments.parse_args(argv)
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    if options.params.name != "params.yaml":
        raise InputError(f"--params {options.params}: DVC knows params.yaml of a checkout; name that")
    from dvc.exceptions import DvcException

    try:
        ACTIONS[options.action](options.params.parent)
    except (DvcException, sqlite3.Error) as error:
        raise refusal(error) from error


if __name__ == "__main__":
    step.run(main)
