"""Fetching against a local server that answers well, badly, slowly and in pieces."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import importlib.metadata
import json
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import download
from pipeline.core import step
from pipeline.core.secrets import masked
from pipeline.datasets import web
from pipeline.datasets.fetch import fetch
from pipeline.errors import InputError

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def ranged(start: int) -> str:
    return f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"


class Server(http.server.ThreadingHTTPServer):
    """Answers by the last part of the path; keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        behaviour = self.path.partition("?")[0].rsplit("/", 1)[-1]
        times = sum(path == self.path for path, _ in self.server.asked)
        self.server.asked.append((self.path, wanted))
        if behaviour.isdecimal():
            self.send_error(int(behaviour))
        elif behaviour == "second-time" and times == 0:
            self.send_error(503)
        elif behaviour == "wrong":
            self.answer(200, b"other content")
        elif behaviour == "no-ranges":
            self.answer(200, CONTENT, len(CONTENT) if times else 1000)
        elif behaviour == "hang":
            start = int((wanted or "0-").removeprefix("bytes=").removesuffix("-"))
            told = ranged(start) if start else None
            self.answer(206 if start else 200, CONTENT[start:], None if times else 1000, hang=not times, told=told)
        elif behaviour == "other-start":
            self.answer(206 if wanted else 200, CONTENT, told=ranged(0) if wanted else None)
        elif behaviour == "unasked":
            self.answer(206, CONTENT[500:], told=ranged(500))
        elif behaviour == "empty":
            self.answer(200, b"")
        elif behaviour == "endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(CONTENT)
        elif behaviour in ("versions", "ignores-versions"):
            # a file that changes after the first request: the rest of the old one is not the rest of the new one
            same = self.headers.get("If-Range") == f'"{times}"' or behaviour == "ignores-versions"
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and same else 0
            content = CONTENT if times == 0 else CONTENT[::-1]
            told = ranged(start) if start else None
            self.answer(206 if start else 200, content[start:], None if times else 1000, told=told, tag=f'"{times}"')
        elif wanted:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.answer(416, b"", told=f"bytes */{len(CONTENT)}")
            else:
                self.answer(206, CONTENT[start:], told=ranged(start))
        else:
            self.answer(200, CONTENT, 1000 if behaviour == "breaks-off" else len(CONTENT))

    def answer(
        self,
        status: int,
        content: bytes,
        sent: int | None = None,
        hang: bool = False,
        told: str | None = None,
        tag: str | None = None,
    ) -> None:
        self.send_response(status)
        if tag is not None:
            self.send_header("ETag", tag)
        if told is not None:
            self.send_header("Content-Range", told)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])
        if hang:
            self.wfile.flush()
            threading.Event().wait(1)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "x.bin"


def leave_part(target: Path, content: bytes, url: str, version: str | None = None) -> None:
    """What an interrupted transfer leaves."""
    target.parent.mkdir(exist_ok=True)
    target.with_name(".x.bin.part").write_bytes(content)
    record = {"address": hashlib.sha256(url.encode()).hexdigest(), "version": version}
    target.with_name(".x.bin.part.json").write_text(json.dumps(record))


def test_web_file(server: Server, target: Path) -> None:
    url = server.url("x.bin")
    assert fetch(target, [url], DIGEST, Path()) == url
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def test_right_file_is_left_alone(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert fetch(target, [server.url("x.bin")], DIGEST, Path()) == str(target)
    assert server.asked == []


@pytest.mark.parametrize("behaviour", ["404", "500", "wrong"])
def test_next_source_after_a_bad_one(
    server: Server, target: Path, behaviour: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = server.url("x.bin")
    assert fetch(target, [server.url(behaviour), good], DIGEST, Path()) == good
    assert target.read_bytes() == CONTENT
    assert "going on to the next source" in capsys.readouterr().err


def test_absent_page_is_asked_for_once(server: Server, target: Path) -> None:
    with pytest.raises(InputError, match=r"x.bin: cannot be fetched: http.*/404: HTTP 404 Not Found"):
        fetch(target, [server.url("404")], DIGEST, Path())
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("unasked", "gave the part 'bytes 500-"),
        ("empty", "gave an empty file"),
        ("204", "HTTP 204 No Content: no file"),
    ],
)
def test_what_is_no_whole_file_is_refused_without_a_checksum(
    server: Server, target: Path, behaviour: str, problem: str
) -> None:
    with pytest.raises(InputError, match=f"x.bin: cannot be fetched: .*{problem}"):
        fetch(target, [server.url(behaviour)], None, Path())
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(("behaviour", "have"), [("other-start", 1000), ("x.bin", len(CONTENT) + 5)])
def test_a_part_that_does_not_go_on_is_dropped(server: Server, target: Path, behaviour: str, have: int) -> None:
    leave_part(target, bytes(have), server.url(behaviour), '"one"')
    fetch(target, [server.url(behaviour)], None, Path())
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["versions", "ignores-versions"])
def test_a_file_that_changes_meanwhile_is_fetched_anew(server: Server, target: Path, behaviour: str) -> None:
    fetch(target, [server.url(behaviour)], None, Path())
    assert target.read_bytes() == CONTENT[::-1]


def test_a_part_of_another_address_is_dropped(server: Server, target: Path) -> None:
    leave_part(target, b"other content", server.url("wrong"), '"one"')
    fetch(target, [server.url("x.bin")], None, Path())
    assert target.read_bytes() == CONTENT and server.asked[0][1] is None


def test_a_part_is_not_gone_on_with_by_the_next_source(server: Server, target: Path) -> None:
    first, second = server.url("a/breaks-off"), server.url("b/x.bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "ATTEMPTS", 1)
        fetch(target, [first, second], None, Path())
    assert target.read_bytes() == CONTENT
    assert [wanted for path, wanted in server.asked if path.startswith("/b/")] == [None]


def test_without_version_and_checksum_a_part_is_worth_nothing(server: Server, target: Path) -> None:
    fetch(target, [server.url("breaks-off"), server.url("x.bin")], None, Path())
    assert all(wanted is None for _, wanted in server.asked)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("source", "size", "problem"),
    [
        ("x.bin", 10, "a file of 10,240 bytes, the registry says 10"),
        ("x.bin", 99_999, "a file of 10,240 bytes, the registry says 99,999"),
        ("endless", 50_000, "gave more than 50,000 bytes"),
        ("file:own", 3, "a file of 10,240 bytes, the registry says 3"),
        ("file:none-in-it", None, "an empty file"),
    ],
)
def test_another_size_is_refused(server: Server, target: Path, source: str, size: int | None, problem: str) -> None:
    target.parent.mkdir()
    (target.parent.parent / "own").write_bytes(CONTENT)
    (target.parent.parent / "none-in-it").touch()
    address = source if source.startswith("file:") else server.url(source)
    with pytest.raises(InputError, match=problem):
        fetch(target, [address], None, target.parent.parent, size)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("bounds", "problem"),
    [
        ({"MOST_UNTOLD": 100_000}, "gave more than 100,000 bytes"),
        ({"PATIENCE": 0.0, "SLOWEST": 10**15}, "slower than 1,000,000,000,000,000 bytes a second"),
        ({"LONGEST": 0}, "not done after 0 seconds"),
        ({"RESERVE": 1 << 62, "RESERVE_EVERY": 10_000}, "of the disk are free; make room"),
    ],
)
def test_a_body_without_an_end_is_left(
    server: Server, target: Path, bounds: dict[str, float], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bound in bounds.items():
        monkeypatch.setattr(web, name, bound)
    with pytest.raises(InputError, match=problem):
        fetch(target, [server.url("endless")], None, Path())
    assert list(target.parent.iterdir()) == []


def test_passwords_are_never_shown(
    server: Server, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = server.url("").removeprefix("http://").rstrip("/")
    bad = [f"http://ann:S3CRET@{host}/404?token=S3CRET", "http://S3CRET@127.0.0.1:1/x?token=S3CRET"]
    monkeypatch.setattr(web, "ATTEMPTS", 1)
    assert (
        fetch(target, [*bad, f"http://ann:S3CRET@{host}/x.bin?a=S3CRET"], None, Path())
        == f"http://***@{host}/x.bin?***"
    )
    with pytest.raises(InputError) as caught:
        fetch(target, [*bad, "ftp://ann:S3CRET@host/x"], "0" * 64, Path())
    shown = capsys.readouterr()
    assert "S3CRET" not in shown.out + shown.err + str(caught.value)
    leave_part(target, b"1", bad[0])
    assert "S3CRET" not in target.with_name(".x.bin.part.json").read_text()
    assert masked("https://tok@host/g/r.git@v1: no") == "https://***@host/g/r.git@v1: no"
    assert masked("ssh://git@host/r.git and a@b") == "ssh://git@host/r.git and a@b"


@pytest.mark.parametrize("address", ["http://", "http://[", "http://\0/x", "https://x y/", "http://host:99999999/x"])
def test_addresses_that_are_none(target: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ATTEMPTS", 1)
    with pytest.raises(InputError, match=r"cannot be fetched|names nothing that could be fetched"):
        fetch(target, [address], None, Path())


def test_failing_server_is_asked_again(server: Server, target: Path) -> None:
    fetch(target, [server.url("second-time")], DIGEST, Path())
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_wrong_checksum_names_both_and_keeps_nothing(server: Server, target: Path) -> None:
    found = hashlib.sha256(b"other content").hexdigest()
    with pytest.raises(InputError) as caught:
        fetch(target, [server.url("wrong")], DIGEST, Path())
    message = str(caught.value)
    assert str(target) in message
    assert found in message
    assert DIGEST in message
    assert server.url("wrong") in message
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("behaviour", ["breaks-off", "hang"])
def test_broken_transfer_goes_on_where_it_stopped(
    server: Server, target: Path, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "TIMEOUT", (5, 0.2))
    fetch(target, [server.url(behaviour)], DIGEST, Path())
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked][:2] == [None, "bytes=1000-"]


def test_server_without_ranges_starts_over(server: Server, target: Path) -> None:
    fetch(target, [server.url("no-ranges")], DIGEST, Path())
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT[:100], CONTENT])
def test_part_of_an_interrupted_step_is_used(server: Server, target: Path, part: bytes) -> None:
    leave_part(target, part, server.url("x.bin"))
    fetch(target, [server.url("x.bin")], DIGEST, Path())
    assert target.read_bytes() == CONTENT
    assert server.asked[0][1] == f"bytes={len(part)}-"
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def test_part_of_another_file_is_thrown_away(server: Server, target: Path) -> None:
    leave_part(target, b"other", server.url("x.bin"))
    fetch(target, [server.url("x.bin")], DIGEST, Path())
    assert target.read_bytes() == CONTENT


def test_nobody_listens(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"cannot be fetched: http://127.0.0.1:1/x"):
        fetch(target, ["http://127.0.0.1:1/x"], DIGEST, Path())


def test_interrupt_leaves_no_output(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.core.files.sha256_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(target, [server.url("x.bin")], DIGEST, Path())
    assert sorted(path.name for path in target.parent.iterdir()) == [".x.bin.part", ".x.bin.part.json"]


def test_file_source_is_relative_to_the_checkout(tmp_path: Path, target: Path) -> None:
    (tmp_path / "mine.mtx").write_bytes(CONTENT)
    assert fetch(target, ["file:none.mtx", "file:mine.mtx"], None, tmp_path) == "file:mine.mtx"
    assert target.read_bytes() == CONTENT


def test_full_disk_keeps_the_old_file(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_bytes(CONTENT)
    target.parent.mkdir()
    target.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device; the previous file, if any, is unchanged"):
        fetch(target, ["file:mine"], DIGEST, tmp_path)
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


class TestPackage:
    def test_file_of_a_distribution(self, target: Path) -> None:
        version = importlib.metadata.version("numpy")
        fetch(target, [f"package:numpy=={version}/numpy/__init__.py"], None, Path())
        assert b"NumPy" in target.read_bytes()

    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            ("package:numpy==0.0.1/numpy/__init__.py", r"is installed; run 'pip install numpy==0.0.1'"),
            ("package:no-such-thing==1.0/x", r"not installed; run 'pip install no-such-thing==1.0'"),
            ("package:numpy/x", r"write package:NAME==VERSION/PATH"),
            ("ftp://x/y", r"starts with none of: http"),
        ],
    )
    def test_bad_sources(self, target: Path, source: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            fetch(target, [source], None, Path())

    def test_absent_file(self, target: Path) -> None:
        version = importlib.metadata.version("numpy")
        with pytest.raises(InputError, match="has no file numpy/none"):
            fetch(target, [f"package:numpy=={version}/numpy/none"], None, Path())


class TestGoogleDrive:
    """With a stand-in for gdown, which talks to nothing but Google."""

    @pytest.fixture
    def drive(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
        stored = {"ID1": CONTENT, "ID2": b"other"}

        def download_folder(id: str, skip_download: bool, quiet: bool) -> list[types.SimpleNamespace]:
            assert (id, skip_download) == ("FOLDER", True)
            return [types.SimpleNamespace(id="ID1", path="a/x.bin"), types.SimpleNamespace(id="ID2", path="y.bin")]

        def download_file(id: str, output: str, resume: bool, quiet: bool) -> str:
            if id not in stored:
                raise RuntimeError("Cannot retrieve the public link")
            Path(output).write_bytes(stored[id])
            return output

        module = types.SimpleNamespace(download_folder=download_folder, download=download_file)
        monkeypatch.setitem(sys.modules, "gdown", module)
        return stored

    @pytest.mark.parametrize("source", ["gdrive:ID1", "gdrive:FOLDER/x.bin"])
    def test_file(self, drive: dict[str, bytes], target: Path, source: str) -> None:
        fetch(target, [source], DIGEST, Path())
        assert target.read_bytes() == CONTENT
        assert [path.name for path in target.parent.iterdir()] == ["x.bin"]

    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            ("gdrive:ID2", f"where {DIGEST} is expected"),
            ("gdrive:ID3", "Cannot retrieve the public link"),
            ("gdrive:FOLDER/z.bin", "the folder holds 0 files of the name z.bin"),
        ],
    )
    def test_failures(self, drive: dict[str, bytes], target: Path, source: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            fetch(target, [source], DIGEST, Path())
        assert list(target.parent.iterdir()) == []

    def test_without_gdown(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gdown", None)
        with pytest.raises(InputError, match="run 'pip install gdown'"):
            fetch(target, ["gdrive:ID1"], DIGEST, Path())


class TestStep:
    """The command line, with a registry of its own."""

    @pytest.fixture
    def params(self, tmp_path: Path) -> Path:
        entry = {
            "description": "x",
            "licence": "x",
            "citation": "x",
            "format": "coo",
            "mirror": "folder",
            "files": {"x.txt": {"sha256": hashlib.sha256(b"0 0 1\n").hexdigest(), "sources": ["file:own.txt"]}},
        }
        (tmp_path / "own.txt").write_bytes(b"0 0 1\n")
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump({"datasets": {"x": entry}}))
        return path

    def test_mirror_comes_first(
        self, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mirror = tmp_path / "mirror" / "folder"
        mirror.mkdir(parents=True)
        monkeypatch.setenv("KRONFLOW_MIRROR", str(mirror.parent))
        arguments = ["x", "--params", str(params), "--output-dir", str(tmp_path / "out")]
        download.main(arguments)
        assert "the mirror has no" in capsys.readouterr().err
        (tmp_path / "out" / "x.txt").unlink()
        (mirror / "x.txt").write_bytes(b"0 0 1\n")
        download.main(arguments)
        assert f"from file:{mirror / 'x.txt'}" in capsys.readouterr().err

    def test_mirror_on_the_web(
        self, params: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KRONFLOW_MIRROR", server.url("mirror/"))
        download.main(["x", "--params", str(params), "--output-dir", str(tmp_path / "out")])
        assert server.asked[0] == ("/mirror/folder/x.txt", None)
        assert (tmp_path / "out" / "x.txt").read_bytes() == b"0 0 1\n"

    def rewrite(self, params: Path, **changes: Any) -> None:
        content = yaml.safe_load(params.read_text())
        content["datasets"]["x"] |= changes
        params.write_text(yaml.safe_dump(content))

    def test_checksum_of_the_first_download_is_kept(
        self, params: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.rewrite(params, files={"x.txt": {"sources": ["file:own.txt"]}}, registration="https://example.org")
        arguments = ["x", "--params", str(params), "--output-dir", str(tmp_path / "out")]
        download.main(arguments)
        digest = hashlib.sha256(b"0 0 1\n").hexdigest()
        assert json.loads((tmp_path / "data" / "registry.lock").read_text()) == {"x": {"x.txt": digest}}
        download.main(arguments)
        (tmp_path / "own.txt").write_bytes(b"0 0 2\n")
        (tmp_path / "out" / "x.txt").unlink()
        with pytest.raises(InputError, match=f"where {digest} is expected"):
            download.main(arguments)
        assert list((tmp_path / "out").iterdir()) == []

    def test_own_file_may_change(self, params: Path, tmp_path: Path) -> None:
        self.rewrite(params, files={"x.txt": {"sources": ["file:own.txt"]}})
        for content in (b"0 0 1\n", b"0 0 2\n"):
            (tmp_path / "own.txt").write_bytes(content)
            download.main(["x", "--params", str(params), "--output-dir", str(tmp_path / "out")])
            assert (tmp_path / "out" / "x.txt").read_bytes() == content

    def test_two_data_sets_share_the_record(self, tmp_path: Path) -> None:
        download.record_digest(tmp_path / "d" / "registry.lock", "b", "y", "1")
        download.record_digest(tmp_path / "d" / "registry.lock", "a", "x", "2")
        assert download.recorded_digest(tmp_path / "d" / "registry.lock", "b", "y") == "1"
        assert download.recorded_digest(tmp_path / "d" / "registry.lock", "b", "x") is None
        (tmp_path / "d" / "registry.lock").write_text("[")
        with pytest.raises(InputError, match="no valid record of checksums"):
            download.recorded_digest(tmp_path / "d" / "registry.lock", "b", "y")

    def test_registration_is_explained(self, params: Path, tmp_path: Path) -> None:
        self.rewrite(params, registration="https://example.org/register")
        (tmp_path / "own.txt").unlink()
        with pytest.raises(InputError, match=r"get x.txt from https://example.org/register and put it at own.txt"):
            download.main(["x", "--params", str(params), "--output-dir", str(tmp_path / "out")])

    def test_without_network_the_mirror_is_named(self, params: Path, tmp_path: Path, server: Server) -> None:
        self.rewrite(params, files={"x.txt": {"sources": [server.url("404")]}})
        with pytest.raises(InputError, match=r"404 Not Found; .* it is taken from KRONFLOW_MIRROR/folder/x.txt"):
            download.main(["x", "--params", str(params), "--output-dir", str(tmp_path / "out")])

    def test_file_larger_than_the_disk(self, params: Path, tmp_path: Path) -> None:
        self.rewrite(params, files={"x.txt": {"sources": ["file:own.txt"], "size": 1 << 60}})
        with pytest.raises(InputError, match=r"x.txt: takes 1,152,921,504,606,846,976 bytes and only"):
            download.main(["x", "--params", str(params), "--output-dir", str(tmp_path / "out")])

    @pytest.mark.parametrize(
        ("key", "value", "problem"),
        [
            ("formt", "coo", "datasets.x.formt: unknown key ; did you mean 'format'?"),
            ("format", None, "datasets.x.format"),
            ("files", {}, "needs at least 1, not {}"),
            ("files", {"../x": {"sources": ["file:x"]}}, "is no plain name"),
            ("files", {"x": {"sources": []}}, "files.x.sources: needs at least 1, not []"),
            (
                "files",
                {"x": {"sources": ["file:x"], "sha256": "abc"}},
                "needs text of the form ^[0-9a-f]{64}$, not",
            ),
            ("labels", [-1], "needs a number of at least 0, not -1"),
            ("nnz", "many", "needs a whole number, not 'many'"),
            ("norm2", "big", "needs a number, not 'big'"),
        ],
    )
    def test_wrong_entry(
        self, params: Path, key: str, value: Any, problem: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = yaml.safe_load(params.read_text())
        content["datasets"]["x"][key] = value
        if value is None:
            del content["datasets"]["x"][key]
        params.write_text(yaml.safe_dump(content))
        with pytest.raises(SystemExit) as caught:
            step.run(download.main, ["x", "--params", str(params)])
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert problem in message.replace(f"'{key}'", "")

    def test_unknown_data_set(self, params: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            step.run(download.main, ["xx", "--params", str(params)])
        assert "data set 'xx' does not exist; did you mean 'x'?" in capsys.readouterr().err
