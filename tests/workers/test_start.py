"""Workers and reconcilers as real processes: doorbells, signals, a Redis that is away, a worker that wakes late."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from desk import TENANT
from waiting import until

from framewright import ids, lifecycle, store
from framewright.doorbells import Ringer
from framewright.jobs import Outcome

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]


@pytest.fixture
def begin(environment, quick, tmp_path) -> Iterator:
    """`begin("workers.start", idle_claim_s=60)`: a process of ours that is killed, with its children, afterwards."""
    started: list[psutil.Popen] = []

    def start(module: str, *arguments: str, **changes: object) -> psutil.Popen:
        times = {name: getattr(quick, name) for name in quick.model_fields_set}
        words = {**times, "worker_name": f"w-{uuid.uuid4().hex[:6]}", **changes}
        named = {
            f"FRAMEWRIGHT_{name.upper()}": value.get_secret_value()
            if hasattr(value, "get_secret_value")
            else str(value)
            for name, value in words.items()
            if value is not None
        }
        log = (tmp_path / f"{len(started)}.log").open("wb")
        process = psutil.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment, **named},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.name_of_worker = words["worker_name"]
        process.log = Path(log.name)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(psutil.Error):
            for child in process.children(recursive=True):
                child.kill()
        with contextlib.suppress(psutil.Error):
            process.kill()
        process.wait(10)


def present(desk, process):
    return until(
        lambda: next((w for w in store.list_workers(desk.db) if w.id == process.name_of_worker and w.engines), None)
    )


def attempt_of(desk, process, job_id):
    """Returns once that worker runs the job and has shown a step of it."""
    until(lambda: any(a.worker == process.name_of_worker and a.ended_at is None for a in desk.job(job_id).attempts))
    until(lambda: any(entry.data.get("step") for entry in desk.live(job_id)))


def test_a_doorbell_wakes_a_worker_that_would_not_look_for_an_hour(desk, begin, quick):
    worker = begin("workers.start", idle_claim_s=3600)
    present(desk, worker)
    ringer = Ringer(quick)
    for _ in range(2):
        job_id = desk.submit()
        ringer.ring("cpu")
        desk.succeeded(job_id)
    ringer.close()


def test_a_busy_worker_passes_a_doorbell_on_to_an_idle_one(desk, begin, quick):
    busy = begin("workers.start", idle_claim_s=0.5)
    present(desk, busy)
    long = desk.submit(steps=600, step_ms=100)
    attempt_of(desk, busy, long)
    idle = begin("workers.start", idle_claim_s=3600)
    present(desk, idle)
    ringer = Ringer(quick)
    jobs = []
    for _ in range(3):
        jobs.append(desk.submit())
        ringer.ring("cpu")
        desk.succeeded(jobs[-1])
    ringer.close()
    assert {attempt.worker for job_id in jobs for attempt in desk.job(job_id).attempts} == {idle.name_of_worker}
    lifecycle.cancel(desk.db, TENANT, long, "seen enough")


def test_a_worker_works_although_redis_was_never_there(desk, begin):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    worker = begin("workers.start", redis_url=f"redis://127.0.0.1:{port}/0")
    job = desk.succeeded(desk.submit())
    assert job.attempts[0].worker == worker.name_of_worker
    worker.terminate()
    assert worker.wait(30) == 0


def test_a_worker_works_although_redis_hangs(desk, begin):
    # Takes connections and never answers.
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        worker = begin("workers.start", redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        job = desk.succeeded(desk.submit())
        assert job.attempts[0].worker == worker.name_of_worker
        worker.terminate()
        assert worker.wait(30) == 0


def test_sigterm_gives_the_step_back_free_of_charge_and_takes_everything_along(desk, begin, quick):
    worker = begin("workers.start")
    job_id = desk.submit(steps=600, step_ms=100)
    attempt_of(desk, worker, job_id)
    children = worker.children(recursive=True)
    assert children
    worker.terminate()
    assert worker.wait(30) == 0
    job = desk.job(job_id)
    assert (job.steps[0].state, job.steps[0].attempt, desk.outcomes(job_id)) == ("ready", 0, ["yielded"])
    assert not [child for child in children if child.is_running()]
    assert not list(quick.scratch_dir.glob("framewright-scratch-*"))
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_second_sigterm_does_not_wait_for_a_stubborn_runner(desk, begin):
    worker = begin("workers.start", drain_grace_s=3600)
    job_id = desk.submit(steps=6000, step_ms=100, stubborn=True)
    attempt_of(desk, worker, job_id)
    worker.terminate()
    until(lambda: "draining" in worker.log.read_text())
    worker.terminate()
    assert worker.wait(30) == 0
    assert desk.outcomes(job_id) == ["yielded"]
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_the_log_names_a_job_as_its_owner_does(desk, begin):
    worker = begin("workers.start")
    job_id = desk.submit(raise_at=2)
    desk.succeeded(job_id)
    name = ids.public(ids.JOB, job_id)
    until(lambda: f"{name} step main: commit answered ok" in worker.log.read_text())
    lines = worker.log.read_text().splitlines()
    for said in ("attempt 1", "attempt 2", "ended: ", "app_error (retry): "):
        assert any(f"{name} step main: {said}" in line for line in lines), said
    assert not [line for line in lines if str(job_id) in line]


def test_a_runner_is_given_no_secret_and_a_session_of_its_own(desk, begin, environment):
    worker = begin("workers.start")
    present(desk, worker)
    (runner,) = worker.children()
    given = runner.environ()
    assert not [name for name in given if name.startswith("FRAMEWRIGHT_")]
    assert not set(given.values()) & {value for name, value in environment.items() if len(value) > 6}
    assert os.getsid(runner.pid) == runner.pid
    secret = environment["FRAMEWRIGHT_S3_SECRET_KEY"]
    assert secret not in " ".join(runner.cmdline())


def test_a_killed_worker_takes_its_hung_runner_along(desk, begin):
    worker = begin("workers.start")
    job_id = desk.submit(hang_at=3, stubborn=True)
    attempt_of(desk, worker, job_id)
    children = worker.children(recursive=True)
    assert children
    worker.kill()
    until(lambda: not [child for child in children if child.is_running() and child.status() != "zombie"], 10)
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_worker_that_wakes_late_is_fenced_and_its_file_left_to_the_janitor(desk, begin, tmp_path):
    frozen = begin("workers.start", renew_s=3)
    job_id = desk.submit(steps=20, step_ms=100)
    attempt_of(desk, frozen, job_id)
    lease = desk.lease(job_id)
    frozen.suspend()
    assert lifecycle.release(desk.db, lease, Outcome.WORKER_LOST, message="as the reaper does").answer == "retry"
    other = begin("workers.start")
    job = desk.succeeded(job_id)
    frozen.resume()
    until(lambda: "fenced" in frozen.log.read_text() or "the lease is lost" in frozen.log.read_text())
    assert [attempt.worker for attempt in job.attempts] == [frozen.name_of_worker, other.name_of_worker]
    again = desk.succeeded(job_id)
    assert [output.key for output in again.outputs] == [output.key for output in job.outputs]
    assert {stamp.attempt for stamp in desk.scripts(again.outputs[0].key, tmp_path)} == {2}


def test_celerys_own_command_runs_a_worker_too(desk, begin):
    words = [
        "worker",
        "-P",
        "threads",
        "-c",
        "1",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "-Q",
        "cpu,encode",
    ]
    worker = begin("celery", "-A", "workers.app", *words)
    present(desk, worker)
    job_id = desk.submit(steps=30, step_ms=100)
    attempt_of(desk, worker, job_id)
    worker.terminate()
    assert worker.wait(40) == 0
    assert desk.outcomes(job_id) == ["yielded"]
    lifecycle.cancel(desk.db, TENANT, job_id, "seen enough")


def test_a_setting_that_is_missing_is_named_before_anything_starts(environment, tmp_path):
    stripped = {name: value for name, value in environment.items() if name != "FRAMEWRIGHT_REDIS_URL"}
    for module in ("workers.start", "workers.reconciler"):
        done = subprocess.run(
            [sys.executable, "-m", module], cwd=ROOT, env={**os.environ, **stripped}, capture_output=True, timeout=60
        )
        assert done.returncode == 78
        assert b"FRAMEWRIGHT_REDIS_URL" in done.stderr


def test_a_reconciler_says_that_it_lives_and_leaves_in_order(desk, begin):
    check = begin("workers.reconciler", "--check")
    assert check.wait(30) == 1
    reconciler = begin("workers.reconciler")
    until(lambda: begin("workers.reconciler", "--check").wait(30) == 0)
    reconciler.send_signal(signal.SIGTERM)
    assert reconciler.wait(30) == 0
    assert begin("workers.reconciler", "--check").wait(30) == 1
