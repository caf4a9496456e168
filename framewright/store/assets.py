"""Assets: files a tenant put in or a step put out; and the uploads on their way to become one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal
from uuid import UUID

from psycopg.types.json import Jsonb

from framewright.database import Connection, Database
from framewright.errors import BadRequest, Conflict, Gone, NotFound
from framewright.rows import AssetRow, NewAsset, UploadRow

ASSET_COLUMNS = """id, tenant_id, origin,
    CASE WHEN deleted_at IS NOT NULL THEN 'deleted'
         WHEN removed_at IS NOT NULL OR expires_at <= clock_timestamp() THEN 'expired' ELSE 'ready' END AS state,
    kind, content_type, filename, size, sha256, key, width, height, frames, fps, duration_s, codecs, meta, job_id,
    created_at, expires_at"""

# Same bytes of the same tenant: the older row answers, its expiry pushed out.
_INSERT = f"""
INSERT INTO assets AS a (id, tenant_id, origin, kind, content_type, filename, size, sha256, key, width, height, frames,
                         fps, duration_s, codecs, meta, expires_at)
VALUES (%s, %s, 'upload', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
        clock_timestamp() + make_interval(secs => %s))
ON CONFLICT (tenant_id, sha256) WHERE origin = 'upload' AND removed_at IS NULL AND deleted_at IS NULL
DO UPDATE SET expires_at = greatest(a.expires_at, excluded.expires_at)
RETURNING {ASSET_COLUMNS}"""  # noqa: S608


def insert_asset(db: Database, asset: NewAsset) -> AssetRow:
    """Store an upload. When the tenant has the same bytes already, that row comes back: compare `id`."""
    with db.connect() as connection:
        return _insert(connection, asset)


def _insert(connection: Connection, asset: NewAsset) -> AssetRow:
    row = connection.execute(
        _INSERT,
        (
            asset.id, asset.tenant_id, asset.kind, asset.content_type, asset.filename, asset.size, asset.sha256,
            asset.key, asset.width, asset.height, asset.frames, asset.fps, asset.duration_s, asset.codecs,
            Jsonb(dict(asset.meta)), asset.ttl_h * 3600,
        ),
    ).fetchone()  # fmt: skip
    assert row is not None  # noqa: S101 - an upsert returns its row
    return AssetRow(*row)


def find_asset_by_sha(db: Database, tenant_id: str, sha256: bytes, *, ttl_h: float) -> AssetRow | None:
    """The tenant's upload with those bytes, its expiry pushed out to `ttl_h` hours from now, if there is one."""
    with db.connect() as connection:
        row = connection.execute(
            f"""UPDATE assets SET expires_at = greatest(expires_at, clock_timestamp() + make_interval(secs => %s))
                WHERE tenant_id = %s AND sha256 = %s AND origin = 'upload' AND removed_at IS NULL
                  AND deleted_at IS NULL RETURNING {ASSET_COLUMNS}""",  # noqa: S608
            (ttl_h * 3600, tenant_id, sha256),
        ).fetchone()
    return AssetRow(*row) if row else None


def get_asset(db: Database, tenant_id: str, asset_id: UUID) -> AssetRow:
    """One asset, also an expired one; `NotFound` when it is unknown, foreign, or was deleted by its owner."""
    found = get_assets(db, tenant_id, [asset_id])
    if asset_id not in found:
        raise NotFound("no such asset")
    return found[asset_id]


def get_assets(db: Database, tenant_id: str, asset_ids: Iterable[UUID]) -> dict[UUID, AssetRow]:
    """Those of the assets that this tenant has, also expired ones."""
    with db.connect() as connection:
        rows = connection.execute(
            f"SELECT {ASSET_COLUMNS} FROM assets WHERE id = ANY(%s) AND tenant_id = %s AND deleted_at IS NULL",  # noqa: S608
            (list(asset_ids), tenant_id),
        )
        return {row[0]: AssetRow(*row) for row in rows}


def list_assets(
    db: Database,
    tenant_id: str,
    *,
    after: UUID | None = None,
    before: UUID | None = None,
    limit: int = 20,
    order: Literal["asc", "desc"] = "desc",
) -> tuple[list[AssetRow], bool]:
    """A page in order of creation and whether more follow; cursors as in `list_jobs`."""
    cursors = [cursor for cursor in (after, before) if cursor]
    if len(get_assets(db, tenant_id, cursors)) != len(set(cursors)):
        raise BadRequest("the cursor names no asset")
    onward, back = (">", "<") if order == "asc" else ("<", ">")
    bounds = [(f"AND id {onward} %s", after), (f"AND id {back} %s", before)]
    asked = [(clause, cursor) for clause, cursor in bounds if cursor]
    backwards = before is not None and after is None
    direction = "ASC" if (order == "asc") != backwards else "DESC"
    with db.connect() as connection:
        rows = connection.execute(
            f"""SELECT {ASSET_COLUMNS} FROM assets
                WHERE tenant_id = %s AND deleted_at IS NULL {" ".join(clause for clause, _ in asked)}
                ORDER BY tenant_id {direction}, id {direction} LIMIT %s""".encode(),  # noqa: S608
            (tenant_id, *(cursor for _, cursor in asked), limit + 1),
        ).fetchall()
    page = [AssetRow(*row) for row in rows[:limit]]
    return page[::-1] if backwards else page, len(rows) > limit


def delete_asset(db: Database, tenant_id: str, asset_id: UUID) -> None:
    """Hide an asset and let the janitor take its object. `Conflict` while an open job uses it."""
    with db.connect() as connection:
        row = connection.execute("SELECT used FROM fw_delete_asset(%s, %s)", (tenant_id, asset_id)).fetchone()
    if row is None:
        raise NotFound("no such asset")
    if row[0]:
        raise Conflict("an open job uses this asset")


UPLOAD_COLUMNS = (
    "id, tenant_id, asset_id, key, filename, content_type, size, sha256, created_at, expires_at, completed_at,"
    " expires_at <= clock_timestamp()"
)


def insert_upload(
    db: Database,
    *,
    id: UUID,  # noqa: A002 - the column's name
    tenant_id: str,
    asset_id: UUID,
    key: str,
    filename: str | None,
    content_type: str,
    size: int,
    sha256: bytes | None,
    ttl_s: float,
) -> UploadRow:
    """Note a presigned PUT before it is handed out."""
    with db.connect() as connection:
        row = connection.execute(
            f"""INSERT INTO uploads (id, tenant_id, asset_id, key, filename, content_type, size, sha256, expires_at)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s))
                RETURNING {UPLOAD_COLUMNS}""",  # noqa: S608
            (id, tenant_id, asset_id, key, filename, content_type, size, sha256, ttl_s),
        ).fetchone()
    return UploadRow(*_one(row))


def get_upload(db: Database, tenant_id: str, upload_id: UUID) -> UploadRow:
    """One upload, however late it is; `NotFound` otherwise."""
    with db.connect() as connection:
        row = connection.execute(
            f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = %s AND tenant_id = %s",  # noqa: S608
            (upload_id, tenant_id),
        ).fetchone()
    if row is None:
        raise NotFound("no such upload")
    return UploadRow(*row)


def finish_upload(db: Database, tenant_id: str, upload_id: UUID, asset: NewAsset) -> AssetRow:
    """Turn an upload into its asset, in one transaction; done twice it answers the same asset.

    `Gone` when it came so late that the janitor has taken its bytes away.
    """
    with db.begin() as connection:
        row = connection.execute(
            "SELECT asset_id, completed_at, removed_at FROM uploads WHERE id = %s AND tenant_id = %s FOR NO KEY UPDATE",
            (upload_id, tenant_id),
        ).fetchone()
        if row is None:
            raise NotFound("no such upload")
        if row[1] is None:
            if row[2] is not None:
                raise Gone("this upload was never completed and its bytes were removed")
            made = _insert(connection, asset)
            connection.execute(
                "UPDATE uploads SET completed_at = clock_timestamp(), asset_id = %s WHERE id = %s", (made.id, upload_id)
            )
            return made
    return get_asset(db, tenant_id, row[0])


def _one(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    assert row is not None  # noqa: S101 - RETURNING of a plain insert
    return row
