"""A worker whose runner finds that it cannot run a model: the step costs nobody anything and is not claimed again."""

from __future__ import annotations

from desk import picture
from waiting import until

from framewright import store
from framewright.jobs import StepState


def told(desk, name):
    """The worker, once it says that it refuses something."""
    row = store.get_worker(desk.db, name)
    return row if row.capabilities["models"]["refused"] else None


def test_a_step_that_this_worker_cannot_run_waits_for_another_one(desk, own_worker):
    job_id = desk.submit(unfit_at=2)
    desk.succeeded(desk.animate(*desk.uploaded(picture())))
    # Nobody else is there to have claimed that one, which came later.
    (attempt,) = desk.job(job_id).attempts
    assert (attempt.outcome, attempt.worker) == ("model_not_ready", own_worker.name)
    assert attempt.message == "this worker lacks the weights; run: framewright models pull scripted"
    worker = until(lambda: told(desk, own_worker.name))
    job = desk.job(job_id)
    (step,) = job.steps
    assert (step.state, step.attempt, job.error) == (StepState.READY, 0, None)
    assert (job.blocked.code, "scripted" in worker.engines) == ("no_capability", False)
    assert worker.capabilities["models"]["refused"] == {
        "scripted": {"code": "model_not_ready", "message": attempt.message}
    }
