"""Merge two versions of ``dvc.lock`` stage by stage: the merge driver that git calls, see ``.gitattributes``.

A stage that one side changed is taken from that side. Of a folder that both changed, such as the runs of one method,
each file is taken from the side that changed it, and of Snakemake's records each record, so that what either side has
made stands and only what rests on both, aggregate and report, is made again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.core import step
from pipeline.core.files import atomic_path, write_text
from pipeline.errors import InputError
from pipeline.workflow.record import Lock, lock_text, read_lock, refusal
from pipeline.workflow.records import PACK, pack_of, read_pack

Tree = dict[str, str]  # path inside a folder -> MD5 of the file; or Snakemake's records by name
Reader = Callable[[str], Tree]  # by the object: a folder's, ``<md5>.dir``, or the records' pack
Writer = Callable[[Tree, str], Lock]  # of the out of this path


def merge(base: Lock, ours: Lock, theirs: Lock, read: Reader, write: Writer) -> tuple[Lock, list[str]]:
    """Merge two locks that grew from `base`; return the merged one and what a person should know of it.

    Parameters
    ----------
    base, ours, theirs
        Contents of the three versions of ``dvc.lock``.
    read
        Gives the files of a recorded folder, or the records; raises :class:`InputError` where they cannot be had.
    write
        Stores them and returns what ``dvc.lock`` says of the object.
    """
    merged, notes = {}, []
    stages = [version.get("stages") or {} for version in (base, ours, theirs)]
    for name in sorted(set().union(*stages)):
        before, mine, other = (version.get(name) for version in stages)
        if mine == other or other == before:
            chosen = mine
        elif mine == before:
            chosen = other
        elif mine is None or other is None:
            chosen = mine or other
            notes.append(f"{name}: removed by one side, changed by the other; the change stands")
        else:
            chosen = {**mine, "outs": _merged_outs(before or {}, mine, other, read, write, notes, name)}
        if chosen is not None:
            merged[name] = chosen
    return {"schema": ours.get("schema", "2.0"), "stages": merged}, notes


def _merged_outs(
    before: Lock, mine: Lock, other: Lock, read: Reader, write: Writer, notes: list[str], name: str
) -> list[Lock]:
    """Outs of a stage that both sides changed: folders file by file, records one by one, other files from our side."""
    bases, others = ({out["path"]: out for out in stage.get("outs", [])} for stage in (before, other))
    outs = []
    for out in mine.get("outs", []):
        path = out["path"]
        objects = [version.get(path, {}).get("md5", "") for version in (bases, others)]
        if _joinable(path, out["md5"]) and _joinable(path, objects[1]) and objects[1] not in (out["md5"], objects[0]):
            try:
                trees = [read(each) if _joinable(path, each) else {} for each in (objects[0], out["md5"], objects[1])]
            except InputError as error:
                notes.append(f"{name}: {path} stays as on our side, what the other has made is made again: {error}")
            else:
                out = {"path": path, "hash": "md5"} | write(merged_tree(*trees), path)
        outs.append(out)
    return outs


def _joinable(path: str, name: str) -> bool:
    return name.endswith(".dir") or (path == PACK and name != "")


def merged_tree(base: Tree, ours: Tree, theirs: Tree) -> Tree:
    """Files of a folder that both sides changed, those that lie together (one run's) from one side.

    >>> merged_tree({"a/m": "1"}, {"a/m": "1", "b/m": "2"}, {"a/m": "3", "c/m": "4"})
    {'a/m': '3', 'b/m': '2', 'c/m': '4'}
    """
    conflicts = {
        Path(path).parent for path in {*ours, *theirs} if len({tree.get(path) for tree in (base, ours, theirs)}) == 3
    }
    merged = {}
    for path in sorted({*ours, *theirs}):
        changed_by_them = theirs.get(path) != base.get(path) and ours.get(path) == base.get(path)
        # a folder below is one run; names without a folder are Snakemake's records, each for itself
        together = Path(path).parent in conflicts - {Path()}
        chosen = (theirs if changed_by_them and not together else ours).get(path)
        if chosen is not None:
            merged[path] = chosen
    return merged


class Objects:
    """Recorded folders: from DVC's cache, or else from its remote."""

    def __init__(self, root: Path) -> None:
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo

        try:
            self.repo = Repo(str(root))
        except NotDvcRepoError as error:
            raise InputError(f"{root.absolute()}: no checkout that DVC records; run it in one") from error
        except (DvcException, sqlite3.Error) as error:
            raise refusal(error) from error
        self.cache = self.repo.cache.local

    def read(self, name: str) -> Tree:
        """Files of a recorded folder by path, or Snakemake's records in their pack."""
        path = Path(self.cache.oid_to_path(name))
        content = path.read_bytes() if path.is_file() else self._fetched(name)
        if hashlib.md5(content).hexdigest() != name.removesuffix(".dir"):  # noqa: S324 - DVC's own names
            raise InputError(f"object {name} is damaged; remove it from {path} or the remote and push it again")
        if not name.endswith(".dir"):
            return read_pack(content, f"object {name}")
        return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}

    def _fetched(self, name: str) -> bytes:
        try:
            remote = self.repo.cloud.get_remote_odb(command="merge")
            content: bytes = remote.fs.cat_file(remote.oid_to_path(name))
        except Exception as error:  # each kind of storage has a library with errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"object {name} is neither here nor on the remote ({reason}); has it been pushed?"
            ) from None
        return content

    def write(self, files: Tree, out: str) -> Lock:
        """Store a folder's list of files as DVC does, or records; return the entries of the out in ``dvc.lock``."""
        listed = [{"md5": files[path], "relpath": path} for path in sorted(files)]
        content = pack_of(files) if out == PACK else json.dumps(listed, sort_keys=True).encode()
        name = hashlib.md5(content).hexdigest() + ("" if out == PACK else ".dir")  # noqa: S324 - DVC's own names
        if not (path := Path(self.cache.oid_to_path(name))).is_file():
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        return {"md5": name} | ({"size": len(content)} if out == PACK else {"nfiles": len(files)})


def main(argv: list[str] | None = None) -> None:
    """Command line of the merge driver."""
    arguments = step.parser(
        "Merge two versions of dvc.lock, stage by stage; the result is written over OURS. Git calls this where "
        "'make setup' has installed it.",
        epilog="example:\n  git config merge.dvc-lock.driver 'python -m pipeline.workflow.merge_lock %O %A %B'",
    )
    for name, meaning in (("base", "the common ancestor"), ("ours", "our version"), ("theirs", "the other version")):
        arguments.add_argument(name, type=Path, help=meaning)
    options = arguments.parse_args(argv)
    objects = Objects(Path())
    base, ours, theirs = (read_lock(path) for path in (options.base, options.ours, options.theirs))
    merged, notes = merge(base, ours, theirs, objects.read, objects.write)
    write_text(options.ours, lock_text(merged))
    for note in notes:
        print(f"dvc.lock: {note}", file=sys.stderr)
    print("dvc.lock: merged; now: dvc pull, snakemake, make commit", file=sys.stderr)


if __name__ == "__main__":
    step.run(main)
