"""The verbs of a job: each changes rows and writes the events together, in one statement, or does nothing.

A verb rings no doorbell and publishes nothing; it answers which queues have new work, for the caller to ring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

from framewright import ids, store
from framewright.database import Database
from framewright.errors import (
    AssetUnusable,
    Conflict,
    DatabaseUnavailable,
    FieldError,
    Gone,
    IdempotencyKeyReuse,
    InvalidParams,
    NotFound,
    TooManyRequests,
)
from framewright.jobs import RETRIES, Artifact, Budget, Claim, JobState, Outcome, Progress, Retry, Status, StepState
from framewright.plan import Plan
from framewright.rows import JobRow, WorkerRow
from framewright.store import verbs
from framewright.store.submit import order_again, order_of, place, row_of
from framewright.waiting import lacks_model

POISON_KILLS = 3
UNBOUNDED = 2**31 - 1  # for a class that only the budgets of the step bind
AVOID_S = 120.0
LATER_S = 30.0  # from the second infrastructure failure on, where the first retry is immediate
BACKOFF_CAP_S = 300.0
FULL_RETRY_AFTER_S = 10
MESSAGE_CAP = 2000
DELETED_SINCE = (
    "the job that this Idempotency-Key made was deleted; nothing was made now; to make it again, use a new key"
)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An Idempotency-Key as stored: digests of 32 bytes, remembered for `ttl_h` hours."""

    route: str
    key_sha256: bytes
    body_sha256: bytes
    ttl_h: float


@dataclass(frozen=True, slots=True)
class Submission:
    """A planned request, ready to become a job. `output_ttl_h`: how long its outputs are kept, in hours."""

    tenant_id: str
    plan: Plan
    request: Mapping[str, Any]
    max_queued: int
    max_queued_per_tenant: int
    priority: int = 0
    run_at: datetime | None = None
    start_deadline: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: str | None = None
    idempotency: Idempotency | None = None
    retry_of: UUID | None = None
    output_ttl_h: float = 24 * 30


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job, whether an Idempotency-Key brought it back, and the queues to ring."""

    job: JobRow
    replayed: bool
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Completed:
    """`ok`: committed now; `already`: it was (an ambiguous answer, asked again); `fenced`: the lease is not yours.

    `seq` is the last event of the job, for the poke.
    """

    answer: Literal["ok", "already", "fenced"]
    queues: tuple[str, ...]
    job_state: JobState | None
    seq: int


@dataclass(frozen=True, slots=True)
class Released:
    """`retry`: the step will run again in `retry_in_s`; `failed`: the job failed; `fenced`: the lease is not yours."""

    answer: Literal["retry", "failed", "fenced"]
    queues: tuple[str, ...]
    retry_in_s: float | None
    seq: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """A lease that ran out (`worker_lost`) or stopped advancing (`stalled`), taken back."""

    job_id: UUID
    tenant_id: str
    step_id: int
    outcome: Outcome
    answer: Literal["retry", "failed"]
    queue: str
    seq: int


@dataclass(frozen=True, slots=True)
class Expired:
    """A job that was not started before its `start_deadline`, now failed with code `expired`."""

    job_id: UUID
    tenant_id: str
    seq: int


def submit(db: Database, submission: Submission) -> Submitted:
    """Make a job, or answer with the one this Idempotency-Key already made.

    Raises `IdempotencyKeyReuse` (same key, other body), `Gone` (the key's job was deleted since), `TooManyRequests`
    (the caps; exact per tenant),
    `AssetUnusable` (an input was deleted since it was planned) and `NotFound` for an unknown tenant.
    """
    order = order_of(
        submission.plan,
        tenant=submission.tenant_id,
        request=submission.request,
        priority=submission.priority,
        run_at=submission.run_at.isoformat() if submission.run_at else None,
        start_deadline=submission.start_deadline.isoformat() if submission.start_deadline else None,
        metadata=submission.metadata,
        webhook=submission.webhook,
        retry_of=submission.retry_of.hex if submission.retry_of else None,
        output_ttl_s=submission.output_ttl_h * 3600,
    )
    return _place(db, order, submission.max_queued, submission.max_queued_per_tenant, submission.idempotency)


def retry(
    db: Database,
    tenant_id: str,
    job_id: UUID,
    *,
    max_queued: int,
    max_queued_per_tenant: int,
    idempotency: Idempotency | None = None,
) -> Submitted:
    """Make a new job with the same plan as an ended one; `retry_of` names it.

    Raises `NotFound`, `Conflict` (it has not ended), `AssetUnusable` (an input has expired), and what `submit` does.
    """
    found = order_again(db, tenant_id, job_id)
    if found is None:
        raise NotFound("no such job")
    order, ended = found
    if not ended:
        raise Conflict("the job has not ended; cancel it first")
    wanted = {UUID(asset) for asset in order["assets"]}
    usable = [asset.id for asset in store.get_assets(db, tenant_id, wanted).values() if asset.state == "ready"]
    if wanted.difference(usable):
        raise AssetUnusable("an input of that job is no longer kept")
    return _place(db, order, max_queued, max_queued_per_tenant, idempotency)


def replay(db: Database, tenant_id: str, job_id: UUID) -> Submitted:
    """The job that an Idempotency-Key made before; `Gone` when it was deleted since: a key makes no second one."""
    try:
        return Submitted(store.get_job(db, tenant_id, job_id), replayed=True, queues=())
    except NotFound:
        raise Gone(DELETED_SINCE) from None


def claim(
    db: Database, worker_id: str, queues: Sequence[str], engines: Sequence[str], *, lease_s: float
) -> Claim | None:
    """Lease the best step this worker can run for `lease_s` seconds; None when there is none, or it is to pause."""
    row = verbs.claim(db, worker_id, queues, engines, lease_s)
    if row is None:
        return None
    job_id, step_id, tenant_id, fence, *rest = row
    return Claim(job_id, step_id, tenant_id, fence, *rest)


def renew(
    db: Database,
    claim: Claim,
    *,
    lease_s: float,
    progressed: bool,
    progress: Progress | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Literal["ok", "lost", "yield"]:
    """Keep a lease. `lost`: stop, commit nothing, delete nothing; `yield`: hand the step back at the next boundary.

    `progressed` winds the progress timer (`stall_s` of the step); a lease that ran out but was not reaped goes on.
    """
    answer = verbs.renew(
        db,
        claim,
        lease_s=lease_s,
        progressed=progressed,
        progress=progress.as_json() if progress else None,
        checkpoint=checkpoint,
    )
    return cast("Literal['ok', 'lost', 'yield']", answer)


def resumed(db: Database, claim: Claim, step: int, *, exact: bool) -> bool:
    """Note from which finished step an attempt goes on (0: from the beginning), and whether to the same bits.

    False when that was noted before, or the attempt has ended.
    """
    return verbs.resumed(db, claim, step, exact)


def complete(db: Database, claim: Claim, artifacts: Sequence[Artifact], *, checkpoints: bool = False) -> Completed:
    """Commit the uploaded files of an attempt, the first being the primary one, and whatever follows from it.

    `checkpoints`: the attempt stored some beside its files, so the janitor looks for any that are left.
    """
    if not artifacts:
        raise ValueError("a step succeeds with at least one artifact")
    files = [
        {
            "id": str(ids.uuid7()),
            "idx": at,
            "name": artifact.name,
            "key": artifact.key,
            "content_type": artifact.content_type,
            "size": artifact.size,
            "sha256": artifact.sha256.hex(),
            "meta": dict(artifact.meta),
        }
        for at, artifact in enumerate(artifacts)
    ]
    answer, state, queues, seq = verbs.complete(db, claim, files, checkpoints=checkpoints)
    return Completed(answer, tuple(queues), JobState(state) if state else None, seq)


def release(db: Database, claim: Claim, outcome: Outcome, *, message: str, field: str | None = None) -> Released:
    """End an attempt without success; the retry table decides what happens next.

    `field` is the JSON pointer that a `bad_input` names. Raises `ValueError` for an outcome that is no such end.
    """
    if outcome not in RETRIES:
        raise ValueError(f"{outcome} is not how an attempt is released")
    answer, queue, retry_in_s, seq = verbs.release(
        db, claim, outcome, message=_text(message), field=field, policies=_POLICIES
    )
    return Released(answer, (queue,) if retry_in_s == 0 else (), retry_in_s, seq)


def cancel(db: Database, tenant_id: str, job_id: UUID, reason: str) -> JobRow:
    """End a job now, revoking every lease; a job that has ended stays as it is. Answers its true state."""
    if verbs.cancel(db, tenant_id, job_id, _text(reason)) is None:
        raise NotFound("no such job")
    return store.get_job(db, tenant_id, job_id)


UNSET: Any = object()  # `None` is a value of run_at


def patch(
    db: Database,
    tenant_id: str,
    job_id: UUID,
    *,
    priority: int | None = None,
    run_at: datetime | None = UNSET,
    metadata: Mapping[str, str] | None = None,
) -> JobRow:
    """Change a queued job; `run_at=None` means now.

    `Conflict` once it was started; `InvalidParams` when it could not start before its `start_deadline` any more.
    """
    changes: dict[str, Any] = {}
    if priority is not None:
        changes["priority"] = priority
    if run_at is not UNSET:
        changes["run_at"] = run_at.isoformat() if run_at else None
    if metadata is not None:
        changes["metadata"] = dict(metadata)
    state = verbs.patch(db, tenant_id, job_id, changes)
    if state is None:
        raise NotFound("no such job")
    if state == "never_starts":
        detail = "run_at must be earlier than the job's start_deadline"
        raise InvalidParams(detail, fields=(FieldError("/run_at", "out_of_range", detail),))
    if state != JobState.QUEUED:
        raise Conflict(f"the job is {state}; only a queued job can be changed")
    return store.get_job(db, tenant_id, job_id)


def delete(db: Database, tenant_id: str, job_id: UUID) -> None:
    """Cancel a job if it is open, hide it, and let its outputs go. `NotFound` as for reading it."""
    if not verbs.delete(db, tenant_id, job_id):
        raise NotFound("no such job")


def reap(db: Database, *, grace_s: float, limit: int = 1000) -> list[Reaped]:
    """Take back leases that ran out or stopped advancing.

    Takes nothing until the server has been up, and this process has reached it without a break, for `grace_s`
    (one lease): after an outage every living worker gets to renew first.
    """
    reaped: list[Reaped] = []
    while db.steady_s >= grace_s and len(reaped) < limit and (row := verbs.reap(db, grace_s, _POLICIES)):
        job_id, tenant_id, step_id, outcome, *rest = row
        reaped.append(Reaped(job_id, tenant_id, step_id, Outcome(outcome), *rest))
    return reaped


def expire(db: Database, *, limit: int = 1000) -> list[Expired]:
    """Fail jobs that were not started before their `start_deadline`, with code `expired`."""
    expired: list[Expired] = []
    while len(expired) < limit and (row := verbs.expire(db)):
        expired.append(Expired(*row))
    return expired


def _witnesses(db: Database) -> Sequence[WorkerRow]:
    """The workers, who say why a job waits; it was made already, so nobody hears of a database that went away since."""
    try:
        return store.list_workers(db)
    except DatabaseUnavailable:
        return ()


def _text(message: str) -> str:
    return message.replace("\0", "")[:MESSAGE_CAP]


def _policy(retry: Retry) -> dict[str, Any]:
    immediate = retry.budget is Budget.INFRA and retry.elsewhere and not retry.backoff_s
    return {
        "budget": retry.budget,
        "limit": UNBOUNDED if retry.limit is None else retry.limit,
        "first_s": retry.backoff_s,
        "later_s": LATER_S if immediate else retry.backoff_s * 2,
        "cap_s": BACKOFF_CAP_S,
        "jitter": 0.5 if retry.backoff_s else 0.0,
        "elsewhere": retry.elsewhere,
        "avoid_s": AVOID_S,
        "kill": retry.kill,
        "poison": POISON_KILLS,
    }


_POLICIES = json.dumps({outcome: _policy(retry) for outcome, retry in RETRIES.items()})


def _place(
    db: Database, order: Mapping[str, Any], max_open: int, max_per_tenant: int, key: Idempotency | None
) -> Submitted:
    job_id = ids.uuid7()
    placed = place(
        db,
        job_id,
        order,
        max_open=max_open,
        max_per_tenant=max_per_tenant,
        route=key.route if key else None,
        key_sha256=key.key_sha256 if key else None,
        body_sha256=key.body_sha256 if key else None,
        key_ttl_s=key.ttl_h * 3600 if key else None,
    )
    match placed.answer:
        case "made":
            lacking = lacks_model(placed.blocked, order["steps"][0]["engine"])
            job = row_of(job_id, order, placed, _witnesses(db) if lacking else ())
            due = job.status is not Status.SCHEDULED
            ready = {step.queue for step in job.steps if step.state is StepState.READY} if due else set()
            return Submitted(job, replayed=False, queues=tuple(sorted(ready)))
        case "replayed" if placed.job_id:
            return replay(db, order["tenant"], placed.job_id)
        case "key_reused":
            raise IdempotencyKeyReuse("this Idempotency-Key was used with another body")
        case "tenant_full":
            raise TooManyRequests("too many of your jobs are open", retry_after_s=FULL_RETRY_AFTER_S)
        case "full":
            raise TooManyRequests("too many jobs are open", retry_after_s=FULL_RETRY_AFTER_S)
        case "asset_gone":
            raise AssetUnusable("an input was deleted; upload it again")
        case _:
            raise NotFound("no such tenant")
