"""Two tenants: every id of one tried with the key of the other, on every route; and what each route asks of a key."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hand import Hand
from service import Api, animate, png, upload
from waiting import until

from api.main import app
from framewright import ids, keys
from framewright.database import Database

OPERATIONS = [
    (path, method, operation)
    for path, operations in app.openapi()["paths"].items()
    for method, operation in operations.items()
]
UNKNOWN = {
    "job_id": ids.public(ids.JOB, ids.uuid7()),
    "asset_id": ids.public(ids.ASSET, ids.uuid7()),
    "upload_id": ids.public(ids.UPLOAD, ids.uuid7()),
    "key_id": "AAAAAAAAAAAA",
}
BODIES: dict[str, Any] = {"patch": {"priority": 1, "metadata": {"whose": "theirs"}}}


@pytest.fixture(scope="module")
def mine(api: Api, picture: str) -> dict[str, str]:
    """One id of each kind that belongs to the first tenant."""
    with api.client() as client:
        job = client.post("/api/v1/jobs", json=animate(picture, metadata={"whose": "mine"})).json()
        started = client.post("/api/v1/uploads", json={"size": 5, "sha256": "0" * 64}).json()
        made = client.post("/api/v1/api-keys", json={"name": "mine"}).json()
    return {"job_id": job["id"], "asset_id": picture, "upload_id": started["id"], "key_id": made["id"]}


def with_ids(path: str, given: dict[str, str]) -> str:
    for name, value in given.items():
        path = path.replace(f"{{{name}}}", value)
    return path


OWNED = [(path, method) for path, method, _ in OPERATIONS if any(f"{{{name}}}" in path for name in UNKNOWN)]


def test_there_are_routes_to_try() -> None:
    assert len(OWNED) >= 15


@pytest.mark.parametrize(("path", "method"), OWNED)
def test_a_foreign_id_answers_the_same_bytes_as_an_unknown_one(
    client: httpx.Client, other: httpx.Client, mine: dict[str, str], path: str, method: str
) -> None:
    headers = {"X-Request-Id": "the-same"}
    body = BODIES.get(method)
    foreign, unknown = (
        other.request(method, with_ids(path, given), headers=headers, json=body) for given in (mine, UNKNOWN)
    )
    assert foreign.status_code == 404
    assert foreign.content == unknown.content
    assert _plain(foreign) == _plain(unknown)


def _plain(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.headers.items() if name != "date"]


def test_the_owner_still_has_everything_afterwards(client: httpx.Client, mine: dict[str, str]) -> None:
    job = client.get(f"/api/v1/jobs/{mine['job_id']}").json()
    assert (job["status"], job["priority"], job["metadata"]) == ("waiting", 0, {"whose": "mine"})
    assert client.get(f"/api/v1/assets/{mine['asset_id']}").status_code == 200
    revoked = {key["id"]: key["revoked_at"] for key in client.get("/api/v1/api-keys").json()["data"]}
    assert revoked[mine["key_id"]] is None


def test_lists_and_cursors_show_nothing_of_the_other(other: httpx.Client, mine: dict[str, str]) -> None:
    assert other.get("/api/v1/jobs").json()["data"] == []
    assert other.get("/api/v1/assets").json()["data"] == []
    assert mine["key_id"] not in other.get("/api/v1/api-keys").text
    for path, cursor in (("jobs", mine["job_id"]), ("assets", mine["asset_id"])):
        for place in ("after", "before"):
            answer = other.get(f"/api/v1/{path}", params={place: cursor}, headers={"X-Request-Id": "s"})
            unknown = other.get(f"/api/v1/{path}", params={place: cursor[:-4] + "0000"}, headers={"X-Request-Id": "s"})
            assert answer.status_code == 400
            assert answer.content == unknown.content


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_a_key_that_has_just_worked_opens_nothing_once_it_has_ended(
    client: httpx.Client, db: Database, ended: str
) -> None:
    made = client.post("/api/v1/api-keys", json={"name": "short", "expires_at": "2100-01-01T00:00:00Z"}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert client.get("/api/v1/jobs", headers=headers).status_code == 200
    if ended == "revoked":
        assert client.delete(f"/api/v1/api-keys/{made['id']}").status_code == 204
    else:
        with db.connect() as connection:
            connection.execute("UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = %s", (made["id"],))
        # Told by a database that others write to, it is refused a second later.
        until(lambda: client.get("/api/v1/jobs", headers=headers).status_code == 401)
    assert client.get("/api/v1/jobs", headers=headers).json()["code"] == "unauthenticated"


def test_a_key_made_without_scopes_cannot_steer_the_fleet_that_all_share(client: httpx.Client) -> None:
    made = client.post("/api/v1/api-keys", json={"name": "an app"}).json()
    assert sorted(made["scopes"]) == ["assets:read", "assets:write", "jobs:read", "jobs:write", "models:read"]
    app = {"Authorization": f"Bearer {made['key']}"}
    assert client.get("/api/v1/jobs", headers=app).status_code == 200
    for path in ("/api/v1/workers", "/api/v1/queues"):
        assert client.get(path, headers=app).json()["code"] == "forbidden"
    assert client.post("/api/v1/workers/any/drain", headers=app).json()["code"] == "forbidden"


def test_outputs_belong_to_the_tenant_of_the_job(
    client: httpx.Client, other: httpx.Client, picture: str, hand: Hand, tmp_path: Path
) -> None:
    job = client.post("/api/v1/jobs", json=animate(picture)).json()
    hand.complete(hand.claim(), tmp_path)
    output = client.get(job["links"]["self"]).json()["outputs"][0]
    for query in ({}, {"proxy": "1"}):
        assert other.get(output["links"]["content"], params=query).status_code == 404
    stolen = {"kind": "encode", "input": {"images": [output["asset"]]}}
    assert other.post("/api/v1/jobs", json=stolen).status_code == 404


def test_the_same_bytes_are_two_assets_of_two_tenants(client: httpx.Client, other: httpx.Client) -> None:
    body = png(21, 21)
    assert upload(client, body) == upload(client, body)
    assert upload(client, body) != upload(other, body)


def test_every_route_declares_its_scope_and_its_errors() -> None:
    for path, method, operation in OPERATIONS:
        scope = operation["x-scope"]
        assert scope == "public" or scope in keys.SCOPES, (method, path)
        if scope != "public":
            assert {"401", "403", "503"} <= operation["responses"].keys(), (method, path)
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)


PROTECTED = [(path, method, op["x-scope"]) for path, method, op in OPERATIONS if op["x-scope"] != "public"]


@pytest.fixture(scope="module")
def weak(make_key: Callable[..., str]) -> dict[str, str]:
    """For each scope, a key that has every other one."""
    ordinary = keys.SCOPES - {"admin"}
    return {scope: make_key("default", ordinary - {scope}) for scope in keys.SCOPES}


@pytest.mark.parametrize(("path", "method", "scope"), PROTECTED)
def test_a_route_asks_for_the_scope_it_declares(
    api: Api, weak: dict[str, str], path: str, method: str, scope: str
) -> None:
    url = with_ids(path, UNKNOWN)
    with api.client(weak[scope]) as client:
        assert client.request(method, url).status_code == 403
    assert httpx.request(method, api.url + url).status_code == 401


def test_operation_names_are_unique() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_the_document_is_served_and_is_openapi_3_1(api: Api) -> None:
    document = httpx.get(f"{api.url}/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert document == app.openapi()
    body = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["examples"]) >= {"animate", "encode"}
    for operation in itertools.chain.from_iterable(one.values() for one in document["paths"].values()):
        assert operation["summary"]
