"""One file from a hub to its place: goes on where an earlier try stopped, and lands whole, checked and at once."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from framewright.errors import DiskFull, HubRefused, HubUnavailable, WeightsRefused
from framewright.models.hub import ATTEMPTS, Hub, Interrupted, pause
from framewright.models.manifest import PARTS, File, Source, sync_folder

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CHUNK = 1 << 20
Landed = Callable[[int], None]
"""Told how many more bytes are on disk; less than none when a part was thrown away."""


def fetch(hub: Hub, source: Source, file: File, folder: Path, landed: Landed) -> None:
    """Bring a file into `folder` as it was at the source's commit. A process killed here loses nothing it had.

    Bytes that do not have the hash are fetched once more from the start; then it is `HubRefused`.
    """
    part = part_of(folder, file)
    part.parent.mkdir(exist_ok=True)
    with _appended(part) as descriptor, _room(folder, file):
        if not (_filled(hub, source, file, descriptor, landed) or _filled(hub, source, file, descriptor, landed)):
            raise HubRefused(f"{hub.url} sends other bytes for {file.name} of {source.repo} than their hash says")
        os.fsync(descriptor)
        target = place(folder, file.path)
        part.replace(target)
        sync_folder(target.parent)


def part_of(folder: Path, file: File) -> Path:
    """Where a file grows. Named for its content and its path, so that no other file ever goes on with it."""
    path = hashlib.sha256(file.path.encode()).hexdigest()[:12]
    return folder / PARTS / f"{file.sha256 or file.git}-{path}"


def held(folder: Path, file: File) -> int:
    """Bytes of a file that an unfinished try has left."""
    part = part_of(folder, file)
    return min(part.lstat().st_size, file.size) if os.path.lexists(part) else 0


def place(folder: Path, path: str) -> Path:
    """The path below the folder, its parents made; `WeightsRefused` where a link or file is in the way."""
    at = folder
    for part in path.split("/")[:-1]:
        at /= part
        if not os.path.lexists(at):
            at.mkdir(exist_ok=True)
        if not stat.S_ISDIR(at.lstat().st_mode):
            raise WeightsRefused(f"{at} is in the way: it is a link or file where a folder must be")
    return folder / path


class Digest:
    """The hashes of a file that grows."""

    def __init__(self, file: File) -> None:
        self.file = file
        self._sha256 = hashlib.sha256()
        # What git names a blob by; the hub gives it for files that are too small for LFS.
        self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if self.file.sha256 is None:
            self._git.update(chunk)

    @property
    def right(self) -> bool:
        if self.file.sha256 is not None:
            return self._sha256.hexdigest() == self.file.sha256
        return self._git.hexdigest() == self.file.git

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def _filled(hub: Hub, source: Source, file: File, descriptor: int, landed: Landed) -> bool:
    """Fill the part to its size; False, and an empty part, when the content is not what the hash says."""
    have, digest = _resumed(file, descriptor, landed)
    furthest, fruitless = have, 0
    while have < file.size:
        try:
            with hub.bytes(source.repo, source.revision, file.name, have) as (start, chunks):
                if start not in {have, 0}:
                    raise HubUnavailable(f"{hub.url} sends byte {start} of {file.name} where {have} was asked for")
                if start != have:
                    landed(-have)
                    have, digest = _emptied(file, descriptor)
                for chunk in chunks:
                    if have + len(chunk) > file.size:
                        raise HubRefused(f"{hub.url} sends more of {file.name} than the {file.size} bytes it listed")
                    _write(descriptor, chunk)
                    digest.update(chunk)
                    have += len(chunk)
                    # A server that begins anew each time brings bytes for ever, and nothing of the file.
                    if have > furthest:
                        furthest, fruitless = have, 0
                    landed(len(chunk))
            if have < file.size:
                raise Interrupted("the connection broke")
        except Interrupted as error:
            fruitless += 1
            if fruitless == ATTEMPTS:
                raise HubUnavailable(f"{hub.url} cannot be used: {error} ({ATTEMPTS} tries for {file.name})") from error
            hub.wait(pause(fruitless, error))
    if digest.right:
        return True
    landed(-have)
    _emptied(file, descriptor)
    return False


def _resumed(file: File, descriptor: int, landed: Landed) -> tuple[int, Digest]:
    """What an earlier try has left, hashed anew: a part vouches for nothing by itself."""
    if os.fstat(descriptor).st_size > file.size:
        landed(-file.size)
        return _emptied(file, descriptor)
    digest, have = Digest(file), 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    while chunk := os.read(descriptor, _CHUNK):
        digest.update(chunk)
        have += len(chunk)
    return have, digest


def _emptied(file: File, descriptor: int) -> tuple[int, Digest]:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return 0, Digest(file)


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _appended(part: Path) -> Iterator[int]:
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WeightsRefused(f"{part} cannot be written: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _room(folder: Path, file: File) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(f"{folder}: {error.strerror} while fetching {file.path}; what is there is kept") from error
