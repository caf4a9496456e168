"""How a worker leaves, and how an operator tells it to pause or to leave."""

from __future__ import annotations

import os
import signal

import pytest
from desk import TENANT, supervised
from waiting import until

from framewright import lifecycle, store

pytestmark = pytest.mark.fault


def test_a_draining_worker_gives_its_step_back_and_another_goes_on_from_the_checkpoint(desk, quick, tmp_path):
    with supervised(quick) as leaving:
        job_id = desk.submit(steps=20, step_ms=100)
        desk.running(job_id, step=3)
        leaving.drain()
        assert leaving.join(20)
        assert desk.outcomes(job_id) == ["yielded"]
        assert desk.job(job_id).steps[0].state == "ready"
    with supervised(quick):
        job = desk.succeeded(job_id)
    assert desk.outcomes(job_id) == ["yielded"]
    assert [(attempt.n, attempt.resumed) for attempt in job.attempts] == [(1, False), (1, True)]
    assert [attempt.exact for attempt in job.attempts] == [None, True]
    assert job.attempts[1].resumed_from_step >= 3
    assert {stamp.attempt for stamp in desk.scripts(job.outputs[0].key, tmp_path)} == {1}


def test_what_was_done_up_to_the_last_boundary_is_kept_when_a_worker_leaves(desk, quick):
    with supervised(quick.model_copy(update={"renew_s": 2.0})) as leaving:
        job_id = desk.submit(steps=200, step_ms=50)
        stored = desk.running(job_id).progress["step"]
        until(lambda: any((entry.data.get("step") or 0) >= stored + 10 for entry in desk.live(job_id)))
        leaving.drain()
        assert leaving.join(20)
    with desk.db.connect() as connection:
        (checkpoint,) = connection.execute("SELECT checkpoint FROM steps WHERE job_id = %s", (job_id,)).fetchone()
    assert checkpoint["state"]["step"] >= stored + 10
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_runner_that_reaches_no_boundary_does_not_keep_a_worker_from_leaving(desk, quick):
    settings = quick.model_copy(update={"drain_grace_s": 0.5})
    with supervised(settings) as leaving:
        job_id = desk.submit(steps=600, step_ms=100, stubborn=True)
        desk.running(job_id)
        leaving.drain()
        assert leaving.join(20)
        assert desk.outcomes(job_id) == ["yielded"]
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_runner_that_dies_while_its_worker_leaves_costs_no_attempt(desk, quick):
    with supervised(quick) as leaving:
        job_id = desk.submit(steps=600, step_ms=100, stubborn=True)
        desk.running(job_id)
        leaving.drain()
        os.kill(leaving.runner_pid, signal.SIGKILL)
        assert leaving.join(20)
        assert desk.outcomes(job_id) == ["yielded"]
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_step_claimed_while_its_worker_is_told_to_leave_goes_back(desk, quick):
    claims = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        " AND query LIKE '%fw_claim%'"
    )
    with supervised(quick) as leaving:
        desk.succeeded(desk.submit())
        with desk.db.begin() as holding, desk.db.connect() as watching:
            # The claim has to write there, so it cannot be answered before the order has been given.
            holding.execute("LOCK TABLE attempts IN EXCLUSIVE MODE")
            job_id = desk.submit(steps=600, step_ms=100)
            until(lambda: watching.execute(claims).fetchone())
            leaving.drain()
        assert leaving.join(20)
    # At a boundary: the runner has heard it too, before it began.
    ends = [event.data for event in desk.events(job_id) if event.type == "attempt_ended"]
    assert [(end["outcome"], end["message"]) for end in ends] == [("yielded", "the worker drains")]
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_paused_worker_claims_nothing_until_it_may_go_on(desk, own_worker):
    desk.succeeded(desk.submit())
    store.set_worker_control(desk.db, own_worker.name, "pause")
    job_id = desk.submit()
    until(lambda: own_worker.control == "pause", 20)
    assert desk.job(job_id).state == "queued"
    store.set_worker_control(desk.db, own_worker.name, "run")
    desk.succeeded(job_id)


def test_an_operator_can_drain_a_busy_worker(desk, own_worker):
    job_id = desk.submit(steps=600, step_ms=100)
    desk.running(job_id)
    store.set_worker_control(desk.db, own_worker.name, "drain")
    until(lambda: desk.outcomes(job_id), 15)
    assert desk.outcomes(job_id) == ["yielded"]
    assert desk.job(job_id).steps[0].state == "ready"
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_worker_that_left_in_order_leaves_no_presence(desk, quick):
    with supervised(quick) as supervisor:
        desk.succeeded(desk.submit())
        name = supervisor.name
    assert name not in {row.id for row in store.list_workers(desk.db)}
