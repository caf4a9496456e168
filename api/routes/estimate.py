"""What a job would cost, without submitting it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body

from api.auth import JobsRead
from api.openapi import EXAMPLES, errors
from api.parts import P
from api.submitting import planned
from api.views import View
from framewright import store
from framewright.params import JobRequest
from framewright.plan import Plan, estimate

router = APIRouter(prefix="/api/v1", tags=["jobs"])

# Fewer past runs than this say less than the catalogue does.
ENOUGH = 5


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
    p50, p90, basis = _seconds(parts, plan)
    return EstimateView(
        kind=plan.kind,
        model=plan.model,
        params=plan.params,
        adjusted=tuple(one.as_json() for one in plan.adjusted),
        steps=steps,
        seconds_p50=p50,
        seconds_p90=p90,
        basis=basis,
        vram_mb=estimate(plan).vram_mb,
        runnable_now=all(step.workers for step in steps),
    )


def _seconds(parts: P, plan: Plan) -> tuple[float, float, str]:
    past = [store.durations(parts.db, step.kind, step.model) for step in plan.steps]
    if all(one.n >= ENOUGH for one in past):
        return round(sum(one.p50_s for one in past), 1), round(sum(one.p90_s for one in past), 1), "recent_jobs"
    guess = estimate(plan)
    return guess.seconds_p50, guess.seconds_p90, guess.basis
