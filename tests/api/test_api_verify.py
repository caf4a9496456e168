"""`POST /verify`: what a file says of its making, of bytes that are sent and of assets that are stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stills
from authority import pair
from service import Api, png, serve, upload

from api.main import app
from api.routes.verify import TYPES
from framewright import catalogue, ids
from framewright.database import Database
from framewright.provenance.credentials import load
from framewright.provenance.manifest import Input, Making
from framewright.provenance.signing import Unsigned, sign
from framewright.settings import Settings

URL = "/api/v1/verify"


def signed(settings: Settings, place: Path) -> bytes:
    """A JPEG as a job of this service would leave it."""
    path, source = place / "still.jpg", place / "source.png"
    path.write_bytes(stills.packed(stills.photo(), "JPEG"))
    source.write_bytes(png(8, 8))
    row = catalogue.find("animate", "camera-move")
    making = Making("job_" + "0" * 32, "main", row.name, row.provenance, (Input(source, "image/png", "asset_x"),))
    credentials = load(settings)
    assert credentials is not None
    sign(credentials, making, [Unsigned("poster", path, "image/jpeg")])
    return path.read_bytes()


@pytest.fixture(scope="module")
def still(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return signed(settings, tmp_path_factory.mktemp("signed"))


def refused(answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    if pointer is not None:
        assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]
    problem: dict[str, Any] = answer.json()
    return problem


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", None])
def test_a_signed_file_says_all_it_has_to_say(client: httpx.Client, still: bytes, kind: str | None) -> None:
    answer = client.post(URL, content=still, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["signed"], said["valid"], said["trusted"]) == (True, True, "development")
    assert [one["action"] for one in said["actions"]] == ["c2pa.opened", "c2pa.edited"]
    assert said["digital_source_type"] == "algorithmicallyEnhanced"
    assert said["job"] == "job_" + "0" * 32
    assert said["generator"].startswith("Framewright")
    assert said["signed_at"].endswith("Z")
    assert said["ingredients"][0]["title"] == "asset_x"
    assert said["problems"] == []


def test_a_stored_file_is_found_by_its_id(client: httpx.Client, still: bytes) -> None:
    asset = upload(client, still, "still.jpg")
    by_id = client.post(URL, json={"asset": asset}).json()
    assert by_id == client.post(URL, content=still).json()
    assert by_id["valid"]


def test_a_touched_file_is_not_valid_and_the_code_says_why(client: httpx.Client, still: bytes) -> None:
    touched = bytearray(still)
    touched[-20] ^= 1
    said = client.post(URL, content=bytes(touched)).json()
    assert (said["signed"], said["valid"], said["trusted"]) == (True, False, None)
    assert [one["code"] for one in said["problems"]] == ["assertion.dataHash.mismatch"]
    assert said["problems"][0]["explanation"]


@pytest.mark.parametrize("body", [png(20, 20), stills.packed(stills.photo(), "WEBP")])
def test_an_unsigned_file_says_nothing(client: httpx.Client, body: bytes) -> None:
    said = client.post(URL, content=body).json()
    assert (said["signed"], said["valid"], said["trusted"], said["actions"]) == (False, False, None, [])


@pytest.fixture(scope="module")
def operated(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, bytes]]:
    """A process of an operator with a certificate of their own, and what that signed."""
    made = pair(tmp_path_factory.mktemp("operator"))
    names = {name.removeprefix("FRAMEWRIGHT_").lower(): value for name, value in environment.items()}
    body = signed(Settings(**{**names, **made.settings()}), tmp_path_factory.mktemp("theirs"))
    with serve(environment | made.environment()) as running:
        yield running, body


def test_the_operators_signature_is_told_from_a_development_one_and_a_strangers(
    client: httpx.Client, operated: tuple[Api, bytes], still: bytes
) -> None:
    api, theirs = operated
    with api.client() as own:
        assert own.post(URL, content=theirs).json()["trusted"] == "operator"
        assert own.post(URL, content=still).json()["trusted"] == "development"
    stranger = client.post(URL, content=theirs).json()
    assert (stranger["valid"], stranger["trusted"]) == (True, None)
    assert [one["code"] for one in stranger["problems"]] == ["signingCredential.untrusted"]
    assert stranger["signer"] == {"name": "video.example.org", "organization": "Example Ltd"}


@pytest.mark.parametrize(
    "body", [b"hello", b"%PDF-1.7", b"\xff\xd8\xff" + bytes(99), b"\0\0\0\x18ftypmp42" + b"\xff" * 50]
)
def test_bytes_that_are_no_picture_and_no_clip_are_refused(client: httpx.Client, body: bytes) -> None:
    refused(client.post(URL, content=body), 415, "unsupported_media", "/body")


def test_an_empty_body_a_form_and_json_of_another_type_are_refused(client: httpx.Client) -> None:
    refused(client.post(URL), 400, "bad_request")
    form = client.post(URL, files={"file": ("a.png", png(4, 4))})
    assert "--data-binary" in refused(form, 415, "unsupported_media")["detail"]
    text = client.post(URL, content=b'{"asset": "x"}', headers={"Content-Type": "text/plain"})
    refused(text, 415, "unsupported_media", "/body")


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({}, 422, "invalid_params", "/asset"),
        ({"asset": 7}, 422, "invalid_params", "/asset"),
        ({"asset": "asset_" + "0" * 32, "more": 1}, 422, "invalid_params", "/more"),
        ([], 422, "invalid_params", None),
        ({"asset": "nonsense"}, 404, "not_found", None),
        ({"asset": "job_" + "0" * 32}, 404, "not_found", None),
    ],
)
def test_what_names_no_asset_is_refused(
    client: httpx.Client, body: Any, status: int, code: str, pointer: str | None
) -> None:
    refused(client.post(URL, json=body), status, code, pointer)


def test_json_goes_through_the_strict_gate(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    twice = client.post(URL, content=b'{"asset": "a", "asset": "b"}', headers=headers)
    refused(twice, 422, "invalid_params", "/asset")
    refused(client.post(URL, content=b"{", headers=headers), 400, "bad_request")
    refused(client.post(URL, content=b"null", headers=headers), 422, "invalid_params")


def test_a_foreign_asset_answers_the_same_bytes_as_an_unknown_one(
    client: httpx.Client, other: httpx.Client, still: bytes
) -> None:
    headers = {"X-Request-Id": "the-same"}
    mine, unknown = upload(client, still, "still.jpg"), ids.public(ids.ASSET, ids.uuid7())
    answers = [other.post(URL, json={"asset": one}, headers=headers) for one in (mine, unknown)]
    assert answers[0].status_code == 404
    assert answers[0].content == answers[1].content


def test_an_asset_that_can_carry_no_manifest_is_named(client: httpx.Client, db: Database, still: bytes) -> None:
    asset = upload(client, png(31, 17), "a.png")
    with db.connect() as connection:
        number = ids.parse(ids.ASSET, asset)
        connection.execute("UPDATE assets SET content_type = 'video/webm' WHERE id = %s", (number,))
    refused(client.post(URL, json={"asset": asset}), 422, "asset_unusable", "/asset")


def test_a_deleted_asset_is_gone_from_here_too(client: httpx.Client) -> None:
    asset = upload(client, png(33, 17), "a.png")
    client.delete(f"/api/v1/assets/{asset}").raise_for_status()
    refused(client.post(URL, json={"asset": asset}), 404, "not_found")


def test_it_asks_for_a_key_that_may_read_assets(api: Api, make_key: Callable[..., str], still: bytes) -> None:
    assert httpx.post(api.url + URL, content=still).status_code == 401
    with api.client(make_key("default", frozenset({"assets:write", "jobs:write"}))) as weak:
        refused(weak.post(URL, content=still), 403, "forbidden")
    with api.client(make_key("default", frozenset({"assets:read"}))) as able:
        assert able.post(URL, content=still).json()["valid"]


def test_a_body_over_the_cap_is_refused(environment: dict[str, str]) -> None:
    with serve(environment | {"FRAMEWRIGHT_MAX_UPLOAD_MB": "1"}) as running, running.client() as client:
        body = b"\x89PNG\r\n\x1a\n" + bytes(2**20)
        refused(client.post(URL, content=body), 413, "body_too_large")
        refused(client.post(URL, content=iter([body])), 413, "body_too_large")


def test_nothing_that_was_sent_is_left_on_the_disk(environment: dict[str, str], tmp_path: Path, still: bytes) -> None:
    with (
        serve(environment | {"FRAMEWRIGHT_SCRATCH_DIR": str(tmp_path)}) as running,
        running.client() as client,
    ):
        asset = upload(client, still, "still.jpg")
        for ask in ({"content": still}, {"json": {"asset": asset}}, {"content": b"\xff\xd8\xff" + bytes(99)}):
            client.post(URL, **ask)  # type: ignore[arg-type]
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("upload-", "verify-"))] == []


def test_the_document_shows_both_ways_and_an_answer() -> None:
    operation = app.openapi()["paths"][URL]["post"]
    assert operation["x-scope"] == "assets:read"
    content = operation["requestBody"]["content"]
    assert {"application/json", *TYPES} == set(content)
    assert content["application/json"]["examples"]["asset"]["value"]["asset"].startswith("asset_")
    assert operation["responses"]["200"]["content"]["application/json"]["example"]["trusted"] == "operator"


def test_the_api_process_never_loads_what_reads_manifests(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = "import sys, api.main; print([name for name in sys.modules if name.split('.')[0] == 'c2pa'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
