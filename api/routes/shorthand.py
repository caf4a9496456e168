"""The short routes: three calls for an app that wants a video and nothing else, over the same jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field

from api.auth import JobsRead, JobsWrite
from api.idempotency import Idempotent
from api.openapi import errors
from api.parts import P
from api.submitting import submit
from api.views.base import View
from api.views.jobs import JobView
from framewright import catalogue, ids, store
from framewright.catalogue.asking import MAX_PROMPT
from framewright.errors import FieldError, FramewrightError, InvalidParams
from framewright.jobs import Status
from framewright.params import Input, JobRequest, Strict

router = APIRouter(prefix="/api/video", tags=["shorthand"])

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
Name = Annotated[str, Field(max_length=64)]


class GenerateShorthand(Strict):
    prompt: Prompt
    model: Name | None = None
    params: Annotated[dict[str, Any], Field(default_factory=dict)]


class AnimateShorthand(Strict):
    image: Annotated[str, Field(min_length=1, max_length=64, description="An asset's id.")]
    prompt: Prompt | None = None
    model: Name | None = None
    params: Annotated[dict[str, Any], Field(default_factory=dict)]


class ShorthandView(View):
    """`progress` in percent; `video_url` once there is a video."""

    job_id: str
    status: Status
    progress: int
    phase: str | None
    video_url: str | None
    error: str | None
    status_url: str


@router.post("/generate", status_code=201, responses=errors(410, 422, 429), summary="Text to video")
def generate_video(
    body: GenerateShorthand, parts: P, who: JobsWrite, idempotency: Idempotent, response: Response
) -> ShorthandView:
    request = JobRequest(kind="generate", model=body.model, params={"prompt": body.prompt, **body.params})
    return _made(parts, who, request, idempotency, response)


@router.post("/animate", status_code=201, responses=errors(404, 410, 422, 429), summary="Image to video")
def animate_image(
    body: AnimateShorthand, parts: P, who: JobsWrite, idempotency: Idempotent, response: Response
) -> ShorthandView:
    params = dict(body.params)
    if body.prompt is not None:
        row = catalogue.find("animate", body.model, test_engines=parts.settings.test_engines)
        if "prompt" not in row.params.model_fields:
            detail = f"{row.name} moves a camera over the picture and takes no prompt; leave it out or name a model"
            raise InvalidParams(detail, fields=(FieldError("/prompt", "unknown_field", detail),))
        params["prompt"] = body.prompt
    request = JobRequest(kind="animate", model=body.model, input=Input(image=body.image), params=params)
    return _made(parts, who, request, idempotency, response)


@router.get("/status/{job_id}", responses=errors(404), summary="How far a job is")
def video_status(job_id: str, parts: P, who: JobsRead) -> ShorthandView:
    row = store.get_job(parts.db, who.tenant_id, ids.parse(ids.JOB, job_id))
    return _short(parts, parts.views.job(row, parts.hub.latest(row.id)))


def _made(parts: P, who: JobsWrite, request: JobRequest, idempotency: Idempotent, response: Response) -> ShorthandView:
    try:
        submitted = submit(parts, who, request, idempotency)
    except FramewrightError as error:
        # Picture and prompt stand at the top here.
        error.fields = tuple(replace(field, pointer=_at_the_top(field.pointer)) for field in error.fields)
        raise
    short = _short(parts, parts.views.job(submitted.job))
    response.headers["Location"] = short.status_url
    if submitted.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return short


def _at_the_top(pointer: str) -> str:
    return "/prompt" if pointer == "/params/prompt" else pointer.removeprefix("/input")


def _short(parts: P, job: JobView) -> ShorthandView:
    return ShorthandView(
        job_id=job.id,
        status=job.status,
        progress=round(job.progress.fraction * 100),
        phase=job.phase,
        video_url=job.outputs[0].links.content if job.outputs else None,
        error=job.error.message if job.error else None,
        status_url=f"{parts.settings.public_url.rstrip('/')}/api/video/status/{job.id}",
    )
