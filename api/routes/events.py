"""The events of one job as a stream (SSE)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from starlette.concurrency import run_in_threadpool

from api.auth import JobsRead
from api.feed import Feed
from api.openapi import errors
from api.parts import P
from api.stream import EventStream, nothing_left
from framewright import ids, store
from framewright.errors import TooManyRequests

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The stream.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "The job has ended and nothing is left to say."},
}


@router.get("/{job_id}/events", response_class=Response, responses=STREAM | errors(404, 429), summary="Follow a job")
async def follow_job(
    job_id: str,
    parts: P,
    who: JobsRead,
    last_event_id: Annotated[str | None, Header(max_length=20, description="Resume after this `seq`.")] = None,
    after: Annotated[int, Query(ge=0, le=2**62, description="The same, for clients that cannot set a header.")] = 0,
) -> Response:
    """Every event from the first (or after `Last-Event-ID`), progress in between, and the end after the last one.

    Each event has an `id`, its `seq`; progress has none and may be skipped. A comment is sent every 15 s.
    """
    row = await run_in_threadpool(store.get_job, parts.db, who.tenant_id, ids.parse(ids.JOB, job_id))
    seen = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else after
    if nothing_left(row, seen):
        return Response(status_code=204)
    if parts.hub.full:
        raise TooManyRequests("this process has all the streams it can carry", retry_after_s=5)
    return EventStream(parts.hub, Feed(who.tenant_id, who.key_id), row, min(seen, row.event_seq))
