"""What a file says of its making: from bytes that are sent, or of an asset that is stored."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from api.auth import AssetsRead, Caller
from api.content import TURN_S
from api.gate import JSON
from api.openapi import errors
from api.parts import P, Parts
from api.spool import spool
from api.views.base import View
from framewright import ids, store
from framewright.errors import (
    AssetUnusable,
    FieldError,
    Gone,
    InvalidParams,
    NotFound,
    StorageUnavailable,
    UnsupportedMedia,
)
from framewright.params import Strict, fields_of
from framewright.provenance.anchors import anchors
from framewright.provenance.verifying import verify
from framewright.rows import AssetRow

router = APIRouter(prefix="/api/v1", tags=["assets"])

TYPES = (
    *("video/mp4", "video/quicktime", "image/png", "image/jpeg", "image/webp"),
    *("image/gif", "audio/wav", "application/zip"),
)
ASSET_TYPES = frozenset(TYPES)
CURL = "curl --data-binary @clip.mp4 -H 'Content-Type: video/mp4' -H 'Authorization: Bearer KEY' URL/api/v1/verify"
_EXAMPLE_ASSET = "asset_01936f2d9c3a7c1e8b5d2f4a6c8e0b1d"


class VerifyRequest(Strict):
    """Which stored file to look at."""

    asset: Annotated[str, Field(max_length=64, description="The id of an asset: an upload, or an output of a job.")]


class ActionView(View):
    """Something that was done, in the words of the C2PA (`c2pa.created`, `c2pa.opened`, `c2pa.edited`, …)."""

    action: str
    when: str | None
    digital_source_type: str | None
    description: str | None


class SignerView(View):
    """The names in the signing certificate. They prove something only where `trusted` says so."""

    name: str | None
    organization: str | None


class IngredientView(View):
    """A file that went into this one. `valid` is of its own manifest, when it came; null when it had none."""

    title: str | None
    content_type: str | None
    relationship: str | None
    signed: bool
    valid: bool | None
    digital_source_type: str | None


class ProblemView(View):
    """A code of the C2PA and a sentence."""

    code: str
    explanation: str


class VerifyView(View):
    """What the file says. Everything but the first three is a claim of its signer, and worth what that is worth."""

    signed: bool = Field(description="Whether the file carries a manifest.")
    valid: bool = Field(description="Whether the signature holds and the file is as it was signed, to the last byte.")
    trusted: Literal["operator", "development"] | None = Field(
        description=(
            "Whose certificate of this installation signed: its operator's, or the development one that it made for "
            "itself and that nobody else knows. Null: nobody's whom this installation knows."
        )
    )
    actions: tuple[ActionView, ...] = ()
    digital_source_type: str | None = Field(
        None, description="Where its pixels come from (IPTC), as its last action that says so has it."
    )
    generator: str | None = None
    job: str | None = Field(None, description="The job that made it, when a Framewright signed it.")
    signed_at: str | None = None
    time_stamp: Literal["trusted", "unknown"] | None = Field(
        None,
        description=(
            "Who says `signed_at`: a time stamp authority that the operator's certificates lead to, one that nobody "
            "here knows, or, when null, only the signer."
        ),
    )
    signer: SignerView | None = None
    ingredients: tuple[IngredientView, ...] = ()
    problems: tuple[ProblemView, ...] = ()


EXAMPLE: dict[str, Any] = {
    "signed": True,
    "valid": True,
    "trusted": "operator",
    "actions": [
        {
            "action": "c2pa.opened",
            "when": "2026-11-20T12:00:00Z",
            "digital_source_type": None,
            "description": None,
        },
        {
            "action": "c2pa.edited",
            "when": "2026-11-20T12:00:00Z",
            "digital_source_type": "algorithmicallyEnhanced",
            "description": "A virtual camera moved over the picture; no trained model took part.",
        },
    ],
    "digital_source_type": "algorithmicallyEnhanced",
    "generator": "Framewright 0.1.0",
    "job": "job_01936f2d9c3a7c1e8b5d2f4a6c8e0b1d",
    "signed_at": "2026-11-20T12:00:00Z",
    "time_stamp": None,
    "signer": {"name": "video.example.org", "organization": "Example Ltd"},
    "ingredients": [
        {
            "title": _EXAMPLE_ASSET,
            "content_type": "image/jpeg",
            "relationship": "parentOf",
            "signed": False,
            "valid": None,
            "digital_source_type": None,
        }
    ],
    "problems": [],
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file itself, or the id of an asset as JSON.",
        "content": {
            "application/json": {
                "schema": VerifyRequest.model_json_schema(),
                "examples": {"asset": {"summary": "A stored file", "value": {"asset": _EXAMPLE_ASSET}}},
            },
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in TYPES},
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": EXAMPLE}}}}


@router.post(
    "/verify",
    responses=_ANSWERS | errors(400, 404, 410, 413, 415, 422),
    openapi_extra=BODY,
    summary="Read what a file says of its making",
)
async def verify_file(request: Request, parts: P, who: AssetsRead) -> VerifyView:
    """Checks the C2PA manifest of an MP4, MOV, PNG, JPEG, WebP, GIF, WAV or ZIP; without one, `signed` is false."""
    if JSON in request.scope:
        row = await run_in_threadpool(_asset, parts, who, request.scope[JSON])
        async with _fetched(parts, row) as path:
            return await _verified(parts, path, "/asset")
    if request.headers.get("content-type", "").strip().lower().startswith("multipart/"):
        raise UnsupportedMedia(f"a file goes as its raw bytes, not as a form: {CURL}")
    async with spool(parts.settings, request) as file:
        return await _verified(parts, file.path, "/body")


def _asset(parts: Parts, who: Caller, body: Any) -> AssetRow:
    try:
        asked = VerifyRequest.model_validate(body)
    except ValidationError as error:
        raise InvalidParams("the request cannot be accepted", fields=fields_of(error.errors())) from None
    row = store.get_asset(parts.db, who.tenant_id, ids.parse(ids.ASSET, asked.asset))
    if row.state == "deleted":
        raise NotFound(f"no such {ids.ASSET}")
    if row.state == "expired":
        raise Gone("this file has expired and was deleted")
    if row.content_type not in ASSET_TYPES:
        detail = f"a file of type {row.content_type} carries no manifest that is read here"
        raise AssetUnusable(detail, fields=(FieldError("/asset", "unsupported_media", detail),))
    return row


@asynccontextmanager
async def _fetched(parts: Parts, row: AssetRow) -> AsyncIterator[Path]:
    """The stored file on the disk; gone afterwards."""
    with ExitStack() as kept:
        try:
            folder = tempfile.TemporaryDirectory(prefix="verify-", dir=parts.settings.scratch_dir)
            path = Path(kept.enter_context(folder)) / "file"
            await parts.reading.run(lambda: parts.storage.get_file(row.key, path, retry_s=0), turn_s=TURN_S)
        except OSError as error:
            raise StorageUnavailable("there is no room to look at the file", retry_after_s=30) from error
        yield path


async def _verified(parts: Parts, path: Path, field: str) -> VerifyView:
    try:
        facts = await parts.verifying.run(lambda: verify(path, anchors(parts.settings)))
    except UnsupportedMedia as error:
        raise UnsupportedMedia(error.detail, fields=(FieldError(field, error.code, error.detail),)) from error
    return VerifyView(**{"valid": False, "trusted": None, **facts})
