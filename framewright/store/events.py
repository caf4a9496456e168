"""The durable log of events, read for many jobs at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from framewright.database import Database
from framewright.rows import EventRow


def events_after(db: Database, after: Mapping[UUID, int], *, limit: int = 500) -> list[EventRow]:
    """Per job the first `limit` events with a greater `seq`, by job and seq. Not tenant-scoped: check the job first."""
    if not after:
        return []
    with db.connect() as connection:
        rows = connection.execute(
            """SELECT e.job_id, e.tenant_id, e.seq, e.type, e.data, e.at
               FROM unnest(%s::uuid[], %s::bigint[]) AS w (job_id, seq)
               CROSS JOIN LATERAL (SELECT * FROM events e WHERE e.job_id = w.job_id AND e.seq > w.seq
                                   ORDER BY e.seq LIMIT %s) e
               ORDER BY e.job_id, e.seq""",
            (list(after.keys()), list(after.values()), limit),
        )
        return [EventRow(*row) for row in rows]


def events_since(db: Database, tenant_id: str, at: datetime, *, limit: int = 1000) -> list[EventRow]:
    """A tenant's events from `at` on, by time. A commit can be later than its `at`: ask again with some overlap."""
    with db.connect() as connection:
        rows = connection.execute(
            """SELECT job_id, tenant_id, seq, type, data, at FROM events
               WHERE tenant_id = %s AND at >= %s ORDER BY at, job_id, seq LIMIT %s""",
            (tenant_id, at, limit),
        )
        return [EventRow(*row) for row in rows]
