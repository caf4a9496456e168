"""Assets: the pictures, clips and sounds that jobs read and make."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.auth import AssetsRead, AssetsWrite
from api.content import content
from api.ingest import ingest
from api.openapi import errors
from api.paging import Page
from api.parts import P
from api.spool import spool
from api.views.assets import AssetView
from api.views.base import ListView, listed
from framewright import ids, store

router = APIRouter(prefix="/api/v1/assets", tags=["assets"])

BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "PNG, JPEG, WEBP (one frame), MP4, MOV, Matroska, WEBM, WAV, FLAC, MP3, Ogg or safetensors.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes (`proxy=1`).", "content": {"application/octet-stream": {}}},
    206: {"description": "The part that `Range` asks for (`proxy=1`)."},
    302: {"description": "A link to the bytes that works for some minutes."},
}


@router.put("", status_code=201, responses=errors(400, 413, 415), openapi_extra=BYTES, summary="Upload a file")
async def put_asset(
    request: Request,
    parts: P,
    who: AssetsWrite,
    filename: Annotated[str | None, Query(max_length=255, description="For people; it decides nothing.")] = None,
) -> AssetView:
    """The same bytes sent again answer with the same asset, kept from now on for its full time."""
    async with spool(parts.settings, request) as file:
        row = await asyncio.get_running_loop().run_in_executor(
            parts.ingestion, ingest, parts, who.tenant_id, file, filename
        )
    return parts.views.asset(row)


@router.get("", responses=errors(400, 422), summary="List assets")
def list_assets(parts: P, who: AssetsRead, page: Page) -> ListView[AssetView]:
    after, before = page.cursors(ids.ASSET)
    rows, more = store.list_assets(
        parts.db, who.tenant_id, after=after, before=before, limit=page.limit, order=page.order
    )
    return listed([parts.views.asset(row) for row in rows], has_more=more)


@router.get("/{asset_id}", responses=errors(404), summary="Read an asset")
def get_asset(asset_id: str, parts: P, who: AssetsRead) -> AssetView:
    return parts.views.asset(store.get_asset(parts.db, who.tenant_id, ids.parse(ids.ASSET, asset_id)))


@router.delete("/{asset_id}", status_code=204, responses=errors(404, 409), summary="Delete an asset")
def delete_asset(asset_id: str, parts: P, who: AssetsWrite) -> None:
    """Refused with 409 while an open job reads it. The bytes go within a minute."""
    # The janitor takes the object: S3 may hang, and whoever deletes has no reason to wait for it.
    store.delete_asset(parts.db, who.tenant_id, ids.parse(ids.ASSET, asset_id))


@router.get(
    "/{asset_id}/content",
    response_class=Response,
    responses=FILE | errors(404, 410, 416),
    summary="Download an asset",
)
@router.head("/{asset_id}/content", response_class=Response, responses=errors(404, 410), summary="Size and type")
async def get_content(
    asset_id: str,
    request: Request,
    parts: P,
    who: AssetsRead,
    proxy: Annotated[bool, Query(description="Send the bytes through the API instead of a link.")] = False,
) -> Response:
    row = await run_in_threadpool(store.get_asset, parts.db, who.tenant_id, ids.parse(ids.ASSET, asset_id))
    return await content(parts, row, request, proxy=proxy)
