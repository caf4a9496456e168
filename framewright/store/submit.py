"""The submit statement: what is sent, and what comes back. The hot path, so one statement and few conversions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from framewright.database import Database
from framewright.jobs import JobState, Status, StepState
from framewright.plan import Plan
from framewright.rows import JobRow, StepRow, WorkerRow
from framewright.waiting import blocked

# Text, not jsonb parameters: json.dumps once and no adapter in between.
_SUBMIT = "SELECT * FROM fw_submit(%s, %s::jsonb, %s, %s, %s, %s, %s, %s)"


class Placed(NamedTuple):
    """The answer of the statement: made, replayed, key_reused, tenant_full, full, no_tenant, asset_gone."""

    answer: str
    job_id: UUID | None
    created_at: datetime | None
    status: str | None
    blocked: str | None
    step_ids: list[int] | None


def order_of(plan: Plan, **facts: Any) -> dict[str, Any]:
    """A plan as the statement takes it; `facts` are the job's other columns (ISO times, hex ids)."""
    numbers = {step.name: at for at, step in enumerate(plan.steps)}
    needed = {name for step in plan.steps for name in step.needs}
    steps = [
        {
            "idx": numbers[step.name],
            "name": step.name,
            "kind": step.kind,
            "engine": step.engine,
            "model": step.model,
            "queue": step.queue,
            "sink": step.name not in needed,
            "work": step.work,
            "params": step.params,
            "inputs": step.inputs,
            "needs": [numbers[name] for name in step.needs],
            "max_app": step.max_app,
            "timeout_s": step.timeout_s,
            "stall_s": step.stall_s,
        }
        for step in plan.steps
    ]
    return {
        "kind": plan.kind,
        "model": plan.model,
        "input": plan.input,
        "params": plan.params,
        "adjusted": [adjusted.as_json() for adjusted in plan.adjusted],
        "assets": sorted({asset for step in plan.steps for asset in _assets(step.inputs)}),
        "steps": steps,
        **facts,
    }


def _assets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(asset := value.get("asset"), str):
            yield asset
        else:
            for inner in value.values():
                yield from _assets(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _assets(inner)


def place(
    db: Database,
    job_id: UUID,
    order: Mapping[str, Any],
    *,
    max_open: int,
    max_per_tenant: int,
    route: str | None = None,
    key_sha256: bytes | None = None,
    body_sha256: bytes | None = None,
    key_ttl_s: float | None = None,
) -> Placed:
    """Make a job out of an order, in one transaction with its idempotency record."""
    text = json.dumps(order, ensure_ascii=False, separators=(",", ":"))
    with db.connect() as connection:
        row = connection.execute(
            _SUBMIT, (job_id, text, max_open, max_per_tenant, route, key_sha256, body_sha256, key_ttl_s)
        ).fetchone()
    assert row is not None  # noqa: S101 - the function answers exactly one row
    return Placed(*row)


def row_of(job_id: UUID, order: Mapping[str, Any], placed: Placed, workers: Sequence[WorkerRow] = ()) -> JobRow:
    """The row as it was just written, without reading it back: this is the hot path. `workers` may say why it waits."""
    assert placed.created_at is not None  # noqa: S101 - set whenever a job was made
    assert placed.step_ids is not None  # noqa: S101
    first = order["steps"][0]
    steps = tuple(_step_of(step, order, step_id) for step, step_id in zip(order["steps"], placed.step_ids, strict=True))
    return JobRow(
        id=job_id,
        tenant_id=order["tenant"],
        kind=order["kind"],
        model=order["model"],
        state=JobState.QUEUED,
        status=Status(placed.status or ""),
        event_seq=1,
        priority=order["priority"],
        input=order["input"],
        params=order["params"],
        adjusted=tuple(order["adjusted"]),
        request=order["request"],
        metadata=order["metadata"],
        webhook=order["webhook"],
        retry_of=UUID(order["retry_of"]) if order["retry_of"] else None,
        run_at=_utc(order["run_at"]),
        start_deadline=_utc(order["start_deadline"]),
        created_at=placed.created_at,
        started_at=None,
        finished_at=None,
        expires_at=None,
        cancel_reason=None,
        error=None,
        blocked=blocked(placed.blocked, first["queue"], first["engine"], kind=first["kind"], workers=workers),
        queue_position=None,
        steps=steps,
        attempts=(),
        outputs=(),
    )


def _step_of(step: Mapping[str, Any], order: Mapping[str, Any], step_id: int) -> StepRow:
    names = [other["name"] for other in order["steps"]]
    return StepRow(
        id=step_id,
        name=step["name"],
        kind=step["kind"],
        engine=step["engine"],
        model=step["model"],
        queue=step["queue"],
        state=StepState.BLOCKED if step["needs"] else StepState.READY,
        attempt=0,
        needs=tuple(names[at] for at in step["needs"]),
        params=step["params"],
        worker=None,
        run_at=None if step["needs"] else _utc(order["run_at"]),
        started_at=None,
        finished_at=None,
        progress=None,
        message=None,
        artifact=None,
    )


def _utc(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def order_again(db: Database, tenant_id: str, job_id: UUID) -> tuple[dict[str, Any], bool] | None:
    """The order that would make the same job once more, and whether that job has ended; None when there is none."""
    with db.connect() as connection:
        row = connection.execute(
            """SELECT jsonb_build_object(
                   'tenant', j.tenant_id, 'kind', j.kind, 'model', j.model, 'input', j.input, 'params', j.params,
                   'adjusted', j.adjusted, 'request', j.request, 'metadata', j.metadata, 'webhook', j.webhook,
                   'priority', j.priority, 'assets', to_jsonb(j.assets), 'retry_of', j.id,
                   'output_ttl_s', j.output_ttl_s, 'run_at', NULL, 'start_deadline', NULL,
                   'steps', (SELECT jsonb_agg(jsonb_build_object(
                        'idx', s.idx, 'name', s.name, 'kind', s.kind, 'engine', s.engine, 'model', s.model,
                        'queue', s.queue, 'sink', s.sink, 'work', s.work, 'params', s.params, 'inputs', s.inputs,
                        'needs', (SELECT coalesce(jsonb_agg(n.idx ORDER BY n.idx), '[]') FROM step_deps d
                                  JOIN steps n ON n.id = d.needs WHERE d.step_id = s.id),
                        'max_app', s.max_app, 'timeout_s', s.timeout_s, 'stall_s', s.stall_s) ORDER BY s.idx)
                    FROM steps s WHERE s.job_id = j.id)),
                   j.finished_at IS NOT NULL
               FROM jobs j WHERE j.id = %s AND j.tenant_id = %s AND j.deleted_at IS NULL""",
            (job_id, tenant_id),
        ).fetchone()
    return (row[0], row[1]) if row else None
