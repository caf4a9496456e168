"""A supervisor with a real runner, a real database, a real store."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
import redis
from desk import TENANT
from waiting import until

from framewright import lifecycle, store
from framewright.jobs import Outcome


def test_a_job_is_run_without_any_doorbell_and_its_file_carries_its_own_stamp(desk, worker, tmp_path):
    job_id = desk.submit(frames=5)
    job = desk.succeeded(job_id)
    assert desk.types(job_id) == ["queued", "step_started", "step_succeeded", "succeeded"]
    main = job.outputs[0]
    assert (main.frames, main.width, main.height, main.fps) == (5, 192, 152, "24/1")
    assert main.codecs.startswith("hvc1")
    stamps = desk.scripts(main.key, tmp_path)
    assert [(stamp.job, stamp.attempt, stamp.index) for stamp in stamps] == [(job_id.hex, 1, n) for n in range(5)]


def test_progress_and_previews_are_shown_live_and_never_fall(desk, worker, quick):
    job_id = desk.submit(steps=8, step_ms=60, preview_every=2)
    desk.succeeded(job_id)
    until(lambda: any(e.type == "poke" and e.seq >= desk.job(job_id).event_seq for e in desk.live(job_id)))
    until(lambda: any(e.data.get("phase") == "uploading" for e in desk.live(job_id)))
    fractions = [entry.data["fraction"] for entry in desk.live(job_id) if entry.type == "progress"]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) >= 3
    assert max(fractions) <= 0.99
    assert any(entry.type == "preview" and entry.data["mime"] == "image/jpeg" for entry in desk.live(job_id))


def test_a_runner_that_is_killed_costs_a_retry_on_a_new_runner_and_nothing_else(desk, worker, tmp_path):
    job_id = desk.submit(steps=20, step_ms=100, frames=3)
    desk.running(job_id)
    first = worker.runner_pid
    os.kill(first, signal.SIGKILL)
    until(lambda: desk.outcomes(job_id), 5)
    assert desk.outcomes(job_id) == ["runner_lost"]
    job = desk.succeeded(job_id)
    assert worker.runner_pid != first
    assert {(stamp.job, stamp.attempt) for stamp in desk.scripts(job.outputs[0].key, tmp_path)} == {(job_id.hex, 2)}


@pytest.mark.parametrize(
    ("misbehaviour", "outcome"),
    [
        ({"crash_at": 2}, "runner_lost"),
        ({"raise_at": 2}, "app_error"),
        ({"garbage": True}, "invalid_output"),
    ],
)
def test_each_way_to_fail_is_charged_as_what_it_is_and_tried_again(desk, worker, misbehaviour, outcome):
    job_id = desk.submit(**misbehaviour)
    desk.succeeded(job_id)
    assert desk.outcomes(job_id) == [outcome]


def test_whoever_gives_a_step_back_rings_for_it(desk, worker, quick):
    bell = f"{quick.redis_prefix}cpu"
    with redis.Redis.from_url(quick.redis_url.get_secret_value()) as broker:
        broker.delete(bell)
        job_id = desk.submit(steps=20, step_ms=100)
        desk.running(job_id)
        os.kill(worker.runner_pid, signal.SIGKILL)
        until(lambda: broker.llen(bell))
        desk.succeeded(job_id)


def test_a_step_that_needs_too_much_memory_says_so_and_waits(desk, worker):
    runner = until(lambda: worker.runner_pid)
    job_id = desk.submit(oom_at=1)
    ended = until(lambda: [event for event in desk.events(job_id) if event.type == "attempt_ended"])
    assert (ended[0].data["outcome"], ended[0].data["final"]) == ("host_oom", False)
    assert ended[0].data["retry_in_s"] > 0
    # Whatever it still holds of the memory goes with it.
    until(lambda: not psutil.pid_exists(runner))
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_runner_that_stands_still_is_killed_and_the_step_is_stalled(desk, worker):
    job_id = desk.submit(stall_s=3, steps=20, step_ms=100)
    desk.running(job_id)
    first = worker.runner_pid
    os.kill(first, signal.SIGSTOP)
    until(lambda: desk.outcomes(job_id), 20)
    assert desk.outcomes(job_id) == ["stalled"]
    until(lambda: not psutil.pid_exists(first))
    desk.succeeded(job_id)


def test_a_step_that_reports_nothing_new_is_stalled_although_its_runner_lives(desk, worker):
    job_id = desk.submit(stall_s=3, steps=100, step_ms=50, no_progress=True)
    until(lambda: desk.outcomes(job_id), 20)
    assert desk.outcomes(job_id) == ["stalled"]
    desk.succeeded(job_id)


def test_a_hung_step_keeps_its_lease_but_winds_no_progress_timer(desk, worker):
    job_id = desk.submit(stall_s=100, hang_at=3, steps=5)
    desk.running(job_id, step=2)

    def timers():
        with desk.db.connect() as connection:
            return connection.execute(
                "SELECT lease_until, progress_until FROM steps WHERE job_id = %s", (job_id,)
            ).fetchone()

    # What was reported just before the hang may still be on its way.
    lease, _ = timers()
    settled = until(lambda: (now := timers())[0].timestamp() > lease.timestamp() + 1 and now)
    later = until(lambda: (now := timers())[0].timestamp() > settled[0].timestamp() + 1 and now)
    assert later[1] == settled[1]
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")
    until(lambda: not worker.busy)


def test_a_step_that_takes_too_long_is_killed(desk, worker):
    job_id = desk.submit(timeout=1, steps=100, step_ms=100, frames=2, until_attempt=9)
    job = desk.ended(job_id)
    assert desk.outcomes(job_id) == ["timeout", "timeout"]
    assert (job.state, job.error.code) == ("failed", "timeout")


def test_a_canceled_step_stops_at_once_and_its_runner_stays_warm(desk, worker):
    job_id = desk.submit(steps=600, step_ms=100)
    desk.running(job_id)
    first = worker.runner_pid
    lifecycle.cancel(desk.db, TENANT, job_id, "changed my mind")
    until(lambda: not worker.busy, 10)
    assert desk.types(job_id)[-1] == "canceled"
    desk.succeeded(desk.submit())
    assert worker.runner_pid == first
    assert desk.types(job_id)[-1] == "canceled"


def test_a_runner_that_ignores_a_cancel_is_killed_after_the_grace(desk, worker):
    job_id = desk.submit(steps=600, step_ms=100, stubborn=True)
    desk.running(job_id)
    first = worker.runner_pid
    lifecycle.cancel(desk.db, TENANT, job_id, "changed my mind")
    until(lambda: not psutil.pid_exists(first), 15)
    desk.succeeded(desk.submit())
    assert desk.types(job_id)[-1] == "canceled"


def test_a_lease_that_was_taken_away_ends_the_run_without_a_commit(desk, worker, tmp_path):
    job_id = desk.submit(steps=20, step_ms=100)
    desk.running(job_id)
    taken = lifecycle.release(desk.db, desk.lease(job_id), Outcome.WORKER_LOST, message="as the reaper does")
    assert taken.answer == "retry"
    job = desk.succeeded(job_id)
    assert desk.outcomes(job_id) == ["worker_lost"]
    assert {stamp.attempt for stamp in desk.scripts(job.outputs[0].key, tmp_path)} == {2}


def test_the_presence_row_says_what_the_worker_can_do(desk, worker):
    desk.succeeded(desk.submit())
    row = until(lambda: next((w for w in store.list_workers(desk.db) if w.id == worker.name and w.engines), None), 20)
    assert set(row.engines) == {"camera-move", "encode", "scripted"}
    assert set(row.kinds) == {"animate", "encode"}
    assert row.alive
    assert any(encoder["codec"] == "hevc" for encoder in row.capabilities["encoders"])
    assert {"vram_mb", "memory_mb", "cpus", "versions", "models"} <= set(row.capabilities)
    assert "camera-move" in row.capabilities["models"]["on_disk"]
