"""One web address -> one file, in as many attempts as it takes.

What has arrived is kept as ``.<name>.part`` beside the target, with ``.<name>.part.json`` that tells of which address
(its SHA-256: addresses may hold passwords) and of which version of the file (``ETag`` or ``Last-Modified``) it is. Only
such a part is gone on with, and only where the server says that the rest is of the same version, or a checksum will
tell; any other is dropped.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.core.files import write_json
from pipeline.core.secrets import masked

CHUNK = 1 << 20
ATTEMPTS = 3
TIMEOUT = (10, 30)  # seconds to connect, and between two pieces of data
SLOWEST, PATIENCE = 1000, 120  # bytes a second at least, on average, once so many seconds have passed
LONGEST = 86_400  # seconds for all attempts
MOST_UNTOLD = 1 << 37  # bytes of a file whose length nobody tells
RESERVE, RESERVE_EVERY = 1 << 28, 1 << 26  # bytes of the disk that stay free, looked at after so many
LASTING = (400, 401, 403, 404, 405, 410, 451)  # HTTP statuses that another attempt does not change
RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class SourceError(Exception):
    """One source did not give the file; the next one may."""


class AgainError(Exception):
    """An attempt failed where another may not."""


class Transfer:
    """The download of one file.

    Parameters
    ----------
    url
        Its address.
    target
        Where it will lie; the part is beside.
    sha256, size
        What it must have; None: unknown.
    """

    def __init__(self, url: str, target: Path, sha256: str | None, size: int | None) -> None:
        self.url, self.sha256, self.size = url, sha256, size
        self.part = target.with_name(f".{target.name}.part")
        self.record = self.part.with_name(f"{self.part.name}.json")
        self.address = hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()
        self.end = time.monotonic() + LONGEST

    def run(self) -> Path:
        """Download the whole file and return its part, which has the right checksum and size.

        Raises
        ------
        SourceError
            The address does not give the file.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._attempt()
                self._check()
            except AgainError as error:
                if attempt == ATTEMPTS or time.monotonic() > self.end:
                    raise SourceError(masked(" ".join(str(error).split()))) from error
                time.sleep(attempt)
            else:
                self.record.unlink(missing_ok=True)
                return self.part
        raise AssertionError

    def drop(self) -> None:
        """Forget what has arrived."""
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def _attempt(self) -> None:
        import requests

        have, version = self._kept()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": version} if version else {})
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
                start, total = self._answered(response, have, version)
                if total is None or start < total:  # all of it is here otherwise
                    self._receive(response, start, total)
        except requests.RequestException as error:
            raise AgainError(str(error)) from error
        except (ValueError, UnicodeError) as error:  # an address that is none, headers that are none
            raise SourceError(masked(" ".join(str(error).split()))) from error

    def _kept(self) -> tuple[int, str | None]:
        """Bytes that may be gone on with, and the version that they are of."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            address, version = record["address"], record["version"]
        except (OSError, ValueError, KeyError, TypeError):
            address, version = None, None
        have = self.part.stat().st_size if self.part.is_file() else 0
        surely = isinstance(version, str) or (version is None and self.sha256 is not None)
        if not have or address != self.address or not surely or (self.size is not None and have > self.size):
            self.drop()
            return 0, None
        return have, version

    def _answered(self, response: Any, have: int, version: str | None) -> tuple[int, int | None]:
        """From which byte on the answer is, and how many there are in all; that of another file is refused."""
        status, told = response.status_code, RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if status == 416 and have:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return have, have
            self.drop()
            raise AgainError(f"no file of {have:,} bytes or more; starting anew")
        if status in LASTING:
            raise SourceError(f"HTTP {status} {response.reason}")
        if status >= 400:
            raise AgainError(f"HTTP {status} {response.reason}")
        if status == 206:
            if not have or told is None or int(told[1]) != have:
                self.drop()
                part = response.headers.get("Content-Range", "")[:60]
                raise AgainError(f"gave the part '{part}' where that from byte {have:,} on is wanted")
            if version is not None and _version(response) not in (None, version):
                self.drop()
                raise AgainError("the file has changed since its first part; starting anew")
            total = None if told[3] == "*" else int(told[3])
        elif status == 200:
            have, length = 0, response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() and len(length) < 19 else None
        else:
            raise SourceError(f"HTTP {status} {response.reason}: no file")
        if total == 0:
            self.drop()
            raise SourceError("gave an empty file")
        if self.size is not None and total is not None and total != self.size:
            self.drop()
            raise SourceError(f"a file of {total:,} bytes, the registry says {self.size:,}")
        return have, total

    def _receive(self, response: Any, start: int, total: int | None) -> None:
        """Add what comes to the part."""
        import urllib3

        write_json(self.record, {"address": self.address, "version": _version(response)})
        most = next(bound for bound in (self.size, total, MOST_UNTOLD) if bound is not None)
        have, begun, looked = start, time.monotonic(), start
        bar = tqdm(
            desc=self.part.name[1:-5], total=total or self.size, initial=start, unit="B", unit_scale=True, disable=None
        )
        with self.part.open("ab" if start else "wb") as file, bar:
            try:
                while piece := response.raw.read1(CHUNK, decode_content=False):  # what is there, without waiting
                    have += len(piece)
                    if have > most:
                        raise SourceError(f"gave more than {most:,} bytes")
                    file.write(piece)
                    bar.update(len(piece))
                    self._check_pace(have - start, begun)
                    if have - looked > RESERVE_EVERY:
                        looked = have
                        if shutil.disk_usage(self.part.parent).free < RESERVE:
                            raise SourceError(f"less than {RESERVE:,} bytes of the disk are free; make room")
            except urllib3.exceptions.HTTPError as error:
                raise AgainError(f"broke off after {have:,} bytes: {error}") from error
            except SourceError:
                self.drop()
                raise
        if total is not None and have < total:
            raise AgainError(f"broke off after {have:,} of {total:,} bytes")

    def _check_pace(self, received: int, begun: float) -> None:
        now = time.monotonic()
        if now - begun > PATIENCE and received < SLOWEST * (now - begun):
            raise SourceError(f"slower than {SLOWEST:,} bytes a second")
        if now > self.end:
            raise SourceError(f"not done after {LONGEST:,} seconds")

    def _check(self) -> None:
        """Compare the whole file with what is known of it."""
        from pipeline.core.files import sha256_file

        have = self.part.stat().st_size if self.part.is_file() else 0
        if have == 0 or (self.size is not None and have != self.size):
            self.drop()
            if have == 0:
                raise SourceError("gave an empty file")
            raise AgainError(f"gave {have:,} bytes, the registry says {self.size:,}")
        if self.sha256 is not None and (found := sha256_file(self.part)) != self.sha256:
            self.drop()
            raise AgainError(f"sha256 {found} where {self.sha256} is expected")


def _version(response: Any) -> str | None:
    """What tells one version of a file from another: a strong ETag, or when it was changed."""
    tag = response.headers.get("ETag", "")
    if tag.startswith('"') and tag.isprintable():
        return str(tag)
    changed = response.headers.get("Last-Modified", "")
    return str(changed) if changed and changed.isprintable() else None
