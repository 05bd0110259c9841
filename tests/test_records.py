"""Snakemake's records and the one file that DVC keeps of them say the same, whoever changed which."""

from __future__ import annotations

import base64
import gzip
import shutil
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.workflow.records import FOLDER, PACK, Records, pack_of, read_pack, replaced, sync

RECORDS = {"cmVz": '{"rule": "a"}', "@cmVzdWx0cw==/b25l": '{"rule": "b"}'}


def write(root: Path, records: Records) -> None:
    for name, text in records.items():
        (root / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (root / FOLDER / name).write_bytes(text.encode("utf-8", "surrogateescape"))


def held(root: Path) -> Records:
    files = [path for path in (root / FOLDER).rglob("*") if path.is_file() and path.name != ".packed"]
    return {path.relative_to(root / FOLDER).as_posix(): path.read_bytes().decode("utf-8", "surrogateescape")
            for path in files}  # fmt: skip


def packed(root: Path) -> Records:
    return read_pack((root / PACK).read_bytes(), PACK)


def test_what_is_made_is_packed_and_unpacked_where_it_is_fetched(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    sync(here)
    assert not here.exists()  # nothing is made yet
    odd = RECORDS | {"aGFsZg==": '{"half": \udcff'}  # of a disk that fails
    write(here, odd)
    sync(here)
    assert packed(here) == held(here) == odd
    (there / PACK).parent.mkdir(parents=True)
    shutil.copy(here / PACK, there / PACK)
    sync(there)
    assert held(there) == odd
    assert (there / PACK).read_bytes() == (here / PACK).read_bytes()


def test_what_dvc_does_not_record_is_not_packed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {a: {outs: [runs: {persist: true}], metrics: [sum.json: {}]}}")
    outputs = ("runs/model", "sum.json", "runs-of-others/model", "page.html")
    names = {output: base64.urlsafe_b64encode(output.encode()).decode() for output in outputs}
    write(tmp_path, dict.fromkeys(names.values(), "{}"))
    sync(tmp_path)
    assert packed(tmp_path).keys() == {names["runs/model"], names["sum.json"]}
    (tmp_path / PACK).write_bytes(pack_of({names["sum.json"]: '{"rule": "fetched"}'}))
    sync(tmp_path)
    assert held(tmp_path) == dict.fromkeys(names.values(), "{}") | {names["sum.json"]: '{"rule": "fetched"}'}


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    sync(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / ".snakemake").rglob("*")}
    sync(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".snakemake").rglob("*")} == before


def test_a_pack_of_another_revision_replaces_the_same_records_and_leaves_others(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    sync(tmp_path)
    (tmp_path / PACK).write_bytes(pack_of({"cmVz": '{"rule": "changed"}'}))  # as `dvc checkout` does
    sync(tmp_path)
    assert held(tmp_path) == packed(tmp_path) == RECORDS | {"cmVz": '{"rule": "changed"}'}
    write(tmp_path, {"cmVz": '{"rule": "again"}'})  # as a job does
    sync(tmp_path)
    assert packed(tmp_path)["cmVz"] == '{"rule": "again"}'


@pytest.mark.parametrize("lost", ["", "metadata", "records.json.gz", "metadata/.packed"])
def test_what_is_deleted_comes_back_from_the_other(tmp_path: Path, lost: str) -> None:
    write(tmp_path, RECORDS)
    sync(tmp_path)
    pack = (tmp_path / PACK).read_bytes()
    path = tmp_path / ".snakemake" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not lost:
        (tmp_path / PACK).parent.mkdir()
        (tmp_path / PACK).write_bytes(pack)  # `dvc checkout`
    sync(tmp_path)
    assert held(tmp_path) == packed(tmp_path) == RECORDS


def test_where_a_fetch_fails_the_records_stay_those_of_the_files_here(tmp_path: Path) -> None:
    write(tmp_path, RECORDS)
    sync(tmp_path)
    new = {"cmVz": '{"rule": "new"}'}
    with pytest.raises(InputError, match="gone"), replaced(tmp_path):
        (tmp_path / PACK).write_bytes(pack_of(new))
        raise InputError("the remote is gone")
    assert held(tmp_path) == packed(tmp_path) == RECORDS
    with replaced(tmp_path):
        (tmp_path / PACK).write_bytes(pack_of(new))
    assert held(tmp_path) == RECORDS | new


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", gzip.compress(b'{"a": 1}'), gzip.compress(b"[]"), pack_of(RECORDS)[:-9],
     pack_of({"../../out": "{}"}), pack_of({"/etc/out": "{}"}), pack_of({".packed": "x y"})],
    ids=["empty", "unpacked", "number", "list", "cut", "above", "elsewhere", "own"],
)  # fmt: skip
def test_a_pack_that_is_none_is_one_line_and_nothing_is_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PACK).parent.mkdir(parents=True)
    (tmp_path / PACK).write_bytes(content)
    with pytest.raises(InputError, match=r"records\.json\.gz: damaged, or no pack .*'make pull'$"):
        sync(tmp_path)
    assert held(tmp_path) == {} and (tmp_path / PACK).read_bytes() == content
