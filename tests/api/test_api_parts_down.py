"""Parts of the system freeze, die and come back; the API says so, quickly, and accepts nothing that it cannot keep."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from service import Api, animate, png, serve, upload
from waiting import until

from framewright.database import migrate
from framewright.embedded import Servers

pytestmark = pytest.mark.fault

# Of every request here. Each must answer well within it, whatever is frozen.
PATIENCE_S = 10


@pytest.fixture
def own_api(own_servers: Servers) -> Iterator[Api]:
    migrate(own_servers.database_url)
    environment = {**own_servers.environment(), "FRAMEWRIGHT_KEY_PEPPER": "pepper", "FRAMEWRIGHT_MAX_QUEUED": "5"}
    with serve(environment) as running:
        yield running


@pytest.fixture
def patient(own_api: Api) -> Iterator[httpx.Client]:
    with own_api.client() as client:
        client.timeout = httpx.Timeout(PATIENCE_S)
        yield client


def components(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/readyz").json()["components"]
    return {name: part["state"] for name, part in found.items()}


def test_jobs_are_taken_and_followed_while_redis_is_frozen_or_gone(
    own_servers: Servers, own_api: Api, patient: httpx.Client
) -> None:
    picture = upload(patient, png(32, 32))
    until(lambda: components(patient)["storage"] == "ok")
    assert components(patient) == {"database": "ok", "broker": "ok", "storage": "ok", "reconciler": "down"}
    valkey = own_servers.valkey
    assert valkey is not None
    for stop, start in ((valkey.pause, valkey.resume), (valkey.kill, valkey.restart)):
        stop()
        made = patient.post("/api/v1/jobs", json=animate(picture))
        assert made.status_code == 201
        until(lambda: components(patient)["broker"] == "down")
        assert patient.get("/readyz").status_code == 200
        with patient.stream("GET", made.json()["links"]["events"]) as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if line.startswith("event")) == "event: queued"
            assert patient.post(made.json()["links"]["cancel"]).json()["status"] == "canceled"
            assert next(line for line in lines if line.startswith("event")) == "event: canceled"
        start()
        until(lambda: components(patient)["broker"] == "ok")


def test_nothing_is_accepted_while_postgres_is_frozen_or_gone(
    own_servers: Servers, own_api: Api, patient: httpx.Client
) -> None:
    picture = upload(patient, png(32, 32))
    postgres = own_servers.postgres
    assert postgres is not None
    for stop, start in ((postgres.pause, postgres.resume), (postgres.kill, postgres.restart)):
        stop()
        for answer in (
            patient.post("/api/v1/jobs", json=animate(picture)),
            patient.get("/api/v1/jobs"),
            patient.get("/readyz"),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        assert patient.get("/healthz").status_code == 200
        assert patient.get("/metrics").status_code == 200
        start()
        until(lambda: patient.get("/readyz").is_success)
        assert patient.get("/api/v1/jobs").json()["data"] == []


def test_without_s3_files_wait_and_jobs_on_what_is_there_go_on(
    own_servers: Servers, own_api: Api, patient: httpx.Client
) -> None:
    picture = upload(patient, png(32, 32))
    assert own_servers.s3 is not None
    own_servers.s3.kill()
    refused = patient.put("/api/v1/assets", content=png(33, 33))
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
    assert patient.post("/api/v1/jobs", json=animate(picture)).status_code == 201
    until(lambda: components(patient)["storage"] == "down")
    assert patient.get("/readyz").status_code == 200
    own_servers.s3.restart()
    assert upload(patient, png(33, 33))
    until(lambda: components(patient)["storage"] == "ok")


def test_asking_whether_we_are_ready_takes_no_thread_from_others_while_s3_is_frozen(
    own_servers: Servers, own_api: Api, patient: httpx.Client
) -> None:
    picture = upload(patient, png(32, 32))
    assert own_servers.s3 is not None
    own_servers.s3.pause()
    try:
        # Longer than a request of ours may take, shorter than S3 is waited for: 20 s.
        with ThreadPoolExecutor(60) as pool:
            asked = [pool.submit(httpx.get, f"{own_api.url}/readyz", timeout=PATIENCE_S) for _ in range(60)]
            assert patient.post("/api/v1/jobs", json=animate(picture)).status_code == 201
            assert {one.result().json()["components"]["storage"]["needed"] for one in asked} == {False}
        until(lambda: components(patient)["storage"] == "down", 30)
        assert patient.get("/readyz").status_code == 200
    finally:
        own_servers.s3.resume()
    until(lambda: components(patient)["storage"] == "ok", 60)


def test_downloads_that_a_frozen_s3_holds_up_keep_nobody_else_waiting(
    own_servers: Servers, own_api: Api, patient: httpx.Client
) -> None:
    picture, other = upload(patient, png(32, 32)), upload(patient, png(34, 34))
    content = f"{own_api.url}/api/v1/assets/{picture}/content"

    def download() -> int:
        # S3 is waited for longer than this.
        with own_api.client() as client:
            return client.get(content, params={"proxy": 1}, timeout=120).status_code

    assert own_servers.s3 is not None
    own_servers.s3.pause()
    try:
        with ThreadPoolExecutor(50) as pool:
            downloads = [pool.submit(download) for _ in range(50)]
            # Those that no thread was free for are told to come back, so all of the others hold one by then.
            refused = until(lambda: [one for one in downloads if one.done()])
            assert {one.result() for one in refused} == {503}
            assert patient.get("/api/v1/jobs").status_code == 200
            made = patient.post("/api/v1/jobs", json=animate(picture))
            assert made.status_code == 201
            assert patient.get(made.json()["links"]["self"]).status_code == 200
            assert patient.delete(f"/api/v1/assets/{other}").status_code == 204
            assert patient.get(content).status_code == 302
            assert not all(one.done() for one in downloads)
            own_servers.s3.resume()
            assert {one.result() for one in downloads} == {200, 503}
        assert download() == 200
    finally:
        own_servers.s3.resume()


def test_over_the_cap_jobs_are_refused_until_there_is_room(own_api: Api, patient: httpx.Client) -> None:
    picture = upload(patient, png(32, 32))
    jobs = [patient.post("/api/v1/jobs", json=animate(picture)) for _ in range(6)]
    assert [job.status_code for job in jobs] == [201] * 5 + [429]
    assert int(jobs[-1].headers["retry-after"]) >= 1
    assert jobs[-1].json()["retryable"] is True
    assert (patient.get("/readyz").status_code, components(patient)["database"]) == (503, "full")
    patient.post(jobs[0].json()["links"]["cancel"])
    assert patient.get("/readyz").status_code == 200


def test_an_old_schema_is_not_served(own_servers: Servers) -> None:
    environment = {**own_servers.environment(), "FRAMEWRIGHT_KEY_PEPPER": "pepper"}
    with serve(environment, ready=False) as early, early.client() as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["components"]["database"]["state"]) == (503, "outdated")
        migrate(own_servers.database_url)
        until(lambda: client.get("/readyz").is_success)
        assert client.get("/api/v1/jobs").json()["data"] == []
