"""Runners and workers that die, freeze or are told to go: no job is lost, none is done twice, none half."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
from house import House
from waiting import until


def test_a_killed_runner_is_reported_at_once_and_the_job_still_succeeds_once(house: House) -> None:
    job = house.submit(frames=24, steps=40, step_ms=50)
    house.progressed(job, 0.1)
    killed_at = time.time()
    os.kill(house.runner_of("worker").pid, signal.SIGKILL)
    house.succeeded(job)
    ended = next(event for event in house.events(job) if event["type"] == "attempt_ended")
    assert ended["data"]["outcome"] == "runner_lost"
    assert ended["at"].timestamp() - killed_at < 1
    assert house.outcomes(job) == ["runner_lost", "succeeded"]
    assert len({row["fence"] for row in house.artifacts(job)}) == 1


def test_a_killed_worker_group_costs_one_default_lease(build: Callable[..., House]) -> None:
    house = build(workers=1, lease_s=30, renew_s=5, idle_claim_s=15, doorbell_s=15, reconcile_s=1)
    job = house.submit(frames=12, steps=200, step_ms=50)
    house.progressed(job, 0.05)
    house.system.spawn_worker()
    killed_at = time.time()
    house.system.services["worker"].kill()
    until(lambda: len(house.outcomes(job)) == 2, deadline_s=60)
    again = house.job(job)["attempts"][-1]
    started = [event for event in house.events(job) if event["type"] == "step_started"][-1]
    assert started["at"].timestamp() - killed_at < 35
    assert again["worker"] != house.job(job)["attempts"][0]["worker"]
    house.succeeded(job)
    assert house.outcomes(job) == ["worker_lost", "succeeded"]


def test_a_worker_frozen_past_its_lease_commits_nothing_when_it_wakes(build: Callable[..., House]) -> None:
    house = build(workers=1)
    job = house.submit(frames=12, steps=60, step_ms=50)
    house.progressed(job, 0.1)
    frozen = house.system.services["worker"]
    frozen.pause()
    try:
        house.system.spawn_worker()
        first = house.succeeded(job)
    finally:
        frozen.resume()
    sleeper = first["attempts"][0]["worker"]
    # It is awake for good once its presence is fresh again and it has let go of the step.
    until(
        lambda: house.sql(
            "SELECT 1 FROM workers WHERE id = %s AND seen_at > clock_timestamp() - interval '2 s'", sleeper
        )
    )
    other = house.submit(frames=4, steps=1)
    house.succeeded(other)
    assert house.job(job)["outputs"] == first["outputs"]
    assert house.outcomes(job) == ["worker_lost", "succeeded"]
    assert len({row["fence"] for row in house.artifacts(job)}) == 1
    house.events(job)


def test_a_late_commit_of_a_frozen_worker_is_fenced(build: Callable[..., House]) -> None:
    """The freeze comes while the file goes up, so that what follows the thaw is the commit itself."""
    house = build(workers=1)
    house.system.servers.s3.pause()  # the upload cannot end before the worker is frozen
    try:
        job = house.submit(frames=12, steps=2)
        house.in_phase(job, "uploading")
        frozen = house.system.services["worker"]
        frozen.pause()
    finally:
        house.system.servers.s3.resume()
    try:
        house.system.spawn_worker()
        first = house.succeeded(job)
    finally:
        frozen.resume()
    until(lambda: "fenced" in frozen.tail() or "lease is lost" in frozen.tail())
    assert house.job(job)["outputs"] == first["outputs"]
    assert len({row["fence"] for row in house.artifacts(job)}) == 1


def test_a_hung_runner_is_taken_for_stalled_and_replaced(build: Callable[..., House]) -> None:
    house = build(stall_s=2)
    job = house.submit(frames=8, steps=10, hang_at=3)
    house.succeeded(job)
    assert house.outcomes(job) == ["stalled", "succeeded"]


def test_a_stopped_runner_process_is_taken_for_stalled_too(build: Callable[..., House]) -> None:
    house = build(stall_s=2)
    job = house.submit(frames=8, steps=100, step_ms=30)
    house.progressed(job, 0.1)
    runner = house.runner_of("worker")
    os.kill(runner.pid, signal.SIGSTOP)
    house.succeeded(job)
    assert house.outcomes(job) == ["stalled", "succeeded"]
    assert not psutil.pid_exists(runner.pid)


def test_the_third_kill_marks_the_job_as_poison(house: House) -> None:
    job = house.submit(frames=8, steps=5, crash_at=2, until_attempt=100)
    answer = house.ended(job)
    assert (answer["status"], answer["error"]["code"]) == ("failed", "poison")
    assert house.outcomes(job) == ["runner_lost"] * 3
    assert house.artifacts(job) == []
    good = house.submit(frames=4, steps=1)
    house.succeeded(good)


def test_a_busy_worker_that_is_terminated_hands_its_step_back_for_free(build: Callable[..., House]) -> None:
    house = build(workers=1)
    job = house.submit(frames=12, steps=100, step_ms=50)
    house.progressed(job, 0.1)
    house.system.services["worker"].stop()
    assert house.outcomes(job) == ["yielded"]
    released = house.job(job)
    assert (released["phase"], released["steps"][0]["state"]) == (None, "ready")
    house.system.spawn_worker()
    ended = house.succeeded(job)
    assert house.outcomes(job) == ["yielded", "succeeded"]
    assert [attempt["n"] for attempt in ended["attempts"]] == [1, 1]


def test_a_killed_supervisor_takes_its_runner_with_it(house: House) -> None:
    job = house.submit(frames=8, steps=400, step_ms=50)
    house.progressed(job, 0.02)
    runner = house.runner_of("worker")
    worker = house.system.services["worker"]
    os.kill(worker.pid, signal.SIGKILL)  # the supervisor alone, not its group
    until(lambda: not runner.is_running() or runner.status() == psutil.STATUS_ZOMBIE)
    house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()


def test_a_file_that_is_no_video_never_becomes_an_output(house: House) -> None:
    job = house.submit(frames=8, steps=2, garbage=True, until_attempt=100)
    answer = house.ended(job)
    assert (answer["status"], answer["error"]["code"], answer["outputs"]) == ("failed", "invalid_output", [])
    assert house.artifacts(job) == []
