"""What a job would cost, without submitting it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body

from api.auth import JobsRead
from api.openapi import EXAMPLES, errors
from api.parts import P
from api.submitting import planned
from api.views.base import View
from framewright import store
from framewright.estimate import estimate
from framewright.params import JobRequest

router = APIRouter(prefix="/api/v1", tags=["jobs"])


class EstimatedStep(View):
    name: str
    kind: str
    model: str
    queue: str
    waiting: int
    workers: int


class EstimateView(View):
    """Seconds of work with nothing in the way, what a worker must have, and how many steps wait before it."""

    kind: str
    model: str | None
    params: dict[str, Any]
    adjusted: tuple[dict[str, Any], ...]
    steps: tuple[EstimatedStep, ...]
    seconds_p50: float
    seconds_p90: float
    basis: str
    vram_mb: int
    runnable_now: bool


@router.post("/estimate", responses=errors(404, 422), summary="Estimate a job")
def estimate_job(body: Annotated[JobRequest, Body(openapi_examples=EXAMPLES)], parts: P, who: JobsRead) -> EstimateView:
    plan = planned(parts, who, body)
    queues = {row.queue: row for row in store.queues(parts.db)}
    workers = parts.fleet()
    steps = tuple(
        EstimatedStep(
            name=step.name,
            kind=step.kind,
            model=step.model,
            queue=step.queue,
            waiting=queues[step.queue].depth if step.queue in queues else 0,
            workers=sum(worker.able(step.queue, step.engine) for worker in workers),
        )
        for step in plan.steps
    )
    made = estimate(plan, workers, paces=partial(store.paces, parts.db), durations=partial(store.durations, parts.db))
    return EstimateView(
        kind=plan.kind,
        model=plan.model,
        params=plan.params,
        adjusted=tuple(one.as_json() for one in plan.adjusted),
        steps=steps,
        seconds_p50=made.seconds_p50,
        seconds_p90=made.seconds_p90,
        basis=made.basis,
        vram_mb=made.vram_mb,
        runnable_now=all(step.workers for step in steps),
    )
