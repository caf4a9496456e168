"""Files to and from the service: streamed, counted, resumed, and checked against their SHA-256."""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx

from framewright.client.failures import ApiError, DownloadCorrupt, Unreachable
from framewright.client.http import Http
from framewright.client.views import Asset

# Bytes done, bytes in all.
Transferred = Callable[[int, int], None]
CHUNK = 256 * 1024


def upload(http: Http, path: Path, *, content_type: str | None = None, progress: Transferred | None = None) -> Asset:
    """Send a file as it is. The server decides from the bytes what it is; the name is for people."""
    chunks, size = _read(path, progress)
    kind = content_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    query = {"filename": path.name}
    return Asset.of(http.send_bytes("PUT", "/assets", chunks, size=size, query=query, content_type=kind))


def verify(http: Http, path: Path, *, progress: Transferred | None = None) -> dict[str, Any]:
    """What the service finds that a file says of its making; the file is not kept there."""
    chunks, size = _read(path, progress)
    return http.send_bytes("POST", "/verify", chunks, size=size, content_type="application/octet-stream")


def _read(path: Path, progress: Transferred | None) -> tuple[Callable[[], Iterator[bytes]], int]:
    """A function that reads the file anew, and its size in bytes."""
    size = path.stat().st_size

    def chunks() -> Iterator[bytes]:
        done = 0
        with path.open("rb") as file:
            # A file that grows meanwhile is sent as long as it was announced.
            while done < size and (chunk := file.read(min(CHUNK, size - done))):
                done += len(chunk)
                yield chunk
                if progress:
                    progress(done, size)

    return chunks, size


def download(
    http: Http,
    link: str,
    destination: Path,
    *,
    size: int,
    sha256: str,
    progress: Transferred | None = None,
    overwrite: bool = False,
) -> Path:
    """Fetch `link` into `destination`, which appears only when whole and right; `FileExistsError` if it is there.

    What has arrived is kept in a hidden `.part` file beside it, so that a later call goes on where an earlier one, even
    of another process, was cut off. Storage that this machine cannot reach is read through the API instead.
    """
    if destination.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "the file exists", str(destination))
    part = destination.with_name(f".{destination.name}.{sha256[:16]}.part")
    fetch = _Fetch(http, link, part, size, progress)
    for again in (True, False):
        fetch.whole()
        if _sha256(part) == sha256:
            break
        part.unlink()
        if not again:
            raise DownloadCorrupt(f"{destination.name} arrived twice with a SHA-256 that is not {sha256}")
    _publish(part, destination, overwrite=overwrite)
    return destination


class _Fetch:
    """Fills `part` up to `size` bytes over as many connections as that takes."""

    def __init__(self, http: Http, link: str, part: Path, size: int, progress: Transferred | None) -> None:
        self.http = http
        self.link = link
        self.part = part
        self.size = size
        self.progress = progress

    def whole(self) -> None:
        failures = 0
        while (have := self._have()) < self.size or not self.part.exists():
            try:
                self._some(have)
            except Unreachable as error:
                failures = 1 if self._have() > have else failures + 1
                if failures >= self.http.backoff.attempts:
                    raise
                if isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                    self.link = through_api(self.link)
            except ApiError as error:
                failures += 1
                passing = error.retryable or error.status in {429, 502, 503, 504}
                if failures >= self.http.backoff.attempts or not passing:
                    raise
            else:
                if self._have() >= self.size:
                    return
                failures += 1
                if failures >= self.http.backoff.attempts:
                    raise DownloadCorrupt(f"the service sent {self._have()} of {self.size} bytes and no more")
            self.http.wait(self.http.backoff.pause_s(failures))

    def _have(self) -> int:
        """Bytes on disk; more than were promised cannot be a beginning of the file."""
        have = self.part.stat().st_size if self.part.exists() else 0
        if have > self.size:
            self.part.unlink()
            return 0
        return have

    def _some(self, have: int) -> None:
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with self.http.stream(self.link, headers=headers, read_timeout_s=60.0) as response:
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT and _starts_at(response) == have
            done = have if resumed else 0
            with self.part.open("r+b" if resumed else "wb") as file:
                file.seek(done)
                # As it comes: collecting it into chunks of one size would lose the last part of a cut connection.
                for chunk in response.iter_raw():
                    file.write(chunk)
                    done += len(chunk)
                    if done > self.size:
                        break
                    if self.progress:
                        self.progress(done, self.size)


def through_api(link: str) -> str:
    """The same download with the API in between instead of a redirect to the storage."""
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query)) | {"proxy": "1"}
    return urlunsplit(parts._replace(query=urlencode(query)))


def free_name(wished: Path) -> Path:
    """`wished`, or the first of `wished-2`, `wished-3`, ... that does not exist."""
    if not wished.exists():
        return wished
    number = 2
    while (other := wished.with_name(f"{wished.stem}-{number}{wished.suffix}")).exists():
        number += 1
    return other


def _starts_at(response: httpx.Response) -> int | None:
    """Where the body of a 206 begins, from `Content-Range: bytes 5-9/10`."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(part: Path, destination: Path, *, overwrite: bool) -> None:
    """Give the finished file its name; without `overwrite` a file that appeared meanwhile wins."""
    if overwrite:
        part.replace(destination)
        return
    try:
        os.link(part, destination)
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system; the check at the start has to do.
        part.replace(destination)
        return
    part.unlink()
