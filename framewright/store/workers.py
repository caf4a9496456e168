"""Workers: their presence, and what an operator asked of them."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from framewright.database import Database
from framewright.errors import NotFound
from framewright.rows import Control, Presence, WorkerRow


def upsert_worker(db: Database, presence: Presence) -> Control:
    """Say that a worker is there for another `ttl_s`; answers what is asked of it."""
    with db.connect() as connection:
        row = connection.execute(
            """INSERT INTO workers AS w (id, host, pid, version, queues, engines, kinds, capabilities, state,
                                         alive_until)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s))
               ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid, version = excluded.version,
                   queues = excluded.queues, engines = excluded.engines, kinds = excluded.kinds,
                   capabilities = excluded.capabilities, state = excluded.state, seen_at = clock_timestamp(),
                   alive_until = excluded.alive_until,
                   started_at = CASE WHEN w.pid = excluded.pid AND w.host = excluded.host
                                     THEN w.started_at ELSE clock_timestamp() END
               RETURNING control""",
            (
                presence.id,
                presence.host,
                presence.pid,
                presence.version,
                list(presence.queues),
                list(presence.engines),
                list(presence.kinds),
                Jsonb(dict(presence.capabilities)),
                presence.state,
                presence.ttl_s,
            ),
        ).fetchone()
    control: Control = row[0] if row else "run"
    return control


_SEEN = """SELECT w.id, w.host, w.pid, w.version, w.queues, w.engines, w.kinds, w.state, w.control,
                  w.alive_until > clock_timestamp(), w.started_at, w.seen_at, w.capabilities,
                  ARRAY(SELECT s.job_id FROM steps s WHERE s.state = 'running' AND s.worker_id = w.id ORDER BY s.id)
           FROM workers w"""


def list_workers(db: Database) -> list[WorkerRow]:
    """Every worker that was not forgotten yet, the latest seen first."""
    with db.connect() as connection:
        return [_worker(row) for row in connection.execute(f"{_SEEN} ORDER BY w.seen_at DESC, w.id")]


def get_worker(db: Database, worker_id: str) -> WorkerRow:
    """One worker, or `NotFound`."""
    with db.connect() as connection:
        row = connection.execute(f"{_SEEN} WHERE w.id = %s", (worker_id,)).fetchone()
    if row is None:
        raise NotFound("no such worker")
    return _worker(row)


def set_worker_control(db: Database, worker_id: str, control: Control) -> WorkerRow:
    """Ask a worker to go on, to claim nothing (`pause`), or to hand its step back as well (`drain`)."""
    with db.connect() as connection:
        connection.execute("UPDATE workers SET control = %s WHERE id = %s", (control, worker_id))
    return get_worker(db, worker_id)


def forget_worker(db: Database, worker_id: str) -> None:
    """A clean stop: the worker is gone at once."""
    with db.connect() as connection:
        connection.execute("DELETE FROM workers WHERE id = %s", (worker_id,))


def _worker(row: tuple[Any, ...]) -> WorkerRow:
    id_, host, pid, version, queues, engines, kinds, state, control, alive, *rest = row
    started_at, seen_at, capabilities, running = rest
    return WorkerRow(
        id_, host, pid, version, tuple(queues), tuple(engines), tuple(kinds), state, control, alive, started_at,
        seen_at, capabilities, tuple(running),
    )  # fmt: skip
