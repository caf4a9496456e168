"""Valkey, Postgres and S3 die, empty, hang or come back: what was accepted is kept, what is answered is true."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis
from house import House
from waiting import until


def test_valkey_killed_and_restarted_empty_loses_none_of_twenty_waiting_jobs(build: Callable[..., House]) -> None:
    house = build(workers=0)
    jobs = [house.submit(frames=4, steps=1) for _ in range(20)]
    valkey = house.system.servers.valkey
    valkey.kill()
    valkey.restart(empty=True)
    house.system.spawn_worker()
    for job in jobs:
        house.succeeded(job)
        assert house.outcomes(job) == ["succeeded"]


def test_flushall_loses_no_job(build: Callable[..., House]) -> None:
    house = build(workers=1)
    jobs = [house.submit(frames=4, steps=2, step_ms=20) for _ in range(5)]
    house.running(jobs[0])
    with redis.Redis.from_url(house.system.servers.redis_url) as broker:
        broker.flushall()
    jobs += [house.submit(frames=4, steps=2) for _ in range(5)]
    for job in jobs:
        house.succeeded(job)


def test_submit_answers_within_a_second_while_valkey_hangs(build: Callable[..., House]) -> None:
    house = build(workers=1)
    valkey = house.system.servers.valkey
    valkey.pause()
    try:
        jobs = []
        for _ in range(10):
            asked = time.monotonic()
            jobs.append(house.submit(frames=4, steps=1))
            # Not a measure of speed: a submit that waits for the broker would take its socket timeout, 3 s or more.
            assert time.monotonic() - asked < 1
        for job in jobs:
            house.succeeded(job)
    finally:
        valkey.resume()
    house.succeeded(house.submit(frames=4, steps=1))


def test_workers_start_and_work_without_valkey(build: Callable[..., House]) -> None:
    house = build(workers=0)
    house.system.servers.valkey.kill()
    house.system.spawn_worker()
    house.succeeded(house.submit(frames=4, steps=1))
    house.system.servers.valkey.start()
    house.succeeded(house.submit(frames=4, steps=1))


def test_a_job_survives_a_restart_of_postgres(build: Callable[..., House]) -> None:
    house = build(workers=1, lease_s=30, renew_s=1)
    job = house.submit(frames=12, steps=100, step_ms=50)
    house.progressed(job, 0.05)
    postgres = house.system.servers.postgres
    postgres.stop()
    refused = house.post({"kind": "animate", "model": "scripted", "params": {"frames": 4}})
    assert refused.status_code == 503
    assert refused.json()["code"] == "database_unavailable"
    assert int(refused.headers["Retry-After"]) >= 1
    postgres.start()
    house.succeeded(job)
    assert house.outcomes(job) == ["succeeded"]


def test_a_job_survives_a_crash_of_postgres(build: Callable[..., House]) -> None:
    house = build(workers=1, lease_s=30, renew_s=1)
    job = house.submit(frames=12, steps=100, step_ms=50)
    house.progressed(job, 0.05)
    house.system.servers.postgres.kill()
    house.system.servers.postgres.start()
    house.succeeded(job)
    assert house.outcomes(job) == ["succeeded"]


def test_a_commit_waits_for_postgres_to_come_back(build: Callable[..., House]) -> None:
    house = build(workers=1, lease_s=30, renew_s=1)
    job = house.submit(frames=12, steps=30, step_ms=50)
    house.progressed(job, 0.5)
    postgres = house.system.servers.postgres
    postgres.stop()
    worker = house.system.services["worker"]
    until(lambda: "trying again" in worker.tail())
    postgres.start()
    house.succeeded(job)
    assert house.outcomes(job) == ["succeeded"]


def test_an_upload_outlives_a_storage_outage_within_its_attempt(build: Callable[..., House]) -> None:
    house = build(workers=1)
    s3 = house.system.servers.s3
    s3.kill()
    job = house.submit(frames=12, steps=2)
    house.in_phase(job, "uploading")
    readable = house.http.get("/readyz")
    assert readable.status_code == 200, "jobs on existing assets are still accepted"
    upload = house.http.put("/api/v1/assets?filename=a.png", content=b"\x89PNG\r\n\x1a\n")
    assert upload.status_code in {422, 415, 503}
    s3.start()
    house.succeeded(job)
    assert house.outcomes(job) == ["succeeded"]
