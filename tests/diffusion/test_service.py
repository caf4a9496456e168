"""Diffusion through the whole service: asked for over HTTP, made by real workers, and nothing lost when they die."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import tiny_rows
from house import House, houses
from PIL import Image
from waiting import until
from websockets.sync.client import connect

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
ALL_QUEUES = "gpu,cpu,encode"
LONG: dict[str, Any] = {"steps": 80, "size": "64x64"}
"""A denoise of some seconds, at a size that the tiny model is far too small for."""
ENDLESS: dict[str, Any] = {"steps": 1000, "size": "64x64"}


@pytest.fixture(scope="module")
def shelves(data_home: Path) -> Path:
    """A catalogue file, and beside it the weights that it speaks of."""
    folder = data_home / "shelves"
    folder.mkdir()
    return tiny_rows.catalogue(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads are slower than one on networks of this size, and much slower where other processes compute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def settings(shelves: Path) -> dict[str, Any]:
    return {"queues": ALL_QUEUES, "catalogue": shelves, "models_dir": shelves.parent / "pulled"}


@pytest.fixture(scope="module")
def house(data_home: Path, settings: dict[str, Any]) -> Iterator[House]:
    with houses(data_home) as make:
        yield make(**settings)


@pytest.fixture
def build(data_home: Path, settings: dict[str, Any]) -> Iterator[Callable[..., House]]:
    """Makes a house of this test's own, with the same models."""
    with houses(data_home) as make:
        yield lambda **env: make(**{**settings, **env})


@pytest.fixture(scope="module")
def picture(house: House) -> str:
    return house.noise(64, 64)


def submitted(house: House, name: str, **asked: Any) -> str:
    answer = house.post(tiny_rows.ROWS[name].request(name, **asked))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def made(house: House, name: str, **asked: Any) -> dict[str, Any]:
    """The job of such a request, which must succeed."""
    return done(house, submitted(house, name, **asked))


def done(house: House, job: str) -> dict[str, Any]:
    answer = house.ended(job, 150)
    assert answer["status"] == "succeeded", answer["error"]
    return answer


def film(house: House, job: dict[str, Any]) -> tuple[int, int, str, bool]:
    """Frames of the first output, their side, the digest of their pixels, and whether there is sound."""
    digest, frames, side = hashlib.sha256(), 0, 0
    with av.open(io.BytesIO(house.download(job))) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray().tobytes())
            frames, side = frames + 1, frame.width
        return frames, side, digest.hexdigest(), bool(container.streams.audio)


def loads(house: House) -> int:
    """How often any worker has read weights so far."""
    return sum(log.read_text().count("loaded tiny-") for log in (house.system.data_dir / "logs").glob("worker*.log"))


def denoising(house: House, job: str, step: int) -> int:
    """Waits until a checkpoint at that step or a later one is stored; answers at which."""

    def stored() -> int:
        rows = house.sql(
            "SELECT checkpoint -> 'state' ->> 'step' AS step FROM steps WHERE job_id = %s", job.removeprefix("job_")
        )
        return int(rows[0]["step"] or 0)

    return until(lambda: (at := stored()) >= step and at)


def resumed_from(job: dict[str, Any], at: int) -> None:
    """The last attempt went on from the checkpoint that was seen at step `at`, or from a later one."""
    first, last = job["attempts"][0], job["attempts"][-1]
    assert (first["resumed"], first["resumed_from_step"], first["exact"]) == (False, None, None)
    assert (last["resumed"], last["exact"]) == (True, True)
    assert at <= last["resumed_from_step"] < job["params"]["steps"]


def attempts_over_http(house: House, job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(house.http.get(job["links"]["attempts"]).raise_for_status().json()["data"])


def undisturbed(house: House, **asked: Any) -> str:
    return film(house, made(house, "wan21-t2v", **LONG, **asked))[2]


@pytest.mark.parametrize("name", tiny_rows.ROWS)
def test_every_family_goes_from_a_request_to_a_film(house: House, picture: str, name: str) -> None:
    row = tiny_rows.ROWS[name]
    job = made(house, name, picture=picture)
    assert film(house, job)[:2] == (row.frames, row.side)
    assert film(house, job)[3] == row.sound
    assert [step["model"] for step in job["steps"]] == [f"tiny-{name}"]
    assert [attempt["resumed_from_step"] for attempt in job["attempts"]] == [None]


def test_one_model_is_loaded_once_and_another_one_gets_a_process_of_its_own(house: House, picture: str) -> None:
    first = made(house, "wan21-t2v")
    runner, before = house.runner_of("worker"), loads(house)
    again = made(house, "wan21-t2v")
    assert (house.runner_of("worker").pid, loads(house)) == (runner.pid, before)
    assert film(house, first)[2] == film(house, again)[2]
    # What needs no weights runs beside the model.
    house.succeeded(house.submit(frames=4, steps=1))
    assert (house.runner_of("worker").pid, loads(house)) == (runner.pid, before)
    assert resident(house, "tiny-wan21-t2v")
    made(house, "ltx-i2v", picture=picture)
    assert not runner.is_running() or runner.status() == "zombie"
    assert loads(house) == before + 1
    until(lambda: resident(house, "tiny-ltx-i2v") and not resident(house, "tiny-wan21-t2v"))


def resident(house: House, model: str) -> bool:
    return bool(house.http.get(f"/api/v1/models/{model}").raise_for_status().json()["loaded_on"])


def test_a_model_that_nobody_asks_for_is_unloaded(build: Callable[..., House]) -> None:
    house = build(unload_s=1)
    made(house, "wan21-t2v")
    runner = house.runner_of("worker")
    until(lambda: not runner.is_running() or runner.status() == "zombie")
    until(lambda: not resident(house, "tiny-wan21-t2v"))
    made(house, "wan21-t2v")
    assert loads(house) == 2


def test_a_cancel_in_the_middle_keeps_the_model_loaded(house: House) -> None:
    made(house, "wan21-t2v")
    runner, before = house.runner_of("worker"), loads(house)
    job = submitted(house, "wan21-t2v", **ENDLESS)
    until(lambda: (house.job(job)["progress"]["step"] or 0) >= 3)
    assert house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status().json()["status"] == "canceled"
    made(house, "wan21-t2v")
    assert (house.runner_of("worker").pid, loads(house)) == (runner.pid, before)
    assert [event["type"] for event in house.events(job)][-1] == "canceled"
    assert house.artifacts(job) == []


def test_a_cancel_while_weights_are_loaded_ends_the_job_and_the_next_one_runs(house: House, picture: str) -> None:
    made(house, "ltx-i2v", picture=picture)
    job = submitted(house, "wan21-t2v")
    house.in_phase(job, "loading_model")
    assert house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status().json()["status"] == "canceled"
    made(house, "wan21-t2v")
    assert house.artifacts(job) == []


def test_a_killed_runner_loses_no_finished_step(house: House) -> None:
    job = submitted(house, "wan21-t2v", **LONG)
    at = denoising(house, job, 3)
    os.kill(house.runner_of("worker").pid, signal.SIGKILL)
    ended = done(house, job)
    assert house.outcomes(job) == ["runner_lost", "succeeded"]
    resumed_from(ended, at)
    assert attempts_over_http(house, ended) == ended["attempts"]
    told = {event["type"]: event["data"].get("resumed_from_step") for event in house.events(job)}
    assert (told["attempt_ended"], told["step_succeeded"]) == (None, ended["attempts"][-1]["resumed_from_step"])
    assert film(house, ended)[2] == undisturbed(house)


def test_a_killed_worker_loses_no_finished_step_either(build: Callable[..., House], settings: dict[str, Any]) -> None:
    house = build()
    job = submitted(house, "wan21-t2v", **LONG)
    at = denoising(house, job, 3)
    house.system.services["worker"].kill()
    house.system.spawn_worker(**settings)
    ended = done(house, job)
    assert house.outcomes(job) == ["worker_lost", "succeeded"]
    resumed_from(ended, at)
    assert len({attempt["worker"] for attempt in ended["attempts"]}) == 2
    assert film(house, ended)[2] == undisturbed(house)


def test_a_drained_worker_hands_over_between_two_steps_for_free(
    build: Callable[..., House], settings: dict[str, Any]
) -> None:
    house = build()
    job = submitted(house, "wan21-t2v", **LONG)
    at = denoising(house, job, 3)
    house.system.services["worker"].stop()
    assert house.outcomes(job) == ["yielded"]
    house.system.spawn_worker(**settings)
    ended = done(house, job)
    assert [attempt["n"] for attempt in ended["attempts"]] == [1, 1]
    resumed_from(ended, at)
    assert film(house, ended)[2] == undisturbed(house)


def test_previews_arrive_on_the_socket(house: House) -> None:
    ticket = house.http.post("/api/v1/ws-tickets").raise_for_status().json()["ticket"]
    url = house.system.url.replace("http://", "ws://") + "/api/v1/ws"
    job = submitted(house, "wan21-t2v", **ENDLESS)
    with connect(url, subprotocols=[f"bearer.{ticket}"]) as line:  # type: ignore[list-item]
        line.send(json.dumps({"op": "subscribe", "topics": [f"job:{job}"], "previews": True}))
        message: str | bytes = ""
        while isinstance(message, str):
            message = line.recv(timeout=60)
    (length,) = struct.unpack(">I", message[:4])
    head = json.loads(message[4 : 4 + length])
    shown = Image.open(io.BytesIO(message[4 + length :]))
    assert (head["topic"], head["mime"], shown.format) == (f"job:{job}", "image/jpeg", "JPEG")
    assert shown.size == (head["w"], head["h"])
    house.http.post(f"/api/v1/jobs/{job}/cancel").raise_for_status()


def test_a_model_that_is_on_no_disk_waits_and_says_what_brings_it(house: House) -> None:
    body = {"kind": "generate", "model": "wan-2.1-t2v-1.3b", "params": {"prompt": "a cat"}}
    job = house.post(body).raise_for_status().json()
    assert job["status"] == "waiting"
    assert "framewright models pull wan-2.1-t2v-1.3b" in job["blocked_reason"]
    why = house.http.get(job["links"]["explain"]).raise_for_status().json()
    assert why["code"] == "no_capability"
    assert "It runs on a GPU of at least" in why["summary"]
    assert "there are: none" in why["summary"]
    (worker,) = why["steps"][0]["workers"]
    assert (worker["able"], worker["why"]) == (False, "does not have the weights of wan-2.1-t2v-1.3b")
    house.http.post(job["links"]["cancel"]).raise_for_status()


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"prompt": "  "}, "/params/prompt"),
        ({"prompt": "a" * 100_000}, "/params/prompt"),
        ({"steps": 1}, "/params/steps"),
        ({"frames": 100_000}, "/params/frames"),
        ({"seconds": 1, "frames": 9}, "/params/seconds"),
    ],
)
def test_what_no_model_could_do_is_refused_at_once(house: House, params: dict[str, Any], pointer: str) -> None:
    request = tiny_rows.ROWS["wan21-t2v"].request("wan21-t2v")
    answer = house.post({**request, "params": {**request["params"], **params}})
    assert answer.status_code == 422
    assert pointer in [field["pointer"] for field in answer.json()["errors"]]


def test_sizes_and_frames_off_the_rule_are_made_as_the_rule_says_and_told(house: House) -> None:
    job = made(house, "wan21-t2v", size="20x17", frames=7)
    assert film(house, job)[:2] == (9, 32)
    assert {(one["field"], str(one["used"])) for one in job["adjusted"]} >= {
        ("/params/size", "32x32"),
        ("/params/frames", "9"),
    }


def test_a_model_that_somebody_else_hosts_is_refused_by_name(house: House) -> None:
    answer = house.post({"kind": "generate", "model": "wan-2.6", "params": {"prompt": "a cat"}})
    assert answer.status_code == 422
    assert [field["pointer"] for field in answer.json()["errors"]] == ["/model"]


def test_an_estimate_is_measured_once_the_model_has_run(house: House) -> None:
    request = tiny_rows.ROWS["wan21-t2v"].request("wan21-t2v", steps=20)
    for _ in range(3):
        made(house, "wan21-t2v", steps=20)
    short = house.http.post("/api/v1/estimate", json=request).raise_for_status().json()
    params = {**request["params"], "steps": 1000}
    long = house.http.post("/api/v1/estimate", json={**request, "params": params}).raise_for_status().json()
    assert (short["basis"], long["basis"]) == ("measured", "measured")
    assert 0 < short["seconds_p50"] <= short["seconds_p90"]
    assert long["seconds_p50"] > short["seconds_p50"]
