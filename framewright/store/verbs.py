"""The verbs' statements, one function each. `framewright.lifecycle` is who calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from framewright.database import Database
from framewright.jobs import Claim

Row = tuple[Any, ...]


def claim(db: Database, worker_id: str, queues: Sequence[str], engines: Sequence[str], lease_s: float) -> Row | None:
    """The best step this worker can run, leased to it."""
    with db.connect() as connection:
        return connection.execute(
            "SELECT * FROM fw_claim(%s, %s, %s, %s)", (worker_id, list(queues), list(engines), lease_s)
        ).fetchone()


def renew(
    db: Database,
    claim: Claim,
    *,
    lease_s: float,
    progressed: bool,
    progress: Mapping[str, Any] | None,
    checkpoint: Mapping[str, Any] | None,
) -> str:
    """ok, yield or lost."""
    values = (claim.step_id, claim.fence, lease_s, progressed, _json(progress), _json(checkpoint))
    return str(_one(db, "SELECT fw_renew(%s, %s, %s, %s, %s, %s)", values)[0])


def resumed(db: Database, claim: Claim, step: int, exact: bool) -> bool:
    """False when the attempt has ended, or said so before."""
    return bool(_one(db, "SELECT fw_resumed(%s, %s, %s)", (claim.fence, step, exact))[0])


def complete(db: Database, claim: Claim, artifacts: list[dict[str, Any]], *, checkpoints: bool) -> Row:
    """(ok, already or fenced; state of the job; queues; seq)."""
    values = (claim.job_id, claim.step_id, claim.fence, Jsonb(artifacts), checkpoints)
    return _one(db, "SELECT * FROM fw_complete(%s, %s, %s, %s, %s)", values)


def release(db: Database, claim: Claim, outcome: str, *, message: str, field: str | None, policies: str) -> Row:
    """(retry, failed or fenced; queue; seconds until the retry; seq)."""
    values = (claim.job_id, claim.step_id, claim.fence, outcome, message, field, policies)
    return _one(db, "SELECT * FROM fw_release(%s, %s, %s, %s, %s, %s, %s::jsonb)", values)


def cancel(db: Database, tenant_id: str, job_id: UUID, reason: str) -> Row | None:
    """(state, seq) of the job after it; None when there is no such job."""
    with db.connect() as connection:
        return connection.execute("SELECT * FROM fw_cancel(%s, %s, %s)", (tenant_id, job_id, reason)).fetchone()


def delete(db: Database, tenant_id: str, job_id: UUID) -> bool:
    """False when there is no such job."""
    return bool(_one(db, "SELECT fw_delete(%s, %s)", (tenant_id, job_id))[0])


def patch(db: Database, tenant_id: str, job_id: UUID, changes: Mapping[str, Any]) -> str | None:
    """The state the job was found in: only `queued` was changed. None when there is no such job."""
    with db.connect() as connection:
        row = connection.execute(
            "SELECT state FROM fw_patch(%s, %s, %s)", (tenant_id, job_id, Jsonb(dict(changes)))
        ).fetchone()
    return row[0] if row else None


def reap(db: Database, grace_s: float, policies: str) -> Row | None:
    """One lease taken back, or None."""
    with db.connect() as connection:
        return connection.execute("SELECT * FROM fw_reap(%s, %s::jsonb)", (grace_s, policies)).fetchone()


def expire(db: Database) -> Row | None:
    """One job failed for its start deadline, or None."""
    with db.connect() as connection:
        return connection.execute("SELECT * FROM fw_expire()").fetchone()


def _one(db: Database, statement: str, values: Sequence[Any]) -> Row:
    with db.connect() as connection:
        row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None  # noqa: S101 - these functions answer exactly one row
    return row


def _json(value: Mapping[str, Any] | None) -> Jsonb | None:
    return None if value is None else Jsonb(dict(value))
