"""Queues: what is due, what runs, what to ring for."""

from __future__ import annotations

from framewright.database import Database
from framewright.rows import QueueRow


def due_doorbells(db: Database, *, every_s: float, limit: int = 64) -> dict[str, int]:
    """Per queue, how many due steps were not rung for within `every_s` (at most `limit`); they count as rung now."""
    with db.connect() as connection:
        return dict(connection.execute("SELECT queue, n FROM fw_doorbells(%s, %s)", (every_s, limit)).fetchall())


def queues(db: Database) -> list[QueueRow]:
    """Every queue that has a step waiting or running, or a live worker; by name."""
    with db.connect() as connection:
        rows = connection.execute(
            """WITH waiting AS (
                   SELECT queue, count(*) FILTER (WHERE run_at <= clock_timestamp()) AS depth,
                          count(*) FILTER (WHERE run_at > clock_timestamp()) AS scheduled,
                          extract(epoch FROM clock_timestamp() - min(greatest(ready_at, run_at))
                              FILTER (WHERE run_at <= clock_timestamp()))::float8 AS oldest
                   FROM steps WHERE state = 'ready' GROUP BY 1
               ), running AS (SELECT queue, count(*) AS n FROM steps WHERE state = 'running' GROUP BY 1
               ), serving AS (
                   SELECT queue, count(*) FILTER (WHERE takes) AS n, count(*) FILTER (WHERE NOT takes) AS paused
                   FROM (SELECT unnest(queues) AS queue, control = 'run' AND state <> 'draining' AS takes
                         FROM workers WHERE alive_until > clock_timestamp()) live GROUP BY 1)
               SELECT queue, coalesce(w.depth, 0), coalesce(w.scheduled, 0), coalesce(r.n, 0), w.oldest,
                      coalesce(s.n, 0), coalesce(s.paused, 0)
               FROM waiting w FULL JOIN running r USING (queue) FULL JOIN serving s USING (queue) ORDER BY 1"""
        )
        return [QueueRow(*row) for row in rows]
