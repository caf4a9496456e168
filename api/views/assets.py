"""Files that jobs take or made, and uploads of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from api.views.base import View
from framewright import ids
from framewright.rows import AssetRow, UploadRow


class AssetLinks(View):
    self: str
    content: str


class AssetView(View):
    id: str
    origin: str
    state: str
    kind: str
    content_type: str
    filename: str | None
    size: int
    sha256: str
    width: int | None
    height: int | None
    frames: int | None
    fps: str | None
    duration_s: float | None
    codecs: str | None
    created_at: datetime
    expires_at: datetime | None
    links: AssetLinks


class UploadLinks(View):
    complete: str


class UploadView(View):
    """Send the bytes to `url` with exactly these headers, then POST to `links.complete`."""

    id: str
    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    expires_at: datetime
    links: UploadLinks


def asset(row: AssetRow, base: str) -> AssetView:
    name = ids.public(ids.ASSET, row.id)
    url = f"{base}/assets/{name}"
    return AssetView(
        id=name,
        origin=row.origin,
        state=row.state,
        kind=row.kind,
        content_type=row.content_type,
        filename=row.filename,
        size=row.size,
        sha256=row.sha256.hex(),
        width=row.width,
        height=row.height,
        frames=row.frames,
        fps=row.fps,
        duration_s=row.duration_s,
        codecs=row.codecs,
        created_at=row.created_at,
        expires_at=row.expires_at,
        links=AssetLinks(self=url, content=content_url(base, row.id)),
    )


def upload(row: UploadRow, url: str, base: str) -> UploadView:
    """`url` is where the bytes go, presigned."""
    name = ids.public(ids.UPLOAD, row.id)
    return UploadView(
        id=name,
        url=url,
        headers={"Content-Type": row.content_type, "Content-Length": str(row.size)},
        expires_at=row.expires_at,
        links=UploadLinks(complete=f"{base}/uploads/{name}/complete"),
    )


def content_url(base: str, asset_id: UUID) -> str:
    return f"{base}/assets/{ids.public(ids.ASSET, asset_id)}/content"
