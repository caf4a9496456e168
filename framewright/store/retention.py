"""What the janitor asks: which files, prefixes and rows have had their time. Every answer is bounded and repeatable."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from framewright.database import Database
from framewright.rows import AssetRow, DeadJob, DeadPrefix, Purged, UploadRow
from framewright.store.assets import ASSET_COLUMNS, UPLOAD_COLUMNS

GRACE_S = 3600.0  # an asset that was just found usable can still become an input of a job
AGAIN_S = 600.0  # a janitor that died between marking and deleting is made good after this


def expire_assets(db: Database, *, limit: int = 500) -> list[AssetRow]:
    """Mark what is past its expiry, and no open job reads, as removed; delete the objects, then `mark_purged`."""
    with db.connect() as connection:
        rows = connection.execute(
            f"""WITH due AS (
                    SELECT a.id FROM assets a
                    WHERE a.purged_at IS NULL AND (a.removed_at IS NULL OR a.removed_at < clock_timestamp() - %(again)s)
                      AND a.expires_at < clock_timestamp()
                          - CASE WHEN a.deleted_at IS NULL AND a.origin = 'upload' THEN %(grace)s ELSE interval '0' END
                      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.tenant_id = a.tenant_id AND j.finished_at IS NULL
                                      AND a.id = ANY (j.assets))
                      AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = a.job_id AND j.finished_at IS NULL)
                    ORDER BY a.expires_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED)
                UPDATE assets SET removed_at = clock_timestamp() FROM due WHERE assets.id = due.id
                RETURNING {ASSET_COLUMNS.replace("id, tenant_id", "assets.id, tenant_id", 1)}""",  # noqa: S608
            {"again": _seconds(AGAIN_S), "grace": _seconds(GRACE_S), "limit": limit},
        )
        return [AssetRow(*row) for row in rows]


def mark_purged(db: Database, asset_ids: Iterable[UUID]) -> None:
    """The objects of these assets are gone. A job of which none is left is due for a sweep of its whole prefix."""
    ids = list(asset_ids)
    with db.begin() as connection:
        # The jobs first, as every verb does; and two that purge the last two objects of a job take turns, so that the
        # second sees that none is left.
        jobs = connection.execute(
            """SELECT id FROM jobs WHERE id IN (SELECT job_id FROM assets WHERE id = ANY(%s))
               ORDER BY id FOR NO KEY UPDATE""",
            (ids,),
        ).fetchall()
        connection.execute(
            "UPDATE assets SET purged_at = clock_timestamp() WHERE id = ANY(%s) AND removed_at IS NOT NULL", (ids,)
        )
        connection.execute(
            """UPDATE jobs SET sweep_at = clock_timestamp() WHERE id = ANY(%s) AND finished_at IS NOT NULL
               AND NOT EXISTS (SELECT 1 FROM assets a WHERE a.job_id = jobs.id AND a.purged_at IS NULL)""",
            ([job for (job,) in jobs],),
        )


def trim_outputs(db: Database, max_bytes: int, *, limit: int = 500) -> int:
    """Let the oldest outputs expire until the rest of all assets fits; answers how many (at most `limit`)."""
    with db.connect() as connection:
        return connection.execute(
            """WITH held AS (SELECT coalesce(sum(size), 0) AS bytes FROM assets
                             WHERE removed_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())),
                    oldest AS (
                        SELECT id, sum(size) OVER (ORDER BY created_at, id) - size AS freed FROM assets
                        WHERE origin = 'output' AND removed_at IS NULL AND expires_at > clock_timestamp()
                          AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.tenant_id = assets.tenant_id
                                          AND j.finished_at IS NULL
                                          AND (assets.id = ANY (j.assets) OR j.id = assets.job_id))
                        ORDER BY created_at, id LIMIT %s)
               UPDATE assets SET expires_at = clock_timestamp() FROM oldest, held
               WHERE assets.id = oldest.id AND held.bytes - oldest.freed > %s""",
            (limit, max_bytes),
        ).rowcount


def dead_prefixes(db: Database, *, limit: int = 500) -> list[DeadPrefix]:
    """Ended attempts that are due for a sweep; then `mark_swept`. Of one that succeeded only the checkpoints go.

    One that wrote the checkpoint which its step would resume from waits until that step has ended.
    """
    with db.connect() as connection:
        rows = connection.execute(
            """SELECT a.tenant_id, a.job_id, a.step_id, s.name, a.fence, a.outcome = 'succeeded'
               FROM attempts a JOIN steps s ON s.id = a.step_id
               WHERE a.sweep_at <= clock_timestamp()
                 AND (s.finished_at IS NOT NULL
                      OR s.checkpoint ->> 'fence' IS DISTINCT FROM replace(a.fence::text, '-', ''))
               ORDER BY a.sweep_at LIMIT %s""",
            (limit,),
        )
        return [DeadPrefix(*row) for row in rows]


def mark_swept(db: Database, fences: Iterable[UUID]) -> None:
    """Those prefixes are empty. Each comes once more a day after its attempt ended: a frozen worker may wake late."""
    with db.connect() as connection:
        connection.execute(
            """UPDATE attempts SET sweep_at = CASE WHEN sweep_at < ended_at + interval '1 day'
                                                   THEN ended_at + interval '1 day' END
               WHERE fence = ANY(%s)""",
            (list(fences),),
        )


def dead_jobs(db: Database, *, limit: int = 500) -> list[DeadJob]:
    """Jobs whose last object is gone and whose whole prefix is due for a sweep; then `mark_jobs_swept`."""
    with db.connect() as connection:
        rows = connection.execute(
            "SELECT tenant_id, id FROM jobs WHERE sweep_at <= clock_timestamp() ORDER BY sweep_at LIMIT %s", (limit,)
        )
        return [DeadJob(*row) for row in rows]


def mark_jobs_swept(db: Database, job_ids: Iterable[UUID]) -> None:
    """Nothing is left of those jobs. As with attempts, each comes once more a day after it ended."""
    with db.connect() as connection:
        connection.execute(
            """UPDATE jobs SET sweep_at = CASE WHEN sweep_at < finished_at + interval '1 day'
                                               THEN finished_at + interval '1 day' END
               WHERE id = ANY(%s)""",
            (list(job_ids),),
        )


def dead_uploads(db: Database, *, limit: int = 500) -> list[UploadRow]:
    """Uploads to whose keys nobody can write any more; delete what lies there, then `mark_uploads_removed`.

    Completed ones too, for the link works until it expires. A key that an asset was stored under is never told.
    """
    with db.connect() as connection:
        rows = connection.execute(
            f"""SELECT {UPLOAD_COLUMNS} FROM uploads u WHERE removed_at IS NULL AND expires_at < clock_timestamp() - %s
                  AND NOT EXISTS (SELECT 1 FROM assets a WHERE a.key = u.key)
                ORDER BY expires_at LIMIT %s""",  # noqa: S608
            (_seconds(GRACE_S), limit),
        )
        return [UploadRow(*row) for row in rows]


def mark_uploads_removed(db: Database, upload_ids: Iterable[UUID]) -> None:
    """Nothing lies under the keys of these uploads."""
    with db.connect() as connection:
        connection.execute("UPDATE uploads SET removed_at = clock_timestamp() WHERE id = ANY(%s)", (list(upload_ids),))


def purge(db: Database, *, event_ttl_h: float, worker_ttl_s: float, limit: int = 1000) -> Purged:
    """Remove expired idempotency records and tickets, events of jobs that ended long ago, and workers long gone."""
    with db.connect() as connection:
        keys = connection.execute(
            """DELETE FROM idempotency WHERE (tenant_id, route, key_sha256) IN (
                   SELECT tenant_id, route, key_sha256 FROM idempotency
                   WHERE expires_at < clock_timestamp() LIMIT %s)""",
            (limit,),
        ).rowcount
        tickets = connection.execute("DELETE FROM ws_tickets WHERE expires_at < clock_timestamp()").rowcount
        events = connection.execute(
            """WITH old AS (
                   SELECT id FROM jobs WHERE finished_at < clock_timestamp() - %s AND pruned_at IS NULL
                   ORDER BY finished_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED),
               marked AS (UPDATE jobs SET pruned_at = clock_timestamp() FROM old WHERE jobs.id = old.id)
               DELETE FROM events USING old WHERE events.job_id = old.id""",
            (_seconds(event_ttl_h * 3600), limit),
        ).rowcount
        workers = connection.execute(
            """DELETE FROM workers
               WHERE seen_at < clock_timestamp() - %s AND alive_until < clock_timestamp()""",
            (_seconds(worker_ttl_s),),
        ).rowcount
    return Purged(keys, tickets, events, workers)


def _seconds(value: float) -> timedelta:
    return timedelta(seconds=value)
