"""Uploads on their way in: streamed to a private file, counted and hashed as they come."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from framewright.errors import BadRequest, BodyTooLarge, StorageUnavailable, UnsupportedMedia
from framewright.settings import Settings

ASSETS = "/api/v1/assets"
AS_BYTES = (
    "a file goes as its raw bytes, not as a form: "
    f"curl -X PUT --data-binary @photo.png -H 'Content-Type: image/png' -H 'Authorization: Bearer KEY' URL{ASSETS}"
)
# Written in pieces of this size, so that a thread is not woken for every packet.
PIECE = 2**20


@dataclass(frozen=True, slots=True)
class Spooled:
    """A file that came in; `path` is gone after the `with` block. `size` in bytes, `sha256` 32 bytes."""

    path: Path
    size: int
    sha256: bytes


@asynccontextmanager
async def spool(settings: Settings, request: Request) -> AsyncIterator[Spooled]:
    """The request's raw body as a file; `BodyTooLarge` over the cap, `StorageUnavailable` when the disk is full.

    `UnsupportedMedia` for a form, whose bytes are not the file's.
    """
    if request.headers.get("content-type", "").strip().lower().startswith("multipart/"):
        raise UnsupportedMedia(AS_BYTES)
    limit = settings.max_upload_mb * 2**20
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(settings)
    try:
        opened = tempfile.NamedTemporaryFile(prefix="upload-", dir=settings.scratch_dir)  # noqa: SIM115 - entered below
    except OSError as error:
        raise _no_room() from error
    with opened as file:
        yield await _receive(request, file, limit, settings)


async def _receive(request: Request, file: IO[bytes], limit: int, settings: Settings) -> Spooled:
    digest = hashlib.sha256()
    size = 0
    waiting = bytearray()

    def write(piece: bytes) -> None:
        digest.update(piece)
        file.write(piece)

    try:
        async for chunk in request.stream():
            waiting += chunk
            size += len(chunk)
            if size > limit:
                raise _too_large(settings)
            if len(waiting) >= PIECE:
                await run_in_threadpool(write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(write, bytes(waiting))
        await run_in_threadpool(file.flush)
    except OSError as error:
        raise _no_room() from error
    if not size:
        raise BadRequest("send the file's bytes as the body; it is empty")
    return Spooled(Path(file.name), size, digest.digest())


def _no_room() -> StorageUnavailable:
    return StorageUnavailable("there is no room to take the upload in", retry_after_s=30)


def _too_large(settings: Settings) -> BodyTooLarge:
    return BodyTooLarge(f"an asset may be {settings.max_upload_mb} MiB at most")
