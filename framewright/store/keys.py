"""Tenants, API keys and socket tickets. Secrets never get here: only their digests do."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from framewright.database import Database
from framewright.errors import NotFound
from framewright.rows import KeyRow, TicketRow


def ensure_tenant(db: Database, tenant_id: str) -> None:
    """Make the tenant unless it is there."""
    with db.connect() as connection:
        connection.execute(
            "INSERT INTO tenants (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", (tenant_id, tenant_id)
        )


_KEY = """id, tenant_id, name, digest, scopes, created_at, expires_at, revoked_at, last_used_at,
          revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"""


def insert_key(  # noqa: PLR0917 - in the order of the columns
    db: Database,
    key_id: str,
    tenant_id: str,
    name: str,
    digest: bytes,
    scopes: Iterable[str],
    expires_at: datetime | None = None,
) -> KeyRow:
    """Store a key; one that is already there with the same id is left as it is and answered."""
    with db.connect() as connection:
        connection.execute(
            """INSERT INTO api_keys (id, tenant_id, name, digest, scopes, expires_at) VALUES (%s, %s, %s, %s, %s, %s)
               ON CONFLICT DO NOTHING""",
            (key_id, tenant_id, name, digest, sorted(scopes), expires_at),
        )
    found = find_key(db, key_id)
    if found is None:
        raise NotFound("no such key")
    return found


def find_key(db: Database, key_id: str) -> KeyRow | None:
    """The key of that id, usable or not."""
    with db.connect() as connection:
        row = connection.execute(f"SELECT {_KEY} FROM api_keys WHERE id = %s", (key_id,)).fetchone()  # noqa: S608
    return _key(row) if row else None


def list_keys(db: Database, tenant_id: str) -> list[KeyRow]:
    """The tenant's keys, oldest first."""
    with db.connect() as connection:
        rows = connection.execute(
            f"SELECT {_KEY} FROM api_keys WHERE tenant_id = %s ORDER BY created_at, id",  # noqa: S608
            (tenant_id,),
        )
        return [_key(row) for row in rows]


def revoke_key(db: Database, tenant_id: str, key_id: str) -> KeyRow:
    """Make a key unusable from now on; twice is the same. `NotFound` for an unknown or foreign one."""
    with db.connect() as connection:
        row = connection.execute(
            f"""UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp())
                WHERE id = %s AND tenant_id = %s RETURNING {_KEY}""",  # noqa: S608
            (key_id, tenant_id),
        ).fetchone()
    if row is None:
        raise NotFound("no such key")
    return _key(row)


def touch_key(db: Database, key_id: str) -> None:
    """Note that a key was used; at most one write a minute."""
    with db.connect() as connection:
        connection.execute(
            """UPDATE api_keys SET last_used_at = clock_timestamp()
               WHERE id = %s AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')""",
            (key_id,),
        )


def live_keys(db: Database, key_ids: Iterable[str]) -> set[str]:
    """Those of the keys that may still be used."""
    with db.connect() as connection:
        rows = connection.execute(
            """SELECT id FROM api_keys WHERE id = ANY(%s) AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > clock_timestamp())""",
            (list(key_ids),),
        )
        return {row[0] for row in rows}


def insert_ticket(  # noqa: PLR0917
    db: Database, ticket_sha256: bytes, tenant_id: str, key_id: str, scopes: Iterable[str], ttl_s: float
) -> datetime:
    """Store a socket ticket; answers when it expires."""
    with db.connect() as connection:
        row = connection.execute(
            """INSERT INTO ws_tickets (ticket_sha256, tenant_id, key_id, scopes, expires_at)
               VALUES (%s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s)) RETURNING expires_at""",
            (ticket_sha256, tenant_id, key_id, sorted(scopes), ttl_s),
        ).fetchone()
    assert row is not None  # noqa: S101 - RETURNING of a plain insert
    expires_at: datetime = row[0]
    return expires_at


def redeem_ticket(db: Database, ticket_sha256: bytes) -> TicketRow | None:
    """Use a ticket up, on whichever replica; None when it is unknown, used, late, or its key is no longer usable."""
    with db.connect() as connection:
        row = connection.execute(
            """DELETE FROM ws_tickets t USING api_keys k
               WHERE t.ticket_sha256 = %s AND k.id = t.key_id AND t.expires_at > clock_timestamp()
                 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
               RETURNING t.tenant_id, t.key_id, t.scopes, k.expires_at""",
            (ticket_sha256,),
        ).fetchone()
    return TicketRow(row[0], row[1], frozenset(row[2]), row[3]) if row else None


def _key(row: tuple[Any, ...]) -> KeyRow:
    id_, tenant_id, name, digest, scopes, *rest = row
    return KeyRow(id_, tenant_id, name, digest, frozenset(scopes), *rest)
