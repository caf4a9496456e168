"""Diffusion through the whole service: asked for over HTTP, made by real workers, and nothing lost when they die."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import spoilt
import tiny_rows
from films import (
    ENDLESS,
    LONG,
    attempts_over_http,
    denoising,
    done,
    film,
    loads,
    made,
    resident,
    resumed_from,
    submitted,
    tone,
)
from house import House, houses
from PIL import Image
from waiting import until
from websockets.sync.client import connect
from workshop import lora

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
ALL_QUEUES = "gpu,cpu,encode"


@pytest.fixture(scope="module")
def shelves(data_home: Path) -> Path:
    """A catalogue file, and beside it the weights that it speaks of."""
    folder = data_home / "shelves"
    folder.mkdir()
    file = tiny_rows.catalogue(folder)
    spoiled = spoilt.entries(folder / "wan21-t2v", folder / "spoilt", folder / "pulled")
    file.write_text(f"{file.read_text()}\n{spoiled}\n")
    return file


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads are slower than one on networks of this size, and much slower where other processes compute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def settings(shelves: Path) -> dict[str, Any]:
    # Checkpoints so often that the first is stored long before a long run ends.
    return {"queues": ALL_QUEUES, "catalogue": shelves, "models_dir": shelves.parent / "pulled", "renew_s": 0.2}


@pytest.fixture(scope="module")
def house(data_home: Path, settings: dict[str, Any]) -> Iterator[House]:
    with houses(data_home) as make:
        yield make(**settings)


@pytest.fixture(scope="module")
def hostel(data_home: Path, settings: dict[str, Any]) -> Iterator[House]:
    """Another house with the same models, whose worker may be ended once another one is there."""
    with houses(data_home) as make:
        yield make(**settings, unload_s=1)


@pytest.fixture(scope="module")
def whole(house: House) -> str:
    """The digest of the long film that nobody disturbed."""
    return film(house, made(house, "wan21-t2v", **LONG))[2]


@pytest.fixture(scope="module")
def picture(house: House) -> str:
    return house.noise(64, 64)


@pytest.mark.parametrize("name", tiny_rows.ROWS)
def test_every_family_goes_from_a_request_to_a_film(house: House, picture: str, name: str) -> None:
    row = tiny_rows.ROWS[name]
    job = made(house, name, picture=picture)
    assert film(house, job)[:2] == (row.frames, row.side)
    assert film(house, job)[3] == row.sound
    assert [step["model"] for step in job["steps"]] == [f"tiny-{name}"]
    assert [attempt["resumed_from_step"] for attempt in job["attempts"]] == [None]


def test_a_clip_is_made_to_a_sound_that_was_uploaded(house: House, picture: str) -> None:
    sound = house.http.put("/api/v1/assets?filename=tone.wav", content=tone(1.0)).raise_for_status().json()
    assert (sound["kind"], sound["content_type"], sound["duration_s"]) == ("other", "audio/wav", 1.0)
    request = tiny_rows.ROWS["ltx2-t2v"].request("ltx2-t2v")
    job = done(house, house.post({**request, "input": {"audio": sound["id"]}}).raise_for_status().json()["id"])
    assert film(house, job)[3]
    assert film(house, job)[2] != film(house, made(house, "ltx2-t2v"))[2]
    assert [(one["field"], one["asked"], one["used"]) for one in job["adjusted"]] == [("/input/audio", 1.0, 0.375)]
    refused = house.post({**request, "input": {"audio": picture}})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/input/audio")


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


def test_a_model_that_nobody_asks_for_is_unloaded(hostel: House) -> None:
    made(hostel, "wan21-t2v")
    runner, before = hostel.runner_of(worker_of(hostel)), loads(hostel)
    until(lambda: not runner.is_running() or runner.status() == "zombie")
    until(lambda: not resident(hostel, "tiny-wan21-t2v"))
    made(hostel, "wan21-t2v")
    assert loads(hostel) == before + 1


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


def test_a_killed_runner_loses_no_finished_step(house: House, whole: str) -> None:
    job = submitted(house, "wan21-t2v", **LONG)
    at = denoising(house, job, 3)
    os.kill(house.runner_of("worker").pid, signal.SIGKILL)
    ended = done(house, job)
    assert house.outcomes(job) == ["runner_lost", "succeeded"]
    resumed_from(ended, at)
    assert attempts_over_http(house, ended) == ended["attempts"]
    told = {event["type"]: event["data"].get("resumed_from_step") for event in house.events(job)}
    assert (told["attempt_ended"], told["step_succeeded"]) == (None, ended["attempts"][-1]["resumed_from_step"])
    assert film(house, ended)[2] == whole


def worker_of(house: House) -> str:
    """The worker that is there."""
    return next(name for name in house.system.pids if name.startswith("worker"))


def test_a_killed_worker_loses_no_finished_step_either(hostel: House, whole: str) -> None:
    job = submitted(hostel, "wan21-t2v", **LONG)
    at = denoising(hostel, job, 3)
    hostel.system.services[worker_of(hostel)].kill()
    hostel.system.spawn_worker()
    ended = done(hostel, job)
    assert hostel.outcomes(job) == ["worker_lost", "succeeded"]
    resumed_from(ended, at)
    assert len({attempt["worker"] for attempt in ended["attempts"]}) == 2
    assert film(hostel, ended)[2] == whole


def test_a_drained_worker_hands_over_between_two_steps_for_free(hostel: House, whole: str) -> None:
    job = submitted(hostel, "wan21-t2v", **LONG)
    at = denoising(hostel, job, 3)
    hostel.system.services[worker_of(hostel)].stop()
    assert hostel.outcomes(job) == ["yielded"]
    hostel.system.spawn_worker()
    ended = done(hostel, job)
    assert [attempt["n"] for attempt in ended["attempts"]] == [1, 1]
    resumed_from(ended, at)
    assert film(hostel, ended)[2] == whole


_LAYER = "transformer.blocks.0.attn1.to_q"
LORAS: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (lambda path: path.write_bytes(spoilt.PICKLE), "a pickle"),
    "a header of 2^60 bytes": (lambda path: path.write_bytes(spoilt.ENDLESS), "claims 1152921504606846976 bytes"),
    "of another base model": (
        lambda path: lora(path, {"transformer.transformer_blocks.0.attn1.to_q": (32, 32)}),
        "not one for this model",
    ),
    "of numbers that are none": (lambda path: lora(path, {_LAYER: (24, 24)}, value=float("nan")), "NaN"),
}


def test_an_uploaded_lora_changes_the_film_of_its_job_alone(house: House, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    lora(path, {_LAYER: (24, 24)}, value=0.5)
    asset = house.http.put("/api/v1/assets?filename=style.safetensors", content=path.read_bytes())
    assert asset.status_code == 201, asset.text
    assert (asset.json()["kind"], asset.json()["content_type"]) == ("other", "application/x-safetensors")
    bare = film(house, made(house, "wan21-t2v"))[2]
    worn = made(house, "wan21-t2v", loras=[{"asset": asset.json()["id"], "scale": 2.0}])
    assert film(house, worn)[2] != bare
    assert worn["outputs"][0]["meta"]["loras"][0]["sha256"] == asset.json()["sha256"]
    assert film(house, made(house, "wan21-t2v"))[2] == bare


@pytest.mark.parametrize("what", LORAS)
def test_what_is_no_lora_for_the_model_fails_the_job_and_not_the_next(house: House, shelves: Path, what: str) -> None:
    made(house, "wan21-t2v")
    runner, before = house.runner_of("worker"), loads(house)
    spoil, why = LORAS[what]
    path = shelves.parent / "pulled" / "loras" / "spoilt.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    spoil(path)
    failed = house.ended(submitted(house, "wan21-t2v", loras=[{"name": "spoilt"}]))
    assert (failed["status"], failed["error"]["code"], len(failed["attempts"])) == ("failed", "bad_input", 1)
    assert failed["error"]["field"] == "/params/loras/0"
    assert why in failed["error"]["message"]
    made(house, "wan21-t2v")
    assert (house.runner_of("worker").pid, loads(house)) == (runner.pid, before)


def ask(house: House, model: str) -> dict[str, Any]:
    request = {**tiny_rows.ROWS["wan21-t2v"].request("wan21-t2v"), "model": model}
    return dict(house.post(request).raise_for_status().json())


@pytest.mark.parametrize("name", spoilt.ROWS)
def test_weights_that_cannot_be_run_are_waited_for_with_what_mends_them(house: House, name: str) -> None:
    row, job = spoilt.ROWS[name], ask(house, name)
    why = house.http.get(job["links"]["explain"]).raise_for_status().json()
    assert (job["status"], why["code"]) == ("waiting", row.code)
    for sentence in (job["blocked_reason"], why["summary"]):
        assert row.says in sentence
        assert row.mends in sentence
    assert str(house.system.data_dir.parent) not in json.dumps(why)
    house.http.post(job["links"]["cancel"]).raise_for_status()


def test_weights_that_are_no_numbers_end_the_job_by_their_name(house: House) -> None:
    failed = house.ended(ask(house, "nameless")["id"])
    assert failed["status"] == "failed"
    assert "damaged weights do; put right what lies in" in failed["error"]["message"]
    assert str(house.system.data_dir.parent) not in json.dumps(failed["error"])


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


@pytest.mark.parametrize("given", [b"not a picture", b"RIFF    WAVE", spoilt.PICKLE, spoilt.ENDLESS])
def test_bytes_of_no_medium_are_refused_at_the_upload(house: House, given: bytes) -> None:
    answer = house.http.put("/api/v1/assets?filename=picture.png", content=given)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media"), answer.text


def test_a_clip_where_a_picture_belongs_is_refused_by_the_name_of_its_slot(house: House) -> None:
    clip = house.download(made(house, "wan21-t2v"))
    asset = house.http.put("/api/v1/assets", content=clip).raise_for_status().json()
    answer = house.post(tiny_rows.ROWS["ltx-i2v"].request("ltx-i2v", picture=asset["id"]))
    assert (answer.status_code, answer.json()["code"]) == (422, "asset_unusable")
    assert [field["pointer"] for field in answer.json()["errors"]] == ["/input/image"]


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
