"""Jobs over HTTP: what is accepted is kept, what is answered links on, and one key makes one job."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hand import FILE, Hand
from service import Api, animate, png, upload

from framewright import ids, lifecycle, store
from framewright.database import Database
from framewright.rows import Presence


def submit(client: httpx.Client, picture: str, **changes: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json=animate(picture, **changes))
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_submitted_job_can_be_found_where_its_links_say(client: httpx.Client, picture: str) -> None:
    answer = client.post("/api/v1/jobs", json=animate(picture, metadata={"who": "me"}))
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"]
    assert job["links"]["self"].startswith(str(client.base_url).rstrip("/"))
    found = client.get(job["links"]["self"]).json()
    assert (found["id"], found["seq"], found["status"]) == (job["id"], 1, "waiting")
    assert found["blocked_reason"]
    assert found["can"] == {"cancel": True, "retry": False, "edit": True}
    assert client.get(job["links"]["attempts"]).json()["data"] == []
    assert client.get(job["links"]["explain"]).json()["code"] == "no_worker"
    assert client.get(job["links"]["preview"]).status_code == 404
    assert [one["id"] for one in listed(client, **{"metadata[who]": "me"})] == [job["id"]]
    assert listed(client, **{"metadata[who]": "you"}) == []


def listed(client: httpx.Client, **query: str | int) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_a_job_runs_succeeds_and_hands_out_its_file(
    client: httpx.Client, picture: str, hand: Hand, tmp_path: Path
) -> None:
    job = submit(client, picture)
    claim = hand.claim()
    running = client.get(job["links"]["self"]).json()
    assert (running["status"], running["attempt"]) == ("running", 1)
    hand.complete(claim, tmp_path)
    done = client.get(job["links"]["self"]).json()
    assert (done["status"], done["progress"]["fraction"], done["phase"]) == ("succeeded", 1.0, None)
    assert [attempt["outcome"] for attempt in done["attempts"]] == ["succeeded"]
    output = done["outputs"][0]
    assert (output["fps"], output["codecs"], output["state"]) == ("4/1", "hvc1.1.6.L30.B0", "ready")
    redirect = client.get(output["links"]["content"])
    assert redirect.status_code == 302
    assert httpx.get(redirect.headers["location"]).content == FILE
    assert client.get(output["links"]["content"], params={"proxy": 1}).content == FILE


def test_a_clip_leads_to_its_poster_and_to_a_rendition_that_every_browser_plays(
    client: httpx.Client, picture: str, hand: Hand, tmp_path: Path
) -> None:
    job = submit(client, picture)
    claim = hand.claim()
    poster = hand.artifact(claim, tmp_path, b"a picture", name="poster", kind="image/jpeg")
    playback = hand.artifact(claim, tmp_path, b"a rendition", name="playback")
    beside = [
        hand.artifact(claim, tmp_path, f"a {name}".encode(), name=name, kind=kind)
        for name, kind in (("thumbnail", "image/jpeg"), ("sprite", "image/jpeg"), ("sound", "audio/wav"))
    ]
    hand.complete(claim, tmp_path, poster, playback, *beside)
    clip, still, rendition, *others = client.get(job["links"]["self"]).json()["outputs"]
    said = {"poster": b"a picture", "playback": b"a rendition"}
    for name in ("poster", "playback", "thumbnail", "sprite", "sound"):
        held = client.get(clip["links"][name], params={"proxy": 1}).content
        assert held == said.get(name, f"a {name}".encode())
    for one in (still, rendition, *others):
        assert {value for name, value in one["links"].items() if name != "content"} == {None}
    for one, name in ((still, f"{job['id']}.poster.jpg"), (rendition, f"{job['id']}.playback.mp4")):
        proxied = client.get(one["links"]["content"], params={"proxy": 1}).headers["content-disposition"]
        signed = httpx.URL(client.get(one["links"]["content"]).headers["location"])
        for told in (proxied, signed.params["response-content-disposition"]):
            assert f'filename="{name}"' in told, "a double click opens it"


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("video/quicktime", "mov"),
        ("video/webm", "webm"),
        ("image/gif", "gif"),
        ("application/zip", "zip"),
        ("audio/wav", "wav"),
        ("application/c2pa", "c2pa"),
    ],
)
def test_a_file_of_every_format_is_fetched_under_its_type_and_ending(
    client: httpx.Client, picture: str, hand: Hand, tmp_path: Path, kind: str, *, ending: str
) -> None:
    job = submit(client, picture)
    claim = hand.claim()
    done = lifecycle.complete(hand.db, claim, [hand.artifact(claim, tmp_path, b"bytes", name="video", kind=kind)])
    assert done.answer == "ok"
    (clip,) = client.get(job["links"]["self"]).json()["outputs"]
    assert clip["content_type"] == kind
    proxied = client.get(clip["links"]["content"], params={"proxy": 1})
    assert (proxied.content, proxied.headers["content-type"]) == (b"bytes", kind)
    assert f'filename="{job["id"]}.video.{ending}"' in proxied.headers["content-disposition"]
    signed = httpx.URL(client.get(clip["links"]["content"]).headers["location"])
    assert httpx.get(signed).headers["content-type"] == kind


@pytest.mark.parametrize(
    "moment", ["9998-12-31T23:59:59-23:59", "1970-01-01T00:00:00+23:59", "2126-12-01T00:00:00+16:00"]
)
def test_an_offset_that_postgres_does_not_know_is_no_surprise(client: httpx.Client, picture: str, moment: str) -> None:
    body = {"kind": "animate", "model": "camera-move", "input": {"image": picture}}
    made = client.post("/api/v1/jobs", json={**body, "run_at": moment})
    assert made.status_code == 201, made.text
    job = submit(client, picture, run_at="2100-01-01T00:00:00Z")
    changed = client.patch(job["links"]["self"], json={"run_at": moment})
    assert changed.status_code == 200, changed.text
    for one in (made.json(), job):
        client.post(one["links"]["cancel"]).raise_for_status()


def test_a_failed_job_says_what_was_wrong_where(client: httpx.Client, picture: str, hand: Hand) -> None:
    job = submit(client, picture)
    hand.fail(hand.claim())
    failed = client.get(job["links"]["self"]).json()
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "bad_input",
        "message": "the picture is damaged",
        "field": "/input/image",
        "retryable": False,
    }


def test_canceling_is_final_at_once_and_safe_to_repeat(client: httpx.Client, picture: str, hand: Hand) -> None:
    job = submit(client, picture)
    hand.claim()
    first = client.post(job["links"]["cancel"], json={"reason": "changed my mind"})
    again = client.post(job["links"]["cancel"])
    assert [first.status_code, again.status_code] == [200, 200]
    assert [first.json()["status"], again.json()["status"]] == ["canceled", "canceled"]
    assert first.json()["cancel_reason"] == again.json()["cancel_reason"] == "changed my mind"


def test_an_ended_job_runs_again_as_a_new_one_and_an_open_one_does_not(client: httpx.Client, picture: str) -> None:
    job = submit(client, picture)
    assert client.post(job["links"]["retry"]).status_code == 409
    client.post(job["links"]["cancel"])
    again = client.post(job["links"]["retry"])
    assert again.status_code == 201
    assert again.json()["retry_of"] == job["id"]
    assert again.headers["location"] == again.json()["links"]["self"]


def test_a_waiting_job_can_be_changed_and_an_ended_one_not(client: httpx.Client, picture: str) -> None:
    job = submit(client, picture)
    url = job["links"]["self"]
    changed = client.patch(url, json={"priority": 7, "run_at": "2099-01-01T00:00:00Z", "metadata": {"a": "b"}}).json()
    assert (changed["priority"], changed["status"], changed["metadata"]) == (7, "scheduled", {"a": "b"})
    assert client.patch(url, json={"run_at": None}).json()["run_at"] is None
    client.post(job["links"]["cancel"])
    assert client.patch(url, json={"priority": 1}).status_code == 409


def test_a_deleted_job_is_gone(client: httpx.Client, picture: str) -> None:
    job = submit(client, picture)
    assert client.delete(job["links"]["self"]).status_code == 204
    assert client.get(job["links"]["self"]).status_code == 404
    assert client.delete(job["links"]["self"]).status_code == 404


def test_pages_hold_every_job_once_in_either_direction(client: httpx.Client, picture: str) -> None:
    made = [submit(client, picture, metadata={"page": "yes"})["id"] for _ in range(5)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        seen: list[str] = []
        query: dict[str, Any] = {"metadata[page]": "yes", "limit": 2, "order": order}
        while True:
            page = client.get("/api/v1/jobs", params=query).json()
            seen += [job["id"] for job in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        assert seen == expected


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("statuss=failed", "/query/statuss"),
        ("status=failed&Kind=animate", "/query/Kind"),
        ("metadata=me", "/query/metadata"),
        ("metadata[]=me", "/query/metadata[]"),
        ("metadata[who=me", "/query/metadata[who"),
        ("metadata.who=me", "/query/metadata.who"),
        (f"metadata[{'n' * 65}]=me", f"/query/metadata[{'n' * 55}…"),
        ("metadata[who]=me&metadata[who]=you", "/query/metadata[who]"),
    ],
)
def test_a_filter_that_is_none_is_named_and_never_left_out(client: httpx.Client, query: str, pointer: str) -> None:
    answer = client.get(f"/api/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert [wrong["pointer"] for wrong in answer.json()["errors"]] == [pointer]


def test_a_job_that_could_never_start_in_time_is_refused(client: httpx.Client, picture: str) -> None:
    past = client.post("/api/v1/jobs", json=animate(picture, start_deadline="2020-01-01T00:00:00Z"))
    assert (past.status_code, past.json()["errors"][0]["pointer"]) == (422, "/start_deadline")
    job = submit(client, picture, start_deadline="2099-01-01T00:00:00Z")
    late = client.patch(job["links"]["self"], json={"run_at": "2099-01-01T00:00:01Z"})
    assert (late.status_code, late.json()["errors"][0]["pointer"]) == (422, "/run_at")
    assert client.get(job["links"]["self"]).json()["run_at"] is None


@pytest.mark.parametrize("cursor", ["job_" + "0" * 32, "nonsense", "asset_" + "0" * 32])
def test_an_unknown_cursor_is_a_bad_request(client: httpx.Client, cursor: str) -> None:
    answer = client.get("/api/v1/jobs", params={"after": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_fifty_submissions_with_one_key_make_one_job(api: Api, picture: str) -> None:
    body = animate(picture, metadata={"parallel": "yes"})
    together = threading.Barrier(50)

    def send(_: int) -> httpx.Response:
        with api.client() as client:
            together.wait(30)
            return client.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": "parallel"})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    with api.client() as client:
        assert len(listed(client, **{"metadata[parallel]": "yes"})) == 1


def test_a_key_sent_with_another_body_is_refused(client: httpx.Client, picture: str) -> None:
    headers = {"Idempotency-Key": "reuse"}
    assert client.post("/api/v1/jobs", json=animate(picture), headers=headers).status_code == 201
    answer = client.post("/api/v1/jobs", json=animate(picture, priority=1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reuse")


def test_the_order_of_fields_does_not_make_another_body(client: httpx.Client, picture: str) -> None:
    headers = {"Idempotency-Key": "order"}
    body = animate(picture)
    first = client.post("/api/v1/jobs", json=body, headers=headers).json()
    turned = dict(reversed(body.items()))
    again = client.post("/api/v1/jobs", json=turned, headers=headers)
    assert again.json()["id"] == first["id"]
    assert again.headers["idempotent-replayed"] == "true"


def test_a_replay_works_after_its_input_was_deleted(client: httpx.Client) -> None:
    asset = upload(client, png(20, 20, grey=7))
    headers = {"Idempotency-Key": "deleted input"}
    job = client.post("/api/v1/jobs", json=animate(asset), headers=headers).json()
    client.post(job["links"]["cancel"])
    assert client.delete(f"/api/v1/assets/{asset}").status_code == 204
    again = client.post("/api/v1/jobs", json=animate(asset), headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, job["id"])
    other_body = client.post("/api/v1/jobs", json=animate(asset, priority=1), headers=headers)
    assert (other_body.status_code, other_body.json()["code"]) == (422, "idempotency_key_reuse")
    assert client.post("/api/v1/jobs", json=animate(asset)).status_code == 404


def test_one_key_retries_one_job(client: httpx.Client, picture: str) -> None:
    first, second = (submit(client, picture) for _ in range(2))
    for job in (first, second):
        client.post(job["links"]["cancel"])
    headers = {"Idempotency-Key": "retry"}
    made = client.post(first["links"]["retry"], headers=headers).json()
    assert client.post(first["links"]["retry"], headers=headers).json()["id"] == made["id"]
    other_job = client.post(second["links"]["retry"], headers=headers)
    assert (other_job.status_code, other_job.json()["code"]) == (422, "idempotency_key_reuse")


@pytest.mark.parametrize("route", ["/api/v1/jobs", "/api/video/animate"])
def test_a_key_whose_job_was_deleted_makes_no_second_one_and_says_how_to_go_on(
    client: httpx.Client, other: httpx.Client, picture: str, route: str
) -> None:
    headers = {"Idempotency-Key": "deleted job"}
    body = animate(picture) if route.endswith("jobs") else {"image": picture}
    job = client.post(route, json=body, headers=headers).json()
    link = f"/api/v1/jobs/{job.get('id', job.get('job_id'))}"
    assert client.delete(link).status_code == 204
    before = len(listed(client))
    again = client.post(route, json=body, headers=headers)
    assert (again.status_code, again.json()["code"], again.json()["retryable"]) == (410, "gone", False)
    assert "new key" in again.json()["detail"]
    assert len(listed(client)) == before
    # Another tenant hears nothing of the key.
    assert client.post(route, json=body, headers={"Idempotency-Key": "deleted job, made again"}).status_code == 201
    assert other.post(route, json=body, headers=headers).status_code == 404


def test_a_retry_is_replayed_also_after_the_old_job_was_deleted(client: httpx.Client, picture: str) -> None:
    old = submit(client, picture)
    client.post(old["links"]["cancel"])
    headers = {"Idempotency-Key": "retry, then delete"}
    made = client.post(old["links"]["retry"], headers=headers).json()
    assert client.delete(old["links"]["self"]).status_code == 204
    again = client.post(old["links"]["retry"], headers=headers)
    assert (again.status_code, again.json()["id"], again.headers["idempotent-replayed"]) == (201, made["id"], "true")
    assert client.post(old["links"]["retry"]).status_code == 404
    assert client.delete(made["links"]["self"]).status_code == 204
    answer = client.post(old["links"]["retry"], headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")


def test_two_tenants_may_use_the_same_key(client: httpx.Client, other: httpx.Client, picture: str) -> None:
    headers = {"Idempotency-Key": "shared"}
    own = client.post("/api/v1/jobs", json=animate(picture), headers=headers).json()
    theirs = other.post("/api/v1/jobs", json=animate(upload(other, png(30, 30))), headers=headers)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != own["id"]


def test_waiting_ends_with_the_job_and_blocks_nobody_else(
    api: Api, client: httpx.Client, picture: str, hand: Hand, tmp_path: Path
) -> None:
    job = submit(client, picture)
    claim = hand.claim()

    def wait(_: int) -> httpx.Response:
        with api.client() as own:
            return own.get(job["links"]["self"], headers={"Prefer": "wait=30"})

    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(wait, number) for number in range(60)]
        metrics = ""
        while "framewright_listeners 60.0" not in metrics:
            metrics = client.get("/metrics").text
        assert client.get(job["links"]["self"]).json()["status"] == "running"
        hand.complete(claim, tmp_path)
        answers = [one.result() for one in waiting]
    assert {answer.json()["status"] for answer in answers} == {"succeeded"}
    assert {answer.headers["preference-applied"] for answer in answers} == {"wait=30"}


def test_waiting_no_longer_than_asked(client: httpx.Client, picture: str) -> None:
    job = submit(client, picture)
    answer = client.get(job["links"]["self"], headers={"Prefer": "respond-async, wait=1"})
    assert answer.json()["status"] == "waiting"
    assert answer.headers["preference-applied"] == "wait=1"


def test_the_short_routes_are_the_same_jobs(client: httpx.Client, picture: str) -> None:
    made = client.post("/api/video/animate", json={"image": picture, "params": {"seconds": 1}})
    assert made.status_code == 201, made.text
    status = client.get(made.headers["location"]).json()
    assert (status["job_id"], status["status"], status["progress"]) == (made.json()["job_id"], "waiting", 0)
    assert client.get(f"/api/v1/jobs/{status['job_id']}").json()["kind"] == "animate"


def test_text_to_video_is_a_job_of_the_usual_model(client: httpx.Client) -> None:
    made = client.post("/api/video/generate", json={"prompt": "a cat", "params": {"frames": 8}})
    assert made.status_code == 201, made.text
    job = client.get(f"/api/v1/jobs/{made.json()['job_id']}").json()
    assert (job["kind"], job["model"], job["params"]["prompt"]) == ("generate", "wan-2.1-t2v-1.3b", "a cat")
    assert job["adjusted"][0] | {"why": ""} == {"field": "/params/frames", "asked": 8, "used": 9, "why": ""}
    for body, place in (({"prompt": " "}, "/prompt"), ({"prompt": "a cat", "model": "wan-9"}, "/model")):
        refused = client.post("/api/video/generate", json=body)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, place)


def test_the_short_route_names_its_own_fields(client: httpx.Client, picture: str) -> None:
    prompt = client.post("/api/video/animate", json={"image": picture, "prompt": "a cat"})
    assert prompt.json()["errors"][0]["pointer"] == "/prompt"
    missing = client.post("/api/video/animate", json={"image": "asset_" + "0" * 32})
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (404, "/image")


def test_an_estimate_submits_nothing(client: httpx.Client, picture: str) -> None:
    before = len(listed(client, limit=100))
    answer = client.post("/api/v1/estimate", json=animate(picture)).json()
    assert answer["seconds_p50"] > 0
    assert (answer["runnable_now"], answer["steps"][0]["queue"]) == (False, "cpu")
    assert len(listed(client, limit=100)) == before


def test_an_estimate_rests_on_the_best_gpu_that_could_run_it(client: httpx.Client, db: Database) -> None:
    model = "wan-2.1-t2v-1.3b"
    body = {"kind": "generate", "model": model, "params": {"prompt": "a fox", "steps": 20}}

    def told() -> Any:
        return client.post("/api/v1/estimate", json=body).raise_for_status().json()

    assert told()["basis"] == "catalogue"
    about: dict[str, Any] = {"host": "here", "pid": 1, "version": "0", "kinds": ("generate",), "ttl_s": 60.0}
    about |= {"queues": ("gpu",), "engines": (f"diffusion:{model}",), "state": "idle"}
    try:
        for name, gpu in (("small", "NVIDIA L4"), ("large", "NVIDIA H200")):
            store.upsert_worker(db, Presence(name, capabilities={"gpus": [{"name": gpu, "vram_mb": 24_000}]}, **about))
        best = told()
        assert (best["basis"], best["runnable_now"]) == ("flops", True)
        store.forget_worker(db, "large")
        left = told()
        assert left["basis"] == "flops"
        assert best["seconds_p50"] < left["seconds_p50"]
    finally:
        for name in ("small", "large"):
            store.forget_worker(db, name)
    assert told()["basis"] == "catalogue"


def test_a_paused_worker_is_shown_and_counts_for_nothing_until_it_is_resumed(
    client: httpx.Client, db: Database, picture: str
) -> None:
    about: dict[str, Any] = {"host": "here", "pid": 1, "version": "0", "kinds": ("animate",), "ttl_s": 60.0}
    here = Presence("pausing", queues=("cpu",), engines=("camera-move",), state="idle", **about)
    assert store.upsert_worker(db, here) == "run"
    job = submit(client, picture)

    def seen() -> tuple[tuple[int, int], bool, bool, str, str]:
        queues = {queue["name"]: queue for queue in client.get("/api/v1/queues").json()["data"]}
        estimate = client.post("/api/v1/estimate", json=animate(picture)).json()
        explained = client.get(job["links"]["explain"]).json()
        (verdict,) = explained["steps"][0]["workers"]
        model = client.get("/api/v1/models/camera-move").json()
        workers = (queues["cpu"]["workers"], queues["cpu"]["paused"])
        return workers, estimate["runnable_now"], model["runnable_now"], explained["status"], verdict["why"]

    try:
        assert client.post("/api/v1/workers/pausing/pause").json()["status"] == "pause"
        assert seen() == ((0, 1), False, False, "waiting", "was told to pause")
        assert "paused" in client.get(job["links"]["self"]).json()["blocked_reason"]
        assert client.post("/api/v1/workers/pausing/resume").json()["status"] == "idle"
        assert seen() == ((1, 0), True, True, "queued", "free")
    finally:
        store.forget_worker(db, "pausing")
        client.delete(job["links"]["self"])


def test_models_carry_all_that_a_page_needs(client: httpx.Client) -> None:
    models = {model["id"]: model for model in client.get("/api/v1/models").json()["data"]}
    model = models["camera-move"]
    assert model["params_schema"]["properties"]["move"]["x-order"]
    assert (model["runnable_now"], model["loaded_on"]) == (False, [])
    assert client.get("/api/v1/models/camera-move").json() == model
    assert client.get("/api/v1/models/none").status_code == 404


def test_ids_that_cannot_be_ids_are_not_found(client: httpx.Client) -> None:
    for bad in ("job_xyz", "asset_" + "0" * 32, "JOB_" + "0" * 32, ids.public(ids.JOB, ids.uuid7()) + "0"):
        assert client.get(f"/api/v1/jobs/{bad}").status_code == 404
