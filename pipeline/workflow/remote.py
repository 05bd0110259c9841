"""Is the remote that DVC sends to there, and does it take what is asked of it? Said within seconds, in one line.

DVC itself tries for a long time and then says little. No message names a key: of credentials only where they belong.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.secrets import masked
from pipeline.errors import InputError

PATIENCE = 2.5  # seconds that a remote has to answer
CONNECT = 1.0  # seconds of them for one connection
PORTS = {"ssh": 22, "http": 80, "https": 443, "webdav": 80, "webdavs": 443, "hdfs": 8020, "webhdfs": 9870}
REFUSED = {"401", "403", "AccessDenied", "AllAccessDisabled", "AccountProblem"}
WRONG = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "AuthFailure",
    "TokenRefreshRequired",
}
ABSENT = {"404", "NoSuchBucket"}
SERVER_ERROR = 500
REPLACE = "remove it there; who made it runs 'make push' again"
PASSWORD = re.compile(r"(://[^\s/@:'\"]*):[^\s/@'\"]+@")


def shown(text: object) -> str:
    """Text for people: addresses of any kind without their passwords, those of the web without the user too.

    >>> shown("ssh://ann:secret@host/x, https://ann:secret@host/y")
    'ssh://ann:***@host/x, https://***@host/y'
    """
    return PASSWORD.sub(r"\1:***@", masked(text))


def probe(name: str, remote: dict[str, Any], write: bool) -> None:
    """Ask the remote `name` for a first answer; with `write` whether it takes anything, which leaves nothing there.

    Raises
    ------
    InputError
        It cannot be reached, is not there, or refuses the credentials; one line with the remedy.
    """
    outcome: list[Exception | None] = []
    questions = _questions(name, remote, write)  # before the clock: imports take seconds on a busy machine

    def ask() -> None:
        try:
            for question in questions:
                question()
        except Exception as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not outcome:
        raise InputError(_unreachable(name, remote, f"no answer within {PATIENCE} s"))
    if isinstance(outcome[0], InputError):
        raise outcome[0]
    if outcome[0] is not None:
        raise InputError(_unreachable(name, remote, type(outcome[0]).__name__)) from outcome[0]


@contextmanager
def answering(name: str, remote: dict[str, Any], write: bool) -> Iterator[None]:
    """While the remote `name` is talked to: whatever it or its library raises is one line.

    DVC reaches remotes of many kinds, each by a library that raises errors of its own.

    Raises
    ------
    InputError
        The remote was there, and is there no more or answered with an error.
    """
    try:
        yield
    except (InputError, sqlite3.Error):  # DVC's own databases, here
        raise
    except ImportError as error:
        raise InputError(
            f"remote '{name}': {shown(remote['url'])}: {error}; install that, or name another remote"
        ) from error
    except Exception as error:
        probe(name, remote, write)  # says so where it is gone by now
        raise InputError(
            f"remote '{name}': {shown(str(remote['url']))} was reached and then not ({type(error).__name__}); the "
            "same command goes on where it stopped"
        ) from error


def refuse_what_is_no_file(storage: Any, names: Iterable[str]) -> None:
    """Refuse objects of a folder's `storage` (DVC's) that are no files: a pipe or a device is read without an end.

    Raises
    ------
    InputError
        In the place of an object is a folder, a device, a pipe or a link to one of them, or a link to itself.
    """
    if storage.fs.protocol != "local":
        return
    for name in names:
        path = Path(storage.oid_to_path(name))
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            continue  # said where it is asked for
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; {REPLACE}") from error
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: a {_kind(mode)} in the place of an object; {REPLACE}")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _questions(name: str, remote: dict[str, Any], write: bool) -> list[Callable[[], None]]:
    url = str(remote["url"])
    address = str(remote.get("endpointurl") or url)
    try:
        port, scheme = _port(address), urlsplit(url).scheme
    except ValueError as error:
        raise InputError(
            f"remote '{name}': {shown(address)}: no address ({error}); correct it with 'dvc remote modify {name} ..'"
        ) from None
    questions: list[Callable[[], None]] = []
    if port is not None:
        questions.append(lambda: _connect(name, remote, urlsplit(address).hostname or "", port))
    asking: dict[str, Callable[[str, dict[str, Any], bool], Callable[[], None]]] = {"": _folder, "s3": _s3}
    asking |= {"http": _web, "https": _web}
    if scheme in asking:
        questions.append(asking[scheme](name, remote, write))
    return questions


def _port(address: str) -> int | None:
    parts = urlsplit(address)
    return parts.port or PORTS.get(parts.scheme) if parts.hostname else None


def _connect(name: str, remote: dict[str, Any], host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), CONNECT).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error)
        raise InputError(_unreachable(name, remote, reason)) from error


def _unreachable(name: str, remote: dict[str, Any], reason: str) -> str:
    address = shown(str(remote.get("endpointurl") or remote["url"]))
    return (
        f"remote '{name}': {address} cannot be reached ({reason}); is the address right ('dvc remote list'), the "
        "server up, the network there?"
    )


def _folder(name: str, remote: dict[str, Any], write: bool) -> Callable[[], None]:
    return lambda: _ask_folder(name, Path(remote["url"]), write)


def _ask_folder(name: str, path: Path, write: bool) -> None:
    if not write and not path.is_dir():
        raise InputError(
            f"remote '{name}': {path}: no such folder; is the disk mounted? Who has the results runs 'make push'"
        )
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, (os.W_OK if write else os.R_OK) | os.X_OK):
        right = "written to" if write else "read"
        raise InputError(
            f"remote '{name}': {there}: may not be {right}; ask its owner for the right, or name another remote"
        )


def _web(name: str, remote: dict[str, Any], write: bool) -> Callable[[], None]:
    import requests

    return lambda: _ask_web(name, remote, requests)


def _ask_web(name: str, remote: dict[str, Any], requests: Any) -> None:
    user, password = remote.get("user"), remote.get("password") or ""
    answer = requests.head(
        remote["url"], timeout=CONNECT, auth=(user, password) if user else None, allow_redirects=True,
        verify=remote.get("ssl_verify", True),
    )  # fmt: skip
    if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
        raise InputError(_credentials(name, "it refuses them" if user else "none are given", "user", "password"))
    if answer.status_code >= SERVER_ERROR:
        raise InputError(_unreachable(name, remote, f"HTTP {answer.status_code}"))


def _credentials(name: str, problem: str, *keys: str) -> str:
    settings = " and ".join(f"'dvc remote modify --local {name} {key} ..'" for key in keys)
    variables = ", or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if "access_key_id" in keys else ""
    return f"remote '{name}': credentials: {problem}; give them with {settings}{variables}"


def _s3(name: str, remote: dict[str, Any], write: bool) -> Callable[[], None]:
    from botocore import exceptions

    keys = ("access_key_id", "secret_access_key")
    try:
        client = _s3_client(remote)
    except (exceptions.PartialCredentialsError, exceptions.ProfileNotFound, exceptions.CredentialRetrievalError):
        raise InputError(_credentials(name, "they are incomplete", *keys)) from None
    return lambda: _ask_s3(name, remote, write, client)


def _ask_s3(name: str, remote: dict[str, Any], write: bool, client: Any) -> None:
    from botocore import exceptions

    bucket, _, prefix = str(remote["url"]).removeprefix("s3://").partition("/")
    keys = ("access_key_id", "secret_access_key")
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except exceptions.ClientError as error:
        raise InputError(_refused(name, remote, bucket, str(error.response.get("Error", {}).get("Code")))) from None
    except exceptions.NoCredentialsError:
        raise InputError(_credentials(name, "none are given", *keys)) from None
    except exceptions.CredentialRetrievalError:
        raise InputError(_credentials(name, "they are incomplete", *keys)) from None
    if write:
        try:  # an upload that is begun and called off: it asks for the right to write and leaves nothing
            key = f"{prefix.rstrip('/')}/probe".lstrip("/")
            upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code"))
            if code not in REFUSED:
                raise InputError(_refused(name, remote, bucket, code)) from None
            raise InputError(
                f"remote '{name}': {shown(str(remote['url']))}: your credentials may read and not write; 'make pull' "
                "works, for 'make push' ask who owns it for credentials that may write"
            ) from None


def _refused(name: str, remote: dict[str, Any], bucket: str, code: str) -> str:
    where = shown(str(remote["url"]))
    if code in WRONG:
        return _credentials(name, f"{where} does not know them ({code})", "access_key_id", "secret_access_key")
    if code in REFUSED:
        problem = f"{where} refuses them ({code}): wrong ones, or without a right to this bucket"
        return _credentials(name, problem, "access_key_id", "secret_access_key")
    if code in ABSENT:
        remedy = f"make it, or correct the address with 'dvc remote modify {name} url ..'"
        return f"remote '{name}': there is no bucket '{bucket}'; {remedy}"
    return f"remote '{name}': {where} answers {code}; is its region right ('dvc remote modify {name} region ..')?"


def _s3_client(remote: dict[str, Any]) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    session = Session(profile=remote.get("profile"))
    if path := remote.get("credentialpath"):
        session.set_config_variable("credentials_file", str(path))
    session.set_config_variable("metadata_service_timeout", CONNECT)
    own = remote.get("endpointurl") is not None
    config = Config(
        connect_timeout=CONNECT,
        read_timeout=CONNECT,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"} if own else {},
        signature_version=UNSIGNED if remote.get("allow_anonymous_login") else None,
    )
    return session.create_client(
        "s3",
        region_name=remote.get("region") or ("us-east-1" if own else None),
        endpoint_url=remote.get("endpointurl"),
        aws_access_key_id=remote.get("access_key_id"),
        aws_secret_access_key=remote.get("secret_access_key"),
        aws_session_token=remote.get("session_token"),
        verify=remote.get("ssl_verify"),
        config=config,
    )
