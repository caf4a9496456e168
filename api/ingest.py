"""From a file that came in to an asset: looked at in a sandbox, stored once per tenant, then recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from api.parts import Parts
from api.spool import Spooled
from framewright import ids, probe, storage, store
from framewright.errors import DatabaseUnavailable, FieldError, FramewrightError, UnsupportedMedia
from framewright.rows import AssetRow, NewAsset


def ingest(parts: Parts, tenant_id: str, file: Spooled, filename: str | None) -> AssetRow:
    """The asset of these bytes: the tenant's own older one when there is one, with its expiry pushed out.

    `UnsupportedMedia` when the bytes are not a picture, clip or sound; `StorageUnavailable` when S3 is away.
    """
    ttl_h = parts.settings.asset_ttl_h
    known = store.find_asset_by_sha(parts.db, tenant_id, file.sha256, ttl_h=ttl_h)
    if known is not None:
        return known
    return stored(parts, tenant_id, file, filename, lambda asset: store.insert_asset(parts.db, asset))


def stored(
    parts: Parts, tenant_id: str, file: Spooled, filename: str | None, record: Callable[[NewAsset], AssetRow]
) -> AssetRow:
    """Puts a file under a key that nobody was ever given a link to write to, then has `record` commit it.

    When `record` answers another asset, or refuses, the object is taken away again.
    """
    asset_id = ids.uuid7()
    asset = _looked_at(parts, tenant_id, asset_id, file, key=storage.asset_key(tenant_id, asset_id), filename=filename)
    parts.storage.put_file(asset.key, file.path, asset.content_type, sha256=file.sha256, retry_s=0)
    try:
        row = record(asset)
    except DatabaseUnavailable:
        raise  # it may have been committed; an object too many is better than one too few
    except FramewrightError:
        parts.storage.delete([asset.key])
        raise
    if row.id != asset_id:
        parts.storage.delete([asset.key])
    return row


def _looked_at(
    parts: Parts, tenant_id: str, asset_id: UUID, file: Spooled, *, key: str, filename: str | None
) -> NewAsset:
    """What the bytes are, whatever their name says."""
    found = _probe(file.path, parts.settings.max_pixels)
    return NewAsset(
        id=asset_id,
        tenant_id=tenant_id,
        kind=found.kind,
        content_type=found.content_type,
        filename=clean(filename),
        size=file.size,
        sha256=file.sha256,
        key=key,
        ttl_h=parts.settings.asset_ttl_h,
        width=found.width,
        height=found.height,
        frames=found.frames,
        fps=found.fps,
        duration_s=found.duration_s,
    )


def _probe(path: Path, max_pixels: int) -> probe.Probed:
    try:
        return probe.probe_file(path, max_pixels=max_pixels)
    except UnsupportedMedia as error:
        fields = error.fields or (FieldError("/body", error.code, error.detail),)
        raise UnsupportedMedia(error.detail, fields=fields) from error


def clean(filename: str | None) -> str | None:
    """The last part of a name, printable, at most 200 characters; a name is for people and opens nothing."""
    if filename is None:
        return None
    name = filename.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in name if c.isprintable())[:200].strip() or None
