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
from framewright.plan import Plan, StepPlan, estimate
from framewright.rows import Durations
from framewright.store.jobs import ALIKE

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


def _steps(step: StepPlan) -> int:
    """Denoise steps of a model's weights; 0 for engines without."""
    return int(step.params["steps"]) if ":" in step.engine else 0


def _past(parts: P, step: StepPlan) -> Durations | None:
    """What such steps took until now, at the measured pace where it is one of a model's; None if too few did."""
    if steps := _steps(step):
        paced = store.paced(parts.db, step.kind, step.model, steps=steps, work=step.work)
        return paced if paced.n >= ALIKE else None
    taken = store.durations(parts.db, step.kind, step.model)
    return taken if taken.n >= ENOUGH else None


def _seconds(parts: P, plan: Plan) -> tuple[float, float, str]:
    past = [_past(parts, step) for step in plan.steps]
    if all(past):
        basis = "measured" if any(_steps(step) for step in plan.steps) else "recent_jobs"
        return round(sum(one.p50_s for one in past if one), 1), round(sum(one.p90_s for one in past if one), 1), basis
    guess = estimate(plan)
    return guess.seconds_p50, guess.seconds_p90, guess.basis
