"""An asset's bytes: by a short-lived link to S3, or through here with ranges."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import closing

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response, StreamingResponse

from api.parts import Parts
from framewright import ids
from framewright.errors import Gone, NotFound, RangeNotSatisfiable
from framewright.rows import AssetRow

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_EXTENSIONS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "application/x-safetensors": "safetensors",
    "application/zip": "zip",
    "application/c2pa": "c2pa",
}


TURN_S = 5.0
"""How long a download waits for others to get their answer from S3 before it is told to come back."""


class PastTheEnd(RangeNotSatisfiable):
    """The range starts past the end of a file of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes")
        self.headers = {"Content-Range": f"bytes */{size}"}


async def content(parts: Parts, row: AssetRow, request: Request, *, proxy: bool) -> Response:
    """302 to S3, or the bytes themselves; `Gone` once the asset has expired."""
    if row.state == "expired":
        raise Gone("this file has expired and was deleted")
    if row.state == "deleted":
        raise NotFound(f"no such {ids.ASSET}")
    if request.method == "HEAD":
        return Response(headers=_headers(row) | {"Content-Length": str(row.size)}, media_type=row.content_type)
    if not proxy:
        url = await run_in_threadpool(parts.storage.presign_get, row.key, file_name(row), row.content_type)
        return RedirectResponse(url, 302, {"Cache-Control": "private, no-store"})
    if request.headers.get("if-none-match") == _etag(row):
        return Response(status_code=304, headers=_headers(row))
    return await _proxied(parts, row, request)


async def _proxied(parts: Parts, row: AssetRow, request: Request) -> Response:
    headers = _headers(row)
    wanted = byte_range(request.headers.get("range"), row.size)
    if wanted is not None and request.headers.get("if-range", _etag(row)) != _etag(row):
        wanted = None
    start, end = wanted or (0, row.size - 1)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end}/{row.size}"
    headers["Content-Length"] = str(end - start + 1)
    chunks = await parts.reading.run(lambda: parts.storage.open(row.key, start, end), turn_s=TURN_S)

    async def body() -> AsyncIterator[bytes]:
        with closing(chunks):
            while chunk := await parts.reading.run(lambda: next(chunks, b"")):
                yield chunk

    return StreamingResponse(body(), 206 if wanted else 200, headers, row.content_type)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None serves the whole (no, several or unreadable ranges).

    `RangeNotSatisfiable` when it starts past the end.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size - 1
    else:
        start, end = int(found[1]), min(int(found[2] or size - 1), size - 1)
        if found[2] and int(found[2]) < start:
            return None
    if start >= size or start > end:
        raise PastTheEnd(size)
    return start, end


def file_name(row: AssetRow) -> str:
    """A name to save the file under."""
    extension = _EXTENSIONS.get(row.content_type, "bin")
    if row.origin == "output" and row.job_id is not None:
        return f"{ids.public(ids.JOB, row.job_id)}.{row.filename or 'file'}.{extension}"
    return row.filename or f"{ids.public(ids.ASSET, row.id)}.{extension}"


def _etag(row: AssetRow) -> str:
    return f'"{row.sha256.hex()}"'


def _headers(row: AssetRow) -> dict[str, str]:
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", file_name(row))
    return {
        "ETag": _etag(row),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=3600, immutable",
        "Content-Disposition": f'attachment; filename="{plain}"',
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
