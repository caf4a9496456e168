"""Uploads that go to S3 directly: a presigned PUT, then `complete`, which checks size, sum and contents."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.auth import AssetsWrite
from api.ingest import clean, stored
from api.openapi import errors
from api.parts import P, Parts
from api.spool import Spooled
from api.views.assets import AssetView, UploadView
from framewright import ids, storage, store
from framewright.errors import BodyTooLarge, Conflict, FieldError, Gone, InvalidParams, StorageUnavailable
from framewright.params import Strict
from framewright.rows import AssetRow
from framewright.wording import form

router = APIRouter(prefix="/api/v1/uploads", tags=["assets"])

MEDIA_TYPE = form(r"^[\w.+-]+/[\w.+-]+$", "a media type such as image/png")
SHA256 = form(r"^[0-9a-f]{64}$", "64 hex digits in lower case")


class UploadRequest(Strict):
    """What will be uploaded. `size` in bytes; `sha256` as 64 hex digits."""

    filename: Annotated[str, Field(max_length=255)] | None = None
    content_type: Annotated[str, Field(max_length=127, pattern=MEDIA_TYPE)] = "application/octet-stream"
    size: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=SHA256)]


@router.post("", status_code=201, responses=errors(413, 422), summary="Start a direct upload")
def create_upload(body: UploadRequest, parts: P, who: AssetsWrite) -> UploadView:
    if body.size > parts.settings.max_upload_mb * 2**20:
        raise BodyTooLarge(f"an asset may be {parts.settings.max_upload_mb} MiB at most")
    asset_id = ids.uuid7()
    row = store.insert_upload(
        parts.db,
        id=ids.uuid7(),
        tenant_id=who.tenant_id,
        asset_id=asset_id,
        key=storage.asset_key(who.tenant_id, asset_id),
        filename=clean(body.filename),
        content_type=body.content_type,
        size=body.size,
        sha256=bytes.fromhex(body.sha256),
        ttl_s=parts.settings.presign_s,
    )
    url = parts.storage.presign_put(row.key, row.size, row.content_type, parts.settings.presign_s)
    return parts.views.upload(row, url)


@router.post("/{upload_id}/complete", status_code=201, responses=errors(404, 409, 410, 415, 422), summary="Finish it")
async def complete_upload(upload_id: str, parts: P, who: AssetsWrite) -> AssetView:
    """Makes the asset once the bytes are there and are what was announced; twice answers the same asset.

    Bytes that were sent in time may be completed later. 410 when the link is over and they did not come.
    """
    row = await asyncio.get_running_loop().run_in_executor(
        parts.ingestion, _complete, parts, who.tenant_id, ids.parse(ids.UPLOAD, upload_id)
    )
    return parts.views.asset(row)


def _complete(parts: Parts, tenant_id: str, upload_id: UUID) -> AssetRow:
    upload = store.get_upload(parts.db, tenant_id, upload_id)
    if upload.completed_at is not None:
        return store.get_asset(parts.db, tenant_id, upload.asset_id)
    head = parts.storage.head(upload.key)
    if head is None and upload.late:
        raise Gone("this upload's link has expired and no bytes came by it; POST /api/v1/uploads gives a new one")
    if head is None:
        raise Conflict("the bytes have not arrived; PUT them to the upload's url first")
    if head.size != upload.size:
        raise _unlike("/size", f"{head.size} bytes arrived and {upload.size} were announced")
    with tempfile.TemporaryDirectory(prefix="upload-", dir=parts.settings.scratch_dir) as folder:
        path = Path(folder) / "file"
        parts.storage.get_file(upload.key, path, retry_s=0)
        file = Spooled(path, head.size, _sha256(path))
        if file.sha256 != upload.sha256:
            raise _unlike("/sha256", "the bytes that arrived have another SHA-256 than was announced")
        # Never under the upload's own key: the link to write there works until it expires, whatever was checked here.
        row = stored(
            parts,
            tenant_id,
            file,
            upload.filename,
            lambda asset: store.finish_upload(parts.db, tenant_id, upload_id, asset),
        )
    with contextlib.suppress(StorageUnavailable):
        parts.storage.delete([upload.key])
    return row


def _unlike(place: str, detail: str) -> InvalidParams:
    return InvalidParams("the upload is not what was announced", fields=(FieldError(place, "mismatch", detail),))


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
