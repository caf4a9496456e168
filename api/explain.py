"""Why a job waits: one sentence, then what each step and each worker has to do with it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from api.views.base import View
from framewright import waiting
from framewright.errors import InsufficientVram
from framewright.jobs import Status, StepState
from framewright.rows import JobRow, StepRow, WorkerRow

_SAID = frozenset({InsufficientVram.code, *waiting.MENDED_BY_COMMAND})


class WorkerVerdict(View):
    """Whether one worker could take a step, and why not."""

    worker: str
    able: bool
    why: str


class StepVerdict(View):
    step: str
    state: StepState
    queue: str
    waits_for: tuple[str, ...]
    workers: tuple[WorkerVerdict, ...]


class Explanation(View):
    """`summary` is one sentence for a person; `code` is the machine's word for it."""

    job: str
    status: Status
    code: str
    summary: str
    queue_position: int | None
    steps: tuple[StepVerdict, ...]


def explain(name: str, row: JobRow, workers: Sequence[WorkerRow]) -> Explanation:
    code, summary = _summary(row, workers)
    done = {step.name for step in row.steps if step.state is StepState.SUCCEEDED}
    return Explanation(
        job=name,
        status=row.status,
        code=code,
        summary=summary,
        queue_position=row.queue_position,
        steps=tuple(_step(step, done, workers) for step in row.steps),
    )


def _summary(row: JobRow, workers: Sequence[WorkerRow]) -> tuple[str, str]:
    if row.ended:
        return str(row.status), f"The job has ended: {row.status}."
    # Between two attempts a job that has started waits like any other.
    if (step := row.current) and step.state is StepState.RUNNING:
        return "running", f"Running step {step.name} on {step.worker}, attempt {step.attempt}."
    if row.status is Status.SCHEDULED and row.run_at:
        return "scheduled", f"Starts at {row.run_at.isoformat()}, as was asked."
    if row.blocked:
        return row.blocked.code, " ".join(filter(None, (row.blocked.message, _what_fits(row, workers))))
    if row.queue_position and row.queue_position > 1:
        return "queued", f"Waits for a free worker; {row.queue_position - 1} steps go first."
    return "queued", "Next in its queue; starts as soon as a worker is free."


def _what_fits(row: JobRow, workers: Sequence[WorkerRow]) -> str | None:
    """For a model whose weights nobody has: the GPUs it would run on, and those that are there."""
    step = next((one for one in row.steps if one.state is StepState.READY), None)
    known = waiting.known(step.engine.partition(":")[2]) if step else None
    if step is None or known is None or row.blocked is None or row.blocked.code in _SAID:
        return None
    ways = waiting.placings(known)
    return f"It runs on a GPU of at least {ways}; there are: {waiting.gpus(step.queue, workers)}." if ways else None


def _lacking(engine: str, worker: WorkerRow) -> str:
    model = engine.partition(":")[2]
    if not model:
        return f"does not have the engine {engine}"
    why = waiting.lacking(model, worker)
    return f"cannot run {model}: {why.message}" if why else f"does not have the weights of {model}"


def _step(step: StepRow, done: set[str], workers: Sequence[WorkerRow]) -> StepVerdict:
    waits = step.state in {StepState.READY, StepState.BLOCKED}
    return StepVerdict(
        step=step.name,
        state=step.state,
        queue=step.queue,
        waits_for=tuple(name for name in step.needs if name not in done),
        workers=tuple(_verdict(step, worker) for worker in workers) if waits else (),
    )


def _verdict(step: StepRow, worker: WorkerRow) -> WorkerVerdict:
    able, why = True, "busy with another step" if worker.running else "free"
    if not worker.alive:
        able, why = False, "not heard of lately"
    elif step.queue not in worker.queues:
        able, why = False, f"does not serve the queue {step.queue}"
    elif step.engine not in worker.engines:
        able, why = False, _lacking(step.engine, worker)
    elif worker.control != "run":
        able, why = False, f"was told to {worker.control}"
    elif not worker.takes_work:
        able, why = False, "is shutting down"
    return WorkerVerdict(worker=worker.id, able=able, why=why)
