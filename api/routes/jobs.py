"""Jobs: submit, read, list, change, cancel, retry, delete, and why one waits."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api.auth import JobsRead, JobsWrite
from api.explain import Explanation, explain
from api.feed import Feed
from api.idempotency import Idempotent
from api.openapi import EXAMPLES, errors
from api.paging import Page
from api.parts import P
from api.submitting import retry, submit
from api.views import jobs as views
from api.views.base import ListView, listed
from api.views.jobs import AttemptView, JobView
from framewright import events, ids, lifecycle, store
from framewright.errors import BadRequest, FieldError, NotFound
from framewright.jobs import Status
from framewright.lifecycle import UNSET, Submitted
from framewright.params import JobRequest, Moment, Strict, pointer
from framewright.rows import JobRow

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

MAX_WAIT_S = 60
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,5})(?:$|[,;\s])", re.IGNORECASE)
_FILTER = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
_QUERY = frozenset(("status", "kind", "model", "created_after", "created_before", "limit", "after", "before", "order"))

Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class CancelRequest(Strict):
    reason: Annotated[str, Field(max_length=200)] | None = None


class PatchRequest(Strict):
    """What may change while a job waits; `run_at: null` means now."""

    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    run_at: Moment | None = None
    metadata: Metadata | None = None


@router.post("", status_code=201, responses=errors(404, 409, 410, 422, 429), summary="Submit a job")
def create_job(
    parts: P,
    who: JobsWrite,
    body: Annotated[JobRequest, Body(openapi_examples=EXAMPLES)],
    idempotency: Idempotent,
    response: Response,
) -> JobView:
    return created(parts, submit(parts, who, body, idempotency), response)


def created(parts: P, submitted: Submitted, response: Response) -> JobView:
    """The answer to a submission: where the job is, and whether it was there before."""
    view = parts.views.job(submitted.job)
    response.headers["Location"] = view.links.self
    if submitted.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return view


@router.get("", responses=errors(400, 422), summary="List jobs")
def list_jobs(
    *,
    parts: P,
    who: JobsRead,
    page: Page,
    request: Request,
    status: Status | None = None,
    kind: Annotated[str | None, Query(max_length=32)] = None,
    model: Annotated[str | None, Query(max_length=64)] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
) -> ListView[JobView]:
    """Newest first unless `order=asc`. `metadata[name]=value` filters by metadata, as often as wanted."""
    after, before = page.cursors(ids.JOB)
    rows, more = store.list_jobs(
        parts.db,
        who.tenant_id,
        status=status,
        kind=kind,
        model=model,
        created_after=created_after,
        created_before=created_before,
        metadata=_filters(request),
        after=after,
        before=before,
        limit=page.limit,
        order=page.order,
    )
    return listed([parts.views.job(row, parts.hub.latest(row.id)) for row in rows], has_more=more)


def _filters(request: Request) -> dict[str, str] | None:
    """The metadata filters. A name that is no filter is refused: left out, it would answer with too many jobs."""
    wanted: dict[str, str] = {}
    wrong = []
    for name, value in request.query_params.multi_items():
        if (found := _FILTER.fullmatch(name)) and wanted.setdefault(found[1], value) == value:
            continue
        if found or name not in _QUERY:
            said = "given twice" if found else "not a filter of this list"
            wrong.append(FieldError(pointer("query", name), "unknown_filter", said))
    if wrong:
        detail = "filter by status, kind, model, created_after, created_before and metadata[name]"
        raise BadRequest(detail, fields=tuple(wrong))
    if len(wanted) > 16:
        raise BadRequest("filter by 16 metadata names at most")
    return wanted or None


@router.get("/{job_id}", responses=errors(404), summary="Read a job, or wait for its end")
async def get_job(
    job_id: str,
    parts: P,
    who: JobsRead,
    response: Response,
    prefer: Annotated[str | None, Header(description="`wait=30` holds the answer until the job ends.")] = None,
) -> JobView:
    row = await run_in_threadpool(store.get_job, parts.db, who.tenant_id, ids.parse(ids.JOB, job_id))
    wanted = _WAIT.search(prefer or "")
    if wanted and not parts.hub.full:
        wait_s = min(int(wanted[1]), MAX_WAIT_S)
        response.headers["Preference-Applied"] = f"wait={wait_s}"
        row = await _ended(parts, who, row, wait_s)
    return parts.views.job(row, parts.hub.latest(row.id))


async def _ended(parts: P, who: JobsRead, row: JobRow, wait_s: int) -> JobRow:
    if row.ended:
        return row
    feed = Feed(who.tenant_id, who.key_id)
    with parts.hub.open(feed):
        parts.hub.follow(feed, row)
        try:
            async with asyncio.timeout(wait_s):
                await parts.hub.ended(feed, row.id)
        except TimeoutError:
            pass
    return await run_in_threadpool(store.get_job, parts.db, who.tenant_id, row.id)


@router.patch("/{job_id}", responses=errors(404, 409, 422), summary="Change a job that waits")
def patch_job(job_id: str, body: PatchRequest, parts: P, who: JobsWrite) -> JobView:
    row = lifecycle.patch(
        parts.db,
        who.tenant_id,
        ids.parse(ids.JOB, job_id),
        priority=body.priority,
        run_at=body.run_at if "run_at" in body.model_fields_set else UNSET,
        metadata=body.metadata,
    )
    parts.announce(row, sorted({step.queue for step in row.steps}))
    return parts.views.job(row)


@router.post("/{job_id}/cancel", responses=errors(404, 422), summary="Cancel a job")
def cancel_job(job_id: str, parts: P, who: JobsWrite, body: CancelRequest | None = None) -> JobView:
    """Final at once. A job that has ended is answered as it is, so cancelling twice is safe."""
    row = lifecycle.cancel(
        parts.db, who.tenant_id, ids.parse(ids.JOB, job_id), (body and body.reason) or "canceled by request"
    )
    parts.announce(row)
    parts.hint(row.id)
    return parts.views.job(row)


@router.post("/{job_id}/retry", status_code=201, responses=errors(404, 409, 410, 429), summary="Run an ended job again")
def retry_job(job_id: str, parts: P, who: JobsWrite, idempotency: Idempotent, response: Response) -> JobView:
    """Makes a new job from the same request; `retry_of` names the old one."""
    return created(parts, retry(parts, who, ids.parse(ids.JOB, job_id), idempotency), response)


@router.delete("/{job_id}", status_code=204, responses=errors(404), summary="Cancel and forget a job")
def delete_job(job_id: str, parts: P, who: JobsWrite) -> None:
    found = ids.parse(ids.JOB, job_id)
    lifecycle.delete(parts.db, who.tenant_id, found)
    parts.hint(found)


@router.get("/{job_id}/attempts", responses=errors(404), summary="Every attempt at a job")
def list_attempts(job_id: str, parts: P, who: JobsRead) -> ListView[AttemptView]:
    rows = store.attempts(parts.db, who.tenant_id, ids.parse(ids.JOB, job_id))
    return listed([views.attempt(row) for row in rows])


@router.get("/{job_id}/explain", responses=errors(404), summary="Why a job waits and where it can run")
def explain_job(job_id: str, parts: P, who: JobsRead) -> Explanation:
    row = store.get_job(parts.db, who.tenant_id, ids.parse(ids.JOB, job_id))
    return explain(job_id, row, parts.fleet())


PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}, "image/webp": {}, "image/png": {}}}}


@router.get(
    "/{job_id}/preview", responses=PICTURE | errors(404), response_class=Response, summary="The newest preview of a job"
)
async def get_preview(job_id: str, parts: P, who: JobsRead) -> Response:
    """A picture of the work so far; 404 when there was none in the last minute."""
    found = ids.parse(ids.JOB, job_id)
    await run_in_threadpool(store.get_job, parts.db, who.tenant_id, found)
    preview = await events.last_preview(parts.settings, found)
    if preview is None:
        raise NotFound("this job has no preview now")
    return Response(preview[0], media_type=str(preview[1].get("mime", "application/octet-stream")))
