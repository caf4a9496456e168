"""Makes jobs, workers and files for tests, through the real verbs and on the real database."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from framewright import ids, lifecycle, store
from framewright.database import Database
from framewright.jobs import Artifact, Claim
from framewright.plan import Plan, StepPlan
from framewright.rows import AssetRow, NewAsset, Presence

QUEUES = ("cpu", "gpu", "encode")
ENGINE = "scripted"


def step(name: str = "clip", *, needs: Sequence[str] = (), queue: str = "cpu", **changes: Any) -> StepPlan:
    facts: dict[str, Any] = {
        "name": name,
        "kind": "animate",
        "engine": ENGINE,
        "model": ENGINE,
        "queue": queue,
        "params": {"frames": 8},
        "inputs": {"video": {"step": needs[0]}} if needs else {},
        "needs": tuple(needs),
        "timeout_s": 60.0,
        "stall_s": 30.0,
        "max_app": 3,
        "work": 1,
    }
    return StepPlan(**{**facts, **changes})


def plan(*steps: StepPlan) -> Plan:
    made = steps or (step(),)
    return Plan("animate" if len(made) == 1 else "pipeline", ENGINE, made, {"frames": 8}, (), {})


def diamond(queues: Sequence[str] = ("gpu", "gpu", "cpu", "encode")) -> Plan:
    """Two steps need the first, the last needs both."""
    return plan(
        step("first", queue=queues[0]),
        step("left", needs=["first"], queue=queues[1]),
        step("right", needs=["first"], queue=queues[2]),
        step("last", needs=["left", "right"], queue=queues[3]),
    )


def submission(planned: Plan | None = None, tenant: str = "t1", **changes: Any) -> lifecycle.Submission:
    facts: dict[str, Any] = {
        "tenant_id": tenant,
        "plan": planned or plan(),
        "request": {"kind": "animate"},
        "max_queued": 100_000,
        "max_queued_per_tenant": 10_000,
    }
    return lifecycle.Submission(**{**facts, **changes})


def submit(db: Database, planned: Plan | None = None, tenant: str = "t1", **changes: Any) -> lifecycle.Submitted:
    return lifecycle.submit(db, submission(planned, tenant, **changes))


def claim(db: Database, worker: str = "w1", queues: Sequence[str] = QUEUES, lease_s: float = 30.0) -> Claim | None:
    return lifecycle.claim(db, worker, queues, [ENGINE], lease_s=lease_s)


def claimed(db: Database, worker: str = "w1", queues: Sequence[str] = QUEUES, lease_s: float = 30.0) -> Claim:
    found = claim(db, worker, queues, lease_s)
    assert found is not None, "nothing could be claimed"
    return found


def artifact(held: Claim, name: str = "out.mp4", **meta: Any) -> Artifact:
    """A file whose key carries the lease, as a worker would have uploaded it; another key every time."""
    key = f"t/{held.tenant_id}/j/{held.job_id}/s/{held.step_name}/{held.fence}/{uuid.uuid4()}/{name}"
    return Artifact(name, key, 1000, hashlib.sha256(key.encode()).digest(), "video/mp4", meta)


def complete(db: Database, held: Claim) -> lifecycle.Completed:
    return lifecycle.complete(db, held, [artifact(held)])


def presence(worker: str = "w1", **changes: Any) -> Presence:
    facts: dict[str, Any] = {
        "id": worker,
        "host": "host",
        "pid": 1,
        "version": "0",
        "queues": QUEUES,
        "engines": (ENGINE,),
        "kinds": ("animate",),
        "state": "idle",
        "ttl_s": 60.0,
    }
    return Presence(**{**facts, **changes})


def asset(db: Database, tenant: str = "t1", content: bytes | None = None, **changes: Any) -> AssetRow:
    id_ = ids.uuid7()
    facts: dict[str, Any] = {
        "id": id_,
        "tenant_id": tenant,
        "kind": "image",
        "content_type": "image/png",
        "filename": "a.png",
        "size": 10,
        "sha256": hashlib.sha256(content or id_.bytes).digest(),
        "key": f"t/{tenant}/a/{id_.hex}",
        "ttl_h": 1.0,
        "width": 64,
        "height": 48,
    }
    return store.insert_asset(db, NewAsset(**{**facts, **changes}))


def rows(db: Database, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
    """What the tables really hold."""
    with db.connect() as connection:
        return connection.execute(statement.encode(), values or None).fetchall()


def run(db: Database, statement: str, values: Sequence[Any] = ()) -> int:
    """Change rows behind the verbs' back, to set a scene; answers how many."""
    with db.connect() as connection:
        return connection.execute(statement.encode(), values or None).rowcount


def events(db: Database, job_id: uuid.UUID) -> list[str]:
    found = store.events_after(db, {job_id: 0})
    assert [event.seq for event in found] == list(range(1, len(found) + 1)), "seq has a gap"
    return [event.type for event in found]


TABLES = (
    "webhook_outbox", "webhook_endpoints", "workers", "uploads", "assets", "idempotency", "events", "artifacts",
    "attempts", "step_deps", "steps", "jobs", "tenant_open", "ws_tickets", "api_keys", "tenants",
)  # fmt: skip


def fresh(url: str, *tenants: str) -> Database:
    """The module's database without rows but these tenants. DELETE: on few rows it is faster than TRUNCATE."""
    db = Database(url, application="test", pool_size=10, max_overflow=50)
    with db.begin() as connection:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table}".encode())
    for tenant in tenants or ("t1", "t2"):
        store.ensure_tenant(db, tenant)
    return db
