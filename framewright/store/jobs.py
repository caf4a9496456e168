"""Jobs as their owner reads them: one, many, a page; with steps, attempts and outputs in the same statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from framewright.database import Database
from framewright.errors import BadRequest, NotFound
from framewright.jobs import JobState, Outcome, Status, StepState
from framewright.rows import (
    AttemptRow,
    Blocked,
    Durations,
    IdempotentRow,
    JobError,
    JobRow,
    OutputRow,
    Pace,
    StepRow,
    WorkerRow,
)
from framewright.store.workers import list_workers
from framewright.waiting import blocked, lacks_model

POSITION_CAP = 1000
LIST_POSITION_CAP = 100

# `picked` (id uuid) comes first; everything else of a job is looked up from there by index.
_DETAILS = """
SELECT j.*, fw_status(j.state, j.run_at, w.code) AS status,
       w.code AS wait_code, w.queue AS wait_queue, w.engine AS wait_engine, w.until AS wait_until,
       w.outcome AS wait_outcome, w.place,
       (SELECT jsonb_agg(jsonb_build_array(s.id, s.name, s.kind, s.engine, s.model, s.queue, s.state, s.attempt,
                (SELECT coalesce(jsonb_agg(n.name ORDER BY n.idx), '[]') FROM step_deps d
                 JOIN steps n ON n.id = d.needs WHERE d.step_id = s.id),
                s.params, s.worker_id, nullif(s.run_at, '-infinity'), s.started_at, s.finished_at, s.progress,
                s.last_error, s.output_artifact) ORDER BY s.idx)
        FROM steps s WHERE s.job_id = j.id) AS steps,
       (SELECT jsonb_agg(jsonb_build_array(a.step_id, s.name, a.n, a.worker_id, a.started_at, a.ended_at, a.outcome,
                a.message, a.resumed, a.resumed_from_step, a.exact) ORDER BY a.started_at, a.step_id, a.n, a.leg)
        FROM attempts a JOIN steps s ON s.id = a.step_id WHERE a.job_id = j.id) AS attempts,
       (SELECT jsonb_agg(jsonb_build_array(f.id, s.name, f.name, f.key, f.content_type, f.size,
                encode(f.sha256, 'hex'),
                CASE WHEN o.deleted_at IS NOT NULL THEN 'deleted'
                     WHEN o.removed_at IS NOT NULL OR o.expires_at <= clock_timestamp() THEN 'expired'
                     ELSE 'ready' END,
                o.width, o.height, o.frames, o.fps, o.duration_s, o.codecs, f.meta, o.created_at, o.expires_at)
                ORDER BY s.idx, f.idx)
        FROM artifacts f JOIN steps s ON s.id = f.step_id JOIN assets o ON o.id = f.id
        WHERE f.job_id = j.id AND s.sink) AS outputs
FROM picked p JOIN jobs j ON j.id = p.id
LEFT JOIN LATERAL fw_waits(CASE WHEN j.finished_at IS NULL THEN j.id END, {cap}) w ON true
"""


def get_job(db: Database, tenant_id: str, job_id: UUID) -> JobRow:
    """One job; `NotFound` for an unknown, deleted or foreign id."""
    found = _details(db, _ONE, (job_id, tenant_id), POSITION_CAP)
    if not found:
        raise NotFound("no such job")
    return found[0]


_ONE = "SELECT id FROM jobs WHERE id = %s AND tenant_id = %s AND deleted_at IS NULL"
_SOME = "SELECT id FROM jobs WHERE id = ANY(%s) AND tenant_id = %s AND deleted_at IS NULL"


def get_jobs(db: Database, tenant_id: str, job_ids: Sequence[UUID]) -> list[JobRow]:
    """Those of the jobs that exist for this tenant, in no particular order."""
    return _details(db, _SOME, (list(job_ids), tenant_id), POSITION_CAP)


def list_jobs(
    db: Database,
    tenant_id: str,
    *,
    status: Status | None = None,
    kind: str | None = None,
    model: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    metadata: Mapping[str, str] | None = None,
    after: UUID | None = None,
    before: UUID | None = None,
    limit: int = 20,
    order: Literal["asc", "desc"] = "desc",
) -> tuple[list[JobRow], bool]:
    """A page in order of creation and whether more follow; `after` and `before` are exclusive, in that order.

    Raises `BadRequest` for a cursor that names no job of this tenant. With only `before`, the page that ends there.
    """
    cursors = [cursor for cursor in (after, before) if cursor]
    if cursors and _count_own(db, tenant_id, cursors) != len(set(cursors)):
        raise BadRequest("the cursor names no job")
    wheres, values = ["j.tenant_id = %s", "j.deleted_at IS NULL"], [tenant_id]
    onward, back = (">", "<") if order == "asc" else ("<", ">")
    # `asked` is what the statement compares; a None was not asked for.
    for clause, asked in (
        ("j.kind = %s", kind),
        ("j.model = %s", model),
        ("j.created_at >= %s", created_after),
        ("j.created_at < %s", created_before),
        ("j.metadata <> '{}' AND j.metadata @> %s", Jsonb(dict(metadata)) if metadata else None),
        (f"j.id {onward} %s", after),
        (f"j.id {back} %s", before),
    ):
        if asked is not None:
            wheres.append(clause)
            values.append(asked)  # type: ignore[arg-type]
    wheres += _STATUS_IS[status] if status else ()
    backwards = before is not None and after is None
    ascending = (order == "asc") != backwards
    way = "ASC" if ascending else "DESC"
    picked = (
        f"SELECT j.id FROM jobs j WHERE {' AND '.join(wheres)} "  # noqa: S608 - clauses are ours, values are bound
        f"ORDER BY j.tenant_id {way}, j.id {way} LIMIT {limit + 1:d}"
    )
    found = sorted(_details(db, picked, values, LIST_POSITION_CAP), key=lambda job: job.id, reverse=not ascending)
    page = found[:limit]
    return page[::-1] if backwards else page, len(found) > limit


_WAITING = "(SELECT w.code IS NOT NULL FROM (SELECT 1) one LEFT JOIN LATERAL fw_waits(j.id, 0) w ON true)"
_DUE = "(j.run_at IS NULL OR j.run_at <= clock_timestamp())"
_OPEN = "j.finished_at IS NULL"
_STATUS_IS: Mapping[Status, tuple[str, ...]] = {
    Status.SCHEDULED: (_OPEN, "j.state = 'queued'", f"NOT {_DUE}"),
    Status.QUEUED: (_OPEN, "j.state = 'queued'", _DUE, f"NOT {_WAITING}"),
    Status.WAITING: (_OPEN, "j.state = 'queued'", _DUE, _WAITING),
    Status.RUNNING: (_OPEN, "j.state = 'running'"),
    Status.SUCCEEDED: ("j.state = 'succeeded'",),
    Status.FAILED: ("j.state IN ('failed', 'canceled')", "j.state = 'failed'"),
    Status.CANCELED: ("j.state IN ('failed', 'canceled')", "j.state = 'canceled'"),
}


def _count_own(db: Database, tenant_id: str, job_ids: Sequence[UUID]) -> int:
    with db.connect() as connection:
        row = connection.execute(
            "SELECT count(*) FROM jobs WHERE tenant_id = %s AND id = ANY(%s)", (tenant_id, list(job_ids))
        ).fetchone()
    return row[0] if row else 0


def attempts(db: Database, tenant_id: str, job_id: UUID) -> list[AttemptRow]:
    """Every lease that was handed out for the job, oldest first; `NotFound` as `get_job`."""
    return list(get_job(db, tenant_id, job_id).attempts)


def open_jobs(db: Database) -> int:
    """How many jobs of all tenants have not ended."""
    with db.connect() as connection:
        row = connection.execute("SELECT coalesce(sum(n), 0)::bigint FROM tenant_open WHERE tenant_id = '*'").fetchone()
    return row[0] if row else 0


def find_idempotent(db: Database, tenant_id: str, route: str, key_sha256: bytes) -> IdempotentRow | None:
    """What an unexpired Idempotency-Key was used for."""
    with db.connect() as connection:
        row = connection.execute(
            "SELECT body_sha256, job_id FROM idempotency"
            " WHERE tenant_id = %s AND route = %s AND key_sha256 = %s AND expires_at > clock_timestamp()",
            (tenant_id, route, key_sha256),
        ).fetchone()
    return IdempotentRow(*row) if row else None


def durations(db: Database, kind: str, model: str) -> Durations:
    """Seconds from start to commit of the last 200 succeeded steps of that kind and model."""
    with db.connect() as connection:
        row = connection.execute(
            """SELECT count(*), coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), 0),
                      coalesce(percentile_cont(0.9) WITHIN GROUP (ORDER BY seconds), 0)
               FROM (SELECT extract(epoch FROM finished_at - started_at)::float8 AS seconds FROM steps
                     WHERE kind = %s AND model = %s AND state = 'succeeded'
                     ORDER BY finished_at DESC LIMIT 200) latest""",
            (kind, model),
        ).fetchone()
    return Durations(*row) if row else Durations(0, 0.0, 0.0)


def paces(db: Database, kind: str, model: str) -> list[Pace]:
    """The pace of the last 200 runs of a model that were not taken up from another worker's, the latest first."""
    with db.connect() as connection:
        rows = connection.execute(
            """SELECT s.work, extract(epoch FROM t.ended_at - t.started_at)::float8, m.step_s,
                      s.params - '{prompt,negative_prompt}'::text[], t.worker_id
               FROM steps s JOIN artifacts a ON a.id = s.output_artifact
                    JOIN attempts t ON t.job_id = s.job_id AND t.step_id = s.id AND t.outcome = 'succeeded',
                    jsonb_to_record(a.meta) AS m (step_s float8, resumed_from_step integer)
               WHERE s.kind = %s AND s.model = %s AND s.state = 'succeeded' AND s.work > 0
                 AND m.step_s > 0 AND coalesce(m.resumed_from_step, 0) = 0
               ORDER BY s.finished_at DESC LIMIT 200""",
            (kind, model),
        ).fetchall()
    return [Pace(*row) for row in rows]


def _details(db: Database, picked: str, values: Sequence[Any], cap: int) -> list[JobRow]:
    statement = f"WITH picked AS MATERIALIZED ({picked}) {_DETAILS.format(cap=cap)}"
    with db.connect() as connection, connection.cursor(row_factory=namedtuple_row) as cursor:
        rows: list[Any] = cursor.execute(statement.encode(), values).fetchall()
    lacking = any(lacks_model(row.wait_code, row.wait_engine) for row in rows)
    workers = list_workers(db) if lacking else ()
    return [_job(row, workers) for row in rows]


def _blocked(row: Any, workers: Sequence[WorkerRow]) -> Blocked | None:
    kinds = (step[2] for step in row.steps or () if step[3] == row.wait_engine and step[6] == StepState.READY)
    return blocked(
        row.wait_code,
        row.wait_queue,
        row.wait_engine,
        until=row.wait_until,
        outcome=row.wait_outcome,
        kind=next(kinds, ""),
        workers=workers,
    )


def _job(row: Any, workers: Sequence[WorkerRow]) -> JobRow:
    outputs = tuple(map(_output, row.outputs or ()))
    return JobRow(
        id=row.id,
        tenant_id=row.tenant_id,
        kind=row.kind,
        model=row.model,
        state=JobState(row.state),
        status=Status(row.status),
        event_seq=row.event_seq,
        priority=row.priority,
        input=row.input,
        params=row.params,
        adjusted=tuple(row.adjusted),
        request=row.request,
        metadata=row.metadata,
        webhook=row.webhook,
        retry_of=row.retry_of,
        run_at=row.run_at,
        start_deadline=row.start_deadline,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=min((output.expires_at for output in outputs if output.expires_at), default=None),
        cancel_reason=row.cancel_reason,
        error=JobError(row.error_code, row.error_message or "", row.error_field) if row.error_code else None,
        blocked=_blocked(row, workers),
        queue_position=row.place,
        steps=tuple(map(_step, row.steps or ())),
        attempts=tuple(map(_attempt, row.attempts or ())),
        outputs=outputs,
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _step(row: Sequence[Any]) -> StepRow:
    (id_, name, kind, engine, model, queue, state, attempt, needs, params, worker, run_at, started, finished) = row[:14]
    progress, message, artifact = row[14:]
    return StepRow(
        id_, name, kind, engine, model, queue, StepState(state), attempt, tuple(needs), params, worker,
        _time(run_at), _time(started), _time(finished), progress, message, UUID(artifact) if artifact else None,
    )  # fmt: skip


def _attempt(row: Sequence[Any]) -> AttemptRow:
    step, name, n, worker, started, ended, outcome, message, resumed, from_step, exact = row
    return AttemptRow(
        step, name, n, worker, datetime.fromisoformat(started), _time(ended), Outcome(outcome) if outcome else None,
        message, resumed, from_step, exact,
    )  # fmt: skip


def _output(row: Sequence[Any]) -> OutputRow:
    id_, step, name, key, content_type, size, sha256, state, *facts, meta, created, expires = row
    width, height, frames, fps, duration_s, codecs = facts
    return OutputRow(
        UUID(id_), step, name, key, content_type, size, bytes.fromhex(sha256), state, width, height, frames, fps,
        duration_s, codecs, meta, datetime.fromisoformat(created), _time(expires),
    )  # fmt: skip
