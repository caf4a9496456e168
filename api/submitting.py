"""From a checked request to a job: look up its assets, plan it, hand it to the lifecycle, ring for it."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from api.auth import Caller
from api.parts import Parts
from framewright import ids, lifecycle, plan, store
from framewright.errors import AssetUnusable, FieldError, FramewrightError, IdempotencyKeyReuse, InvalidParams
from framewright.given import AssetFacts, asset_ids
from framewright.lifecycle import Idempotency, Submission, Submitted
from framewright.params import JobRequest
from framewright.plan import Plan
from framewright.rows import AssetRow


def planned(parts: Parts, who: Caller, request: JobRequest) -> Plan:
    """The steps of a request; every refusal names its field."""
    named = asset_ids(request)
    wanted = {ids.parse(ids.ASSET, text): text for text in named.values()}
    rows = store.get_assets(parts.db, who.tenant_id, list(wanted)) if wanted else {}
    expired = {wanted[row.id] for row in rows.values() if row.state == "expired"}
    if expired:
        detail = "this asset has expired; upload it again"
        wrong = [FieldError(place, "asset_expired", detail) for place, text in named.items() if text in expired]
        raise AssetUnusable(detail, fields=tuple(wrong))
    facts = {wanted[row.id]: _facts(row) for row in rows.values() if row.state == "ready"}
    settings = parts.settings
    return plan.plan(request, facts, test_engines=settings.test_engines, stall_s=settings.stall_s)


def submit(parts: Parts, who: Caller, request: JobRequest, idempotency: Idempotency | None) -> Submitted:
    """Accepts a job durably, or answers with the one that this Idempotency-Key made."""
    settings = parts.settings
    try:
        _in_time(request)
        submission = Submission(
            tenant_id=who.tenant_id,
            plan=planned(parts, who, request),
            request=request.model_dump(mode="json", exclude_unset=True),
            priority=request.priority,
            run_at=request.run_at,
            start_deadline=request.start_deadline,
            metadata=request.metadata,
            webhook=request.webhook,
            idempotency=idempotency,
            max_queued=settings.max_queued,
            max_queued_per_tenant=settings.max_queued_per_tenant,
            output_ttl_h=settings.asset_ttl_h,
        )
    except FramewrightError:
        # What was accepted once is answered again, even when its input has gone since.
        if idempotency and (replayed := _made_before(parts, who, idempotency)):
            return replayed
        raise
    try:
        submitted = lifecycle.submit(parts.db, submission)
    except AssetUnusable:
        # Deleted since it was planned: planned again, the refusal names the field.
        planned(parts, who, request)
        raise
    parts.announce(submitted.job, submitted.queues)
    parts.metrics.submitted.labels(submitted.job.kind, str(submitted.replayed).lower()).inc()
    return submitted


def retry(parts: Parts, who: Caller, job_id: UUID, idempotency: Idempotency | None) -> Submitted:
    """A new job with the plan of an ended one, or the one that this Idempotency-Key made of it."""
    try:
        submitted = lifecycle.retry(
            parts.db,
            who.tenant_id,
            job_id,
            max_queued=parts.settings.max_queued,
            max_queued_per_tenant=parts.settings.max_queued_per_tenant,
            idempotency=idempotency,
        )
    except FramewrightError:
        # As above: also when the old job, or what it read, has gone since.
        if idempotency and (replayed := _made_before(parts, who, idempotency)):
            return replayed
        raise
    parts.announce(submitted.job, submitted.queues)
    return submitted


def _in_time(request: JobRequest) -> None:
    if request.start_deadline is not None and request.start_deadline <= datetime.now(UTC):
        detail = "the deadline to start has already passed"
        raise InvalidParams(detail, fields=(FieldError("/start_deadline", "out_of_range", detail),))


def _made_before(parts: Parts, who: Caller, idempotency: Idempotency) -> Submitted | None:
    found = store.find_idempotent(parts.db, who.tenant_id, idempotency.route, idempotency.key_sha256)
    if found is None:
        return None
    if found.body_sha256 != idempotency.body_sha256:
        raise IdempotencyKeyReuse("this Idempotency-Key came with another request before")
    return lifecycle.replay(parts.db, who.tenant_id, found.job_id)


def _facts(row: AssetRow) -> AssetFacts:
    return AssetFacts(
        id=row.id,
        content_type=row.content_type,
        kind=row.kind,
        size=row.size,
        width=row.width,
        height=row.height,
        frames=row.frames,
        fps=row.fps,
        duration_s=row.duration_s,
        key=row.key,
        sha256=row.sha256.hex(),
    )
