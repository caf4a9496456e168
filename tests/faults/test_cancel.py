"""A job can be canceled whatever it is doing; the answer is final at once and nothing of it is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from house import TERMINAL, House
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
    """The state that the API answers with."""
    return str(house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status().json()["status"])


def moved(house: House, picture: dict[str, str], **params: object) -> str:
    """A camera move over a picture; returns the job's id."""
    params = {"move": "zoom-in", "seconds": 1, "fps": 8, "size": "640x360", **params}
    body = {"kind": "animate", "model": "camera-move", "input": picture, "params": params}
    return str(house.post(body).raise_for_status().json()["id"])


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


def test_while_downloading(house: House) -> None:
    picture = {"image": house.noise(640, 360)}
    s3 = house.system.servers.s3
    s3.pause()
    try:
        job = moved(house, picture)
        house.in_phase(job, "downloading")
        assert cancel(house, job) == "canceled"
    finally:
        s3.resume()
    canceled(house, job)


def test_while_ffmpeg_hangs(house: House) -> None:
    """Frozen as soon as it is there, it takes no more frames: the job stays in the middle of being rendered."""
    job = moved(house, {"image": house.noise(640, 360)}, seconds=60, fps=30)
    house.in_phase(job, "rendering")
    ffmpeg = house.ffmpeg_of("worker")
    ffmpeg.suspend()
    assert cancel(house, job) == "canceled"
    until(lambda: not ffmpeg.is_running() or ffmpeg.status() == psutil.STATUS_ZOMBIE)
    canceled(house, job)


@pytest.mark.parametrize("frozen", [False, True])
def test_while_checking(house: House, frozen: bool) -> None:
    """So many frames that they take a while to decode; the runner hears of it between two, or is killed."""
    runner = house.runner_of("worker")
    job = house.submit(frames=2000, steps=1, size="480x360")
    house.in_phase(job, "checking", deadline_s=150)
    if frozen:
        runner.suspend()
    assert cancel(house, job) == "canceled"
    canceled(house, job)
    assert (house.runner_of("worker").pid == runner.pid) is not frozen


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


@pytest.mark.parametrize("first", ["complete", "cancel"])
def test_of_a_commit_and_a_cancel_at_once_the_first_one_wins_and_both_sides_hear_it(house: House, first: str) -> None:
    """Both wait for the row of the job, which knows the truth once they are let go."""

    def raced() -> str:
        """Who of the two came first this time: neither waits for ever."""
        s3 = house.system.servers.s3
        s3.pause()
        try:
            job = house.submit(frames=4, steps=1)
            house.in_phase(job, "uploading")
            with ThreadPoolExecutor(1) as pool:
                with house.held(job):
                    if first == "complete":
                        s3.resume()
                        until(lambda: "complete" in house.queueing())
                    said = pool.submit(insist, house, job)
                    until(lambda: "cancel" in house.queueing())
                    s3.resume()
                    queue = until(lambda: {"cancel", "complete"} <= set(waiting := house.queueing()) and waiting)
                truth = said.result(30)
        finally:
            s3.resume()
        assert house.ended(job)["status"] == truth == {"complete": "succeeded", "cancel": "canceled"}[queue[0]]
        if truth == "canceled":
            canceled(house, job)
        else:
            house.succeeded(job)
            house.events(job)
        return queue[0]

    until(lambda: raced() == first)


def insist(house: House, job: str) -> str:
    """As `cancel`, as often as the database was too busy to answer in time."""
    answers = []

    def asked() -> bool:
        answers.append(house.http.post(f"/api/v1/jobs/{job}/cancel").json().get("status"))
        return answers[-1] in TERMINAL

    until(asked)
    return str(answers[-1])


def test_in_a_race_with_the_commit_both_sides_hear_the_same_truth(build: Callable[..., House]) -> None:
    house = build(workers=2)
    ends: set[str] = set()
    for number in range(25):
        job = house.submit(frames=4, steps=3, step_ms=20)
        said: list[str] = []
        # From the first sign of life to the commit itself.
        until(lambda job=job, part=number / 25: house.job(job)["progress"]["fraction"] > part)
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
