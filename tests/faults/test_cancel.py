"""A job can be canceled whatever it is doing; the answer is final at once and nothing of it is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from house import House
from waiting import until


def canceled(house: House, job: str) -> None:
    """The job ended by the cancel: one terminal event, no artifact, and its worker serves the next job."""
    types = [event["type"] for event in house.events(job)]
    assert types.count("canceled") == 1
    assert types[-1] == "canceled"
    assert house.artifacts(job) == []
    assert house.job(job)["outputs"] == []
    house.succeeded(house.submit(frames=4, steps=1))


def cancel(house: House, job: str) -> str:
    return str(house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status().json()["status"])


def test_while_queued(build: Callable[..., House]) -> None:
    house = build(workers=0)
    job = house.submit(frames=4)
    assert cancel(house, job) == "canceled"
    assert cancel(house, job) == "canceled"
    assert [event["type"] for event in house.events(job)] == ["queued", "canceled"]
    house.system.spawn_worker()
    canceled(house, job)


def test_while_scheduled(house: House) -> None:
    body = {"kind": "animate", "model": "scripted", "params": {"frames": 4}, "run_at": "2100-01-01T00:00:00Z"}
    job = house.post(body).raise_for_status().json()
    assert job["status"] == "scheduled"
    assert cancel(house, job["id"]) == "canceled"
    canceled(house, job["id"])


@pytest.mark.parametrize("stubborn", [False, True])
def test_while_rendering(house: House, stubborn: bool) -> None:
    job = house.submit(frames=8, steps=1000, step_ms=50, stubborn=stubborn, until_attempt=100)
    house.progressed(job, 0.005)
    assert cancel(house, job) == "canceled"
    canceled(house, job)


def test_while_hung(house: House) -> None:
    job = house.submit(frames=8, steps=10, hang_at=2, until_attempt=100)
    house.progressed(job, 0.05)
    assert cancel(house, job) == "canceled"
    canceled(house, job)


def test_while_uploading(house: House) -> None:
    s3 = house.system.servers.s3
    s3.pause()
    try:
        job = house.submit(frames=8, steps=1)
        house.in_phase(job, "uploading")
        assert cancel(house, job) == "canceled"
    finally:
        s3.resume()
    canceled(house, job)


def test_between_two_attempts(house: House) -> None:
    job = house.submit(frames=8, steps=4, raise_at=2, until_attempt=100)
    until(lambda: "app_error" in house.outcomes(job))
    answer = cancel(house, job)
    assert answer in {"canceled", "failed"}
    if answer == "canceled":
        canceled(house, job)


def test_in_a_race_with_the_commit_both_sides_hear_the_same_truth(build: Callable[..., House]) -> None:
    house = build(workers=2)
    ends: set[str] = set()
    for _ in range(25):
        job = house.submit(frames=4, steps=3, step_ms=20)
        said: list[str] = []
        until(lambda job=job: house.job(job)["progress"]["fraction"] > 0)
        racer = threading.Thread(target=lambda job=job, said=said: said.append(cancel(house, job)))
        racer.start()
        truth = house.ended(job)["status"]
        racer.join()
        assert said == [truth]
        assert bool(house.artifacts(job)) == (truth == "succeeded")
        house.events(job)
        ends.add(truth)
    assert ends <= {"succeeded", "canceled"}


def test_racing_cancels_write_one_terminal_event(house: House) -> None:
    job = house.submit(frames=8, steps=500, step_ms=20)
    house.running(job)
    with house.client(house.system.url) as http:
        answers: list[str] = []
        askers = [
            threading.Thread(target=lambda: answers.append(http.post(f"/api/v1/jobs/{job}/cancel").json()["status"]))
            for _ in range(8)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert answers == ["canceled"] * 8
    canceled(house, job)
